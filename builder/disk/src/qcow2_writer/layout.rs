//! Where everything goes in the file, and its tables. Source: QEMU, docs/interop/qcow2.txt.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::encode::Cluster;
use super::{CLUSTER, Compression};

const CLUSTER_BYTES: u64 = CLUSTER as u64;
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Reference counts of 16 bits, the default.
const REFCOUNT_ORDER: u32 = 4;
const BLOCK_ENTRIES: u64 = CLUSTER_BYTES / 2;

/// 64 TiB: an L1 table of 1 MiB.
pub(super) const LARGEST_DISK: u64 = 64 << 40;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where the number of additional sectors begins in the descriptor of a compressed cluster: 62 - (16 - 8).
const SECTORS_SHIFT: u32 = 54;

/// How much is collected before it is written, in bytes.
const BUFFER: usize = 1 << 20;

const HEADER_LENGTH: u32 = 112;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;

/// A file that grows from the front to the back, with the tables that describe it.
pub(super) struct Layout<'a> {
    file: &'a File,
    size: u64,
    compression: Compression,
    /// Where the next byte goes.
    end: u64,
    /// The bytes in front of `end` that are not in the file yet.
    pending: Vec<u8>,
    /// One for each cluster of the file.
    refcounts: Vec<u16>,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its place in the L1 table.
    l2: Vec<u64>,
    l2_index: Option<usize>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(file: &'a File, size: u64, compression: Compression) -> Self {
        let entries = size.div_ceil(CLUSTER_BYTES * L2_ENTRIES);
        Self {
            file,
            size,
            compression,
            // The header has the first cluster.
            end: CLUSTER_BYTES,
            pending: Vec::with_capacity(BUFFER + CLUSTER),
            refcounts: vec![1],
            l1: vec![0; usize::try_from(entries).expect("the size was checked")],
            l2: vec![0; usize::try_from(L2_ENTRIES).expect("a table is small")],
            l2_index: None,
        }
    }

    /// Stores the cluster with this number on the disk; numbers only rise.
    pub(super) fn store(&mut self, number: u64, cluster: &Cluster) -> io::Result<()> {
        let index = usize::try_from(number / L2_ENTRIES).expect("the size was checked");
        if self.l2_index != Some(index) {
            self.finish_l2()?;
            self.l2_index = Some(index);
        }
        let entry = match cluster {
            Cluster::Compressed(bytes) => {
                let begin = self.append(bytes)?;
                let sectors = ((self.end - 1) >> 9) - (begin >> 9);
                COMPRESSED | sectors << SECTORS_SHIFT | begin
            }
            Cluster::Plain(bytes) => {
                self.align()?;
                COPIED | self.append(bytes)?
            }
        };
        self.l2[usize::try_from(number % L2_ENTRIES).expect("a table is small")] = entry;
        Ok(())
    }

    /// Writes what is still missing, the header last, and returns the size of the file.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.finish_l2()?;
        self.align()?;
        let l1 = std::mem::take(&mut self.l1);
        let l1_offset = self.append(&big_endian(&l1))?;
        self.align()?;
        // The reference counts count the clusters that they are in, too.
        let others = self.end / CLUSTER_BYTES;
        let (blocks, table_clusters) = refcount_clusters(others);
        let blocks_offset = self.end;
        self.count(self.end, (blocks + table_clusters) * CLUSTER_BYTES);
        let mut refcounts = std::mem::take(&mut self.refcounts);
        refcounts.resize(usize::try_from(blocks * BLOCK_ENTRIES).expect("the size was checked"), 0);
        for block in refcounts.chunks(usize::try_from(BLOCK_ENTRIES).expect("a block is small")) {
            let bytes: Vec<u8> = block.iter().flat_map(|count| count.to_be_bytes()).collect();
            self.append_uncounted(&bytes)?;
        }
        let table: Vec<u64> = (0..blocks).map(|block| blocks_offset + block * CLUSTER_BYTES).collect();
        let table_offset = self.append_uncounted(&big_endian(&table))?;
        let rest = self.end.next_multiple_of(CLUSTER_BYTES) - self.end;
        self.append_uncounted(&vec![0; usize::try_from(rest).expect("less than a cluster")])?;
        self.flush()?;
        let header = self.header(l1.len(), l1_offset, table_offset, table_clusters);
        self.file.write_all_at(&header, 0)?;
        Ok(self.end)
    }

    fn header(&self, l1_entries: usize, l1_offset: u64, table_offset: u64, table_clusters: u64) -> Vec<u8> {
        let zstd = self.compression == Compression::Zstd;
        let mut header = Vec::with_capacity(CLUSTER);
        let word = |value: u64| u32::try_from(value).expect("the size was checked").to_be_bytes();
        header.extend_from_slice(b"QFI\xfb");
        header.extend_from_slice(&3_u32.to_be_bytes());
        // No backing file.
        header.extend_from_slice(&[0; 12]);
        header.extend_from_slice(&CLUSTER.trailing_zeros().to_be_bytes());
        header.extend_from_slice(&self.size.to_be_bytes());
        // No encryption.
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&word(l1_entries as u64));
        header.extend_from_slice(&l1_offset.to_be_bytes());
        header.extend_from_slice(&table_offset.to_be_bytes());
        header.extend_from_slice(&word(table_clusters));
        // No snapshots.
        header.extend_from_slice(&[0; 12]);
        header.extend_from_slice(&if zstd { INCOMPATIBLE_COMPRESSION } else { 0 }.to_be_bytes());
        // No compatible and no autoclear features.
        header.extend_from_slice(&[0; 16]);
        header.extend_from_slice(&REFCOUNT_ORDER.to_be_bytes());
        header.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
        header.push(u8::from(zstd));
        // The rest is zero: padding, and the end of the list of extensions.
        header.resize(CLUSTER, 0);
        header
    }

    fn finish_l2(&mut self) -> io::Result<()> {
        let Some(index) = self.l2_index.take() else { return Ok(()) };
        self.align()?;
        let bytes = big_endian(&self.l2);
        self.l1[index] = COPIED | self.append(&bytes)?;
        self.l2.fill(0);
        Ok(())
    }

    /// Fills up to the end of the cluster.
    fn align(&mut self) -> io::Result<()> {
        let rest = self.end.next_multiple_of(CLUSTER_BYTES) - self.end;
        self.append_uncounted(&vec![0; usize::try_from(rest).expect("less than a cluster")])?;
        Ok(())
    }

    /// Appends bytes that something refers to, and returns their place.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.count(self.end, bytes.len() as u64);
        self.append_uncounted(bytes)
    }

    fn append_uncounted(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let begin = self.end;
        self.pending.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
        if self.pending.len() >= BUFFER {
            self.flush()?;
        }
        Ok(begin)
    }

    /// Adds one reference to each cluster that the bytes touch.
    fn count(&mut self, begin: u64, length: u64) {
        let clusters = begin / CLUSTER_BYTES..(begin + length).div_ceil(CLUSTER_BYTES);
        let range = usize::try_from(clusters.start).expect("the file fits into memory's address space")
            ..usize::try_from(clusters.end).expect("the file fits into memory's address space");
        if range.end > self.refcounts.len() {
            self.refcounts.resize(range.end, 0);
        }
        for count in &mut self.refcounts[range] {
            *count += 1;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending, self.end - self.pending.len() as u64)?;
        self.pending.clear();
        Ok(())
    }
}

/// How many clusters the refcount blocks and the refcount table need, themselves included.
fn refcount_clusters(others: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (1_u64, 1_u64);
    loop {
        let needed_blocks = (others + blocks + table).div_ceil(BLOCK_ENTRIES);
        let needed_table = needed_blocks.div_ceil(CLUSTER_BYTES / 8);
        if needed_blocks <= blocks && needed_table <= table {
            return (blocks, table);
        }
        (blocks, table) = (needed_blocks.max(blocks), needed_table.max(table));
    }
}

fn big_endian(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}
