//! Our own look at a disk file before any tool opens it.
//!
//! A disk that comes from elsewhere is hostile: qemu-img follows a backing file named `/etc/shadow`, and readers
//! crash on absurd tables. [`inspect`] accepts only a file that names no other file, is not encrypted, dirty or
//! corrupt, and whose tables all lie inside it. The check reads metadata only, never more of it than the file is long.

mod qcow2;
mod raw;
mod refusal;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_err::File;

#[cfg(feature = "writer")]
pub(crate) use qcow2::parse_overlay_header;
pub use qcow2::{Header, parse_header};
pub use refusal::Refusal;

/// The format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// The bytes of the disk.
    Raw,
}

impl Format {
    /// QEMU's name of it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// How the clusters of a qcow2 file may be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionKind {
    /// Raw deflate with a window of 4 KiB.
    Deflate,
    /// zstd.
    Zstd,
}

/// How large a disk may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The file, in bytes.
    pub file_size: u64,
}

impl Default for Limits {
    /// 2 TiB for the guest (what an MBR can address) and 256 GiB for the file.
    fn default() -> Self {
        Self { virtual_size: 2 << 40, file_size: 256 << 30 }
    }
}

/// What a disk file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    /// The format.
    pub format: Format,
    /// The size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// The size of the file, in bytes; holes count.
    pub file_size: u64,
    /// How clusters are compressed, if any are. Always `None` for a raw disk.
    pub compression: Option<CompressionKind>,
}

/// A file that is not accepted as a disk.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It cannot be read; the source has the path.
    #[error("could not read a disk file")]
    Read {
        /// The reason, with the path.
        source: io::Error,
    },
    /// It is read and refused.
    #[error("`{}` is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: Refusal,
    },
}

/// Looks at a disk file and refuses what no tool should open.
pub fn inspect(path: &Path, limits: &Limits) -> Result<DiskInfo, InspectError> {
    // Opening a FIFO would wait for a writer, so the kind of file is looked at first.
    let metadata = fs_err::metadata(path).map_err(|source| InspectError::Read { source })?;
    let refused = |reason| InspectError::Refused { path: path.to_owned(), reason };
    if !metadata.is_file() {
        return Err(refused(Refusal::NotAFile));
    }
    let file = File::open(path).map_err(|source| InspectError::Read { source })?;
    let length = file.metadata().map_err(|source| InspectError::Read { source })?.len();
    inspect_file(&file, length, limits).map_err(|error| match error {
        Problem::Read(source) => InspectError::Read { source },
        Problem::Refused(reason) => refused(reason),
    })
}

/// A refusal or a failure to read.
#[derive(Debug)]
enum Problem {
    Read(io::Error),
    Refused(Refusal),
}

impl From<Refusal> for Problem {
    fn from(reason: Refusal) -> Self {
        Self::Refused(reason)
    }
}

fn inspect_file(file: &File, length: u64, limits: &Limits) -> Result<DiskInfo, Problem> {
    if length > limits.file_size {
        return Err(Refusal::FileTooLarge { size: length, limit: limits.file_size }.into());
    }
    let head = read_at(file, 0, length.min(qcow2::LARGEST_CLUSTER))?;
    if !head.starts_with(qcow2::MAGIC) {
        let tail = read_at(file, length.saturating_sub(512), length.min(512))?;
        raw::check(&head, &tail, length, limits)?;
        return Ok(DiskInfo { format: Format::Raw, virtual_size: length, file_size: length, compression: None });
    }
    let header = parse_header(&head, length, limits)?;
    let compressed = qcow2::check_tables(&header, length, |offset, size| read_at(file, offset, size))?;
    Ok(DiskInfo {
        format: Format::Qcow2,
        virtual_size: header.virtual_size,
        file_size: length,
        compression: compressed.then_some(header.compression),
    })
}

/// Reads `size` bytes that the caller has found to be inside the file.
fn read_at(file: &File, offset: u64, size: u64) -> Result<Vec<u8>, Problem> {
    let size = usize::try_from(size).map_err(|_| Problem::Read(io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = vec![0; size];
    file.file().read_exact_at(&mut bytes, offset).map_err(|error| Problem::Read(crate::named(file, &error)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
