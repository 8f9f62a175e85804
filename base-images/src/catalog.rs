//! The names of vendors' images, and what they mean today.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use labwright_core::{Algorithm, Arch, Cancel, Digest, did_you_mean};
use serde::Deserialize;
use url::Url;

use crate::download::blocking;
use crate::lock::{Lock, Pin};
use crate::signature::{SignatureError, verify};
use crate::{Base, Context, DownloadError, Fetcher, Source, url_base};

/// The files of the catalogue.
const FILES: [&str; 4] = [
    include_str!("../catalog/debian-12.json"),
    include_str!("../catalog/debian-13.json"),
    include_str!("../catalog/ubuntu-22.04.json"),
    include_str!("../catalog/ubuntu-24.04.json"),
];

/// The keys that signatures in the catalogue are checked with. Each is a copy of a file of the distribution's own
/// keyring package; see `catalog/keys/README.md`.
const KEYRINGS: [(&str, &[u8]); 1] = [("ubuntu-cloudimage", include_bytes!("../catalog/keys/ubuntu-cloudimage.gpg"))];

static CATALOG: LazyLock<Vec<Entry>> =
    LazyLock::new(|| FILES.iter().map(|text| Entry::parse(text).expect("the embedded catalogue is tested")).collect());

/// A name in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name in a recipe (`debian-13`).
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// Where its disks are.
    pub images: BTreeMap<Arch, Place>,
    /// The list of digests beside each disk.
    pub checksums: Checksums,
    /// The signature on that list; `None` where the vendor signs nothing, and trust rests on https alone.
    pub signature: Option<Signature>,
}

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The directory, with a final slash.
    pub directory: Url,
    /// The name of the disk in it.
    pub file: String,
}

/// A vendor's list of digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksums {
    /// The algorithm of the digests.
    pub algorithm: Algorithm,
    /// The name of the list, in the directory of the disk.
    pub file: String,
}

/// A vendor's detached signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The name of the signature, in the directory of the disk.
    pub file: String,
    /// The keys that may have made it.
    pub keyring: Vec<u8>,
}

/// The name is not in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no base is called `{name}`{}", suggestion.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default())]
pub struct UnknownBase {
    /// The unknown name.
    pub name: String,
    /// A name that is close.
    pub suggestion: Option<&'static str>,
}

/// Why a name gave no disk.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The vendor has no such disk.
    #[error("{name} has no image for {arch}")]
    NoArch {
        /// The name.
        name: String,
        /// The architecture.
        arch: Arch,
    },
    /// The vendor's list lacks the disk, or contradicts itself about it.
    #[error("{url} has {found} digests for {file}, where one is needed")]
    Checksums {
        /// The list.
        url: String,
        /// The disk.
        file: String,
        /// How many different digests it has.
        found: usize,
    },
    /// The signature on the vendor's list is not good.
    #[error("cannot trust {url}")]
    Signature {
        /// The list.
        url: String,
        /// Why.
        source: SignatureError,
    },
    /// The lock pins nothing for the name, and nothing may be added to it.
    #[error(
        "the lock file has no {name} for {arch}: build once without --locked, or run `labwright base refresh` for the recipe"
    )]
    NotLocked {
        /// The name.
        name: String,
        /// The architecture.
        arch: Arch,
    },
    /// The lock pins something that the catalogue no longer means.
    #[error(
        "{name} for {arch} is locked to {locked}, but is now {now}: `labwright base refresh` for the recipe accepts that"
    )]
    Drift {
        /// The name.
        name: String,
        /// The architecture.
        arch: Arch,
        /// The address in the lock.
        locked: String,
        /// The address in the catalogue.
        now: String,
    },
    /// The vendor replaced the file that the lock pins, and the cache does not have it.
    #[error(
        "the vendor no longer has the {name} for {arch} that the lock file pins: `labwright base refresh` for the recipe takes the new one"
    )]
    Replaced {
        /// The name.
        name: String,
        /// The architecture.
        arch: Arch,
        /// What was found instead.
        source: DownloadError,
    },
    /// Something could not be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
}

/// Whether a build may change what names mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// A name that is not pinned yet is looked up and pinned.
    Extend,
    /// Only what is pinned counts.
    Locked,
}

/// All entries, in the order of their names.
pub fn catalog() -> &'static [Entry] {
    &CATALOG
}

/// The entry with a name.
pub fn find_entry(name: &str) -> Result<&'static Entry, UnknownBase> {
    CATALOG.iter().find(|entry| entry.name == name).ok_or_else(|| UnknownBase {
        name: name.to_owned(),
        suggestion: did_you_mean(name, CATALOG.iter().map(|entry| entry.name.as_str())),
    })
}

impl Entry {
    /// Reads an entry as it stands in a file of the catalogue.
    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            name: String,
            title: String,
            checksums: WrittenChecksums,
            signature: Option<WrittenSignature>,
            images: BTreeMap<Arch, Place>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WrittenChecksums {
            algorithm: String,
            file: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WrittenSignature {
            file: String,
            keyring: String,
        }
        let written: Written = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let algorithm = match written.checksums.algorithm.as_str() {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(format!("unknown algorithm {other}")),
        };
        let signature = written.signature.map(|signature| {
            let (_, keyring) = KEYRINGS
                .iter()
                .find(|(name, _)| *name == signature.keyring)
                .ok_or_else(|| format!("unknown keyring {}", signature.keyring))?;
            Ok::<_, String>(Signature { file: signature.file, keyring: keyring.to_vec() })
        });
        Ok(Self {
            name: written.name,
            title: written.title,
            images: written.images,
            checksums: Checksums { algorithm, file: written.checksums.file },
            signature: signature.transpose()?,
        })
    }

    fn place(&self, arch: Arch) -> Result<&Place, CatalogError> {
        self.images.get(&arch).ok_or_else(|| CatalogError::NoArch { name: self.name.clone(), arch })
    }

    /// Asks the vendor what the name means today, and checks the vendor's signature where there is one.
    pub async fn resolve(&self, arch: Arch, fetcher: &Fetcher, cancel: &Cancel) -> Result<Pin, CatalogError> {
        let place = self.place(arch)?;
        let url = place.beside(&self.checksums.file);
        let (list, date) = fetcher.small(&url, cancel).await?;
        if let Some(signature) = &self.signature {
            let (bytes, _) = fetcher.small(&place.beside(&signature.file), cancel).await?;
            let (list, keyring, cancel) = (list.clone(), signature.keyring.clone(), cancel.clone());
            blocking(move || verify(&list, &bytes, &keyring, &cancel))
                .await
                .map_err(|source| CatalogError::Signature { url: url.to_string(), source })?;
        }
        let mut digests = digests_of(&String::from_utf8_lossy(&list), &place.file, self.checksums.algorithm);
        let found = digests.len();
        match digests.pop() {
            Some(digest) if found == 1 => Ok(Pin { url: place.beside(&place.file), digest, size: None, date }),
            _ => Err(CatalogError::Checksums { url: url.into(), file: place.file.clone(), found }),
        }
    }

    /// Looks up anew what the name means and pins it; returns what it meant before if that was something else.
    pub async fn refresh(
        &self,
        arch: Arch,
        lock: &mut Lock,
        fetcher: &Fetcher,
        cancel: &Cancel,
    ) -> Result<Option<Pin>, CatalogError> {
        let now = self.resolve(arch, fetcher, cancel).await?;
        match lock.get(&self.name, arch) {
            Some(old) if old.digest == now.digest && old.url == now.url => Ok(None),
            _ => Ok(lock.set(&self.name, arch, now)),
        }
    }

    /// The disk that the name means: what the lock pins, else what the vendor says today, which is pinned then.
    ///
    /// A vendor that replaces its file between the list and the download is asked once more; a lock is not changed
    /// by that, and a file that the lock pins is never exchanged for another one.
    pub async fn pull(
        &self,
        arch: Arch,
        lock: &mut Lock,
        pinning: Pinning,
        context: &Context<'_>,
    ) -> Result<Base, CatalogError> {
        let Context { fetcher, cancel, .. } = *context;
        if let Some(source) = self.pinned(arch, lock, pinning)? {
            let base = url_base(&source, context).await;
            return base.map_err(|error| match error {
                error @ (DownloadError::Digest { .. } | DownloadError::Length { .. }) => {
                    CatalogError::Replaced { name: self.name.clone(), arch, source: error }
                }
                error => error.into(),
            });
        }
        let pin = self.resolve(arch, fetcher, cancel).await?;
        let (pin, base) = match url_base(&self.source(arch, &pin), context).await {
            Err(error @ DownloadError::Digest { .. }) => {
                let again = self.resolve(arch, fetcher, cancel).await?;
                if again.digest == pin.digest {
                    return Err(error.into());
                }
                let base = url_base(&self.source(arch, &again), context).await?;
                (again, base)
            }
            base => (pin, base?),
        };
        lock.set(&self.name, arch, pin);
        Ok(base)
    }

    /// The disk that the lock pins for the name, if it pins one; an error where [`Pinning::Locked`] asks for more.
    pub fn pinned(&self, arch: Arch, lock: &Lock, pinning: Pinning) -> Result<Option<Source>, CatalogError> {
        let now = self.place(arch)?.beside(&self.place(arch)?.file);
        let pin = lock.get(&self.name, arch);
        let (name, locked) = (|| self.name.clone(), pinning == Pinning::Locked);
        match pin {
            None if locked => Err(CatalogError::NotLocked { name: name(), arch }),
            Some(pin) if locked && pin.url != now => {
                Err(CatalogError::Drift { name: name(), arch, locked: pin.url.to_string(), now: now.into() })
            }
            pin => Ok(pin.map(|pin| self.source(arch, pin))),
        }
    }

    fn source(&self, arch: Arch, pin: &Pin) -> Source {
        let name = format!("{} {arch}", self.name);
        Source { name, url: pin.url.clone(), digest: pin.digest.clone(), size: pin.size }
    }
}

impl Place {
    fn beside(&self, file: &str) -> Url {
        let mut url = self.directory.clone();
        url.path_segments_mut().expect("a catalogue has only http addresses").pop_if_empty().push(file);
        url
    }
}

/// The different digests that a list in the format of sha256sum has for a file.
fn digests_of(list: &str, file: &str, algorithm: Algorithm) -> Vec<Digest> {
    let mut digests: Vec<Digest> = list
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, name)| name.strip_prefix([' ', '*']).unwrap_or(name) == file)
        .filter_map(|(hex, _)| format!("{}:{hex}", algorithm.as_str()).parse().ok())
        .collect();
    digests.sort();
    digests.dedup();
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_whole() {
        let names: Vec<_> = catalog().iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]);
        for entry in catalog() {
            assert_eq!(entry.images.keys().copied().collect::<Vec<_>>(), Arch::ALL, "{}", entry.name);
            for (arch, place) in &entry.images {
                assert_eq!(place.directory.scheme(), "https", "{}", entry.name);
                assert!(place.directory.path().ends_with('/'), "{}", entry.name);
                assert!(place.file.contains(arch.as_str()), "{}", entry.name);
            }
            assert_eq!(entry.signature.is_some(), entry.name.starts_with("ubuntu"), "{}", entry.name);
        }
        let url = catalog()[1].images[&Arch::Arm64].beside("SHA512SUMS");
        assert_eq!(url.path(), "/images/cloud/trixie/latest/SHA512SUMS");
    }

    #[test]
    fn an_unknown_name_gets_a_suggestion() {
        assert_eq!(find_entry("debian-13").unwrap().title, "Debian 13 (trixie)");
        let error = find_entry("debain-13").unwrap_err().to_string();
        assert_eq!(error, "no base is called `debain-13`: did you mean `debian-13`?");
        assert_eq!(find_entry("windows").unwrap_err().to_string(), "no base is called `windows`");
    }

    #[test]
    fn lists_of_digests() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let list = format!("{a}  disk.img\n{b} *disk.img.manifest\nnonsense\n{b}  other disk.img\n");
        let digest = |hex: &str| format!("sha256:{hex}").parse::<Digest>().unwrap();
        assert_eq!(digests_of(&list, "disk.img", Algorithm::Sha256), [digest(&a)]);
        assert_eq!(digests_of(&list, "disk.img.manifest", Algorithm::Sha256), [digest(&b)]);
        assert_eq!(digests_of(&list, "disk", Algorithm::Sha256), []);
        assert_eq!(digests_of(&list, "disk.img", Algorithm::Sha512), []);
        let twice = format!("{list}{b}  disk.img\n");
        assert_eq!(digests_of(&twice, "disk.img", Algorithm::Sha256).len(), 2);
    }
}
