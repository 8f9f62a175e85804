//! How one cluster is stored.

use std::io;

use flate2::{Compress, FlushCompress, Status};

use super::{CLUSTER, Compression};

/// Level 3 took a seventh of the time of QEMU's own zlib for the same size; higher levels gain little.
const ZSTD_LEVEL: i32 = 3;
const ZLIB_LEVEL: u32 = 6;
/// QEMU writes windows of 4 KiB, and readers that inflate piece by piece rely on it.
const ZLIB_WINDOW_BITS: u8 = 12;

/// A cluster as it goes into the file.
pub(super) enum Cluster {
    /// Smaller than the cluster.
    Compressed(Vec<u8>),
    /// As it is.
    Plain(Vec<u8>),
}

/// Compresses cluster by cluster; what comes out depends on nothing but the cluster.
pub(super) enum Encoder {
    Zstd(Box<zstd::bulk::Compressor<'static>>, Vec<u8>),
    Zlib(Box<Compress>, Vec<u8>),
    None,
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        // What does not fit into one sector less than a cluster is stored plain: compressing it would gain nothing.
        let output = || vec![0; CLUSTER - 512];
        Ok(match compression {
            Compression::Zstd => Self::Zstd(Box::new(zstd::bulk::Compressor::new(ZSTD_LEVEL)?), output()),
            Compression::Zlib => {
                let level = flate2::Compression::new(ZLIB_LEVEL);
                Self::Zlib(Box::new(Compress::new_with_window_bits(level, false, ZLIB_WINDOW_BITS)), output())
            }
            Compression::None => Self::None,
        })
    }

    pub(super) fn encode(&mut self, plain: &[u8]) -> io::Result<Cluster> {
        let compressed = match self {
            Self::Zstd(compressor, output) => match compressor.compress_to_buffer(plain, output.as_mut_slice()) {
                Ok(length) => Some(output[..length].to_vec()),
                // The only reason for which compressing in memory fails is that the output is too small.
                Err(_) => None,
            },
            Self::Zlib(compress, output) => {
                compress.reset();
                let status = compress.compress(plain, output, FlushCompress::Finish).map_err(io::Error::other)?;
                let length = usize::try_from(compress.total_out()).expect("the output is smaller than a cluster");
                (status == Status::StreamEnd).then(|| output[..length].to_vec())
            }
            Self::None => None,
        };
        Ok(compressed.map_or_else(|| Cluster::Plain(plain.to_vec()), Cluster::Compressed))
    }
}
