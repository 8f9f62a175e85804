//! `labwright.lock`: what a name of the catalogue meant when a recipe was first built.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use labwright_core::{Arch, Digest};
use serde::{Deserialize, Serialize};
use url::Url;

/// The version of the file.
const VERSION: u32 = 1;

/// The file beside a recipe that pins names to digests. Its text depends on its contents alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    bases: BTreeMap<String, BTreeMap<Arch, Pin>>,
    /// What images without a digest in their name meant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<String, Digest>,
}

/// What a name meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Where the disk was.
    pub url: Url,
    /// The digest of the file there, from the vendor's checksum file.
    pub digest: Digest,
    /// The length of the file there in bytes; known once it was downloaded or its server told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When the vendor last changed its checksum file, as its server told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// Why a lock file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It could not be read or written; the source has the path.
    #[error("could not use the lock file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Its text is no lock.
    #[error("{} is not a lock file", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error("{} has version {found}, and this program knows version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, bases: BTreeMap::new(), images: BTreeMap::new() }
    }
}

impl Lock {
    /// Reads a lock file; one that is not there pins nothing.
    pub fn load(path: &Path) -> Result<Self, LockError> {
        /// Enough of any version to tell which one it is.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(LockError::Io { path: path.to_owned(), source }),
        };
        let syntax = |source| LockError::Syntax { path: path.to_owned(), source };
        let Versioned { version } = serde_json::from_slice(&text).map_err(syntax)?;
        if version != VERSION {
            return Err(LockError::Version { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(&text).map_err(syntax)
    }

    /// Writes the file whole or not at all, and only if its text changes.
    pub fn save(&self, path: &Path) -> Result<(), LockError> {
        let text = self.text();
        if fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(dir)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| LockError::Io { path: path.to_owned(), source })
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a lock has only strings and numbers");
        text.push('\n');
        text
    }

    /// What a name meant.
    pub fn get(&self, name: &str, arch: Arch) -> Option<&Pin> {
        self.bases.get(name)?.get(&arch)
    }

    /// The digest of the index or manifest that an image's name meant.
    pub fn image(&self, name: &str) -> Option<&Digest> {
        self.images.get(name)
    }

    /// Pins an image, and returns what its name meant before.
    pub fn set_image(&mut self, name: &str, digest: Digest) -> Option<Digest> {
        self.images.insert(name.to_owned(), digest)
    }

    /// Pins a name, and returns what it meant before.
    pub fn set(&mut self, name: &str, arch: Arch, pin: Pin) -> Option<Pin> {
        self.bases.entry(name.to_owned()).or_default().insert(arch, pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(letter: &str) -> Pin {
        Pin {
            url: "https://vendor.example/disk.qcow2".parse().unwrap(),
            digest: format!("sha256:{}", letter.repeat(64)).parse().unwrap(),
            size: Some(5),
            date: Some("Sat, 21 Nov 2026 09:15:44 GMT".to_owned()),
        }
    }

    #[test]
    fn the_text_does_not_depend_on_the_order_of_pinning() {
        let (mut a, mut b) = (Lock::default(), Lock::default());
        a.set("x", Arch::Amd64, pin("1"));
        a.set("x", Arch::Arm64, pin("2"));
        a.set("a", Arch::Amd64, pin("3"));
        b.set("a", Arch::Amd64, pin("3"));
        b.set("x", Arch::Arm64, pin("2"));
        assert_eq!(b.set("x", Arch::Amd64, pin("0")), None);
        assert_eq!(b.set("x", Arch::Amd64, pin("1")), Some(pin("0")));
        assert_eq!(a.text(), b.text());
    }

    #[test]
    fn a_saved_lock_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labwright.lock");
        assert_eq!(Lock::load(&path).unwrap(), Lock::default());
        let mut lock = Lock::default();
        lock.set("debian-13", Arch::Amd64, pin("a"));
        lock.save(&path).unwrap();
        assert_eq!(Lock::load(&path).unwrap(), lock);
        let expected = format!(
            "{{\n  \"version\": 1,\n  \"bases\": {{\n    \"debian-13\": {{\n      \"amd64\": {{\n        \
             \"url\": \"https://vendor.example/disk.qcow2\",\n        \"digest\": \"sha256:{}\",\n        \
             \"size\": 5,\n        \"date\": \"Sat, 21 Nov 2026 09:15:44 GMT\"\n      }}\n    }}\n  }}\n}}\n",
            "a".repeat(64)
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labwright.lock");
        for (text, why) in [
            ("", "is not a lock file"),
            (r#"{"version": 2, "other": 1}"#, "has version 2, and this program knows version 1"),
            (r#"{"version": 1, "bases": {}, "more": 1}"#, "is not a lock file"),
            (r#"{"version": 1, "bases": {"x": {"mips": {}}}}"#, "is not a lock file"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Lock::load(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
