//! What file system a partition holds, by its superblock, and the growth of those that a root can be on.

mod grow;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use labwright_core::Cancel;
use labwright_host::{Invocation, Tool, ToolError};

/// Where the last signature ends that is looked for at the start: ZFS's, which has one in its first 256 KiB.
const LOOK: u64 = 256 << 10;

/// Some kinds of RAID have their signature in the last 128 KiB.
const LOOK_BACK: u64 = 128 << 10;

/// The signature of Linux software RAID.
const RAID: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilesystemKind {
    /// ext2, ext3 or ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Vfat,
    /// squashfs.
    Squashfs,
    /// ISO 9660.
    Iso9660,
    /// Swap space.
    Swap,
    /// A physical volume of LVM.
    LvmPhysicalVolume,
    /// An encrypted volume.
    Luks,
    /// A member of a software RAID.
    RaidMember,
    /// A member of a ZFS pool.
    Zfs,
    /// bcachefs.
    Bcachefs,
    /// F2FS.
    F2fs,
    /// NTFS.
    Ntfs,
}

impl FilesystemKind {
    /// The kernel's name of it, or blkid's where it cannot be mounted.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "iso9660",
            Self::Swap => "swap",
            Self::LvmPhysicalVolume => "LVM2_member",
            Self::Luks => "crypto_LUKS",
            Self::RaidMember => "linux_raid_member",
            Self::Zfs => "zfs_member",
            Self::Bcachefs => "bcachefs",
            Self::F2fs => "f2fs",
            Self::Ntfs => "ntfs",
        }
    }

    /// What a person calls a kind that can hold a system which cannot be reached here; nothing for the others.
    pub const fn out_of_reach(self) -> Option<&'static str> {
        match self {
            Self::LvmPhysicalVolume => Some("LVM"),
            Self::Luks => Some("an encrypted volume (LUKS)"),
            Self::RaidMember => Some("a software RAID"),
            Self::Zfs => Some("ZFS"),
            Self::Bcachefs => Some("bcachefs"),
            Self::F2fs => Some("F2FS"),
            _ => None,
        }
    }

    /// Whether the root of an installed Linux can be on it.
    pub const fn can_be_root(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Btrfs)
    }

    /// Whether it can be mounted below a root.
    pub const fn can_be_below(self) -> bool {
        self.can_be_root() || matches!(self, Self::Vfat)
    }

    /// Options that keep a read-only mount from writing: no journal is replayed.
    pub const fn look_options(self) -> &'static str {
        match self {
            Self::Ext4 => "noload",
            Self::Xfs => "norecovery,nouuid",
            Self::Btrfs => "rescue=nologreplay",
            _ => "",
        }
    }

    /// Options for working in it. The same base may be open in another build, and XFS refuses the second of two
    /// file systems with one UUID. (btrfs gives the second another one while it is mounted, since Linux 6.7.)
    pub const fn work_options(self) -> &'static str {
        match self {
            Self::Xfs => "nouuid",
            _ => "",
        }
    }
}

/// A file system that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// What it is.
    pub kind: FilesystemKind,
    /// Its UUID as `/etc/fstab` would name it (a serial number for FAT), if it has one.
    pub uuid: Option<String>,
    /// Its label, if it has one.
    pub label: Option<String>,
}

/// A file system that could not be looked at or grown.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The disk cannot be read.
    #[error("could not read `{}`", path.display())]
    Read {
        /// The disk.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The check before the growth found what it could not repair by itself, or did not run.
    #[error("could not check the ext4 file system on `{}`", device.display())]
    Check {
        /// The block device.
        device: PathBuf,
        /// What e2fsck said.
        source: ToolError,
    },
    /// It did not grow.
    #[error("could not grow the ext4 file system on `{}`", device.display())]
    Grow {
        /// The block device.
        device: PathBuf,
        /// What resize2fs said.
        source: ToolError,
    },
    /// A mounted file system did not grow.
    #[error("could not grow the {} file system on `{}`", kind.as_str(), mount.display())]
    GrowMounted {
        /// Its kind.
        kind: FilesystemKind,
        /// Where it is mounted.
        mount: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Nobody knows here how this kind grows.
    #[error("a file system of the kind {} cannot be grown", kind.as_str())]
    NoGrowth {
        /// Its kind.
        kind: FilesystemKind,
    },
    /// It has more blocks than there is room for.
    #[error("the {} file system on `{}` is larger than its partition", kind.as_str(), device.display())]
    TooLarge {
        /// Its kind.
        kind: FilesystemKind,
        /// The block device.
        device: PathBuf,
    },
}

/// Looks for a file system in the `size` bytes from byte `offset` of a disk on. Reads at most 384 KiB.
pub fn probe(disk: &File, offset: u64, size: u64) -> Result<Option<Filesystem>, FilesystemError> {
    let bytes = read_up_to(disk, offset, LOOK.min(size), LOOK)?;
    let back = size.min(LOOK_BACK);
    let end = read_up_to(disk, offset + size - back, back, LOOK_BACK)?;
    // What is a member of a RAID looks like the file system in the RAID.
    if is_raid_by_its_end(&end[..usize::try_from(back).expect("at most 128 KiB")], size) {
        return Ok(Some(Filesystem { kind: FilesystemKind::RaidMember, uuid: None, label: None }));
    }
    Ok(recognise(&bytes))
}

/// Reads `length` bytes, or what the disk has of them, and zeroes up to `padded`.
fn read_up_to(disk: &File, offset: u64, length: u64, padded: u64) -> Result<Vec<u8>, FilesystemError> {
    let length = usize::try_from(length).expect("at most 256 KiB");
    let mut bytes = vec![0; usize::try_from(padded).expect("at most 256 KiB")];
    let mut filled = 0;
    while filled < length {
        match disk.file().read_at(&mut bytes[filled..length], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(FilesystemError::Read { path: disk.path().to_owned(), source }),
        }
    }
    Ok(bytes)
}

/// Versions 0.90 and 1.0 of the metadata of Linux software RAID, by the last bytes of a partition of `size` bytes.
fn is_raid_by_its_end(end: &[u8], size: u64) -> bool {
    let sectors = size / 512;
    let places = [(sectors / 128).saturating_sub(1) * 128, sectors.saturating_sub(16) / 8 * 8];
    places.iter().any(|sector| {
        let from_end = usize::try_from(size - sector * 512).unwrap_or(usize::MAX);
        end.len().checked_sub(from_end).is_some_and(|at| end[at..].starts_with(&RAID))
    })
}

/// Recognises a file system by its first 256 KiB. Containers come first: they may hold the remains of something else.
fn recognise(bytes: &[u8]) -> Option<Filesystem> {
    let found = |kind, uuid, label| Some(Filesystem { kind, uuid, label });
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"LUKS\xba\xbe") {
        return found(FilesystemKind::Luks, text(&bytes[168..208]), None);
    }
    if (0..4).any(|sector| at(sector * 512, b"LABELONE") && at(sector * 512 + 24, b"LVM2 001")) {
        return found(FilesystemKind::LvmPhysicalVolume, None, None);
    }
    // Versions 1.1 and 1.2 of its metadata lie at the start.
    if at(0, &RAID) || at(4096, &RAID) {
        return found(FilesystemKind::RaidMember, None, None);
    }
    if at(0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef") {
        return found(FilesystemKind::Bcachefs, None, None);
    }
    if at(0, b"XFSB") {
        return found(FilesystemKind::Xfs, uuid(&bytes[32..48]), text(&bytes[108..120]));
    }
    if at(0x10040, b"_BHRfS_M") {
        return found(FilesystemKind::Btrfs, uuid(&bytes[0x10020..0x10030]), text(&bytes[0x1012b..0x1022b]));
    }
    if at(0x438, b"\x53\xef") {
        return found(FilesystemKind::Ext4, uuid(&bytes[0x468..0x478]), text(&bytes[0x478..0x488]));
    }
    if at(0x400, b"\x10\x20\xf5\xf2") {
        return found(FilesystemKind::F2fs, None, None);
    }
    if at(3, b"NTFS    ") {
        return found(FilesystemKind::Ntfs, None, None);
    }
    if at(0, b"hsqs") {
        return found(FilesystemKind::Squashfs, None, None);
    }
    if at(0x8001, b"CD001") {
        return found(FilesystemKind::Iso9660, None, text(&bytes[0x8028..0x8048]));
    }
    // The signature stands at the end of the first page, and pages have 4, 16 or 64 KiB.
    if [4096, 16384, 65536].iter().any(|page| at(page - 10, b"SWAPSPACE2")) {
        return found(FilesystemKind::Swap, uuid(&bytes[0x40c..0x41c]), text(&bytes[0x41c..0x42c]));
    }
    // The first of its four labels: a ring of blocks, of which any may be the first that was written.
    let uberblock = |at: usize| bytes[at..].starts_with(&0x00ba_b10c_u64.to_le_bytes());
    if (0x20000..0x40000).step_by(1024).any(uberblock) {
        return found(FilesystemKind::Zfs, None, None);
    }
    vfat(bytes)
}

fn vfat(bytes: &[u8]) -> Option<Filesystem> {
    let (serial, label) = if &bytes[82..90] == b"FAT32   " {
        (&bytes[67..71], &bytes[71..82])
    } else if matches!(&bytes[54..62], b"FAT12   " | b"FAT16   " | b"FAT     ") {
        (&bytes[39..43], &bytes[43..54])
    } else {
        return None;
    };
    if bytes[510..512] != [0x55, 0xaa] {
        return None;
    }
    let serial = format!("{:02X}{:02X}-{:02X}{:02X}", serial[3], serial[2], serial[1], serial[0]);
    let label = text(label).filter(|label| label != "NO NAME");
    Some(Filesystem { kind: FilesystemKind::Vfat, uuid: Some(serial), label })
}

fn uuid(bytes: &[u8]) -> Option<String> {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hexadecimal digit"));
        }
    }
    Some(text)
}

/// A text of fixed length, up to its first NUL and without the blanks at its end.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Checks the unmounted ext4 file system on a block device and grows it to the device's end.
///
/// Takes a device and never a file with an offset: resize2fs would cut such a file off (seen).
pub fn grow_ext4(device: &Path, cancel: &Cancel) -> Result<(), FilesystemError> {
    let checked = Invocation::new(Tool::E2fsck).arg("-fp").arg(device).run(cancel);
    match checked {
        Ok(_) => {}
        // 1: errors were found and all are repaired.
        Err(ToolError::Failed { status, .. }) if status.code() == Some(1) => {}
        Err(source) => return Err(FilesystemError::Check { device: device.to_owned(), source }),
    }
    Invocation::new(Tool::Resize2fs)
        .arg(device)
        .run(cancel)
        .map_err(|source| FilesystemError::Grow { device: device.to_owned(), source })?;
    Ok(())
}

/// Grows the mounted file system at `mount` to the end of its block device of `device_size` bytes.
///
/// XFS and btrfs grow only while they are mounted.
pub fn grow_mounted(
    kind: FilesystemKind,
    mount: &Path,
    device: &Path,
    device_size: u64,
) -> Result<(), FilesystemError> {
    let failed = |source| FilesystemError::GrowMounted { kind, mount: mount.to_owned(), source };
    let read = |source| FilesystemError::Read { path: device.to_owned(), source };
    let root = File::open(mount).map_err(failed)?;
    let disk = File::open(device).map_err(read)?;
    match kind {
        FilesystemKind::Xfs => {
            let mut superblock = [0; 128];
            disk.file().read_exact_at(&mut superblock, 0).map_err(read)?;
            let block_size = u32::from_be_bytes(superblock[4..8].try_into().expect("four bytes"));
            let blocks = u64::from_be_bytes(superblock[8..16].try_into().expect("eight bytes"));
            let wanted = device_size / u64::from(block_size.max(512));
            if wanted < blocks {
                return Err(FilesystemError::TooLarge { kind, device: device.to_owned() });
            }
            if wanted > blocks {
                grow::xfs(&root, wanted, superblock[127]).map_err(failed)?;
            }
            Ok(())
        }
        FilesystemKind::Btrfs => {
            // A device that took another one's place has another number than 1.
            let mut number = [0; 8];
            disk.file().read_exact_at(&mut number, 0x10000 + 0xc9).map_err(read)?;
            grow::btrfs(&root, u64::from_le_bytes(number)).map_err(failed)
        }
        kind => Err(FilesystemError::NoGrowth { kind }),
    }
}

#[cfg(test)]
mod tests;
