//! The bytes of a disk, wherever they are.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use fs_err::File;
use labwright_core::{Cancel, Cancelled};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A raw view of a disk that several threads may read at once. Errors name the file that could not be read.
pub trait ReadDisk: Sync {
    /// The size of the disk in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes from `offset` on; an error of the kind `UnexpectedEof` if the disk ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The first range of bytes at or behind `from` that may hold something else than zeros; it need not be the
    /// longest.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;
}

/// A raw file, whose holes are known where its file system knows them.
impl ReadDisk for File {
    fn size(&self) -> io::Result<u64> {
        seek(self, SeekFrom::End(0)).map_err(|error| crate::named(self, &error.into()))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buffer, offset).map_err(|error| crate::named(self, &error))
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let size = ReadDisk::size(self)?;
        let start = match seek(self, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows no holes has none.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((from < size).then_some(from..size)),
            Err(error) => return Err(crate::named(self, &error.into())),
        };
        let end = seek(self, SeekFrom::Hole(start)).unwrap_or(size);
        Ok((start < size).then_some(start..end.max(start + 1)))
    }
}

/// How much is read at once, in bytes.
const PIECE: usize = 4 << 20;

/// A disk's data could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refused; the source has the path.
    #[error("could not read the data of a disk")]
    Read(#[source] io::Error),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Calls `each` with every piece of a disk that is not a hole, and where it begins. A piece repeats the last `overlap`
/// bytes of the one before, where that ends at its beginning.
pub fn for_each_piece(
    disk: &dyn ReadDisk,
    overlap: usize,
    cancel: &Cancel,
    each: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), DataError> {
    let mut buffer = vec![0; overlap + PIECE];
    let mut kept = 0;
    let mut at = 0;
    while let Some(range) = disk.next_data(at).map_err(DataError::Read)? {
        if range.start > at {
            kept = 0;
        }
        at = range.start;
        while at < range.end {
            cancel.check()?;
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let length = left.min(PIECE);
            disk.read_exact_at(&mut buffer[kept..kept + length], at).map_err(DataError::Read)?;
            let filled = kept + length;
            each(at - kept as u64, &buffer[..filled]);
            kept = overlap.min(filled);
            buffer.copy_within(filled - kept..filled, 0);
            at += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_overlap_and_holes_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = File::create(&path).unwrap();
        let size = 64 << 20;
        file.set_len(size).unwrap();
        let text: Vec<u8> = (0..PIECE + 70_000).map(|at| u8::try_from(at % 251).unwrap()).collect();
        file.file().write_all_at(&text, 0).unwrap();
        file.file().write_all_at(b"the end", size - 7).unwrap();
        let mut pieces = Vec::new();
        let source = File::open(&path).unwrap();
        for_each_piece(&source, 1000, &Cancel::new(), &mut |at, bytes| pieces.push((at, bytes.to_vec()))).unwrap();
        assert_eq!(pieces[0], (0, text[..PIECE].to_vec()));
        assert_eq!(pieces[1].0, PIECE as u64 - 1000);
        assert_eq!(pieces[1].1[..71_000], text[PIECE - 1000..]);
        let (at, last) = pieces.last().unwrap();
        assert!(*at > 5 << 20 && last.ends_with(b"the end"), "{at}");
        let seen: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(seen < 6 << 20, "holes are skipped: {seen}");
    }
}
