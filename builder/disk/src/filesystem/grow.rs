//! The kernel's calls that grow a mounted file system.

use std::io;

use fs_err::File;
use rustix::ioctl::{self, Opcode, Setter};

/// `XFS_IOC_FSGROWFSDATA` of fs/xfs/libxfs/xfs_fs.h.
const XFS_GROW: Opcode = ioctl::opcode::write::<XfsGrowth>(b'X', 110);
/// `BTRFS_IOC_RESIZE` of linux/btrfs.h.
const BTRFS_RESIZE: Opcode = ioctl::opcode::write::<BtrfsVolume>(0x94, 3);

/// `struct xfs_growfs_data`.
#[repr(C)]
struct XfsGrowth {
    blocks: u64,
    most_percent_of_inodes: u32,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsVolume {
    descriptor: i64,
    name: [u8; 4088],
}

/// Gives XFS this many blocks; its share of inodes stays as it is.
#[expect(unsafe_code, reason = "file systems are grown by ioctl")]
pub(super) fn xfs(root: &File, blocks: u64, most_percent_of_inodes: u8) -> io::Result<()> {
    let growth = XfsGrowth { blocks, most_percent_of_inodes: most_percent_of_inodes.into() };
    // SAFETY: `XfsGrowth` has the layout of `struct xfs_growfs_data`, which this call reads and does not keep.
    Ok(unsafe { ioctl::ioctl(root, Setter::<XFS_GROW, XfsGrowth>::new(growth)) }?)
}

/// Gives btrfs the whole of its device with this number.
#[expect(unsafe_code, reason = "file systems are grown by ioctl")]
pub(super) fn btrfs(root: &File, device: u64) -> io::Result<()> {
    let mut volume = BtrfsVolume { descriptor: 0, name: [0; 4088] };
    let text = format!("{device}:max");
    volume.name[..text.len()].copy_from_slice(text.as_bytes());
    // SAFETY: `BtrfsVolume` has the layout of `struct btrfs_ioctl_vol_args`, which this call reads and does not keep.
    Ok(unsafe { ioctl::ioctl(root, Setter::<BTRFS_RESIZE, BtrfsVolume>::new(volume)) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!((size_of::<XfsGrowth>(), size_of::<BtrfsVolume>()), (16, 4096));
    }
}
