//! The qcow2 header and tables. Source: QEMU, docs/interop/qcow2.txt.

use super::{CompressionKind, Limits, Problem, Refusal};

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// The header and its extensions lie inside the first cluster.
pub(super) const LARGEST_CLUSTER: u64 = 2 << 20;

/// QEMU's own limits on the two tables, in bytes.
const LARGEST_L1: u64 = 32 << 20;
const LARGEST_REFCOUNT_TABLE: u64 = 8 << 20;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// Bits 9 to 55 of an entry are the place of a table or cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the reference count is exactly one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// How much of a table is read at once, in bytes.
const PIECE: u64 = 1 << 20;

/// A header that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The exponent of the cluster size.
    pub cluster_bits: u32,
    /// The size of the disk that the guest sees, in bytes.
    pub virtual_size: u64,
    /// Entries in the L1 table.
    pub l1_entries: u32,
    /// Where the L1 table begins, in bytes.
    pub l1_offset: u64,
    /// Where the refcount table begins, in bytes.
    pub refcount_offset: u64,
    /// How many clusters the refcount table has.
    pub refcount_clusters: u32,
    /// The exponent of the width of a reference count in bits.
    pub refcount_order: u32,
    /// What compressed clusters are compressed with.
    pub compression: CompressionKind,
    /// Whether L2 entries have a bitmap of sub-clusters.
    pub extended_l2: bool,
}

#[cfg(feature = "writer")]
impl Header {
    /// The part of an L1 or L2 entry that is a place in the file.
    pub(crate) const OFFSET: u64 = OFFSET;
    /// The bit of an L2 entry that says that its cluster is compressed.
    pub(crate) const COMPRESSED: u64 = COMPRESSED;
    /// The bit of a plain L2 entry of version 3 that says that its cluster reads as zeros.
    pub(crate) const ZERO: u64 = ZERO;
}

impl Header {
    /// The cluster size in bytes.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries in an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster() / self.l2_entry_size()
    }

    fn l2_entry_size(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }
}

/// Reads the header and its extensions from the first bytes of a file of `length` bytes.
///
/// `head` should hold the first 2 MiB or the whole file, whichever is less. Reads nothing and allocates nothing; for
/// any bytes it returns a header whose two tables lie inside the file, or a reason.
pub fn parse_header(head: &[u8], length: u64, limits: &Limits) -> Result<Header, Refusal> {
    let word = |at| be32(head, at).ok_or(Refusal::HeaderTruncated);
    let long = |at| be64(head, at).ok_or(Refusal::HeaderTruncated);
    let version = word(4)?;
    if !matches!(version, 2 | 3) {
        return Err(Refusal::Version { version });
    }
    let (features, refcount_order, header_length) =
        if version == 2 { (0, 4, 72) } else { (long(72)?, word(96)?, word(100)?) };
    if long(8)? != 0 {
        return Err(Refusal::BackingFile);
    }
    if word(32)? != 0 {
        return Err(Refusal::Encrypted);
    }
    check_features(features)?;
    let cluster_bits = word(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Refusal::ClusterBits { bits: cluster_bits });
    }
    let cluster = 1_u64 << cluster_bits;
    let shortest = if version == 2 { 72 } else { 104 };
    if header_length < shortest || u64::from(header_length) > cluster || !header_length.is_multiple_of(8) {
        return Err(Refusal::HeaderLength { length: header_length });
    }
    if refcount_order > 6 {
        return Err(Refusal::RefcountOrder { order: refcount_order });
    }
    let compression = compression(head, features, header_length)?;
    let extended_l2 = features & EXTENDED_L2 != 0;
    if extended_l2 && cluster_bits < 14 {
        return Err(Refusal::ExtendedL2 { bits: cluster_bits });
    }
    let snapshots = word(60)?;
    if snapshots != 0 {
        return Err(Refusal::Snapshots { count: snapshots });
    }
    let header = Header {
        version,
        cluster_bits,
        virtual_size: long(24)?,
        l1_entries: word(36)?,
        l1_offset: long(40)?,
        refcount_offset: long(48)?,
        refcount_clusters: word(56)?,
        refcount_order,
        compression,
        extended_l2,
    };
    check_extensions(head, header_length, cluster)?;
    check_size(&header, limits)?;
    check_places(&header, length)?;
    Ok(header)
}

/// As [`parse_header`], for an overlay of our own: it may name a disk below, which is not followed.
#[cfg(feature = "writer")]
pub(crate) fn parse_overlay_header(head: &[u8], length: u64, limits: &Limits) -> Result<Header, Refusal> {
    let mut head = head.to_vec();
    // The place and the length of the name.
    if let Some(name) = head.get_mut(8..20) {
        name.fill(0);
    }
    parse_header(&head, length, limits)
}

fn check_features(features: u64) -> Result<(), Refusal> {
    if features & DATA_FILE != 0 {
        return Err(Refusal::DataFile);
    }
    if features & CORRUPT != 0 {
        return Err(Refusal::MarkedCorrupt);
    }
    if features & DIRTY != 0 {
        return Err(Refusal::Dirty);
    }
    let unknown = features & !(COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(Refusal::UnknownFeatures { bits: unknown });
    }
    Ok(())
}

/// The type is a byte behind the shortest header; it may be other than 0 only if the feature bit says so.
fn compression(head: &[u8], features: u64, header_length: u32) -> Result<CompressionKind, Refusal> {
    let kind = if header_length > 104 { *head.get(104).ok_or(Refusal::HeaderTruncated)? } else { 0 };
    match (features & COMPRESSION != 0, kind) {
        (false, 0) => Ok(CompressionKind::Deflate),
        (true, 1) => Ok(CompressionKind::Zstd),
        _ => Err(Refusal::CompressionType { kind }),
    }
}

/// Unknown extensions are for others and harmless; three known ones lead outside what we accept.
fn check_extensions(head: &[u8], header_length: u32, cluster: u64) -> Result<(), Refusal> {
    let mut at = u64::from(header_length);
    while at + 8 <= cluster {
        let place = usize::try_from(at).map_err(|_| Refusal::HeaderTruncated)?;
        let kind = be32(head, place).ok_or(Refusal::HeaderTruncated)?;
        let size = be32(head, place + 4).ok_or(Refusal::HeaderTruncated)?;
        match kind {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(Refusal::DataFile),
            EXTENSION_ENCRYPTION => return Err(Refusal::Encrypted),
            EXTENSION_BITMAPS => return Err(Refusal::Bitmaps),
            _ => {}
        }
        // Each one is padded to a multiple of 8.
        at += 8 + u64::from(size).next_multiple_of(8);
        if at > cluster {
            return Err(Refusal::Extension { kind });
        }
    }
    Ok(())
}

fn check_size(header: &Header, limits: &Limits) -> Result<(), Refusal> {
    let size = header.virtual_size;
    if size == 0 {
        return Err(Refusal::Empty);
    }
    if size > limits.virtual_size {
        return Err(Refusal::VirtualSizeTooLarge { size, limit: limits.virtual_size });
    }
    if !size.is_multiple_of(512) {
        return Err(Refusal::UnevenSize { size });
    }
    let needed = size.div_ceil(header.cluster() * header.l2_entries());
    let entries = u64::from(header.l1_entries);
    if entries * 8 > LARGEST_L1 {
        return Err(Refusal::TableTooLarge { table: "L1", entries, limit: LARGEST_L1 / 8 });
    }
    if entries < needed {
        return Err(Refusal::L1TooSmall { entries, needed });
    }
    Ok(())
}

fn check_places(header: &Header, length: u64) -> Result<(), Refusal> {
    let refcount_size = u64::from(header.refcount_clusters) * header.cluster();
    if refcount_size == 0 {
        return Err(Refusal::NoRefcounts);
    }
    if refcount_size > LARGEST_REFCOUNT_TABLE {
        let (entries, limit) = (refcount_size / 8, LARGEST_REFCOUNT_TABLE / 8);
        return Err(Refusal::TableTooLarge { table: "refcount", entries, limit });
    }
    let l1_size = u64::from(header.l1_entries) * 8;
    check_place("L1", header.l1_offset, l1_size, header.cluster(), length)?;
    check_place("refcount", header.refcount_offset, refcount_size, header.cluster(), length)?;
    let apart = header.l1_offset + l1_size <= header.refcount_offset
        || header.refcount_offset + refcount_size <= header.l1_offset;
    if apart { Ok(()) } else { Err(Refusal::TablesOverlap { first: "L1", second: "refcount" }) }
}

fn check_place(table: &'static str, offset: u64, size: u64, cluster: u64, length: u64) -> Result<(), Refusal> {
    if offset < cluster || !offset.is_multiple_of(cluster) {
        return Err(Refusal::TableOffset { table, offset });
    }
    if offset.checked_add(size).is_none_or(|end| end > length) {
        return Err(Refusal::TableOutside { table, offset, length });
    }
    Ok(())
}

/// Follows every table of a header that [`parse_header`] accepted. Returns whether any cluster is compressed.
///
/// `read` gives bytes that are inside the file. Tables of more bytes than the file has are refused, so the work is
/// bounded by its length, however often the same table is named.
pub(super) fn check_tables(
    header: &Header,
    length: u64,
    mut read: impl FnMut(u64, u64) -> Result<Vec<u8>, Problem>,
) -> Result<bool, Problem> {
    let cluster = header.cluster();
    let refcount_size = u64::from(header.refcount_clusters) * cluster;
    for_each_entry(header.refcount_offset, refcount_size, &mut read, |entry| {
        if entry & !0xffff_ffff_ffff_fe00 != 0 {
            return Err(Refusal::ReservedBits { table: "refcount", entry });
        }
        if entry == 0 { Ok(()) } else { check_place("refcount block", entry, cluster, cluster, length) }
    })?;

    let mut tables = Vec::new();
    let room = length / cluster;
    let mut index = 0_u64;
    for_each_entry(header.l1_offset, u64::from(header.l1_entries) * 8, &mut read, |entry| {
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(Refusal::ReservedBits { table: "L1", entry });
        }
        let offset = entry & OFFSET;
        if offset != 0 {
            check_place("L2", offset, cluster, cluster, length)?;
            tables.push((index, offset));
            let count = tables.len() as u64;
            if count > room {
                return Err(Refusal::TooManyL2Tables { tables: count });
            }
        }
        index += 1;
        Ok(())
    })?;

    let mut compressed = false;
    for (index, offset) in tables {
        let table = read(offset, cluster)?;
        let mut guest = index.saturating_mul(header.l2_entries()).saturating_mul(cluster);
        for entry in table.chunks_exact(if header.extended_l2 { 16 } else { 8 }) {
            let descriptor = be64(entry, 0).expect("an entry has at least 8 bytes");
            let bitmap = be64(entry, 8);
            compressed |= descriptor & COMPRESSED != 0;
            check_entry(header, descriptor, bitmap, guest, length)?;
            guest = guest.saturating_add(cluster);
        }
    }
    Ok(compressed)
}

/// One L2 entry. The last cluster of the disk may be cut off where the disk ends.
fn check_entry(header: &Header, entry: u64, bitmap: Option<u64>, guest: u64, length: u64) -> Result<(), Refusal> {
    let cluster = header.cluster();
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (header.cluster_bits - 8);
        let offset = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> offset_bits) + 1;
        if entry & COPIED != 0 {
            return Err(Refusal::ReservedBits { table: "L2", entry });
        }
        if bitmap.is_some_and(|bitmap| bitmap != 0) {
            return Err(Refusal::SubClusters { bitmap: bitmap.unwrap_or_default() });
        }
        if offset < cluster {
            return Err(Refusal::ClusterOffset { offset });
        }
        // The length counts whole sectors; the last one may be cut off at the end of the file.
        let end = (offset & !511).checked_add(sectors * 512);
        return match end {
            Some(end) if end - 511 <= length => Ok(()),
            _ => Err(Refusal::ClusterOutside { offset, length }),
        };
    }
    let zero = if header.version >= 3 && bitmap.is_none() { ZERO } else { 0 };
    if entry & !(OFFSET | COPIED | zero) != 0 {
        return Err(Refusal::ReservedBits { table: "L2", entry });
    }
    let offset = entry & OFFSET;
    if let Some(bitmap) = bitmap {
        let (allocated, zeroed) = (bitmap & 0xffff_ffff, bitmap >> 32);
        if allocated & zeroed != 0 || (allocated != 0 && offset == 0) {
            return Err(Refusal::SubClusters { bitmap });
        }
    }
    if offset == 0 {
        return Ok(());
    }
    if offset < cluster || !offset.is_multiple_of(cluster) {
        return Err(Refusal::ClusterOffset { offset });
    }
    let used = header.virtual_size.saturating_sub(guest).min(cluster);
    if offset.checked_add(used).is_none_or(|end| end > length) {
        return Err(Refusal::ClusterOutside { offset, length });
    }
    Ok(())
}

fn for_each_entry(
    offset: u64,
    size: u64,
    read: &mut impl FnMut(u64, u64) -> Result<Vec<u8>, Problem>,
    mut check: impl FnMut(u64) -> Result<(), Refusal>,
) -> Result<(), Problem> {
    let mut done = 0;
    while done < size {
        let piece = read(offset + done, (size - done).min(PIECE))?;
        for entry in piece.chunks_exact(8) {
            check(be64(entry, 0).expect("the chunk has 8 bytes"))?;
        }
        done += PIECE;
    }
    Ok(())
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|slice| slice.try_into().ok()).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).map(u64::from_be_bytes)
}
