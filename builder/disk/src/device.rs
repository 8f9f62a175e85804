//! The parts of a disk as block devices: by loop devices where the disk is a file, by the kernel's own partitions where
//! it is a device.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs_err::File;
use rustix::ioctl::{NoArg, Opcode};

use crate::device_mapper::{Mapped, MapperError};
use crate::layout::Place;
use crate::loop_device::{Access, LoopDevice, LoopError};

/// How long the kernel may take to show a partition.
const PATIENCE: Duration = Duration::from_secs(10);

/// `BLKRRPART` of linux/fs.h: the partition table is read again.
const REREAD_TABLE: Opcode = rustix::ioctl::opcode::none(0x12, 95);

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// A raw file. Its parts become loop devices, and logical volumes are out of reach.
    File(PathBuf),
    /// A block device that nobody else uses: in a machine that is there for it. The kernel shows its partitions, and
    /// gets its logical volumes by the device mapper, which must be there.
    Device(PathBuf),
}

/// A part of a disk that is no block device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A loop device.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The device mapper.
    #[error(transparent)]
    Mapper(#[from] MapperError),
    /// The disk cannot be opened; the source has the path.
    #[error("could not open a disk")]
    Open {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The kernel shows no such partition.
    #[error("the kernel did not show `{}` within {} s", node.display(), PATIENCE.as_secs())]
    Missing {
        /// The partition's node.
        node: PathBuf,
    },
    /// The kernel does not take a changed partition table.
    #[error("could not have the kernel read the partition table of `{}` again", device.display())]
    Reread {
        /// The disk.
        device: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A logical volume of a disk that is a file.
    #[error("a logical volume of LVM cannot be reached through a loop device")]
    Volume,
}

impl Disk {
    /// The file or the device.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Device(path) => path,
        }
    }

    /// Whether logical volumes can be reached.
    pub fn has_volumes(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// Shows a part of the disk as a block device.
    pub fn attach(&self, place: &Place, access: Access) -> Result<Node, DeviceError> {
        match self {
            Self::File(_) if place.volume.is_some() => Err(DeviceError::Volume),
            Self::File(raw) => Ok(Node::Loop(LoopDevice::attach(raw, place.offset, place.size, access)?)),
            Self::Device(device) => {
                let node = partition_node(device, place.partition);
                wait_for(&node)?;
                match &place.volume {
                    None => Ok(Node::Partition(node)),
                    Some(volume) => Ok(Node::Volume(Mapped::activate(volume, &node, access)?)),
                }
            }
        }
    }

    /// Has the kernel take a partition table that was changed. Nothing of the disk may be in use.
    pub(crate) fn reread(&self, partition: Option<u32>) -> Result<(), DeviceError> {
        let Self::Device(device) = self else { return Ok(()) };
        let disk = File::open(device).map_err(|source| DeviceError::Open { source })?;
        let node = partition_node(device, partition);
        let end = Instant::now() + PATIENCE;
        loop {
            #[expect(unsafe_code, reason = "the partition table is read again by ioctl")]
            // SAFETY: the call has no argument.
            let done = unsafe { rustix::ioctl::ioctl(&disk, NoArg::<REREAD_TABLE>::new()) };
            // A device that was just let go of is in use a moment longer.
            if done.is_ok() && node.exists() {
                return Ok(());
            }
            if Instant::now() > end {
                return match done {
                    Ok(()) => Err(DeviceError::Missing { node }),
                    Err(error) => Err(DeviceError::Reread { device: device.clone(), source: error.into() }),
                };
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The node of a partition, or of the whole disk.
fn partition_node(device: &Path, partition: Option<u32>) -> PathBuf {
    let mut node = device.to_owned().into_os_string();
    if let Some(number) = partition {
        node.push(number.to_string());
    }
    node.into()
}

fn wait_for(node: &Path) -> Result<(), DeviceError> {
    let end = Instant::now() + PATIENCE;
    while !node.exists() {
        if Instant::now() > end {
            return Err(DeviceError::Missing { node: node.to_owned() });
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A part of a disk as a block device.
#[derive(Debug)]
pub enum Node {
    /// A loop device on a file.
    Loop(LoopDevice),
    /// A partition, or a whole disk, that the kernel shows.
    Partition(PathBuf),
    /// A logical volume.
    Volume(Mapped),
}

impl Node {
    /// The device's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Loop(device) => device.path(),
            Self::Partition(path) => path,
            Self::Volume(mapped) => mapped.path(),
        }
    }

    /// Lets go of it.
    pub fn close(self) -> Result<(), DeviceError> {
        match self {
            Self::Loop(device) => Ok(device.close()?),
            Self::Partition(_) => Ok(()),
            Self::Volume(mapped) => Ok(mapped.close()?),
        }
    }
}
