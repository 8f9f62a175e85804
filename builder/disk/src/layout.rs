//! Which partition holds the root of the installed system, by what is in it and never by its number.

use std::io;
use std::path::{Path, PathBuf};

use fs_err::File;

use crate::device::{DeviceError, Disk};
use crate::filesystem::{Filesystem, FilesystemError, FilesystemKind, probe};
use crate::loop_device::Access;
use crate::lvm::{self, LvmError, Volume, Volumes};
use crate::mount::{Flags, Mount, MountError};
use crate::table::{self, TableError};

/// Subvolumes in which distributions put the root, besides the default one.
const SUBVOLUMES: [&str; 3] = ["root", "@", "@/.snapshots/1/snapshot"];

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of the partition that it is, or lies in; nothing where a disk has no partitions.
    pub partition: Option<u32>,
    /// The first byte.
    pub offset: u64,
    /// The size in bytes.
    pub size: u64,
    /// The logical volume that it is; its bytes need not follow each other on the disk.
    pub volume: Option<Volume>,
}

impl Place {
    /// What a person calls it.
    fn described(&self) -> String {
        match (&self.volume, self.partition) {
            (Some(volume), _) => format!("the logical volume {}/{}", volume.group, volume.name),
            (None, Some(number)) => format!("partition {number}"),
            (None, None) => "the whole disk".to_owned(),
        }
    }
}

/// The place of the root file system on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub filesystem: Filesystem,
    /// The btrfs subvolume that is the root, if it is not the default one.
    pub subvolume: Option<String>,
}

/// A part of a disk that holds something known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub place: Place,
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
    /// A part of the disk as a block device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Logical volumes.
    #[error(transparent)]
    Lvm(#[from] LvmError),
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
    /// The system may be in a logical volume, and the disk is open in a way that does not reach those.
    #[error(
        "`{}` has its root in LVM ({place}), whose volumes cannot be reached through loop devices: a machine of its own \
         opens them",
        path.display()
    )]
    NeedsMachine {
        /// The disk.
        path: PathBuf,
        /// Which part of it.
        place: String,
    },
    /// The system is in a logical volume of a kind that is not opened here.
    #[error("`{}` has its root in the logical volume {volume}, which is {kind} and not a linear one", path.display())]
    NotLinear {
        /// The disk.
        path: PathBuf,
        /// The first such volume.
        volume: String,
        /// What it is (`thin`).
        kind: String,
    },
    /// More than one system.
    #[error("`{}` has a root file system on {first} and on {second}", path.display())]
    TwoRoots {
        /// The disk.
        path: PathBuf,
        /// One.
        first: String,
        /// The other.
        second: String,
    },
}

fn describe(found: &[Candidate]) -> String {
    if found.is_empty() {
        return "nothing that is known".to_owned();
    }
    let part = |Candidate { place, filesystem }: &Candidate| match (place.partition, &place.volume) {
        (None, None) => filesystem.kind.as_str().to_owned(),
        _ => format!("{} on {}", filesystem.kind.as_str(), place.described()),
    };
    found.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Lists what the partitions of a disk hold, in the order of their numbers, and behind each physical volume of LVM what
/// its linear volumes hold. Needs no privilege.
pub fn candidates(disk: &File) -> Result<Vec<Candidate>, LayoutError> {
    let table = table::read(disk)?;
    let mut places: Vec<Place> = table
        .partitions
        .iter()
        .map(|partition| Place {
            partition: Some(partition.number),
            offset: partition.offset(),
            size: partition.size(),
            volume: None,
        })
        .collect();
    if places.is_empty() {
        let size = rustix::fs::seek(disk, rustix::fs::SeekFrom::End(0))
            .map_err(|error| LayoutError::Access { source: error.into() })?;
        places.push(Place { partition: None, offset: 0, size, volume: None });
    }
    let mut found = Vec::new();
    for place in places {
        let Some(filesystem) = probe(disk, place.offset, place.size)? else { continue };
        let volumes = volumes(disk, &place, &filesystem);
        found.push(Candidate { place: place.clone(), filesystem });
        // What is wrong with them matters only if the root is nowhere else.
        for volume in volumes.map(|volumes| volumes.linear).unwrap_or_default() {
            let (first, size) = (volume.segments[0], volume.size());
            if let Some(filesystem) = probe(disk, first.offset, first.size)? {
                let place = Place { partition: place.partition, offset: first.offset, size, volume: Some(volume) };
                found.push(Candidate { place, filesystem });
            }
        }
    }
    Ok(found)
}

/// The volumes of what may be a physical volume.
fn volumes(disk: &File, place: &Place, filesystem: &Filesystem) -> Result<Volumes, LvmError> {
    match filesystem.kind {
        FilesystemKind::LvmPhysicalVolume if place.volume.is_none() => lvm::read(disk, place.offset, place.size),
        _ => Ok(Volumes::default()),
    }
}

/// Finds the one part of a disk that has `/usr`, `/etc` and an os-release file. Every candidate is mounted read-only
/// below `scratch_dir`, without replaying a journal, and nothing on it is executed.
pub fn find_root(disk: &Disk, scratch_dir: &Path) -> Result<Root, LayoutError> {
    let path = disk.path();
    let file = File::open(path).map_err(|source| LayoutError::Access { source })?;
    let found = candidates(&file)?;
    let reachable = |place: &Place| disk.has_volumes() || place.volume.is_none();
    let mut root: Option<Root> = None;
    for candidate in found.iter().filter(|candidate| candidate.filesystem.kind.can_be_root()) {
        if !reachable(&candidate.place) {
            continue;
        }
        let subvolume = match look(disk, scratch_dir, candidate)? {
            Look::Nothing => continue,
            Look::Root => None,
            Look::Subvolume(name) => Some(name.to_owned()),
        };
        if let Some(root) = &root {
            let (first, second) = (root.place.described(), candidate.place.described());
            return Err(LayoutError::TwoRoots { path: path.to_owned(), first, second });
        }
        let Candidate { place, filesystem } = candidate.clone();
        root = Some(Root { place, filesystem, subvolume });
    }
    match root {
        Some(root) => Ok(root),
        None => Err(no_root(disk, &file, found)),
    }
}

/// Why there is no root.
fn no_root(disk: &Disk, file: &File, found: Vec<Candidate>) -> LayoutError {
    let path = disk.path().to_owned();
    for candidate in &found {
        let (place, kind) = (candidate.place.described(), candidate.filesystem.kind);
        if kind == FilesystemKind::LvmPhysicalVolume {
            let volumes = match volumes(file, &candidate.place, &candidate.filesystem) {
                Ok(volumes) => volumes,
                Err(error) => return error.into(),
            };
            if !disk.has_volumes() && !volumes.linear.is_empty() {
                return LayoutError::NeedsMachine { path, place };
            }
            if let Some((name, kind)) = volumes.others.into_iter().next() {
                return LayoutError::NotLinear { path, volume: name, kind };
            }
        } else if let Some(what) = kind.out_of_reach() {
            return LayoutError::OutOfReach { path, place, what };
        }
    }
    LayoutError::NoRoot { path, found }
}

/// What a look into a candidate found.
enum Look {
    Nothing,
    Root,
    Subvolume(&'static str),
}

/// Whether a candidate is a root, and in which subvolume.
fn look(disk: &Disk, scratch_dir: &Path, candidate: &Candidate) -> Result<Look, LayoutError> {
    let kind = candidate.filesystem.kind;
    let target = tempfile::Builder::new().prefix("look-").tempdir_in(scratch_dir).map_err(|error| {
        LayoutError::Access { source: io::Error::new(error.kind(), format!("`{}`: {error}", scratch_dir.display())) }
    })?;
    let device = disk.attach(&candidate.place, Access::ReadOnly)?;
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
