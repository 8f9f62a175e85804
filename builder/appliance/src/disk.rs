//! The disk being built on: its root is found, grown, mounted and let go of.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::layout::{Root, candidates, find_root};
use labwright_disk::mount::{Flags, Mount};
use labwright_disk::{online, table};
use labwright_guest::free_space::zero_free_space;
use labwright_guest::protocol::{DiskInfo, FileSystemInfo};
use rustix::ioctl::{NoArg, Opcode};

use crate::ModuleSet;
use crate::init::{Doing, Error};
use crate::machine::Modules;

/// Where the root is mounted.
pub(crate) const TARGET: &str = "/mnt";

/// How long the kernel may take to show a partition that has grown.
const PATIENCE: Duration = Duration::from_secs(10);

/// `BLKRRPART` of linux/fs.h: the partition table is read again.
const REREAD_TABLE: Opcode = rustix::ioctl::opcode::none(0x12, 95);

/// The disk and its root.
#[derive(Debug)]
pub(crate) struct Disk {
    device: PathBuf,
    root: Root,
    mount: Option<Mount>,
}

impl Disk {
    /// Finds the root.
    pub(crate) fn open(device: PathBuf, modules: &Modules) -> Result<Self, Error> {
        let disk = fs_err::File::open(&device).doing(|| "open the disk".to_owned())?;
        for candidate in candidates(&disk)? {
            match candidate.filesystem.kind {
                FilesystemKind::Xfs => modules.load(ModuleSet::Xfs)?,
                FilesystemKind::Btrfs => modules.load(ModuleSet::Btrfs)?,
                _ => {}
            }
        }
        drop(disk);
        let root = find_root(&device, Path::new("/look"))?;
        Ok(Self { device, root, mount: None })
    }

    /// The size of the root's partition, in bytes.
    pub(crate) fn root_size(&self) -> u64 {
        self.root.size
    }

    /// Whether what is deleted can stay in free blocks: btrfs does not list them.
    pub(crate) fn keeps_deleted(&self) -> bool {
        self.root.filesystem.kind == FilesystemKind::Btrfs
    }

    /// Grows the root's partition to the end of the disk, and its file system to the end of the partition.
    pub(crate) fn grow(&mut self) -> Result<(), Error> {
        self.unmount()?;
        let disk = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.device)
            .doing(|| "open the disk".to_owned())?;
        let size = rustix::fs::seek(&disk, rustix::fs::SeekFrom::End(0)).doing(|| "measure the disk".to_owned())?;
        match self.root.partition {
            Some(number) => {
                self.root.size = table::grow(&disk, number, size / table::SECTOR)?.size();
                disk.sync_all().doing(|| "write the disk".to_owned())?;
                self.reread(disk.file())?;
            }
            None => self.root.size = size - self.root.offset,
        }
        drop(disk);
        self.mount()?;
        online::grow(Path::new(TARGET), self.root.filesystem.kind, self.root.size)?;
        Ok(())
    }

    /// Has the kernel look at the partition table again.
    fn reread(&self, disk: &std::fs::File) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        let node = self.node();
        loop {
            #[expect(unsafe_code, reason = "the partition table is read again by ioctl")]
            // SAFETY: the call has no argument.
            let done = unsafe { rustix::ioctl::ioctl(disk, NoArg::<REREAD_TABLE>::new()) };
            // A device that was just let go of is in use a moment longer.
            if done.is_ok() && node.exists() {
                return Ok(());
            }
            if Instant::now() > end {
                return done.doing(|| "have the kernel read the partition table again".to_owned());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The block device of the root.
    fn node(&self) -> PathBuf {
        let mut node = self.device.clone().into_os_string();
        if let Some(number) = self.root.partition {
            node.push(number.to_string());
        }
        node.into()
    }

    /// Mounts the root, if it is not.
    pub(crate) fn mount(&mut self) -> Result<&Mount, Error> {
        let mount = if let Some(mount) = self.mount.take() {
            mount
        } else {
            let root = &self.root;
            let options = match &root.subvolume {
                Some(subvolume) => format!("discard,subvol={subvolume}"),
                None => "discard".to_owned(),
            };
            Mount::new(&self.node(), Path::new(TARGET), root.filesystem.kind.as_str(), Flags::WORK, &options)?
        };
        Ok(self.mount.insert(mount))
    }

    /// Makes sure that everything written so far is on the disk, and lets go of it. With `trim`, what the file system
    /// has freed is dropped and erased.
    pub(crate) fn commit(&mut self, trim: bool) -> Result<(), Error> {
        if trim {
            let mount = self.mount()?;
            // Blocks are free once the journal says so.
            mount.syncfs()?;
            mount.fstrim()?;
        }
        self.unmount()?;
        if trim {
            // What trimming leaves: see there.
            let node = fs_err::OpenOptions::new().read(true).write(true).open(self.node());
            let node = node.doing(|| "open the root's partition".to_owned())?;
            zero_free_space(&node, 0, self.root.size)?;
        }
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), Error> {
        if let Some(mount) = self.mount.take() {
            mount.syncfs()?;
            mount.close()?;
        }
        Ok(())
    }

    /// What `grub-probe` in the guest should answer.
    pub(crate) fn info(&self) -> Result<DiskInfo, Error> {
        let disk = fs_err::File::open(&self.device).doing(|| "open the disk".to_owned())?;
        let table = table::read(&disk)?;
        let partition = self.root.partition.and_then(|number| table.get(number));
        let partition_map = match table.scheme {
            table::Scheme::Gpt => "gpt",
            table::Scheme::Mbr => "msdos",
            table::Scheme::None => "",
        };
        let file_system = &self.root.filesystem;
        let grub_fs = match file_system.kind {
            FilesystemKind::Ext4 => "ext2",
            other => other.as_str(),
        };
        Ok(DiskInfo {
            partition_map: partition_map.to_owned(),
            file_systems: vec![FileSystemInfo {
                mount: "/".parse().expect("the root is a path"),
                uuid: file_system.uuid.clone().unwrap_or_default(),
                partition_uuid: partition
                    .and_then(|partition| partition.unique_guid)
                    .map_or_else(String::new, |guid| guid.to_string()),
                grub_fs: grub_fs.to_owned(),
            }],
        })
    }
}
