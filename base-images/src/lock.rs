//! `labwright.lock`: what names of bases meant, and which packages were installed, when a recipe was first built.

mod packages;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use labwright_core::{Arch, Digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use url::Url;

pub use packages::PackageLock;
use packages::Unique;

/// The version of the file.
const VERSION: u32 = 1;

/// The file beside a recipe that pins names to digests, and packages to versions. Its text depends on its contents alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    bases: Unique<String, Unique<Arch, Pin>>,
    /// What images without a digest in their name meant.
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    images: Unique<String, Digest>,
    /// What was installed, by the recipe's name.
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    packages: Unique<String, Unique<Arch, PackageLock>>,
    /// The digests of the images of each lab's machines, when the lab was last built.
    #[serde(default, skip_serializing_if = "Unique::is_empty")]
    labs: Unique<String, Unique<String, Digest>>,
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
    /// A merge of two versions of it was not finished.
    #[error("{} has the marks of a merge that was not finished", path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
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
        Self {
            version: VERSION,
            bases: Unique::default(),
            images: Unique::default(),
            packages: Unique::default(),
            labs: Unique::default(),
        }
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
        if text.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"<<<<<<< ") || line.starts_with(b">>>>>>> "))
        {
            return Err(LockError::Conflict { path: path.to_owned() });
        }
        let syntax = |source| LockError::Syntax { path: path.to_owned(), source };
        let Versioned { version } = serde_json::from_slice(&text).map_err(syntax)?;
        if version != VERSION {
            return Err(LockError::Version { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(&text).map_err(syntax)
    }

    /// Changes the file as `change` says: whole or not at all, and only if its text changes. What others have written into
    /// it meanwhile stays.
    pub fn update(path: &Path, change: impl FnOnce(&mut Self)) -> Result<(), LockError> {
        let fail = |source| LockError::Io { path: path.to_owned(), source };
        // The file itself is replaced, so what is locked is its directory; the kernel frees that with the process.
        let dir = fs::File::open(parent(path)).map_err(fail)?;
        rustix::fs::flock(dir.file(), FlockOperation::LockExclusive).map_err(|error| fail(error.into()))?;
        let mut lock = Self::load(path)?;
        let before = lock.clone();
        change(&mut lock);
        if lock == before {
            return Ok(());
        }
        lock.write(path).and_then(|()| dir.sync_all()).map_err(fail)
    }

    /// Writes into the file what names mean otherwise than in `before`.
    pub fn save_pins(&self, path: &Path, before: &Self) -> Result<(), LockError> {
        Self::update(path, |file| {
            for (name, arch, pin) in self.pins().filter(|(name, arch, pin)| before.get(name, *arch) != Some(*pin)) {
                file.set(name, arch, pin.clone());
            }
            for (name, digest) in self.images.0.iter().filter(|(name, digest)| before.image(name) != Some(*digest)) {
                file.set_image(name, digest.clone());
            }
        })
    }

    fn pins(&self) -> impl Iterator<Item = (&str, Arch, &Pin)> {
        self.bases.0.iter().flat_map(|(name, pins)| pins.0.iter().map(move |(arch, pin)| (name.as_str(), *arch, pin)))
    }

    /// Says why the file could not be written, if it cannot be. Writes nothing.
    pub fn check_writable(path: &Path) -> Result<(), LockError> {
        let probe = tempfile::tempfile_in(parent(path));
        probe.map(drop).map_err(|source| LockError::Io { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent(path))?;
        file.write_all(self.text().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a lock has only strings and numbers");
        text.push('\n');
        text
    }

    /// What a name meant.
    pub fn get(&self, name: &str, arch: Arch) -> Option<&Pin> {
        self.bases.0.get(name)?.0.get(&arch)
    }

    /// What was installed for a recipe.
    pub fn packages(&self, recipe: &str, arch: Arch) -> Option<&PackageLock> {
        self.packages.0.get(recipe)?.0.get(&arch)
    }

    /// Locks what was installed for a recipe.
    pub fn set_packages(&mut self, recipe: &str, arch: Arch, packages: PackageLock) {
        self.packages.0.entry(recipe.to_owned()).or_default().0.insert(arch, packages);
    }

    /// The digest of the index or manifest that an image's name meant.
    pub fn image(&self, name: &str) -> Option<&Digest> {
        self.images.0.get(name)
    }

    /// Pins an image, and returns what its name meant before.
    pub fn set_image(&mut self, name: &str, digest: Digest) -> Option<Digest> {
        self.images.0.insert(name.to_owned(), digest)
    }

    /// Writes down which image each machine of a lab has.
    pub fn set_lab(&mut self, lab: &str, machines: impl IntoIterator<Item = (String, Digest)>) {
        self.labs.0.insert(lab.to_owned(), Unique(machines.into_iter().collect()));
    }

    /// The images of a lab's machines when it was last built.
    pub fn lab(&self, lab: &str) -> impl Iterator<Item = (&str, &Digest)> {
        let machines = self.labs.0.get(lab).map(|machines| &machines.0);
        machines.into_iter().flatten().map(|(name, digest)| (name.as_str(), digest))
    }

    /// Pins a name, and returns what it meant before.
    pub fn set(&mut self, name: &str, arch: Arch, pin: Pin) -> Option<Pin> {
        self.bases.0.entry(name.to_owned()).or_default().0.insert(arch, pin)
    }
}

/// The directory of a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use labwright_core::LockedPackage;

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
        Lock::update(&path, |file| drop(file.set("debian-13", Arch::Amd64, pin("a")))).unwrap();
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
    fn labs_do_not_fight() {
        let digest = |text: &str| Digest::sha256(text.as_bytes());
        let mut lock = Lock::default();
        lock.set_lab("one", [("web".to_owned(), digest("1"))]);
        lock.set_lab("two", [("web".to_owned(), digest("2"))]);
        lock.set_lab("one", [("db".to_owned(), digest("3"))]);
        assert_eq!(lock.lab("one").collect::<Vec<_>>(), [("db", &digest("3"))]);
        assert_eq!(lock.lab("two").collect::<Vec<_>>(), [("web", &digest("2"))]);
        assert_eq!(lock.lab("none").count(), 0);
        assert_eq!(serde_json::from_str::<Lock>(&lock.text()).unwrap(), lock);
    }

    #[test]
    fn packages_have_a_line_each_and_recipes_do_not_fight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labwright.lock");
        let package = |entry: &str, version: &str| LockedPackage::from_entry(entry, version).unwrap();
        let request = Digest::sha256(b"request");
        let digest = Digest::sha256(b"deb");
        let packages = [package("vim:amd64", "2:9"), package("curl:amd64", &format!("8.14.1-2 {digest}"))];
        let lock = PackageLock::new(request.clone(), packages.clone());
        assert_eq!(lock.packages(), [packages[1].clone(), packages[0].clone()]);
        // Two builds at once: neither loses what the other has written.
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (path, lock) = (&path, lock.clone());
                scope.spawn(move || {
                    Lock::update(path, |file| file.set_packages(&format!("recipe-{number}"), Arch::Amd64, lock))
                        .unwrap();
                });
            }
        });
        let file = Lock::load(&path).unwrap();
        assert!((0..8).all(|number| file.packages(&format!("recipe-{number}"), Arch::Amd64) == Some(&lock)));
        assert_eq!(file.packages("recipe-0", Arch::Arm64), None);
        let text = fs::read_to_string(&path).unwrap();
        let expected = format!(
            "    \"recipe-7\": {{\n      \"amd64\": {{\n        \"for\": \"{request}\",\n        \"packages\": {{\n          \
             \"curl:amd64\": \"8.14.1-2 {digest}\",\n          \"vim:amd64\": \"2:9\"\n        }}\n      }}\n    }}\n  }}\n}}\n"
        );
        assert!(text.ends_with(&expected), "{text}");
        // What is written again is the same text.
        Lock::update(&path, |file| file.set_packages("recipe-3", Arch::Amd64, lock)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);

        let twice = text.replacen("\"vim:amd64\": \"2:9\"", "\"vim:amd64\": \"2:9\", \"vim:amd64\": \"2:8\"", 1);
        let conflict = text.replacen("  \"packages\"", "<<<<<<< HEAD\n  \"packages\"", 1);
        let odd = text.replacen("2:9", "2:9\\nPin: *", 1);
        for (text, why) in [
            (twice, "\"vim:amd64\" is there twice"),
            (conflict, "has the marks of a merge that was not finished"),
            (odd, "is no package in a version"),
            (text.replacen("\"recipe-1\"", "\"recipe-0\"", 1), "\"recipe-0\" is there twice"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = Lock::load(&path).unwrap_err();
            let said = labwright_core::causes(&error).join(": ");
            assert!(said.contains(why), "{text}: {said}");
            assert!(Lock::update(&path, |_| {}).is_err(), "a lock that cannot be read is never overwritten");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
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
