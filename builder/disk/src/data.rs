//! What a disk holds, piece by piece, without its holes.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use fs_err::File;
use labwright_core::{Cancel, Cancelled};

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

/// Calls `each` with every piece of the first `size` bytes that is not a hole, and where it begins. A piece repeats the
/// last `overlap` bytes of the one before, where that ends at its beginning.
pub fn for_each_piece(
    source: &File,
    size: u64,
    overlap: usize,
    cancel: &Cancel,
    each: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), DataError> {
    let mut buffer = vec![0; overlap + PIECE];
    let mut kept = 0;
    let mut at = 0;
    while let Some(range) = next_data(source, at, size).map_err(|error| named(source, &error))? {
        if range.start > at {
            kept = 0;
        }
        at = range.start;
        while at < range.end.min(size) {
            cancel.check()?;
            let left = usize::try_from(range.end.min(size) - at).unwrap_or(usize::MAX);
            let length = left.min(PIECE);
            let piece = &mut buffer[kept..kept + length];
            source.file().read_exact_at(piece, at).map_err(|error| named(source, &error))?;
            let filled = kept + length;
            each(at - kept as u64, &buffer[..filled]);
            kept = overlap.min(filled);
            buffer.copy_within(filled - kept..filled, 0);
            at += length as u64;
        }
    }
    Ok(())
}

fn named(source: &File, error: &io::Error) -> DataError {
    DataError::Read(crate::named(source, error))
}

/// The next range of bytes at or behind `from` that is not a hole.
pub(crate) fn next_data(source: &File, from: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let start = match seek(source, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((from < size).then_some(from..size)),
        Err(error) => return Err(error.into()),
    };
    let end = match seek(source, SeekFrom::Hole(start)) {
        Ok(end) => end,
        Err(_) => size,
    };
    Ok((start < size).then_some(start..end.max(start + 1)))
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
        for_each_piece(&source, size, 1000, &Cancel::new(), &mut |at, bytes| pieces.push((at, bytes.to_vec())))
            .unwrap();
        assert_eq!(pieces[0], (0, text[..PIECE].to_vec()));
        assert_eq!(pieces[1].0, PIECE as u64 - 1000);
        assert_eq!(pieces[1].1[..71_000], text[PIECE - 1000..]);
        let (at, last) = pieces.last().unwrap();
        assert!(*at > 5 << 20 && last.ends_with(b"the end"), "{at}");
        let seen: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(seen < 6 << 20, "holes are skipped: {seen}");
    }
}
