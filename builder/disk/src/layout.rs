//! Which partition holds the root of the installed system, by what is in it and never by its number.

use std::io;
use std::path::{Path, PathBuf};

use fs_err::File;

use crate::filesystem::{Filesystem, FilesystemError, FilesystemKind, probe};
use crate::loop_device::{Access, LoopDevice, LoopError};
use crate::mount::{Flags, Mount, MountError};
use crate::table::{self, TableError};

/// Subvolumes in which distributions put the root, besides the default one.
const SUBVOLUMES: [&str; 3] = ["root", "@", "@/.snapshots/1/snapshot"];

/// The place of the root file system on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The partition's number, or nothing if the whole disk is one file system.
    pub partition: Option<u32>,
    /// The first byte.
    pub offset: u64,
    /// The size in bytes.
    pub size: u64,
    /// What it is.
    pub filesystem: Filesystem,
    /// The btrfs subvolume that is the root, if it is not the default one.
    pub subvolume: Option<String>,
}

impl Root {
    /// Options of the file system for mounting it read-only as it lies there: the journal is not replayed.
    pub fn look_options(&self) -> String {
        let subvolume = self.subvolume.as_ref().map(|subvolume| format!("subvol={subvolume}"));
        let own = Some(self.filesystem.kind.look_options().to_owned()).filter(|options| !options.is_empty());
        own.into_iter().chain(subvolume).collect::<Vec<_>>().join(",")
    }
}

/// A part of a disk that holds something known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The partition's number, or nothing for the whole disk.
    pub partition: Option<u32>,
    /// The first byte.
    pub offset: u64,
    /// The size in bytes.
    pub size: u64,
    /// What it holds.
    pub filesystem: Filesystem,
}

/// A disk without one clear root.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The partition table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file system.
    #[error(transparent)]
    Filesystem(#[from] FilesystemError),
    /// A loop device.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The disk or the scratch directory; the source has the path.
    #[error("could not prepare to look into a disk")]
    Access {
        /// The reason, with the path.
        source: io::Error,
    },
    /// Nothing on it is a system. What was found is listed.
    #[error("`{}` has no root file system; it has {}", path.display(), describe(found))]
    NoRoot {
        /// The disk.
        path: PathBuf,
        /// What is on it instead.
        found: Vec<Candidate>,
    },
    /// The system is in something that is not opened here.
    #[error(
        "`{}` has no root file system that can be built on: its {place} is {what}; use a base image whose root lies on \
         ext4, XFS or btrfs directly in a partition",
        path.display()
    )]
    OutOfReach {
        /// The disk.
        path: PathBuf,
        /// Which part of the disk.
        place: String,
        /// What it holds.
        what: &'static str,
    },
    /// More than one system.
    #[error("`{}` has a root file system on partitions {first} and {second}", path.display())]
    TwoRoots {
        /// The disk.
        path: PathBuf,
        /// One.
        first: u32,
        /// The other.
        second: u32,
    },
}

fn describe(found: &[Candidate]) -> String {
    let part = |candidate: &Candidate| {
        let kind = candidate.filesystem.kind.as_str();
        candidate.partition.map_or_else(|| kind.to_owned(), |number| format!("{kind} on partition {number}"))
    };
    if found.is_empty() {
        return "nothing that is known".to_owned();
    }
    found.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Lists what the partitions of a disk hold, in the order of their numbers. Needs no privilege.
pub fn candidates(disk: &File) -> Result<Vec<Candidate>, LayoutError> {
    let table = table::read(disk)?;
    let mut found = Vec::new();
    for partition in &table.partitions {
        if let Some(filesystem) = probe(disk, partition.offset(), partition.size())? {
            found.push(Candidate {
                partition: Some(partition.number),
                offset: partition.offset(),
                size: partition.size(),
                filesystem,
            });
        }
    }
    if table.partitions.is_empty() {
        let size = rustix::fs::seek(disk, rustix::fs::SeekFrom::End(0))
            .map_err(|error| LayoutError::Access { source: error.into() })?;
        if let Some(filesystem) = probe(disk, 0, size)? {
            found.push(Candidate { partition: None, offset: 0, size, filesystem });
        }
    }
    Ok(found)
}

/// Finds the one partition that has `/usr`, `/etc` and an os-release file. Every candidate is mounted read-only below
/// `scratch_dir`, without replaying a journal, and nothing on it is executed.
pub fn find_root(raw: &Path, scratch_dir: &Path) -> Result<Root, LayoutError> {
    let disk = File::open(raw).map_err(|source| LayoutError::Access { source })?;
    let found = candidates(&disk)?;
    let mut root: Option<Root> = None;
    for candidate in found.iter().filter(|candidate| candidate.filesystem.kind.can_be_root()) {
        let subvolume = match look(raw, scratch_dir, candidate)? {
            Look::Nothing => continue,
            Look::Root => None,
            Look::Subvolume(name) => Some(name.to_owned()),
        };
        if let Some(first) = root.as_ref().and_then(|root| root.partition) {
            let second = candidate.partition.unwrap_or_default();
            return Err(LayoutError::TwoRoots { path: raw.to_owned(), first, second });
        }
        root = Some(Root {
            partition: candidate.partition,
            offset: candidate.offset,
            size: candidate.size,
            filesystem: candidate.filesystem.clone(),
            subvolume,
        });
    }
    root.ok_or_else(|| no_root(raw, found))
}

/// Why there is no root.
fn no_root(raw: &Path, found: Vec<Candidate>) -> LayoutError {
    let path = raw.to_owned();
    let hidden =
        found.iter().find_map(|candidate| Some((candidate.partition, candidate.filesystem.kind.out_of_reach()?)));
    match hidden {
        Some((partition, what)) => {
            let place = partition.map_or_else(|| "content".to_owned(), |number| format!("partition {number}"));
            LayoutError::OutOfReach { path, place, what }
        }
        None => LayoutError::NoRoot { path, found },
    }
}

/// What a look into a candidate found.
enum Look {
    Nothing,
    Root,
    Subvolume(&'static str),
}

/// Whether a candidate is a root, and in which subvolume.
fn look(raw: &Path, scratch_dir: &Path, candidate: &Candidate) -> Result<Look, LayoutError> {
    let kind = candidate.filesystem.kind;
    let target = tempfile::Builder::new().prefix("look-").tempdir_in(scratch_dir).map_err(|error| {
        LayoutError::Access { source: io::Error::new(error.kind(), format!("`{}`: {error}", scratch_dir.display())) }
    })?;
    let device = LoopDevice::attach(raw, candidate.offset, candidate.size, Access::ReadOnly)?;
    let mut result = Look::Nothing;
    let options = kind.look_options();
    let top = format!("{options},subvolid=5");
    // The default subvolume may be another one than the top, which has all of them.
    let tops: &[&str] = if kind == FilesystemKind::Btrfs { &[options, &top] } else { &[options] };
    for (options, names) in tops.iter().zip([&[][..], &SUBVOLUMES]) {
        let mount = Mount::new(device.path(), target.path(), kind.as_str(), Flags::LOOK, options)?;
        if names.is_empty() && is_root(target.path()) {
            result = Look::Root;
        } else if let Some(name) = names.iter().find(|name| is_root(&target.path().join(name))) {
            result = Look::Subvolume(name);
        }
        mount.close()?;
        if !matches!(result, Look::Nothing) {
            break;
        }
    }
    device.close()?;
    Ok(result)
}

/// Nothing is followed: a link in a stranger's disk could lead to the host's own files.
fn is_root(path: &Path) -> bool {
    let kind = |name: &str| fs_err::symlink_metadata(path.join(name)).map(|metadata| metadata.file_type()).ok();
    let is_dir = |name: &str| kind(name).is_some_and(|kind| kind.is_dir());
    let release = is_dir("usr/lib") && kind("usr/lib/os-release").is_some_and(|kind| kind.is_file())
        || is_dir("etc") && kind("etc/os-release").is_some();
    is_dir("usr") && is_dir("etc") && release
}
