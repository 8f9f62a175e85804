//! The file systems of a disk where a step finds them: the root, and below it what the disk's own `/etc/fstab` names.

use std::path::Path;

use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::fstab::{self, Below};
use labwright_disk::layout::{LayoutError, Root, candidates};
use labwright_disk::loop_device::{Access, LoopDevice, LoopError};
use labwright_disk::mount::{Flags, Mount, MountError};
use labwright_disk::table::{self, Partitions, Scheme, TableError};
use labwright_guest::protocol::{DiskInfo, FileSystemInfo};

/// File systems that could not be mounted.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountsError {
    /// The disk's table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What is on the disk.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A loop device.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The disk cannot be read; the source has the path.
    #[error("could not read the disk")]
    Read(#[from] std::io::Error),
}

/// A mounted disk.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Children behind their parents.
    below: Vec<(Mount, Below)>,
    root: Mount,
    devices: Vec<Device>,
    /// What could not be mounted, in sentences.
    warnings: Vec<String>,
}

/// A part of the disk as a block device.
#[derive(Debug)]
struct Device {
    node: LoopDevice,
    offset: u64,
    size: u64,
    /// Whether something mounted from it was trimmed already.
    trimmed: bool,
}

impl Mounted {
    /// Mounts the root of the raw disk on `target`, and below it what the disk's fstab names and the disk has.
    pub(super) fn open(raw: &Path, root: &Root, target: &Path, access: Access) -> Result<Self, MountsError> {
        let mut mounted = Self::root_only(raw, root, target, access)?;
        if let Some(text) = mounted.root.text_below("etc/fstab")? {
            let disk = fs_err::File::open(raw)?;
            let (below, missing) = fstab::below_root(&text, &table::read(&disk)?, &candidates(&disk)?, root);
            for missing in missing {
                let (place, named) = (missing.mount_point, missing.named);
                let warning = format!(
                    "/etc/fstab of the disk names {named} for {place}, which is not on the disk; steps see what lies \
                     below it"
                );
                mounted.warnings.push(warning);
            }
            for below in below {
                mounted.add(raw, below, access)?;
            }
        }
        Ok(mounted)
    }

    /// Mounts the root alone.
    pub(super) fn root_only(raw: &Path, root: &Root, target: &Path, access: Access) -> Result<Self, MountsError> {
        let node = LoopDevice::attach(raw, root.offset, root.size, access)?;
        let kind = root.filesystem.kind;
        let options = options(kind, root.subvolume.as_deref(), access);
        let mount = Mount::new(node.path(), target, kind.as_str(), flags(access), &options)?;
        let device = Device { node, offset: root.offset, size: root.size, trimmed: false };
        Ok(Self { below: Vec::new(), root: mount, devices: vec![device], warnings: Vec::new() })
    }

    fn add(&mut self, raw: &Path, below: Below, access: Access) -> Result<(), MountsError> {
        let candidate = &below.candidate;
        let known = self.devices.iter().position(|device| device.offset == candidate.offset);
        let index = if let Some(index) = known {
            index
        } else {
            let (offset, size) = (candidate.offset, candidate.size);
            let node = LoopDevice::attach(raw, offset, size, access)?;
            self.devices.push(Device { node, offset, size, trimmed: false });
            self.devices.len() - 1
        };
        let kind = candidate.filesystem.kind;
        let options = options(kind, below.subvolume.as_deref(), access);
        let path = self.devices[index].node.path();
        let place = &below.mount_point;
        match self.root.below(place.trim_start_matches('/'), path, kind.as_str(), flags(access), &options) {
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
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The root.
    pub(super) fn root(&self) -> &Mount {
        &self.root
    }

    /// The block device of the root.
    pub(super) fn root_device(&self) -> &LoopDevice {
        &self.devices[0].node
    }

    fn mounts(&self) -> impl Iterator<Item = &Mount> {
        std::iter::once(&self.root).chain(self.below.iter().map(|(mount, _)| mount))
    }

    /// Writes everything back, and fails if anything that was written was lost.
    pub(super) fn syncfs(&self) -> Result<(), MountError> {
        self.mounts().try_for_each(Mount::syncfs)
    }

    /// Drops what is free from the disk.
    pub(super) fn trim(&mut self) -> Result<(), MountError> {
        let of_below = self.below.iter().map(|(mount, below)| (mount, below.candidate.offset));
        let all = std::iter::once((&self.root, self.devices[0].offset)).chain(of_below);
        for (mount, offset) in all {
            // Two subvolumes are one file system.
            let device = self.devices.iter_mut().find(|device| device.offset == offset && !device.trimmed);
            if let Some(device) = device {
                mount.fstrim()?;
                device.trimmed = true;
            }
        }
        Ok(())
    }

    /// Unmounts everything and returns where on the disk it was, in bytes: offset and size.
    pub(super) fn close(mut self) -> Result<Vec<(u64, u64)>, MountsError> {
        while let Some((mount, _)) = self.below.pop() {
            mount.close()?;
        }
        self.root.close()?;
        let mut places = Vec::new();
        for device in self.devices {
            places.push((device.offset, device.size));
            device.node.close()?;
        }
        Ok(places)
    }

    /// What `grub-probe` in the guest should answer.
    pub(super) fn disk_info(&self, raw: &Path, root: &Root) -> Result<DiskInfo, MountsError> {
        let table = table::read(&fs_err::File::open(raw)?)?;
        let mut file_systems = vec![FileSystemInfo {
            mount: "/".parse().expect("the root is a path"),
            uuid: root.filesystem.uuid.clone().unwrap_or_default(),
            partition_uuid: part_uuid(&table, root.partition),
            grub_fs: grub_name(root.filesystem.kind).to_owned(),
        }];
        for (_, Below { mount_point, candidate, .. }) in &self.below {
            let Ok(mount) = mount_point.parse() else { continue };
            file_systems.push(FileSystemInfo {
                mount,
                uuid: candidate.filesystem.uuid.clone().unwrap_or_default(),
                partition_uuid: part_uuid(&table, candidate.partition),
                grub_fs: grub_name(candidate.filesystem.kind).to_owned(),
            });
        }
        let partition_map = match table.scheme {
            Scheme::Gpt => "gpt",
            Scheme::Mbr => "msdos",
            Scheme::None => "",
        };
        Ok(DiskInfo { partition_map: partition_map.to_owned(), file_systems })
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

fn part_uuid(table: &Partitions, partition: Option<u32>) -> String {
    partition.and_then(|number| table.part_uuid(number)).unwrap_or_default()
}

/// How grub calls a kind.
fn grub_name(kind: FilesystemKind) -> &'static str {
    match kind {
        FilesystemKind::Ext4 => "ext2",
        FilesystemKind::Vfat => "fat",
        other => other.as_str(),
    }
}
