use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use labwright_core::{Arch, ByteSize, Cancel, Cancelled, Digest, Event, Reporter};
use labwright_disk::inspect::{InspectError, Limits, inspect};

use crate::cache::Record;
use crate::{Base, Cache, CacheError, Origin};

/// Why the disk of an image was not taken as a base.
#[derive(Debug, thiserror::Error)]
pub enum ImageBaseError {
    /// The disk is refused.
    #[error("cannot use the disk in `{image}` as a base")]
    Refused {
        /// The image as it was named.
        image: String,
        /// What is wrong with the disk.
        source: InspectError,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A disk in an image that is somewhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InImage<'a> {
    /// The image as it was named, for people.
    pub image: &'a str,
    /// The digest of what the name means, an index or a manifest: with the architecture, what the cache finds the disk by.
    pub digest: &'a Digest,
    /// Which of the image's disks.
    pub arch: Arch,
}

impl InImage<'_> {
    fn key(self) -> String {
        format!("image-{}-{}-{}", self.digest.algorithm().as_str(), self.digest.hex(), self.arch)
    }

    /// The disk, if it was taken out before.
    pub fn find(self, cache: &Cache) -> Option<Base> {
        cache.find_name(&self.key())
    }
}

/// Takes the disk of an image from the cache, else lets `extract` write it to a path and takes it in from there.
///
/// `extract` is given a path that does not exist, checks what it writes against the image's digests, and returns the
/// digest of the disk. How images are read is its matter; that the disk is harmless is checked here.
pub fn image_base<E: From<ImageBaseError>>(
    of: InImage<'_>,
    cache: &Cache,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
    extract: impl FnOnce(&Path) -> Result<Digest, E>,
) -> Result<Base, E> {
    let key = of.key();
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    let _lock = cache.lock(&key, &**reporter, cancel).map_err(ImageBaseError::from)?;
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    let step = format!("disk of {}", of.image);
    reporter.event(Event::Started { step: step.clone() });
    let work = cache.work_dir().map_err(ImageBaseError::from)?;
    let disk = work.path().join("disk");
    let digest = extract(&disk)?;
    let base = take_in(of, &disk, digest, cache)?;
    cache.set_name(&key, &base.digest).map_err(ImageBaseError::from)?;
    work.close().map_err(|source| ImageBaseError::from(cache.error("remove a working directory", source)))?;
    reporter.event(Event::Finished { step, outcome: format!("{} {}", base.digest.short(), base.format) });
    Ok(base)
}

fn take_in(of: InImage<'_>, disk: &Path, digest: Digest, cache: &Cache) -> Result<Base, ImageBaseError> {
    let refused = |source| ImageBaseError::Refused { image: of.image.to_owned(), source };
    let info = inspect(disk, &Limits::default()).map_err(refused)?;
    // Another image, or a file of the user, may have brought the same bytes.
    if let Some(base) = cache.find(&digest) {
        fs::remove_file(disk).map_err(|source| cache.error("remove a second copy", source))?;
        return Ok(base);
    }
    let size = ByteSize::from_bytes(info.virtual_size);
    let origin = Origin::Image { image: of.image.to_owned() };
    let record = Record::new(of.image.to_owned(), digest, info.format.into(), size, info.file_size, origin);
    Ok(cache.store(disk, &record)?)
}

#[cfg(test)]
mod tests {
    use labwright_core::Quiet;

    use super::*;

    #[test]
    fn a_disk_is_taken_out_once_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
        let mut raw = vec![0; 1 << 20];
        raw[510..512].copy_from_slice(&[0x55, 0xaa]);
        let digest = Digest::sha256(b"manifest");
        let of = InImage { image: "oci:x", digest: &digest, arch: Arch::Amd64 };
        let take = |bytes: Option<&[u8]>| {
            image_base::<ImageBaseError>(of, &cache, &reporter, &Cancel::new(), |path| {
                let bytes = bytes.expect("it was in the cache");
                fs::write(path, bytes).unwrap();
                Ok(Digest::sha256(bytes))
            })
        };
        // A disk that reads another file through its backing name never gets in.
        let mut evil = vec![0; 1 << 16];
        evil[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        evil[8..16].copy_from_slice(&104_u64.to_be_bytes());
        evil[16..20].copy_from_slice(&11_u32.to_be_bytes());
        assert!(matches!(take(Some(&evil)), Err(ImageBaseError::Refused { .. })));
        assert_eq!(cache.list().unwrap(), []);
        let base = take(Some(&raw)).unwrap();
        assert_eq!((base.digest.clone(), base.name.as_str()), (Digest::sha256(&raw), "oci:x"));
        assert_eq!(take(None).unwrap(), base);
        assert_eq!(cache.list().unwrap(), [(base, Origin::Image { image: "oci:x".to_owned() })]);
    }
}
