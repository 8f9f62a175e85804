//! gzip that compresses nothing: the same bytes on every machine, with every version of every library.

use std::io::{self, Write};

/// What one stored block holds; RFC 1951, 3.2.4 allows no more.
const BLOCK: usize = 65_535;

/// Method deflate, no flags, no time, no extra flags, unknown operating system (RFC 1952, 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Wraps all that is written to it in stored deflate blocks of 65,535 bytes, in a gzip member.
///
/// The content is compressed already, so this costs five bytes per block instead of time, and layers stay of the
/// one compressed type that every tool must read.
#[derive(Debug)]
pub(crate) struct StoredGzip<W> {
    inner: W,
    block: Vec<u8>,
    crc: flate2::Crc,
}

impl<W: Write> StoredGzip<W> {
    /// Writes the gzip header.
    pub(crate) fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(&HEADER)?;
        Ok(Self { inner, block: Vec::with_capacity(BLOCK), crc: flate2::Crc::new() })
    }

    fn flush_block(&mut self, last: bool) -> io::Result<()> {
        let length = u16::try_from(self.block.len()).expect("a block has at most 65,535 bytes");
        let [low, high] = length.to_le_bytes();
        self.inner.write_all(&[u8::from(last), low, high, !low, !high])?;
        self.inner.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// Writes the last block and the trailer.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush_block(true)?;
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for StoredGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.flush_block(false)?;
        }
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        self.crc.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn reads_back_and_has_the_expected_length() {
        for (length, blocks) in [(0, 1), (1, 1), (BLOCK, 1), (BLOCK + 1, 2), (3 * BLOCK + 7, 4)] {
            let data: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut gzip = StoredGzip::new(Vec::new()).unwrap();
            // Uneven writes must not show in the result.
            for piece in data.chunks(1000) {
                gzip.write_all(piece).unwrap();
            }
            let bytes = gzip.finish().unwrap();
            assert_eq!(bytes.len(), 10 + 5 * blocks + length + 8);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == data);
        }
    }
}
