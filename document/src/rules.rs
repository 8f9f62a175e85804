//! The syntax of names and values that all kinds of document share; each rule says in words what it wants.

use std::time::Duration;

use crate::decoder::Wanted;
use crate::template::KEYWORDS;

/// Whether a text follows a rule.
pub type Rule = Result<(), Wanted>;

/// Whether all bytes of a text are among those allowed.
pub fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

/// Whether a text is a DNS label of at most `max` characters.
pub fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS label of at most 32 characters: names of recipes and access.
pub fn name(text: &str) -> Rule {
    if is_label(text, 32) {
        Ok(())
    } else {
        Err("a name (small letters, digits and `-` between them, at most 32 characters)")
    }
}

/// A user or group name that useradd takes on Debian without being forced.
pub fn account(text: &str) -> Rule {
    let inner = all(text, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    if inner && text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') {
        Ok(())
    } else {
        Err(
            "a user or group name (a small letter or `_`, then small letters, digits, `-` and `_`, at most 32 characters)",
        )
    }
}

/// A name of an environment variable.
pub fn env_name(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if inner && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        Ok(())
    } else {
        Err("a name of an environment variable (letters, digits and `_`)")
    }
}

/// A semantic version that is also an OCI tag.
pub fn version(text: &str) -> Rule {
    match semver::Version::parse(text) {
        Ok(version) if version.build.is_empty() && text.len() <= 128 => Ok(()),
        Ok(_) => Err("a version that can be an image's tag (no `+`, at most 128 characters)"),
        Err(_) => Err("a semantic version (such as 1.0.0 or 1.2.0-rc.1)"),
    }
}

/// A file name below `/run/secrets` or `/etc/apt/sources.list.d`.
pub fn file_name(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if inner && text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("a plain name (letters, digits, `.`, `-` and `_`, at most 64 characters)")
    }
}

/// A name of a variable.
pub fn variable(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let keyword = KEYWORDS.contains(&text.to_lowercase().as_str());
    if inner && !keyword && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        Ok(())
    } else {
        Err("a name of a variable (a letter, then letters, digits and `_`; no word of the expression language)")
    }
}

/// A length of time: `90s`, `30m`, `1h30m`.
pub fn duration(text: &str) -> Result<Duration, Wanted> {
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

/// A line of `authorized_keys`.
pub fn ssh_key(text: &str) -> Rule {
    let kind = |word: &str| word.starts_with("ssh-") || word.starts_with("ecdsa-sha2-") || word.starts_with("sk-");
    let words: Vec<&str> = text.split_whitespace().collect();
    // Options may stand before the type; every key's first field is its own length and type, so it begins with AAAA.
    let good = words.windows(2).any(|pair| kind(pair[0]) && pair[1].starts_with("AAAA"));
    if good && !text.contains(['\n', '\r']) { Ok(()) } else { Err("an SSH public key (`ssh-ed25519 AAAA…`)") }
}

/// A title.
pub fn title(text: &str) -> Rule {
    one_line(text).map_err(|_| "a title (one line)")
}

/// A text for people on one line.
pub fn one_line(text: &str) -> Rule {
    if text.trim().is_empty() || text.contains(['\n', '\r']) { Err("a text of one line") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0s", "5", "m", "30m1h", "25h", "1.5h", "5d", "1h1h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_keys() {
        for bad in ["Student", "1user", "a.b", "", "user name", "x:y"] {
            assert!(account(bad).is_err(), "{bad}");
        }
        assert!(version("1.0.0").is_ok() && version("1.0").is_err() && version("1.0.0+x").is_err());
        assert!(ssh_key("ssh-ed25519 AAAAC3Nz me").is_ok() && ssh_key("-----BEGIN OPENSSH PRIVATE KEY-----").is_err());
        assert!(one_line("a title").is_ok() && one_line(" ").is_err() && one_line("two\nlines").is_err());
    }
}
