//! Makes the free blocks of an unmounted file system read as zeroes, so that nothing deleted can be read out of them.
//!
//! Trimming does that for most blocks, but not for all: the disk below drops whole units only (sub-clusters of 4 KiB),
//! and refuses a range that does not begin and end on one; a file system keeps some of its free blocks back from
//! trimming (XFS's list of blocks for its own trees). So the file system's own records of what is free are read here,
//! and each free block is dropped or overwritten.
//!
//! The records are a stranger's: every place in them is bounded before it is used, and nothing outside the file
//! system's own part of the disk is ever written. Before a group's blocks are touched, the two places in which a file
//! system counts them must agree.

mod ext4;
mod xfs;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fs_err::File;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// What a disk image drops as one piece, in bytes.
const UNIT: u64 = 4096;

/// Free blocks that could not be overwritten.
#[derive(Debug, thiserror::Error)]
pub enum FreeSpaceError {
    /// The disk cannot be read or written.
    #[error("could not overwrite the free blocks of the file system at byte {offset} of `{}`", path.display())]
    Access {
        /// The disk.
        path: PathBuf,
        /// Where the file system begins.
        offset: u64,
        /// The reason.
        source: io::Error,
    },
    /// It was not unmounted, so what it says of its blocks is not true yet.
    #[error("the file system at byte {offset} of `{}` was not unmounted cleanly", path.display())]
    Unclean {
        /// The disk.
        path: PathBuf,
        /// Where the file system begins.
        offset: u64,
    },
    /// Its records contradict themselves.
    #[error("the file system at byte {offset} of `{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The disk.
        path: PathBuf,
        /// Where the file system begins.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Zeroes the free blocks of the unmounted ext4 or XFS file system in the `size` bytes from byte `offset` of a disk on,
/// and returns how many bytes are free. Nothing if it is another file system.
///
/// The disk may be a file or a block device, opened for reading and writing. Nothing may have it mounted, and whoever
/// had must have unmounted it without an error.
pub fn zero_free_space(disk: &File, offset: u64, size: u64) -> Result<Option<u64>, FreeSpaceError> {
    let mut area = Area { disk, offset, size, pending: None, freed: 0 };
    let head = area.read(0, 4096)?;
    if &head[..4] == b"XFSB" {
        xfs::zero(&mut area, &head)?;
    } else if head[1024 + 0x38..1024 + 0x3a] == [0x53, 0xef] {
        ext4::zero(&mut area, &head[1024..2048])?;
    } else {
        return Ok(None);
    }
    area.flush()?;
    area.disk.sync_data().map_err(|source| area.failed(source))?;
    Ok(Some(area.freed))
}

/// The file system's part of the disk.
struct Area<'a> {
    disk: &'a File,
    offset: u64,
    size: u64,
    /// A free range that may go on.
    pending: Option<(u64, u64)>,
    freed: u64,
}

impl Area<'_> {
    fn failed(&self, source: io::Error) -> FreeSpaceError {
        FreeSpaceError::Access { path: self.disk.path().to_owned(), offset: self.offset, source }
    }

    fn damaged(&self, reason: &'static str) -> FreeSpaceError {
        FreeSpaceError::Damaged { path: self.disk.path().to_owned(), offset: self.offset, reason }
    }

    fn unclean(&self) -> FreeSpaceError {
        FreeSpaceError::Unclean { path: self.disk.path().to_owned(), offset: self.offset }
    }

    /// Refuses what does not lie in this part of the disk.
    fn check(&self, at: u64, length: u64) -> Result<(), FreeSpaceError> {
        match at.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.damaged("it has blocks outside of its partition")),
        }
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, FreeSpaceError> {
        self.check(at, length as u64)?;
        let mut bytes = vec![0; length];
        self.disk.file().read_exact_at(&mut bytes, self.offset + at).map_err(|source| self.failed(source))?;
        Ok(bytes)
    }

    /// Takes note of a free range; ranges that follow each other become one.
    fn free(&mut self, at: u64, length: u64) -> Result<(), FreeSpaceError> {
        self.check(at, length)?;
        self.freed += length;
        match &mut self.pending {
            Some((start, pending)) if *start + *pending == at => *pending += length,
            _ => {
                self.flush()?;
                self.pending = Some((at, length));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FreeSpaceError> {
        let Some((at, length)) = self.pending.take() else { return Ok(()) };
        let (start, end) = (self.offset + at, self.offset + at + length);
        let (inner_start, inner_end) = (start.next_multiple_of(UNIT), end / UNIT * UNIT);
        if inner_start >= inner_end {
            return self.overwrite(start, end);
        }
        self.overwrite(start, inner_start)?;
        self.drop_units(inner_start, inner_end)?;
        self.overwrite(inner_end, end)
    }

    /// Drops whole units, or writes zeroes where the disk cannot drop.
    fn drop_units(&self, start: u64, end: u64) -> Result<(), FreeSpaceError> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for flags in [hole, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE] {
            match rustix::fs::fallocate(self.disk, flags, start, end - start) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) => {}
                Err(error) => return Err(self.failed(error.into())),
            }
        }
        let mut at = start;
        while at < end {
            let next = (at + (1 << 20)).min(end);
            self.overwrite(at, next)?;
            at = next;
        }
        Ok(())
    }

    /// Writes zeroes where there is anything else: an empty part of an image stays empty.
    fn overwrite(&self, start: u64, end: u64) -> Result<(), FreeSpaceError> {
        let mut bytes = vec![0; usize::try_from(end - start).expect("at most a megabyte")];
        let failed = |source| self.failed(source);
        self.disk.file().read_exact_at(&mut bytes, start).map_err(failed)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        bytes.fill(0);
        self.disk.file().write_all_at(&bytes, start).map_err(failed)
    }
}
