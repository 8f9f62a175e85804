//! The syntax of names and values that only recipes have; each rule says in words what it wants.

use labwright_document::Wanted;
use labwright_document::rules::{Rule, account, all, is_label};

/// A name in the catalogue of base images.
pub(crate) fn catalogue_name(text: &str) -> Rule {
    let inner = all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if inner && text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("a name of a base image (small letters, digits, `-` and `.`)")
    }
}

/// A package as apt takes it on its command line.
pub(crate) fn package(text: &str) -> Rule {
    let wanted = "a Debian package (`name`, `name:arch`, `name=version` or `name/release`)";
    let end = text.find(['=', '/']).unwrap_or(text.len());
    let (named, chosen) = text.split_at(end);
    let (name, arch) = match named.split_once(':') {
        Some((name, arch)) => (name, Some(arch)),
        None => (named, None),
    };
    let name_good = name.len() >= 2
        && all(name, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        // apt takes a `-` at the end as "remove".
        && !name.ends_with('-');
    let arch_good =
        arch.is_none_or(|arch| !arch.is_empty() && all(arch, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
    let chosen_good = match chosen.chars().next() {
        None => true,
        Some('=') => {
            chosen.len() > 1
                && all(&chosen[1..], |byte| byte.is_ascii_alphanumeric() || b".+:~-".contains(&byte))
                && chosen[1..].starts_with(|c: char| c.is_ascii_digit())
        }
        Some(_) => chosen.len() > 1 && all(&chosen[1..], |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)),
    };
    if name_good && arch_good && chosen_good { Ok(()) } else { Err(wanted) }
}

/// Whether an entry of `packages` means a file.
pub(crate) fn is_package_file(text: &str) -> bool {
    text.starts_with("./")
        || text.starts_with("../")
        || text.starts_with('/')
        || text.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("deb"))
}

/// A host name by RFC 1123 that the kernel takes.
pub(crate) fn hostname(text: &str) -> Rule {
    let good = text.len() <= 64 && text.split('.').all(|label| is_label(&label.to_ascii_lowercase(), 63));
    if good {
        Ok(())
    } else {
        Err("a host name (letters, digits and `-`, in parts with `.` between, at most 64 characters)")
    }
}

/// A name of the time zone database.
pub(crate) fn timezone(text: &str) -> Rule {
    let parts: Vec<&str> = text.split('/').collect();
    let part_good = |part: &&str| {
        !part.is_empty()
            && part.starts_with(|c: char| c.is_ascii_alphabetic())
            && all(part, |byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    if text == "UTC" || ((2..=3).contains(&parts.len()) && parts.iter().all(part_good)) {
        Ok(())
    } else {
        Err("a time zone (Area/City, such as Europe/Berlin, or UTC)")
    }
}

/// A locale name.
pub(crate) fn locale(text: &str) -> Rule {
    let wanted = Err("a locale (such as de_DE.UTF-8 or C.UTF-8)");
    let text = text.split_once('@').map_or(text, |(text, modifier)| {
        if !modifier.is_empty() && all(modifier, |byte| byte.is_ascii_alphanumeric()) { text } else { "" }
    });
    let (language, charset) = match text.split_once('.') {
        Some((language, charset)) => (language, Some(charset)),
        None => (text, None),
    };
    let charset_good = charset
        .is_none_or(|charset| !charset.is_empty() && all(charset, |byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    let language_good = matches!(language, "C" | "POSIX")
        || language.split_once('_').is_some_and(|(language, territory)| {
            (2..=3).contains(&language.len())
                && all(language, |byte| byte.is_ascii_lowercase())
                && territory.len() == 2
                && all(territory, |byte| byte.is_ascii_uppercase())
        });
    if charset_good && language_good { Ok(()) } else { wanted }
}

/// An address that can be fetched and shown to anyone.
pub(crate) fn address(text: &str) -> Rule {
    match url::Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("an address without a user name or password (a recipe is public)")
        }
        Ok(url) if matches!(url.scheme(), "https" | "http") && url.has_host() => Ok(()),
        _ => Err("an https or http address"),
    }
}

/// Who a container runs as: a name or number, and a group after a `:`.
pub(crate) fn container_user(text: &str) -> Rule {
    // The last number means "nobody said".
    let number = |text: &str| all(text, |b| b.is_ascii_digit()) && text.parse().is_ok_and(|id: u32| id < u32::MAX);
    let part = |text: &str| account(text).is_ok() || number(text);
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if part(user) && group.is_none_or(part) {
        Ok(())
    } else {
        Err("a user and an optional group (`learner`, `1000` or `1000:1000`)")
    }
}

/// Permission bits as chmod takes them, in octal.
pub(crate) fn permissions(text: &str) -> Result<u32, Wanted> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let good = (3..=5).contains(&digits.len()) && all(digits, |byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if good && mode <= 0o7777 => Ok(mode),
        _ => Err("permissions (three or four octal digits, such as \"0644\")"),
    }
}

/// A size of a screen.
pub(crate) fn geometry(text: &str) -> Result<crate::resolved::Geometry, Wanted> {
    let wanted = "a screen size (WIDTHxHEIGHT in pixels, from 320x200 to 7680x4320)";
    let (width, height) = text.split_once('x').ok_or(wanted)?;
    let number = |text: &str| if all(text, |byte| byte.is_ascii_digit()) { text.parse::<u16>().ok() } else { None };
    match (number(width), number(height)) {
        (Some(width @ 320..=7680), Some(height @ 200..=4320)) => Ok(crate::resolved::Geometry { width, height }),
        _ => Err(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        for good in
            ["git", "g++", "libc6:arm64", "git=1:2.47.3-0+deb13u1", "git/trixie-backports", "7zip", "libstdc++-12-dev"]
        {
            assert_eq!(package(good), Ok(()), "{good}");
        }
        for bad in ["", "g", "Git", "git-", "git=", "git/", "git:", "git vim", "-y", "--force", "git=$x", "a=b"] {
            assert!(package(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!((permissions("0644"), permissions("755"), permissions("4755")), (Ok(0o644), Ok(0o755), Ok(0o4755)));
        for bad in ["644x", "0888", "", "7", "17777", "-644", "+644"] {
            assert!(permissions(bad).is_err(), "{bad}");
        }
        for good in ["Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5", "UTC"] {
            assert_eq!(timezone(good), Ok(()), "{good}");
        }
        for bad in ["Berlin", "/etc/passwd", "Europe/", "../x", "Europe/Ber lin"] {
            assert!(timezone(bad).is_err(), "{bad}");
        }
        for good in ["de_DE.UTF-8", "C.UTF-8", "C", "de_DE@euro", "sr_RS.UTF-8@latin"] {
            assert_eq!(locale(good), Ok(()), "{good}");
        }
        for bad in ["german", "de-DE", "de_DE.", "de_DE@", "de_de.UTF-8"] {
            assert!(locale(bad).is_err(), "{bad}");
        }
        assert!(address("https://example.org/x").is_ok() && address("https://u:p@example.org").is_err());
        for good in ["root", "learner", "1000", "1000:1000", "learner:users"] {
            assert_eq!(container_user(good), Ok(()), "{good}");
        }
        for bad in ["", ":", "1000:", "Learner", "a b", "12345678901", "4294967295", "a:b:c"] {
            assert!(container_user(bad).is_err(), "{bad}");
        }
        assert!(geometry("1280x800").is_ok() && geometry("1280").is_err() && geometry("10x10").is_err());
    }
}
