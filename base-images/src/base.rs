use std::fmt;
use std::path::PathBuf;

use labwright_core::{ByteSize, Digest};
use serde::{Deserialize, Serialize};

/// How the bytes of a base disk are laid out in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's qcow2, without a backing file.
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
}

impl DiskFormat {
    /// The name that QEMU's tools use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

impl From<labwright_disk::inspect::Format> for DiskFormat {
    fn from(format: labwright_disk::inspect::Format) -> Self {
        match format {
            labwright_disk::inspect::Format::Qcow2 => Self::Qcow2,
            labwright_disk::inspect::Format::Raw => Self::Raw,
        }
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A base disk in the cache: whole, checked, and never written again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The file in the cache; its permissions are read-only.
    pub path: PathBuf,
    /// How to read the file.
    pub format: DiskFormat,
    /// The digest of the file's bytes.
    pub digest: Digest,
    /// The size that a guest sees.
    pub virtual_size: ByteSize,
    /// What to call it to people (`debian trixie amd64, bootstrapped`).
    pub name: String,
}
