use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An absolute path inside a guest: begins with `/`, has no `.` or `..` component, no NUL and no empty component.
///
/// A trailing `/` is kept, because `write_files` tells a directory from a file by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

impl GuestPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the path was written with a trailing `/`.
    pub fn is_directory(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The path with `name` appended as a further component.
    pub fn join(&self, name: &str) -> Result<Self, InvalidGuestPath> {
        format!("{}/{name}", self.0.trim_end_matches('/')).parse()
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a path that a guest file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGuestPath {
    /// Does not begin with `/`.
    #[error("a path in the guest is absolute: it begins with `/`")]
    Relative,
    /// Has a `.` or `..` component.
    #[error("a path in the guest has no `.` or `..` in it")]
    Dots,
    /// Has `//` in it.
    #[error("a path in the guest has no `//` in it")]
    Empty,
    /// Has a NUL byte or a line end.
    #[error("a path in the guest has no control characters")]
    Control,
}

impl FromStr for GuestPath {
    type Err = InvalidGuestPath;

    fn from_str(text: &str) -> Result<Self, InvalidGuestPath> {
        let Some(rest) = text.strip_prefix('/') else { return Err(InvalidGuestPath::Relative) };
        if text.chars().any(char::is_control) {
            return Err(InvalidGuestPath::Control);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if !rest.is_empty() || text.len() > 1 {
            for component in rest.split('/') {
                match component {
                    "" => return Err(InvalidGuestPath::Empty),
                    "." | ".." => return Err(InvalidGuestPath::Dots),
                    _ => {}
                }
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for GuestPath {
    type Error = InvalidGuestPath;

    fn try_from(text: String) -> Result<Self, InvalidGuestPath> {
        text.parse()
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_and_clean_paths() {
        for good in ["/", "/etc/motd", "/opt/lab/"] {
            assert_eq!(good.parse::<GuestPath>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("etc", InvalidGuestPath::Relative),
            ("/etc/../x", InvalidGuestPath::Dots),
            ("/etc//x", InvalidGuestPath::Empty),
            ("//", InvalidGuestPath::Empty),
            ("/a\0", InvalidGuestPath::Control),
        ] {
            assert_eq!(bad.parse::<GuestPath>(), Err(why), "{bad:?}");
        }
    }
}
