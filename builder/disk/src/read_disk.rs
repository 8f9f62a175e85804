//! The bytes of a disk, wherever they are.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use fs_err::File;
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
