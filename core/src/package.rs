use serde::{Deserialize, Serialize};

use crate::Digest;

/// A package of a Debian-like distribution in exactly one version.
///
/// Its text form, in lock files and in talks with the guest, is a pair: `curl:amd64` and `8.14.1-2 sha256:…`, the digest
/// only where it is known. What is read is checked: none of its parts has a space, a line end or a pattern in it, so it can
/// be written into apt's own files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(String, String)", into = "(String, String)")]
pub struct LockedPackage {
    name: String,
    architecture: String,
    version: String,
    digest: Option<Digest>,
}

/// A text that is no package in a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{package}`: `{version}` is no package in a version, as in `curl:amd64`: `8.14.1-2 sha256:…`")]
pub struct InvalidLockedPackage {
    package: String,
    version: String,
}

impl LockedPackage {
    /// A package by its name, architecture (as dpkg has them) and version, and the digest of its file where it is known.
    ///
    /// Source: Debian policy 5.6.1, 5.6.7, 5.6.8 and 5.6.12.
    pub fn new(
        name: &str,
        architecture: &str,
        version: &str,
        digest: Option<Digest>,
    ) -> Result<Self, InvalidLockedPackage> {
        let begins = |text: &str| text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        let all = |text: &str, more: &[u8]| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte))
        };
        let version_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:~".contains(&byte);
        if begins(name)
            && all(name, b"+-.")
            && begins(architecture)
            && all(architecture, b"-")
            && begins(version)
            && version.bytes().all(version_byte)
        {
            let (name, architecture) = (name.to_owned(), architecture.to_owned());
            return Ok(Self { name, architecture, version: version.to_owned(), digest });
        }
        Err(InvalidLockedPackage { package: format!("{name}:{architecture}"), version: version.to_owned() })
    }

    /// Reads the text form.
    pub fn from_entry(package: &str, version: &str) -> Result<Self, InvalidLockedPackage> {
        let invalid = || InvalidLockedPackage { package: package.to_owned(), version: version.to_owned() };
        let (name, architecture) = package.split_once(':').ok_or_else(invalid)?;
        let (number, digest) = match version.split_once(' ') {
            Some((number, digest)) => (number, Some(digest.parse().map_err(|_| invalid())?)),
            None => (version, None),
        };
        Self::new(name, architecture, number, digest).map_err(|_| invalid())
    }

    /// The text form: what it is, and in which version.
    pub fn to_entry(&self) -> (String, String) {
        let version = match &self.digest {
            Some(digest) => format!("{} {digest}", self.version),
            None => self.version.clone(),
        };
        (format!("{}:{}", self.name, self.architecture), version)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its architecture, as dpkg names it; `all` for those that fit any.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The digest of its file, as the archive's signed lists have it; none where they have no SHA-256 or SHA-512.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether both are the same package, in whatever version.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.name, &self.architecture) == (&other.name, &other.architecture)
    }
}

impl TryFrom<(String, String)> for LockedPackage {
    type Error = InvalidLockedPackage;

    fn try_from((package, version): (String, String)) -> Result<Self, Self::Error> {
        Self::from_entry(&package, &version)
    }
}

impl From<LockedPackage> for (String, String) {
    fn from(package: LockedPackage) -> Self {
        package.to_entry()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_again() {
        let digest = Digest::sha256(b"x");
        let value = format!("1:2.41-12+deb13u1~x {digest}");
        let package = LockedPackage::from_entry("libc6:amd64", &value).unwrap();
        assert_eq!((package.name(), package.architecture()), ("libc6", "amd64"));
        assert_eq!((package.version(), package.digest()), ("1:2.41-12+deb13u1~x", Some(&digest)));
        assert_eq!(package.to_entry(), ("libc6:amd64".to_owned(), value));
        let bare = LockedPackage::from_entry("g++:all", "4").unwrap();
        assert_eq!(LockedPackage::try_from(bare.to_entry()), Ok(bare.clone()));
        assert!(!bare.is_same(&package));
    }

    #[test]
    fn nothing_gets_into_files_of_apt_that_is_no_package() {
        for (package, version) in [
            ("curl", "1"),
            ("curl:amd64", ""),
            ("curl:amd64", "1 "),
            ("curl:amd64", "1 sha256:zz"),
            ("curl:amd64", "1\nPackage: *"),
            ("curl:amd64", "1*"),
            ("cu*l:amd64", "1"),
            ("curl\n:amd64", "1"),
            ("Curl:amd64", "1"),
            ("-o:amd64", "1"),
            ("curl:am/64", "1"),
            (":amd64", "1"),
            ("curl:", "1"),
        ] {
            assert!(LockedPackage::from_entry(package, version).is_err(), "{package} {version}");
        }
    }
}
