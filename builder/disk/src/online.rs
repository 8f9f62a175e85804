//! File systems that grow while they are mounted, by the kernel itself: no program of the file system's own is needed.

use std::io;
use std::path::{Path, PathBuf};

use fs_err::File;
use rustix::ioctl::{self, Getter, Opcode, Setter};

use crate::filesystem::FilesystemKind;

/// `EXT4_IOC_RESIZE_FS` of linux/ext4.h: the number of blocks to have.
const EXT4_RESIZE: Opcode = ioctl::opcode::write::<u64>(b'f', 16);
/// `XFS_IOC_FSGEOMETRY_V1` and `XFS_IOC_FSGROWFSDATA` of xfs_fs.h.
const XFS_GEOMETRY: Opcode = ioctl::opcode::read::<XfsGeometry>(b'X', 100);
const XFS_GROW: Opcode = ioctl::opcode::write::<XfsGrow>(b'X', 110);
/// `BTRFS_IOC_FS_INFO` and `BTRFS_IOC_RESIZE` of linux/btrfs.h.
const BTRFS_INFO: Opcode = ioctl::opcode::read::<BtrfsInfo>(0x94, 31);
const BTRFS_RESIZE: Opcode = ioctl::opcode::write::<BtrfsVolume>(0x94, 3);

/// A mounted file system that did not grow.
#[derive(Debug, thiserror::Error)]
pub enum OnlineError {
    /// The mounted root cannot be opened or asked; the source has the path.
    #[error("could not look at a mounted file system")]
    Look {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The kernel does not grow it.
    #[error("could not grow the {file_system} file system on `{}`", target.display())]
    Grow {
        /// The kind of file system.
        file_system: &'static str,
        /// Where it is mounted.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It has more blocks than its device.
    #[error("the {file_system} file system on `{}` is larger than its partition", target.display())]
    TooLarge {
        /// The kind of file system.
        file_system: &'static str,
        /// Where it is mounted.
        target: PathBuf,
    },
    /// It lies on more than one device, of which only one is there.
    #[error("the btrfs file system on `{}` has more than one device", target.display())]
    Devices {
        /// Where it is mounted.
        target: PathBuf,
    },
    /// A kind that cannot be grown.
    #[error("a root file system of the kind {0} cannot be grown")]
    Kind(&'static str),
}

/// Grows the file system that is mounted at `target` to the `size` in bytes of its device.
pub fn grow(target: &Path, kind: FilesystemKind, size: u64) -> Result<(), OnlineError> {
    let look = |source| OnlineError::Look { source };
    let root = File::open(target).map_err(look)?;
    let (target_path, file_system) = (|| target.to_owned(), kind.as_str());
    if kind == FilesystemKind::Xfs && xfs_geometry(&root).map_err(look)?.bytes() > size {
        return Err(OnlineError::TooLarge { file_system, target: target_path() });
    }
    if kind == FilesystemKind::Btrfs && btrfs_info(&root).map_err(look)?.devices != 1 {
        return Err(OnlineError::Devices { target: target_path() });
    }
    let grown = match kind {
        FilesystemKind::Ext4 => grow_ext4(&root, size),
        FilesystemKind::Xfs => grow_xfs(&root, size),
        FilesystemKind::Btrfs => grow_btrfs(&root),
        other => return Err(OnlineError::Kind(other.as_str())),
    };
    grown.map_err(|source| OnlineError::Grow { file_system, target: target_path(), source })
}

#[expect(unsafe_code, reason = "ext4 is grown by ioctl")]
fn grow_ext4(root: &File, size: u64) -> io::Result<()> {
    let blocks = size / rustix::fs::fstatvfs(root)?.f_bsize;
    // SAFETY: the call reads one number of 64 bits.
    Ok(unsafe { ioctl::ioctl(root, Setter::<EXT4_RESIZE, u64>::new(blocks)) }?)
}

#[expect(unsafe_code, reason = "XFS is asked by ioctl")]
fn xfs_geometry(root: &File) -> io::Result<XfsGeometry> {
    // SAFETY: `XfsGeometry` has the size and layout of `struct xfs_fsop_geom_v1`, which the call writes.
    Ok(unsafe { ioctl::ioctl(root, Getter::<XFS_GEOMETRY, XfsGeometry>::new()) }?)
}

#[expect(unsafe_code, reason = "XFS is grown by ioctl")]
fn grow_xfs(root: &File, size: u64) -> io::Result<()> {
    let geometry = xfs_geometry(root)?;
    let blocks = size.checked_div(u64::from(geometry.block_size)).ok_or(io::ErrorKind::InvalidData)?;
    if blocks <= geometry.data_blocks {
        return Ok(());
    }
    let order = XfsGrow { blocks, largest_inode_share: geometry.largest_inode_share, padding: 0 };
    // SAFETY: `XfsGrow` has the size and layout of `struct xfs_growfs_data`, which the call reads.
    Ok(unsafe { ioctl::ioctl(root, Setter::<XFS_GROW, XfsGrow>::new(order)) }?)
}

#[expect(unsafe_code, reason = "btrfs is asked by ioctl")]
fn btrfs_info(root: &File) -> io::Result<BtrfsInfo> {
    // SAFETY: `BtrfsInfo` has the size and layout of `struct btrfs_ioctl_fs_info_args`, which the call writes.
    Ok(unsafe { ioctl::ioctl(root, Getter::<BTRFS_INFO, BtrfsInfo>::new()) }?)
}

#[expect(unsafe_code, reason = "btrfs is grown by ioctl")]
fn grow_btrfs(root: &File) -> io::Result<()> {
    let mut order = BtrfsVolume { descriptor: 0, name: [0; 4088] };
    // A device that took another one's place has another number than 1.
    let text = format!("{}:max", btrfs_info(root)?.largest_device);
    order.name[..text.len()].copy_from_slice(text.as_bytes());
    // SAFETY: `BtrfsVolume` has the size and layout of `struct btrfs_ioctl_vol_args`, which the call reads; the name
    // ends with a NUL.
    Ok(unsafe { ioctl::ioctl(root, Setter::<BTRFS_RESIZE, BtrfsVolume>::new(order)) }?)
}

/// `struct xfs_fsop_geom_v1`.
#[repr(C)]
#[derive(Clone, Copy)]
struct XfsGeometry {
    block_size: u32,
    sizes: [u32; 6],
    /// In percent of the file system.
    largest_inode_share: u32,
    data_blocks: u64,
    rest: [u64; 9],
}

impl XfsGeometry {
    fn bytes(&self) -> u64 {
        self.data_blocks.saturating_mul(self.block_size.into())
    }
}

/// `struct btrfs_ioctl_fs_info_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BtrfsInfo {
    largest_device: u64,
    devices: u64,
    rest: [u64; 126],
}

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrow {
    blocks: u64,
    largest_inode_share: u32,
    padding: u32,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsVolume {
    descriptor: i64,
    name: [u8; 4088],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_these_sizes() {
        assert_eq!((size_of::<XfsGeometry>(), size_of::<XfsGrow>(), size_of::<BtrfsVolume>()), (112, 16, 4096));
        assert_eq!(size_of::<BtrfsInfo>(), 1024);
        assert_eq!(std::mem::offset_of!(XfsGeometry, data_blocks), 32);
    }

    #[test]
    fn what_is_no_root_is_refused() {
        assert!(matches!(grow(Path::new("/"), FilesystemKind::Swap, 0), Err(OnlineError::Kind("swap"))));
    }
}
