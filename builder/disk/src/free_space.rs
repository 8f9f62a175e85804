//! The free space of a file system, extent by extent: what was deleted is erased there for good.
//!
//! Telling a disk what is free (`fstrim`) is not enough: the kernel rounds to whole pages, and QEMU drops what a
//! machine discards only in whole clusters. What is smaller would stay readable in the image.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_err::{File, OpenOptions};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater};

/// `FS_IOC_GETFSMAP` of linux/fsmap.h.
const GET_MAP: Opcode = ioctl::opcode::read_write::<Head>(b'X', 59);
/// `FMR_OF_SPECIAL_OWNER`: the owner is a word and not an inode.
const SPECIAL_OWNER: u32 = 0x10;
/// `FMR_OF_LAST`: nothing follows.
const LAST: u32 = 0x20;
/// `FMR_OWN_FREE`.
const FREE: u64 = 1;
/// How many records are asked for at once.
const RECORDS: usize = 128;

/// A piece of a file system's device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// Free space that could not be listed or erased.
#[derive(Debug, thiserror::Error)]
pub enum FreeSpaceError {
    /// The mounted root or the device cannot be opened; the source has the path.
    #[error("could not open a file system to erase its free space")]
    Open {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The kernel does not say what is free.
    #[error("could not list the free space of `{}`", target.display())]
    List {
        /// Where it is mounted.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Something was not erased.
    #[error("could not erase free space on `{}`", device.display())]
    Erase {
        /// The device.
        device: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Lists what is free in the file system mounted at `target`; none where it cannot tell, as btrfs.
///
/// What was just deleted is free only after `syncfs`.
pub fn list(target: &Path) -> Result<Option<Vec<Extent>>, FreeSpaceError> {
    let root = File::open(target).map_err(|source| FreeSpaceError::Open { source })?;
    let failed = |error: Errno| FreeSpaceError::List { target: target.to_owned(), source: error.into() };
    let device = rustix::fs::fstat(&root).map_err(failed)?.st_dev;
    let mut free: Vec<Extent> = Vec::new();
    let mut map = Box::new(Map::new());
    loop {
        match get_map(&root, &mut map) {
            Ok(()) => {}
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let count = usize::try_from(map.head.entries).unwrap_or(RECORDS).min(RECORDS);
        for record in &map.records[..count] {
            // XFS lists a log or real-time device too, which are no part of the disk.
            if record.flags & SPECIAL_OWNER == 0 || record.owner != FREE || u64::from(record.device) != device {
                continue;
            }
            let (offset, length) = (record.physical, record.length);
            match free.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => free.push(Extent { offset, length }),
            }
        }
        match map.records[..count].last() {
            Some(last) if last.flags & LAST == 0 => map.head.keys[0] = *last,
            _ => return Ok(Some(free)),
        }
    }
}

/// Overwrites extents of an unmounted file system's device with zeros, or has the device drop them where that reads as
/// zeros.
pub fn erase(device: &Path, extents: &[Extent]) -> Result<(), FreeSpaceError> {
    let file =
        OpenOptions::new().read(true).write(true).open(device).map_err(|source| FreeSpaceError::Open { source })?;
    let failed = |source| FreeSpaceError::Erase { device: device.to_owned(), source };
    for extent in extents {
        // A block device that has a hole punched reads zeros there, or says that it cannot.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&file, flags, extent.offset, extent.length) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => overwrite(&file, *extent).map_err(failed)?,
            Err(error) => return Err(failed(error.into())),
        }
    }
    file.sync_all().map_err(failed)
}

fn overwrite(file: &File, extent: Extent) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = extent.offset;
    let end = extent.offset + extent.length;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.file().write_all_at(&zeros[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "the map of a file system is asked for by ioctl")]
fn get_map(root: &File, map: &mut Map) -> Result<(), Errno> {
    // SAFETY: `Map` has the layout of `struct fsmap_head` with room for as many records as its `count` says, which the
    // call reads and writes.
    unsafe { ioctl::ioctl(root, Updater::<GET_MAP, Map>::new(map)) }
}

/// `struct fsmap`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// `struct fsmap_head` without its records.
#[repr(C)]
struct Head {
    input_flags: u32,
    output_flags: u32,
    count: u32,
    entries: u32,
    reserved: [u64; 6],
    keys: [Record; 2],
}

#[repr(C)]
struct Map {
    head: Head,
    records: [Record; RECORDS],
}

impl Map {
    fn new() -> Self {
        let nothing = Record { device: 0, flags: 0, physical: 0, owner: 0, offset: 0, length: 0, reserved: [0; 3] };
        let end = Record {
            device: u32::MAX,
            flags: u32::MAX,
            physical: u64::MAX,
            owner: u64::MAX,
            offset: u64::MAX,
            ..nothing
        };
        let count = u32::try_from(RECORDS).expect("a small number");
        let head = Head { input_flags: 0, output_flags: 0, count, entries: 0, reserved: [0; 6], keys: [nothing, end] };
        Self { head, records: [nothing; RECORDS] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_these_sizes() {
        assert_eq!((size_of::<Record>(), size_of::<Head>()), (64, 192));
        assert_eq!(std::mem::offset_of!(Map, records), 192);
    }

    #[test]
    fn extents_are_erased_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs_err::write(&path, vec![b'x'; 10_000]).unwrap();
        let extents = [Extent { offset: 100, length: 50 }, Extent { offset: 4096, length: 4096 }];
        erase(&path, &extents).unwrap();
        overwrite(&OpenOptions::new().write(true).open(&path).unwrap(), Extent { offset: 9_000, length: 10 }).unwrap();
        let bytes = fs_err::read(&path).unwrap();
        let zeros: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == 0).collect();
        let expected: Vec<usize> = (100..150).chain(4096..8192).chain(9_000..9_010).collect();
        assert_eq!(zeros, expected);
        assert!(list(Path::new("/proc")).unwrap().is_none());
    }
}
