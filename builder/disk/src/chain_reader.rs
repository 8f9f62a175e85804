//! A chain of qcow2 overlays, read without QEMU: no mount, no daemon and no privilege is needed, and several threads
//! read at once.
//!
//! Source of the format: QEMU, docs/interop/qcow2.txt. Names that stand in the files are never followed.

use std::borrow::Cow;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use flate2::{Decompress, FlushDecompress, Status};
use fs_err::File;

use crate::inspect::{CompressionKind, Format, Header, Limits, parse_overlay_header};
use crate::read_disk::ReadDisk;

/// Sub-clusters of a cluster, where there are any.
const SUB_CLUSTERS: u64 = 32;

/// The largest disk and file; the files were inspected when they came.
const NO_LIMITS: Limits = Limits { virtual_size: u64::MAX >> 1, file_size: u64::MAX >> 1 };

/// The disk that a chain of files makes, read-only.
#[derive(Debug)]
pub struct ChainReader {
    /// From the top down.
    layers: Vec<Layer>,
    size: u64,
}

#[derive(Debug)]
enum Layer {
    Raw { file: File, size: u64 },
    Qcow2(Qcow2),
}

#[derive(Debug)]
struct Qcow2 {
    file: File,
    length: u64,
    header: Header,
    /// The L2 table of each L1 entry; nothing is allocated in its range where it is empty.
    tables: Vec<Vec<u64>>,
}

/// Where a run of bytes comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Below,
    Zeros,
    At(u64),
    /// A compressed cluster: where it begins, how many bytes it may have, and the place of the wanted bytes in it.
    Compressed {
        offset: u64,
        length: u64,
        inside: u64,
    },
}

impl ChainReader {
    /// Reads the tables of the files, given from the bottom up. The disk has the size of the topmost.
    ///
    /// Nobody may write to the files meanwhile. A file of a format that it does not have is an error of the kind
    /// `InvalidData`.
    pub fn open(files: impl IntoIterator<Item = (File, Format)>) -> io::Result<Self> {
        let mut layers =
            files.into_iter().map(|(file, format)| Layer::open(file, format)).collect::<Result<Vec<_>, _>>()?;
        layers.reverse();
        let size = layers.first().ok_or(io::ErrorKind::InvalidInput)?.size();
        Ok(Self { layers, size })
    }

    /// Fills a buffer from the layer at `depth` and those below it.
    fn read(&self, depth: usize, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let Some(layer) = self.layers.get(depth) else {
            buffer.fill(0);
            return Ok(());
        };
        while !buffer.is_empty() {
            let (place, length) = layer.run(offset, buffer.len() as u64);
            let length = usize::try_from(length).expect("a run is no longer than the buffer");
            let (piece, rest) = std::mem::take(&mut buffer).split_at_mut(length);
            match place {
                Place::Below => self.read(depth + 1, offset, piece)?,
                Place::Zeros => piece.fill(0),
                Place::At(at) => layer.read_at(at, piece)?,
                Place::Compressed { offset, length, inside } => layer.decompress(offset, length, inside, piece)?,
            }
            offset += length as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Whether a run may hold data, and how long the run is for which that holds.
    fn data(&self, depth: usize, offset: u64, most: u64) -> io::Result<(bool, u64)> {
        let Some(layer) = self.layers.get(depth) else { return Ok((false, most)) };
        let (place, length) = layer.run(offset, most);
        match place {
            Place::Below => self.data(depth + 1, offset, length),
            Place::Zeros => Ok((false, length)),
            Place::Compressed { .. } => Ok((true, length)),
            Place::At(at) => match layer {
                Layer::Qcow2(_) => Ok((true, length)),
                Layer::Raw { file, .. } => Ok(match file.next_data(at)? {
                    Some(data) if data.start <= at => (true, length.min(data.end - at)),
                    Some(data) => (false, length.min(data.start - at)),
                    None => (false, length),
                }),
            },
        }
    }
}

impl ReadDisk for ChainReader {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read(0, offset, buffer)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut at = from;
        while at < self.size {
            match self.data(0, at, self.size - at)? {
                (true, length) => return Ok(Some(at..at + length)),
                (false, length) => at += length,
            }
        }
        Ok(None)
    }
}

impl Layer {
    fn open(file: File, format: Format) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(match format {
            Format::Raw => Self::Raw { size: length, file },
            Format::Qcow2 => Self::Qcow2(Qcow2::open(file, length)?),
        })
    }

    fn size(&self) -> u64 {
        match self {
            Self::Raw { size, .. } => *size,
            Self::Qcow2(qcow2) => qcow2.header.virtual_size,
        }
    }

    fn file(&self) -> &File {
        match self {
            Self::Raw { file, .. } => file,
            Self::Qcow2(qcow2) => &qcow2.file,
        }
    }

    /// Where the bytes from `offset` on come from, and for how many of them, at most `most`, that is true.
    fn run(&self, offset: u64, most: u64) -> (Place, u64) {
        // A disk that is smaller than those above it reads as zeros behind its end.
        let left = self.size().saturating_sub(offset);
        if left == 0 {
            return (Place::Zeros, most);
        }
        let most = most.min(left);
        match self {
            Self::Raw { .. } => (Place::At(offset), most),
            Self::Qcow2(qcow2) => qcow2.run(offset, most),
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file().file().read_exact_at(buffer, offset).map_err(|error| crate::named(self.file(), &error))
    }

    fn decompress(&self, offset: u64, length: u64, inside: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Self::Qcow2(qcow2) = self else { unreachable!("only qcow2 has compressed clusters") };
        let cluster = qcow2.decompress(offset, length).map_err(|error| crate::named(&qcow2.file, &error))?;
        let inside = usize::try_from(inside).expect("a place in a cluster");
        buffer.copy_from_slice(&cluster[inside..inside + buffer.len()]);
        Ok(())
    }
}

impl Qcow2 {
    fn open(file: File, length: u64) -> io::Result<Self> {
        let damaged = |text: Cow<'static, str>| {
            crate::named(&file, &io::Error::new(io::ErrorKind::InvalidData, text.into_owned()))
        };
        let read = |offset: u64, size: u64| -> io::Result<Vec<u8>> {
            if offset.checked_add(size).is_none_or(|end| end > length) {
                return Err(damaged("a table lies outside the file".into()));
            }
            let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?];
            file.file().read_exact_at(&mut bytes, offset).map_err(|error| crate::named(&file, &error))?;
            Ok(bytes)
        };
        let head = read(0, length.min(2 << 20))?;
        let header =
            parse_overlay_header(&head, length, &NO_LIMITS).map_err(|refusal| damaged(refusal.to_string().into()))?;
        let l1 = read(header.l1_offset, u64::from(header.l1_entries) * 8)?;
        let tables = words(&l1)
            .map(|entry| match entry & Header::OFFSET {
                0 => Ok(Vec::new()),
                offset => Ok(words(&read(offset, header.cluster())?).collect()),
            })
            .collect::<io::Result<Vec<Vec<u64>>>>()?;
        Ok(Self { file, length, header, tables })
    }

    fn run(&self, offset: u64, most: u64) -> (Place, u64) {
        let cluster = self.header.cluster();
        let reach = cluster * self.header.l2_entries();
        let table = usize::try_from(offset / reach).ok().and_then(|index| self.tables.get(index));
        let Some(table) = table.filter(|table| !table.is_empty()) else {
            return (Place::Below, most.min(reach - offset % reach));
        };
        let (first, mut length) = self.entry(table, offset, offset % reach / cluster);
        // Neighbours that continue the run are read in one go.
        while length < most && !(offset + length).is_multiple_of(reach) {
            let next = offset + length;
            let (place, more) = self.entry(table, next, next % reach / cluster);
            let continues = match (first, place) {
                (Place::Below, Place::Below) | (Place::Zeros, Place::Zeros) => true,
                (Place::At(start), Place::At(here)) => start + length == here,
                _ => false,
            };
            if !continues {
                break;
            }
            length += more;
        }
        (first, length.min(most))
    }

    /// Where the bytes at `offset` are, and how many of them to the end of the cluster or sub-cluster.
    fn entry(&self, table: &[u64], offset: u64, index: u64) -> (Place, u64) {
        let cluster = self.header.cluster();
        let inside = offset % cluster;
        let index = usize::try_from(index).expect("an index of a table in memory");
        let (entry, bitmap) =
            if self.header.extended_l2 { (table[2 * index], Some(table[2 * index + 1])) } else { (table[index], None) };
        if entry & Header::COMPRESSED != 0 {
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry & (Header::COMPRESSED - 1)) >> offset_bits) + 1;
            // Whole sectors are counted from the one in which the cluster begins; the last may be cut off.
            let end = ((offset & !511) + sectors * 512).min(self.length);
            let place = Place::Compressed { offset, length: end.saturating_sub(offset), inside };
            return (place, cluster - inside);
        }
        let at = entry & Header::OFFSET;
        let Some(bitmap) = bitmap else {
            let place = if entry & Header::ZERO != 0 && self.header.version >= 3 {
                Place::Zeros
            } else if at == 0 {
                Place::Below
            } else {
                Place::At(at + inside)
            };
            return (place, cluster - inside);
        };
        let sub = cluster / SUB_CLUSTERS;
        let bit = inside / sub;
        let place = if bitmap >> bit & 1 != 0 {
            Place::At(at + inside)
        } else if bitmap >> (SUB_CLUSTERS + bit) & 1 != 0 {
            Place::Zeros
        } else {
            Place::Below
        };
        (place, sub - inside % sub)
    }

    fn decompress(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut compressed = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.file.file().read_exact_at(&mut compressed, offset)?;
        let mut plain = vec![0; usize::try_from(self.header.cluster()).expect("at most 2 MiB")];
        match self.header.compression {
            CompressionKind::Zstd => {
                // The frame ends somewhere in the last sector; what is behind it belongs to others.
                zstd::stream::read::Decoder::with_buffer(compressed.as_slice())?
                    .single_frame()
                    .read_exact(&mut plain)?;
            }
            CompressionKind::Deflate => {
                let mut inflate = Decompress::new(false);
                let status = inflate.decompress(&compressed, &mut plain, FlushDecompress::Finish);
                let whole = inflate.total_out() == self.header.cluster();
                if !whole || !matches!(status, Ok(Status::StreamEnd | Status::Ok | Status::BufError)) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a compressed cluster is damaged"));
                }
            }
        }
        Ok(plain)
    }
}

/// Big-endian numbers of 64 bits.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("the chunk has 8 bytes")))
}
