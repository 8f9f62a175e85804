use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use fs_err as fs;
use labwright_core::{Algorithm, Cancel, Digest, Hasher};

use super::{Layout, LayoutError, sync_dir};
use crate::document::Descriptor;

/// Marks blobs that are being written; [`Layout::gc`] removes old ones.
pub(super) const TEMP_PREFIX: &str = ".labwright-";

/// How much is copied between two looks at the cancel flag, in bytes.
const COPY_BUFFER: usize = 1 << 20;

/// What happens to a file that becomes a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopt {
    /// The file is renamed into the layout where both are on one file system, else copied and removed.
    Move,
    /// The file stays; its blocks are shared where the file system can do that (reflink), else copied.
    Copy,
}

/// A blob on its way into a layout: written under a temporary name, hashed meanwhile.
///
/// Dropping it removes what was written.
#[derive(Debug)]
pub struct BlobWriter {
    layout: Layout,
    temp: tempfile::NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl BlobWriter {
    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the blob and gives it its name. Anything else than what is `expected` is refused and removed.
    pub fn commit(self, media_type: &str, expected: Option<&Descriptor>) -> Result<Descriptor, LayoutError> {
        let found = self.hasher.finish();
        if let Some(expected) = expected {
            let path = || self.layout.blob_path(&expected.digest);
            if self.size != expected.size {
                return Err(LayoutError::WrongSize { path: path(), expected: expected.size, found: self.size });
            }
            if found != expected.digest {
                return Err(LayoutError::WrongDigest { path: path(), expected: expected.digest.clone(), found });
            }
        }
        self.layout.settle(self.temp, &found)?;
        Ok(Descriptor::new(media_type, found, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.temp.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.flush()
    }
}

impl Layout {
    /// Begins a blob whose digest uses this algorithm.
    pub fn blob_writer(&self, algorithm: Algorithm) -> Result<BlobWriter, LayoutError> {
        Ok(BlobWriter { layout: self.clone(), temp: self.temp_blob()?, hasher: Hasher::new(algorithm), size: 0 })
    }

    pub(crate) fn temp_blob(&self) -> Result<tempfile::NamedTempFile, LayoutError> {
        let dir = self.blobs();
        tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(&dir)
            .map_err(|source| LayoutError::Write { path: dir, source })
    }

    /// Gives verified bytes their name. The data is on the disk before the name is.
    pub(crate) fn settle(&self, temp: tempfile::NamedTempFile, digest: &Digest) -> Result<(), LayoutError> {
        let path = self.blob_path(digest);
        let write = |source| LayoutError::Write { path: path.clone(), source };
        if digest.algorithm() != Algorithm::Sha256 {
            fs::create_dir_all(path.parent().expect("a blob's path has a parent"))?;
        }
        temp.as_file().sync_all().map_err(write)?;
        temp.persist(&path).map_err(|error| write(error.error))?;
        sync_dir(path.parent().expect("a blob's path has a parent"))
    }

    /// Adds bytes in memory.
    pub fn add_bytes(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, LayoutError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if !self.has(&descriptor) {
            self.add_verified(&descriptor, bytes)?;
        }
        Ok(descriptor)
    }

    /// Adds bytes in memory that must be what the descriptor says.
    pub fn add_verified(&self, expected: &Descriptor, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut writer = self.blob_writer(expected.digest.algorithm())?;
        writer
            .write_all(bytes)
            .map_err(|source| LayoutError::Write { path: self.blob_path(&expected.digest), source })?;
        writer.commit(&expected.media_type, Some(expected)).map(drop)
    }

    /// Adds what a reader gives, which must be what the descriptor says. `progress` is told the bytes so far.
    pub fn add_from_reader(
        &self,
        expected: &Descriptor,
        mut reader: impl Read,
        progress: impl FnMut(u64),
        cancel: &Cancel,
    ) -> Result<(), LayoutError> {
        let mut writer = self.blob_writer(expected.digest.algorithm())?;
        let limit = expected.size.saturating_add(1);
        copy(&mut reader.by_ref().take(limit), &mut writer, progress, cancel)?;
        writer.commit(&expected.media_type, Some(expected)).map(drop)
    }

    /// Adds a file: hashes it and moves it in, or makes a copy that shares its blocks where that works.
    ///
    /// The file must not be written to meanwhile, nor afterwards if it was moved.
    pub fn add_blob_from_file(
        &self,
        media_type: &str,
        file: &Path,
        adopt: Adopt,
        cancel: &Cancel,
    ) -> Result<Descriptor, LayoutError> {
        if adopt == Adopt::Move && same_file_system(file, &self.blobs())? {
            // Hashed before it is moved, so that a stop in between leaves the file where it was.
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let size = copy(&mut fs::File::open(file)?, &mut hasher, |_| {}, cancel)?;
            let digest = hasher.finish();
            self.settle(self.take_in(file)?, &digest)?;
            return Ok(Descriptor::new(media_type, digest, size));
        }
        let mut source = fs::File::open(file)?;
        let temp = self.temp_blob()?;
        let shared = rustix::fs::ioctl_ficlone(temp.as_file(), &source).is_ok();
        let descriptor = if shared {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            // The copy is hashed, not the source: nobody else can change it.
            let size = copy(&mut fs::File::open(temp.path())?, &mut hasher, |_| {}, cancel)?;
            let digest = hasher.finish();
            self.settle(temp, &digest)?;
            Descriptor::new(media_type, digest, size)
        } else {
            let hasher = Hasher::new(Algorithm::Sha256);
            let mut writer = BlobWriter { layout: self.clone(), temp, hasher, size: 0 };
            copy(&mut source, &mut writer, |_| {}, cancel)?;
            writer.commit(media_type, None)?
        };
        if adopt == Adopt::Move {
            fs::remove_file(file)?;
        }
        Ok(descriptor)
    }

    /// Renames a file to a temporary name in the layout.
    fn take_in(&self, file: &Path) -> Result<tempfile::NamedTempFile, LayoutError> {
        let temp = self.temp_blob()?;
        fs::rename(file, temp.path())?;
        fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o644))?;
        let path = temp.into_temp_path();
        let file = fs::File::open(&path)?.into_parts().0;
        Ok(tempfile::NamedTempFile::from_parts(file, path))
    }
}

/// Whether a regular file can be renamed into a directory.
fn same_file_system(file: &Path, dir: &Path) -> Result<bool, LayoutError> {
    let meta = fs::symlink_metadata(file)?;
    Ok(meta.is_file() && meta.dev() == fs::metadata(dir)?.dev())
}

/// Copies to the end, looking at the cancel flag now and then; returns the number of bytes.
pub(crate) fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    mut progress: impl FnMut(u64),
    cancel: &Cancel,
) -> Result<u64, LayoutError> {
    let mut buffer = vec![0; COPY_BUFFER];
    let mut done = 0;
    loop {
        cancel.check()?;
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(done),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        to.write_all(&buffer[..count])?;
        done += count as u64;
        progress(done);
    }
}
