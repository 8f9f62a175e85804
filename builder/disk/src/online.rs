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
/// `BTRFS_IOC_RESIZE` of linux/btrfs.h.
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
    /// A kind that cannot be grown.
    #[error("a root file system of the kind {0} cannot be grown")]
    Kind(&'static str),
}

/// Grows the file system that is mounted at `target` to the `size` in bytes of its device.
pub fn grow(target: &Path, kind: FilesystemKind, size: u64) -> Result<(), OnlineError> {
    let root = File::open(target).map_err(|source| OnlineError::Look { source })?;
    let grown = match kind {
        FilesystemKind::Ext4 => grow_ext4(&root, size),
        FilesystemKind::Xfs => grow_xfs(&root, size),
        FilesystemKind::Btrfs => grow_btrfs(&root),
        other => return Err(OnlineError::Kind(other.as_str())),
    };
    grown.map_err(|source| OnlineError::Grow { file_system: kind.as_str(), target: target.to_owned(), source })
}

#[expect(unsafe_code, reason = "ext4 is grown by ioctl")]
fn grow_ext4(root: &File, size: u64) -> io::Result<()> {
    let blocks = size / rustix::fs::fstatvfs(root)?.f_bsize;
    // SAFETY: the call reads one number of 64 bits.
    Ok(unsafe { ioctl::ioctl(root, Setter::<EXT4_RESIZE, u64>::new(blocks)) }?)
}

#[expect(unsafe_code, reason = "XFS is asked and grown by ioctl")]
fn grow_xfs(root: &File, size: u64) -> io::Result<()> {
    // SAFETY: `XfsGeometry` has the size and layout of `struct xfs_fsop_geom_v1`, which the call writes.
    let geometry = unsafe { ioctl::ioctl(root, Getter::<XFS_GEOMETRY, XfsGeometry>::new()) }?;
    let blocks = size.checked_div(u64::from(geometry.block_size)).ok_or(io::ErrorKind::InvalidData)?;
    if blocks <= geometry.data_blocks {
        return Ok(());
    }
    let order = XfsGrow { blocks, largest_inode_share: geometry.largest_inode_share, padding: 0 };
    // SAFETY: `XfsGrow` has the size and layout of `struct xfs_growfs_data`, which the call reads.
    Ok(unsafe { ioctl::ioctl(root, Setter::<XFS_GROW, XfsGrow>::new(order)) }?)
}

#[expect(unsafe_code, reason = "btrfs is grown by ioctl")]
fn grow_btrfs(root: &File) -> io::Result<()> {
    let mut order = BtrfsVolume { descriptor: 0, name: [0; 4088] };
    order.name[..3].copy_from_slice(b"max");
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
        assert_eq!(std::mem::offset_of!(XfsGeometry, data_blocks), 32);
    }

    #[test]
    fn what_is_no_root_is_refused() {
        assert!(matches!(grow(Path::new("/"), FilesystemKind::Swap, 0), Err(OnlineError::Kind("swap"))));
    }
}
