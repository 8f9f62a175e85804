//! What file system a partition holds, by its superblock, and the growth of ext4.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use labwright_core::Cancel;
use labwright_host::{Invocation, Tool, ToolError};

/// Where the last superblock ends that is looked for: btrfs's, at 64 KiB.
const LOOK: u64 = 68 << 10;

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
        }
    }

    /// Whether the root of an installed Linux can be on it.
    pub const fn can_be_root(self) -> bool {
        matches!(self, Self::Ext4 | Self::Xfs | Self::Btrfs)
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
}

/// Looks for a file system that begins at byte `offset` of a disk. Reads at most 68 KiB.
pub fn probe(disk: &File, offset: u64) -> Result<Option<Filesystem>, FilesystemError> {
    let failed = |source| FilesystemError::Read { path: disk.path().to_owned(), source };
    let mut bytes = vec![0; usize::try_from(LOOK).expect("68 KiB")];
    let mut filled = 0;
    while filled < bytes.len() {
        match disk.file().read_at(&mut bytes[filled..], offset + filled as u64) {
            // A small partition at the end of the disk: what is missing is zero.
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(source)),
        }
    }
    Ok(recognise(&bytes))
}

/// Recognises a file system by its first 68 KiB. Containers come first: they may hold the remains of something else.
fn recognise(bytes: &[u8]) -> Option<Filesystem> {
    let found = |kind, uuid, label| Some(Filesystem { kind, uuid, label });
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"LUKS\xba\xbe") {
        return found(FilesystemKind::Luks, text(&bytes[168..208]), None);
    }
    if (0..4).any(|sector| at(sector * 512, b"LABELONE") && at(sector * 512 + 24, b"LVM2 001")) {
        return found(FilesystemKind::LvmPhysicalVolume, None, None);
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

#[cfg(test)]
mod tests;
