//! Loop devices with an offset and a size limit: one partition of a raw file as a block device.
//!
//! `losetup -P` makes no partition nodes where the kernel lacks partition scanning or udev is absent; a second
//! device with offset and limit works everywhere. Without the limit a file system would grow into the backup GPT.

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use std::{io, ptr};

use fs_err::{File, OpenOptions};
use rustix::ioctl::{self, Ioctl, IoctlOutput, NoArg, Opcode, Setter};

/// How often a device that someone else took in the meantime is tried again.
const ATTEMPTS: u32 = 64;

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Whether the holder may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes fail.
    ReadOnly,
    /// Writes reach the file below.
    ReadWrite,
}

/// A loop device that could not be made or freed.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The file below or the device node cannot be opened; the source has the path.
    #[error("could not open a file for a loop device")]
    Open {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The kernel gives no loop device.
    #[error("could not get a free loop device from /dev/loop-control")]
    NoFree {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel does not accept the file.
    #[error("could not put `{}` on loop device `{}`", backing.display(), device.display())]
    Configure {
        /// The file below.
        backing: PathBuf,
        /// The device.
        device: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Others always took the free device first.
    #[error("no loop device for `{}` stayed free in {ATTEMPTS} attempts", backing.display())]
    Busy {
        /// The file below.
        backing: PathBuf,
    },
    /// It could not be freed.
    #[error("could not free loop device `{}`", device.display())]
    Clear {
        /// The device.
        device: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A loop device. The kernel frees it when this process and every mount have let go of it, also after SIGKILL.
#[derive(Debug)]
pub struct LoopDevice {
    device: Option<File>,
    path: PathBuf,
}

impl LoopDevice {
    /// Shows `size` bytes of `backing` from byte `offset` on as a block device.
    pub fn attach(backing: &Path, offset: u64, size: u64, access: Access) -> Result<Self, LoopError> {
        let open = |source| LoopError::Open { source };
        let write = access == Access::ReadWrite;
        let file = OpenOptions::new().read(true).write(write).open(backing).map_err(open)?;
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(open)?;
        let mut config = Config::new(&file, offset, size, access);
        let name = backing.as_os_str().as_bytes();
        let length = name.len().min(config.info.file_name.len() - 1);
        config.info.file_name[..length].copy_from_slice(&name[..length]);
        for attempt in 0..ATTEMPTS {
            let number = get_free(&control).map_err(|source| LoopError::NoFree { source })?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = match OpenOptions::new().read(true).write(write).open(&path) {
                Ok(device) => device,
                // The node of a new device may come a moment after the device.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt + 1 < ATTEMPTS => {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                }
                Err(source) => return Err(LoopError::Open { source }),
            };
            match configure(&device, &config) {
                Ok(()) => return Ok(Self { device: Some(device), path }),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    thread::sleep(Duration::from_millis(u64::from(attempt % 8)));
                }
                Err(source) => {
                    return Err(LoopError::Configure { backing: backing.to_owned(), device: path, source });
                }
            }
        }
        Err(LoopError::Busy { backing: backing.to_owned() })
    }

    /// The device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Frees it. A device that is still mounted goes away with its last mount.
    pub fn close(mut self) -> Result<(), LoopError> {
        let device = self.path.clone();
        self.clear().map_err(|source| LoopError::Clear { device, source })
    }

    fn clear(&mut self) -> io::Result<()> {
        let Some(device) = self.device.take() else { return Ok(()) };
        // Data that the block layer cannot write back must be an error here, nobody hears of it later.
        device.sync_all()?;
        clear(&device)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::error!(device = %self.path.display(), %error, "could not free a loop device");
        }
    }
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Config {
    fn new(file: &File, offset: u64, size_limit: u64, access: Access) -> Self {
        let read_only = if access == Access::ReadOnly { LO_FLAGS_READ_ONLY } else { 0 };
        Self {
            fd: u32::try_from(file.as_raw_fd()).expect("an open descriptor is not negative"),
            block_size: 0,
            info: Info {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset,
                size_limit,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_FLAGS_AUTOCLEAR | read_only,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        }
    }
}

/// `LOOP_CTL_GET_FREE`, which answers in the call's own result.
struct GetFree;

// SAFETY: the call takes no argument and touches no memory of ours; its result is a number or an error.
#[expect(unsafe_code, reason = "rustix has no pattern for an ioctl that answers in its result")]
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

#[expect(unsafe_code, reason = "loop devices are made by ioctl")]
fn get_free(control: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is /dev/loop-control, which knows this call; see `GetFree`.
    Ok(unsafe { ioctl::ioctl(control, GetFree) }?)
}

#[expect(unsafe_code, reason = "loop devices are made by ioctl")]
fn configure(device: &File, config: &Config) -> io::Result<()> {
    // SAFETY: `Config` has the layout of `struct loop_config`, which this call reads and does not keep.
    Ok(unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, Config>::new(*config)) }?)
}

#[expect(unsafe_code, reason = "loop devices are freed by ioctl")]
fn clear(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument and touches no memory of ours.
    Ok(unsafe { ioctl::ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<Info>(), size_of::<Config>()), (232, 304));
    }
}
