//! Compressed files: recognised by their first bytes, unpacked with limits.

use std::io::{self, BufReader, Read};

use fs_err as fs;
use labwright_core::{Algorithm, ByteSize, Digest};

use crate::file::{Progress, StreamError, copy_sparse};

/// What an xz decoder may use, in bytes; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// The largest window that a zstd decoder takes, as a power of two; `zstd --long` needs 27.
const ZSTD_WINDOW: u32 = 27;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// Recognises a compressed file by its first bytes: an address may end in anything.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(&[0x1f, 0x8b, 0x08]) {
            Some(Self::Gzip)
        } else if head.starts_with(b"\xfd7zXZ\0") {
            Some(Self::Xz)
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else {
            None
        }
    }

    fn decoder<'a>(self, source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        let source = BufReader::with_capacity(1 << 18, source);
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Self::Xz => {
                let stream = xz2::stream::Stream::new_stream_decoder(XZ_MEMORY, xz2::stream::CONCATENATED)
                    .map_err(io::Error::from)?;
                Box::new(xz2::bufread::XzDecoder::new_stream(source, stream))
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// Why a file was not unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    /// More comes out than is accepted.
    Bomb,
    /// It is damaged, or reading or writing failed.
    Stream(StreamError),
}

/// Unpacks a file, leaves holes where it is zero, and returns the digest of what came out.
pub(crate) fn unpack(
    compression: Compression,
    source: impl Read,
    target: &mut fs::File,
    limit: ByteSize,
    progress: &Progress<'_>,
) -> Result<Digest, UnpackError> {
    let decoder = compression.decoder(source).map_err(|error| UnpackError::Stream(error.into()))?;
    let mut limited = Limited { inner: decoder, left: limit.bytes(), exceeded: false };
    let result = copy_sparse(&mut limited, target, Algorithm::Sha256, progress);
    if limited.exceeded { Err(UnpackError::Bomb) } else { result.map_err(UnpackError::Stream) }
}

/// Fails, rather than ends, behind a number of bytes.
struct Limited<R> {
    inner: R,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let Some(left) = self.left.checked_sub(count as u64) else {
            self.exceeded = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        self.left = left;
        Ok(count)
    }
}
