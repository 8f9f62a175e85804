//! The file systems of a disk where programs find them: the root, and below it what the disk's own `/etc/fstab` names.

use std::path::Path;

use crate::device::{DeviceError, Disk, Node};
use crate::filesystem::FilesystemKind;
use crate::fstab::{self, Below};
use crate::layout::{LayoutError, Place, Root, candidates};
use crate::loop_device::Access;
use crate::mount::{Flags, Mount, MountError};
use crate::table::{self, TableError};

/// File systems that could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// The disk's table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What is on the disk.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A part of the disk as a block device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The disk cannot be read; the source has the path.
    #[error("could not read the disk")]
    Read(#[from] std::io::Error),
}

/// A mounted disk.
#[derive(Debug)]
pub struct Mounted {
    /// Children behind their parents.
    below: Vec<(Mount, Below)>,
    root: Mount,
    devices: Vec<Device>,
    access: Access,
    /// What could not be mounted, in sentences.
    warnings: Vec<String>,
}

/// A part of the disk as a block device.
#[derive(Debug)]
struct Device {
    node: Node,
    place: Place,
    /// Whether something mounted from it was trimmed already.
    trimmed: bool,
}

impl Mounted {
    /// Mounts the root of a disk on `target`, and below it what the disk's fstab names and the disk has.
    pub fn open(disk: &Disk, root: &Root, target: &Path, access: Access) -> Result<Self, MountsError> {
        let mut mounted = Self::root_only(disk, root, target, access)?;
        if let Some(text) = mounted.root.text_below("etc/fstab")? {
            let file = fs_err::File::open(disk.path())?;
            let (below, missing) = fstab::below_root(&text, &table::read(&file)?, &candidates(&file)?, root);
            for missing in missing {
                let (place, named) = (missing.mount_point, missing.named);
                let warning = format!(
                    "/etc/fstab of the disk names {named} for {place}, which is not on the disk; steps see what lies \
                     below it"
                );
                mounted.warnings.push(warning);
            }
            for below in below {
                mounted.add(disk, below)?;
            }
        }
        Ok(mounted)
    }

    /// Mounts the root alone.
    pub fn root_only(disk: &Disk, root: &Root, target: &Path, access: Access) -> Result<Self, MountsError> {
        let node = disk.attach(&root.place, access)?;
        let kind = root.filesystem.kind;
        let options = options(kind, root.subvolume.as_deref(), access);
        let mount = Mount::new(node.path(), target, kind.as_str(), flags(access), &options)?;
        let device = Device { node, place: root.place.clone(), trimmed: false };
        Ok(Self { below: Vec::new(), root: mount, devices: vec![device], access, warnings: Vec::new() })
    }

    fn add(&mut self, disk: &Disk, below: Below) -> Result<(), MountsError> {
        let candidate = &below.candidate;
        let known = self.devices.iter().position(|device| device.place.offset == candidate.place.offset);
        let index = if let Some(index) = known {
            index
        } else {
            let node = disk.attach(&candidate.place, self.access)?;
            self.devices.push(Device { node, place: candidate.place.clone(), trimmed: false });
            self.devices.len() - 1
        };
        let kind = candidate.filesystem.kind;
        let options = options(kind, below.subvolume.as_deref(), self.access);
        let path = self.devices[index].node.path();
        let place = &below.mount_point;
        match self.root.below(place.trim_start_matches('/'), path, kind.as_str(), flags(self.access), &options) {
            Ok(Some(mount)) => self.below.push((mount, below)),
            Ok(None) => self.warnings.push(format!(
                "/etc/fstab of the disk has a file system for {place}, where there is no directory; it stays unmounted"
            )),
            Err(error) if error.is_unknown_kind() => self.warnings.push(format!(
                "this kernel has no {}: the file system for {place} stays unmounted, and what a package writes there \
                 lands in the file system above it",
                kind.as_str()
            )),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// What could not be mounted, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The root.
    pub fn root(&self) -> &Mount {
        &self.root
    }

    /// What is mounted below the root.
    pub fn below(&self) -> impl Iterator<Item = &Below> {
        self.below.iter().map(|(_, below)| below)
    }

    /// Whether it can be written to.
    pub fn access(&self) -> Access {
        self.access
    }

    fn mounts(&self) -> impl Iterator<Item = &Mount> {
        std::iter::once(&self.root).chain(self.below.iter().map(|(mount, _)| mount))
    }

    /// Writes everything back, and fails if anything that was written was lost.
    pub fn syncfs(&self) -> Result<(), MountError> {
        self.mounts().try_for_each(Mount::syncfs)
    }

    /// Drops what is free from the disk.
    pub fn trim(&mut self) -> Result<(), MountError> {
        let of_below = self.below.iter().map(|(mount, below)| (mount, below.candidate.place.offset));
        let all = std::iter::once((&self.root, self.devices[0].place.offset)).chain(of_below);
        for (mount, offset) in all {
            // Two subvolumes are one file system.
            let device = self.devices.iter_mut().find(|device| device.place.offset == offset && !device.trimmed);
            if let Some(device) = device {
                mount.fstrim()?;
                device.trimmed = true;
            }
        }
        Ok(())
    }

    /// Unmounts everything and returns the devices that it was on.
    pub(crate) fn release(mut self) -> Result<Vec<(Node, Place)>, MountsError> {
        while let Some((mount, _)) = self.below.pop() {
            mount.close()?;
        }
        self.root.close()?;
        Ok(self.devices.into_iter().map(|device| (device.node, device.place)).collect())
    }

    /// Unmounts everything.
    pub fn close(self) -> Result<(), MountsError> {
        for (node, _) in self.release()? {
            node.close()?;
        }
        Ok(())
    }
}

fn flags(access: Access) -> Flags {
    match access {
        Access::ReadOnly => Flags::LOOK,
        Access::ReadWrite => Flags::WORK,
    }
}

fn options(kind: FilesystemKind, subvolume: Option<&str>, access: Access) -> String {
    let mut options = Vec::new();
    match access {
        Access::ReadOnly => options.push(kind.look_options().to_owned()),
        Access::ReadWrite => options.push(kind.work_options().to_owned()),
    }
    if kind == FilesystemKind::Btrfs {
        options.extend(subvolume.map(|name| format!("subvol={name}")));
    }
    options.retain(|option| !option.is_empty());
    options.join(",")
}
