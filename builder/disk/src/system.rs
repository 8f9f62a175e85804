//! The disk of an installed system as a whole: its root is found, grown, mounted with what belongs below it, and let go
//! of.

use std::io;
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use labwright_core::Cancel;

use crate::device::{DeviceError, Disk, Node};
use crate::filesystem::{self, Filesystem, FilesystemError, FilesystemKind};
use crate::layout::{LayoutError, Place, Root, find_root};
use crate::loop_device::Access;
use crate::lvm::{self, LvmError};
use crate::mount::MountError;
use crate::mounted::{Mounted, MountsError};
use crate::online::{self, OnlineError};
use crate::table::{self, Scheme, TableError};

/// A system whose disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// What is on the disk.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The partition table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Logical volumes.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// The growth of a file system that is not mounted.
    #[error(transparent)]
    Filesystem(#[from] FilesystemError),
    /// The growth of a file system that is mounted.
    #[error(transparent)]
    Online(#[from] OnlineError),
    /// A part of the disk as a block device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Mounts.
    #[error(transparent)]
    Mounts(MountsError),
    /// The disk cannot be read or written; the source has the path.
    #[error("could not access the disk")]
    Access {
        /// The reason, with the path.
        #[from]
        source: io::Error,
    },
}

impl From<MountsError> for SystemError {
    fn from(error: MountsError) -> Self {
        match error {
            MountsError::Layout(error) => error.into(),
            MountsError::Table(error) => error.into(),
            error => Self::Mounts(error),
        }
    }
}

impl From<MountError> for SystemError {
    fn from(error: MountError) -> Self {
        Self::Mounts(error.into())
    }
}

impl SystemError {
    /// Whether the disk itself is the reason: another one would do.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, Self::Layout(_) | Self::Table(_) | Self::Lvm(_) | Self::Filesystem(_) | Self::Online(_))
    }
}

/// The disk of a system.
///
/// Fields are dropped in this order, so that what lies on top goes first.
#[derive(Debug)]
pub struct System {
    mounted: Option<Mounted>,
    disk: Disk,
    root: Root,
    target: PathBuf,
}

/// A file system that is mounted, by what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Where a program in the root sees it.
    pub mount_point: String,
    /// What it is.
    pub filesystem: Filesystem,
    /// Where it is.
    pub place: Place,
    /// The PARTUUID of the partition that it is.
    pub partition_uuid: Option<String>,
}

/// A part of the disk with a file system that nobody has mounted any more.
#[derive(Debug)]
pub struct Released {
    /// The file or device that it is in.
    pub path: PathBuf,
    /// The first byte in there.
    pub offset: u64,
    /// The size in bytes.
    pub size: u64,
    node: Option<Node>,
}

impl Released {
    /// Lets go of it.
    pub fn close(self) -> Result<(), DeviceError> {
        self.node.map_or(Ok(()), Node::close)
    }
}

impl System {
    /// Finds the system of a disk. It will be mounted on the directory `target`; `scratch_dir` is for looking, which
    /// writes to the disk only where `access` allows that and nothing is found otherwise.
    pub fn open(
        disk: Disk,
        target: impl Into<PathBuf>,
        scratch_dir: &Path,
        access: Access,
    ) -> Result<Self, SystemError> {
        let root = find_root(&disk, scratch_dir, access)?;
        Ok(Self { mounted: None, disk, root, target: target.into() })
    }

    /// The root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What is mounted now.
    pub fn mounted(&self) -> Option<&Mounted> {
        self.mounted.as_ref()
    }

    /// Grows the root's partition to the end of the disk, a logical volume to the end of what holds it, and the file
    /// system to the end of that.
    pub fn grow(&mut self, cancel: &Cancel) -> Result<(), SystemError> {
        self.unmount()?;
        let file = OpenOptions::new().read(true).write(true).open(self.disk.path())?;
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)?;
        let place = &mut self.root.place;
        let outer = match place.partition {
            Some(number) => table::grow(&file, number, size / table::SECTOR)?.size(),
            None => size,
        };
        match &mut place.volume {
            Some(volume) => {
                *volume = lvm::grow(&file, volume, outer)?;
                place.size = volume.size();
            }
            None => place.size = outer,
        }
        file.sync_all()?;
        drop(file);
        self.disk.reread(place.partition)?;
        let kind = self.root.filesystem.kind;
        if kind == FilesystemKind::Ext4 && matches!(self.disk, Disk::File(_)) {
            // The host has the programs, which also check it.
            let node = self.disk.attach(&self.root.place, Access::ReadWrite)?;
            filesystem::grow_ext4(node.path(), cancel)?;
            node.close()?;
            return Ok(());
        }
        let mounted = Mounted::root_only(&self.disk, &self.root, &self.target, Access::ReadWrite)?;
        online::grow(&self.target, kind, self.root.place.size)?;
        mounted.syncfs()?;
        mounted.close()?;
        Ok(())
    }

    /// Mounts the root and what belongs below it, unless that was done already.
    pub fn mount(&mut self, access: Access) -> Result<&Mounted, SystemError> {
        if self.mounted.as_ref().is_some_and(|mounted| mounted.access() != access) {
            self.unmount()?;
        }
        let mounted = match self.mounted.take() {
            Some(mounted) => mounted,
            None => Mounted::open(&self.disk, &self.root, &self.target, access)?,
        };
        Ok(self.mounted.insert(mounted))
    }

    /// Makes sure that everything written so far is on the disk, and lets go of the file systems.
    pub fn unmount(&mut self) -> Result<(), SystemError> {
        if let Some(mounted) = self.mounted.take() {
            mounted.syncfs()?;
            mounted.close()?;
        }
        Ok(())
    }

    /// Does the same, drops what the file systems have freed from the disk, and returns where they were.
    pub fn release(&mut self) -> Result<Vec<Released>, SystemError> {
        self.mount(Access::ReadWrite)?;
        let Some(mut mounted) = self.mounted.take() else { return Ok(Vec::new()) };
        // What was deleted is free only once the file system's journal says so.
        mounted.syncfs()?;
        mounted.trim()?;
        mounted.syncfs()?;
        let mut released = Vec::new();
        for (node, place) in mounted.release()? {
            let whole = match &node {
                // The file itself, whose units are not those of a device that begins somewhere in it.
                Node::Loop(_) => {
                    node.close()?;
                    Released { path: self.disk.path().to_owned(), offset: place.offset, size: place.size, node: None }
                }
                _ => Released { path: node.path().to_owned(), offset: 0, size: place.size, node: Some(node) },
            };
            released.push(whole);
        }
        Ok(released)
    }

    /// The kind of the partition table, and the file systems that are mounted, the root first.
    pub fn shown(&self) -> Result<(Scheme, Vec<Shown>), SystemError> {
        let table = table::read(&File::open(self.disk.path())?)?;
        let show = |mount_point: &str, filesystem: &Filesystem, place: &Place| Shown {
            mount_point: mount_point.to_owned(),
            filesystem: filesystem.clone(),
            place: place.clone(),
            partition_uuid: place
                .partition
                .filter(|_| place.volume.is_none())
                .and_then(|number| table.part_uuid(number)),
        };
        let mut all = vec![show("/", &self.root.filesystem, &self.root.place)];
        let below = self.mounted.iter().flat_map(Mounted::below);
        all.extend(below.map(|below| show(&below.mount_point, &below.candidate.filesystem, &below.candidate.place)));
        Ok((table.scheme, all))
    }
}
