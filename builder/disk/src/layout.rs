//! Which partition holds the root of the installed system, by what is in it and never by its number.

use std::io;
use std::path::{Path, PathBuf};

use fs_err::File;
use labwright_core::causes;

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
        match &self.volume {
            Some(volume) => format!("the logical volume {}/{}", volume.group, volume.name),
            None => self.around(),
        }
    }

    /// What a person calls the partition that it is or lies in.
    fn around(&self) -> String {
        self.partition.map_or_else(|| "the whole disk".to_owned(), |number| format!("partition {number}"))
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
    /// Nothing on it is a system that can be built on.
    #[error("`{}` has no root file system that can be built on: {}", path.display(), describe(others))]
    NoRoot {
        /// The disk.
        path: PathBuf,
        /// What is on it instead, and why each of them is not the root.
        others: Vec<Other>,
    },
    /// The system may be in a logical volume, and the disk is open in a way that does not reach those.
    #[error("`{}` has its root in LVM ({place}), which only a machine of its own can open", path.display())]
    NeedsMachine {
        /// The disk.
        path: PathBuf,
        /// Which part of it.
        place: String,
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

/// A part of a disk that is not the root.
#[derive(Debug)]
pub struct Other {
    /// What it is.
    pub candidate: Candidate,
    /// Why it is not the root.
    pub reason: Reason,
}

/// Why a part of a disk is not the root.
#[derive(Debug)]
pub enum Reason {
    /// No system is on this kind of file system.
    Kind,
    /// A system may be in it, and it is not opened here: in words, what it is.
    OutOfReach(&'static str),
    /// Logical volumes that are none of the kind that is opened here: the first one's name, and what it is (`thin`).
    NotLinear(String, String),
    /// Logical volumes that cannot be read.
    Volumes(LvmError),
    /// The kernel does not mount it.
    NotMounted(MountError),
    /// It cannot be shown to the kernel.
    NotShown(DeviceError),
    /// It was mounted, and has no system in it. Whether its journal was replayed before that look.
    NoSystem(Journal),
}

/// What is done with what a file system has in its journal only, as after a crash or in a copy of a running system's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// It stays there: nothing is written, and what is seen may be old or wrong.
    Left,
    /// It is put in its place, which writes to the disk.
    Replayed,
}

impl Other {
    /// Whether it may turn out to be the root when its journal is replayed.
    fn may_change(&self) -> bool {
        matches!(self.reason, Reason::NoSystem(Journal::Left) | Reason::NotMounted(_))
    }
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Candidate { place, filesystem } = &self.candidate;
        let (place, kind) = (place.described(), filesystem.kind.as_str());
        match &self.reason {
            Reason::Kind => write!(f, "{place} is {kind}"),
            Reason::OutOfReach(what) => write!(f, "{place} is {what}"),
            Reason::NotLinear(volume, kind) => {
                write!(f, "{place} is LVM with the volume {volume}, which is {kind} and not linear")
            }
            Reason::Volumes(error) => write!(f, "{place} is LVM: {}", causes(error).join(": ")),
            Reason::NotMounted(error) if error.is_unknown_kind() => {
                write!(f, "{place} is {kind}, which this kernel does not know")
            }
            // The error's own words name a device and a directory that mean nothing to anybody.
            Reason::NotMounted(MountError::Mount { source, .. }) => {
                write!(f, "{place} is {kind} and cannot be mounted ({source})")
            }
            Reason::NotMounted(error) => write!(f, "{place} is {kind}: {}", causes(error).join(": ")),
            Reason::NotShown(error) => write!(f, "{place} is {kind}: {}", causes(error).join(": ")),
            Reason::NoSystem(Journal::Replayed) => write!(f, "{place} is {kind} without a system in it"),
            Reason::NoSystem(Journal::Left) => {
                write!(f, "{place} is {kind} without a system in it (its journal was not replayed)")
            }
        }
    }
}

fn describe(others: &[Other]) -> String {
    if others.is_empty() {
        return "nothing on it is known".to_owned();
    }
    let all: Vec<String> = others.iter().map(ToString::to_string).collect();
    let hint = "a root lies on ext4, XFS or btrfs, in a partition or in a linear logical volume of LVM";
    format!("{}; {hint}", all.join("; "))
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
/// below `scratch_dir`, without replaying a journal, and nothing on it is executed. What cannot be mounted is not the
/// root.
///
/// Where that finds nothing and the disk may be written, candidates are looked at once more with their journals replayed:
/// in a copy of a running system's disk, everything may still be in there.
pub fn find_root(disk: &Disk, scratch_dir: &Path, access: Access) -> Result<Root, LayoutError> {
    let file = File::open(disk.path()).map_err(|source| LayoutError::Access { source })?;
    let found = candidates(&file)?;
    let mut others = match look_at_all(disk, &file, scratch_dir, &found, Journal::Left)? {
        Ok(root) => return Ok(root),
        Err(others) => others,
    };
    if access == Access::ReadWrite && others.iter().any(Other::may_change) {
        others = match look_at_all(disk, &file, scratch_dir, &found, Journal::Replayed)? {
            Ok(root) => return Ok(root),
            Err(others) => others,
        };
    }
    let path = disk.path().to_owned();
    let needs_machine = |other: &&Other| matches!(other.reason, Reason::NotShown(DeviceError::Volume));
    if let Some(other) = others.iter().find(needs_machine) {
        return Err(LayoutError::NeedsMachine { path, place: other.candidate.place.around() });
    }
    Err(LayoutError::NoRoot { path, others })
}

/// The root among all candidates, or why none of them is it.
fn look_at_all(
    disk: &Disk,
    file: &File,
    scratch_dir: &Path,
    found: &[Candidate],
    journal: Journal,
) -> Result<Result<Root, Vec<Other>>, LayoutError> {
    let mut root: Option<Root> = None;
    let mut others = Vec::new();
    for candidate in found {
        let subvolume = match look(disk, file, scratch_dir, candidate, journal)? {
            Ok(subvolume) => subvolume.map(str::to_owned),
            Err(reason) => {
                others.push(Other { candidate: candidate.clone(), reason });
                continue;
            }
        };
        if let Some(root) = &root {
            let (first, second) = (root.place.described(), candidate.place.described());
            return Err(LayoutError::TwoRoots { path: disk.path().to_owned(), first, second });
        }
        let Candidate { place, filesystem } = candidate.clone();
        root = Some(Root { place, filesystem, subvolume });
    }
    Ok(root.ok_or(others))
}

/// Whether a candidate is a root, and in which subvolume; else why it is none.
fn look(
    disk: &Disk,
    file: &File,
    scratch_dir: &Path,
    candidate: &Candidate,
    journal: Journal,
) -> Result<Result<Option<&'static str>, Reason>, LayoutError> {
    let Candidate { place, filesystem } = candidate;
    let kind = filesystem.kind;
    if kind == FilesystemKind::LvmPhysicalVolume {
        return Ok(Err(match volumes(file, place, filesystem) {
            Ok(volumes) => match volumes.others.into_iter().next() {
                Some((name, kind)) => Reason::NotLinear(name, kind),
                None => Reason::OutOfReach("LVM"),
            },
            Err(error) => Reason::Volumes(error),
        }));
    }
    if !kind.can_be_root() {
        return Ok(Err(kind.out_of_reach().map_or(Reason::Kind, Reason::OutOfReach)));
    }
    let access = match journal {
        Journal::Left => Access::ReadOnly,
        Journal::Replayed => Access::ReadWrite,
    };
    let device = match disk.attach(place, access) {
        Ok(device) => device,
        // What is on the disk is the reason, not this host.
        Err(error @ (DeviceError::Volume | DeviceError::Mapper(_) | DeviceError::Missing { .. })) => {
            return Ok(Err(Reason::NotShown(error)));
        }
        Err(error) => return Err(error.into()),
    };
    let target = tempfile::Builder::new().prefix("look-").tempdir_in(scratch_dir).map_err(|error| {
        LayoutError::Access { source: io::Error::new(error.kind(), format!("`{}`: {error}", scratch_dir.display())) }
    })?;
    let found = look_into(device.path(), target.path(), kind, journal);
    device.close()?;
    Ok(found?)
}

/// The same for a block device, which is mounted on `target` for a moment.
fn look_into(
    device: &Path,
    target: &Path,
    kind: FilesystemKind,
    journal: Journal,
) -> Result<Result<Option<&'static str>, Reason>, MountError> {
    let options = match journal {
        Journal::Left => kind.look_options(),
        Journal::Replayed => kind.work_options(),
    };
    let top = [options, "subvolid=5"].into_iter().filter(|option| !option.is_empty()).collect::<Vec<_>>().join(",");
    // The default subvolume may be another one than the top, which has all of them.
    let tops: &[&str] = if kind == FilesystemKind::Btrfs { &[options, &top] } else { &[options] };
    let mut reason = Reason::NoSystem(journal);
    for (options, names) in tops.iter().zip([&[][..], &SUBVOLUMES]) {
        let mount = match Mount::new(device, target, kind.as_str(), Flags::LOOK, options) {
            Ok(mount) => mount,
            Err(error @ MountError::Mount { .. }) => {
                reason = Reason::NotMounted(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let whole = names.is_empty() && is_root(target);
        let subvolume = names.iter().find(|name| is_root(&target.join(name)));
        mount.close()?;
        if whole || subvolume.is_some() {
            return Ok(Ok(subvolume.copied()));
        }
    }
    Ok(Err(reason))
}

/// Nothing is followed: a link in a stranger's disk could lead to the host's own files.
fn is_root(path: &Path) -> bool {
    let kind = |name: &str| fs_err::symlink_metadata(path.join(name)).map(|metadata| metadata.file_type()).ok();
    let is_dir = |name: &str| kind(name).is_some_and(|kind| kind.is_dir());
    let release = is_dir("usr/lib") && kind("usr/lib/os-release").is_some_and(|kind| kind.is_file())
        || is_dir("etc") && kind("etc/os-release").is_some();
    is_dir("usr") && is_dir("etc") && release
}
