//! Logical volumes as block devices, by the kernel's device mapper.
//!
//! Sources: linux/dm-ioctl.h, and the kernel's documentation of the target "linear".

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs_err::{File, OpenOptions};
use rustix::ioctl::{self, Opcode, Updater};

use crate::loop_device::Access;
use crate::lvm::Volume;
use crate::table::SECTOR;

const CONTROL: &str = "/dev/mapper/control";

const DEVICE_CREATE: u8 = 3;
const DEVICE_REMOVE: u8 = 4;
const DEVICE_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;

const READ_ONLY: u32 = 1;

/// How long the kernel may take to show a device, and to let go of one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The room for a table: more than the segments of any volume that is read need.
const ROOM: usize = 256 << 10;

/// A volume that could not be shown or let go of.
#[derive(Debug, thiserror::Error)]
pub enum MapperError {
    /// There is no device mapper; the source has the path.
    #[error("could not open the kernel's device mapper")]
    Open {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The kernel does not do it.
    #[error("the kernel did not {what} the logical volume {name}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The volume, as `/dev/mapper` names it.
        name: String,
        /// Its reason.
        source: io::Error,
    },
    /// The node does not come.
    #[error("`{}` did not appear within {} s", node.display(), PATIENCE.as_secs())]
    Missing {
        /// The node.
        node: PathBuf,
    },
    /// Too many segments for one table.
    #[error("the logical volume {name} has too many segments")]
    TooLong {
        /// The volume.
        name: String,
    },
}

/// A logical volume that is a block device for as long as this lives.
#[derive(Debug)]
pub struct Mapped {
    control: Option<File>,
    name: String,
    node: PathBuf,
}

impl Mapped {
    /// Shows a volume whose physical volume is the block device `below`.
    pub fn activate(volume: &Volume, below: &Path, access: Access) -> Result<Self, MapperError> {
        let name = volume.mapper_name();
        let control =
            OpenOptions::new().read(true).write(true).open(CONTROL).map_err(|source| MapperError::Open { source })?;
        let refused = |what| {
            let name = name.clone();
            move |source| MapperError::Refused { what, name, source }
        };
        let flags = if access == Access::ReadOnly { READ_ONLY } else { 0 };
        let mut request = Request::new(&name, flags);
        request.call::<{ opcode(DEVICE_CREATE) }>(&control).map_err(refused("make"))?;
        let node = PathBuf::from(format!("/dev/dm-{}", rustix::fs::minor(request.header.device)));
        // From here on there is something to take away.
        let mapped = Self { control: Some(control), name: name.clone(), node };
        let mut request = Request::new(&name, flags);
        for segment in &volume.segments {
            let from = segment.offset - volume.container.0;
            let parameters = format!("{} {}", below.display(), from / SECTOR);
            if !request.add(segment.start / SECTOR, segment.size / SECTOR, &parameters) {
                return Err(MapperError::TooLong { name });
            }
        }
        let control = mapped.control.as_ref().expect("it is open until the end");
        request.call::<{ opcode(TABLE_LOAD) }>(control).map_err(refused("accept the table of"))?;
        // Without the flag for suspending, this resumes.
        Request::new(&name, flags).call::<{ opcode(DEVICE_SUSPEND) }>(control).map_err(refused("start"))?;
        let end = Instant::now() + PATIENCE;
        while !mapped.node.exists() {
            if Instant::now() > end {
                return Err(MapperError::Missing { node: mapped.node.clone() });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(mapped)
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.node
    }

    /// Takes it away.
    pub fn close(mut self) -> Result<(), MapperError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), MapperError> {
        let Some(control) = self.control.take() else { return Ok(()) };
        let end = Instant::now() + PATIENCE;
        loop {
            match Request::new(&self.name, 0).call::<{ opcode(DEVICE_REMOVE) }>(&control) {
                Ok(()) => return Ok(()),
                // What was just unmounted is in use a moment longer.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(source) => return Err(MapperError::Refused { what: "let go of", name: self.name.clone(), source }),
            }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!(%error, "could not let go of a logical volume");
        }
    }
}

const fn opcode(number: u8) -> Opcode {
    ioctl::opcode::read_write::<Header>(0xfd, number)
}

/// `struct dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    size: u32,
    data_start: u32,
    targets: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// The header and the room behind it, in which targets lie one behind the other.
#[repr(C)]
struct Request {
    header: Header,
    data: [u8; ROOM],
}

/// The size of `struct dm_target_spec`: start, length, status, distance to the next, kind.
const SPEC: usize = 40;

impl Request {
    fn new(name: &str, flags: u32) -> Box<Self> {
        let mut header = Header {
            version: [4, 0, 0],
            size: u32::try_from(size_of::<Self>()).expect("a request is small"),
            data_start: u32::try_from(size_of::<Header>()).expect("a header is small"),
            targets: 0,
            open_count: 0,
            flags,
            event: 0,
            padding: 0,
            device: 0,
            name: [0; 128],
            uuid: [0; 129],
            data: [0; 7],
        };
        // The names of volumes are at most 127 bytes long, which was checked where they were read.
        let length = name.len().min(header.name.len() - 1);
        header.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        #[expect(clippy::large_stack_arrays, reason = "a request has this size, and there is one at a time")]
        Box::new(Self { header, data: [0; ROOM] })
    }

    /// Adds a linear target, in sectors; false if there is no room.
    fn add(&mut self, start: u64, length: u64, parameters: &str) -> bool {
        // Each is as long as the next one's place says; all parameters are short, so they get the same room.
        const STRIDE: usize = SPEC + 88;
        let at = usize::try_from(self.header.targets).expect("they fit into memory") * STRIDE;
        if at + STRIDE > ROOM || parameters.len() >= STRIDE - SPEC {
            return false;
        }
        let target = &mut self.data[at..at + STRIDE];
        target[..8].copy_from_slice(&start.to_ne_bytes());
        target[8..16].copy_from_slice(&length.to_ne_bytes());
        target[20..24].copy_from_slice(&u32::try_from(STRIDE).expect("it is small").to_ne_bytes());
        target[24..30].copy_from_slice(b"linear");
        target[SPEC..SPEC + parameters.len()].copy_from_slice(parameters.as_bytes());
        self.header.targets += 1;
        true
    }

    #[expect(unsafe_code, reason = "the device mapper is asked by ioctl")]
    fn call<const OPCODE: Opcode>(&mut self, control: &File) -> io::Result<()> {
        // SAFETY: `Header` has the layout of `struct dm_ioctl`; the call reads and writes no more than the bytes that
        // its field `size` claims, which are those of this request.
        Ok(unsafe { ioctl::ioctl(control, Updater::<OPCODE, Self>::new(self)) }?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Header>(), 312);
        assert_eq!(std::mem::offset_of!(Header, name), 48);
        assert_eq!(std::mem::offset_of!(Request, data), 312);
        assert_eq!(opcode(DEVICE_CREATE), 0xc138_fd03);
    }

    #[test]
    fn targets_lie_one_behind_the_other() {
        let mut request = Request::new("vg-root", 0);
        assert!(request.add(0, 8, "/dev/vda2 2048") && request.add(8, 16, "/dev/vda2 4096"));
        assert_eq!(request.header.targets, 2);
        assert!(
            request.data[128 + 24..].starts_with(b"linear\0") && request.data[168..].starts_with(b"/dev/vda2 4096\0")
        );
        assert!(!request.add(0, 1, &"x".repeat(90)));
    }
}
