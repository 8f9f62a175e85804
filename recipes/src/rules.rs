//! The syntax of names and values; each rule says in words what it wants.

use std::time::Duration;

/// What a text should have been, to follow "… is not": `a DNS label (…)`.
pub(crate) type Wanted = &'static str;

type Rule = Result<(), Wanted>;

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS label of at most 32 characters: names of recipes and access.
pub(crate) fn name(text: &str) -> Rule {
    if is_label(text, 32) {
        Ok(())
    } else {
        Err("a name (small letters, digits and `-` between them, at most 32 characters)")
    }
}

/// A name in the catalogue of base images.
pub(crate) fn catalogue_name(text: &str) -> Rule {
    let inner = all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if inner && text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("a name of a base image (small letters, digits, `-` and `.`)")
    }
}

/// A user or group name that useradd takes on Debian without being forced.
pub(crate) fn account(text: &str) -> Rule {
    let inner = all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    if inner && text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        Ok(())
    } else {
        Err(
            "a user or group name (a small letter or `_`, then small letters, digits, `-` and `_`, at most 32 characters)",
        )
    }
}

/// A semantic version that is also an OCI tag.
pub(crate) fn version(text: &str) -> Rule {
    match semver::Version::parse(text) {
        Ok(version) if version.build.is_empty() && text.len() <= 128 => Ok(()),
        Ok(_) => Err("a version that can be an image's tag (no `+`, at most 128 characters)"),
        Err(_) => Err("a semantic version (such as 1.0.0 or 1.2.0-rc.1)"),
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

/// A file name below `/run/secrets` or `/etc/apt/sources.list.d`.
pub(crate) fn file_name(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if inner && text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("a plain name (letters, digits, `.`, `-` and `_`, at most 64 characters)")
    }
}

/// A name of a variable.
pub(crate) fn variable(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let keyword = crate::template::KEYWORDS.contains(&text.to_lowercase().as_str());
    if inner && !keyword && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        Ok(())
    } else {
        Err("a name of a variable (a letter, then letters, digits and `_`; no word of the expression language)")
    }
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

/// Permission bits as chmod takes them, in octal.
pub(crate) fn permissions(text: &str) -> Result<u32, Wanted> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let good = (3..=5).contains(&digits.len()) && all(digits, |byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if good && mode <= 0o7777 => Ok(mode),
        _ => Err("permissions (three or four octal digits, such as \"0644\")"),
    }
}

/// A length of time: `90s`, `30m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wanted> {
    let wanted = "a length of time of at most a day (such as 90s, 30m or 1h30m)";
    let mut seconds = 0_u64;
    let mut rest = text;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wanted)?;
        let unit = match rest[digits..].chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wanted),
        };
        if unit >= last {
            return Err(wanted);
        }
        last = unit;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or(wanted)?;
        rest = &rest[digits + 1..];
    }
    if (1..=86_400).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(wanted) }
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

/// A line of `authorized_keys`.
pub(crate) fn ssh_key(text: &str) -> Rule {
    let kind = |word: &str| word.starts_with("ssh-") || word.starts_with("ecdsa-sha2-") || word.starts_with("sk-");
    let words: Vec<&str> = text.split_whitespace().collect();
    // Options may stand before the type; every key's first field is its own length and type, so it begins with AAAA.
    let good = words.windows(2).any(|pair| kind(pair[0]) && pair[1].starts_with("AAAA"));
    if good && !text.contains(['\n', '\r']) { Ok(()) } else { Err("an SSH public key (`ssh-ed25519 AAAA…`)") }
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
    fn durations() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0s", "5", "m", "30m1h", "25h", "1.5h", "5d", "1h1h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
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
        for bad in ["Student", "1user", "a.b", "", "user name", "x:y"] {
            assert!(account(bad).is_err(), "{bad}");
        }
        assert!(version("1.0.0").is_ok() && version("1.0").is_err() && version("1.0.0+x").is_err());
        assert!(address("https://example.org/x").is_ok() && address("https://u:p@example.org").is_err());
        assert!(ssh_key("ssh-ed25519 AAAAC3Nz me").is_ok() && ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----").is_err());
        assert!(geometry("1280x800").is_ok() && geometry("1280").is_err() && geometry("10x10").is_err());
    }
}
