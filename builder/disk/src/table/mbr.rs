//! The master boot record: four primary partitions and a chain of logical ones.

use fs_err::File;

use super::{
    ALIGNMENT, Damage, Partition, PartitionKind, Partitions, SECTOR, Scheme, TableError, check_places, le32, read_at,
    write_at,
};

/// More logical partitions than Linux shows.
const MOST_LOGICAL: u32 = 60;

/// Where the four entries begin.
const ENTRIES: usize = 446;

/// Where the four bytes are that tell the disk from others.
const SIGNATURE: usize = 440;

pub(super) const fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

struct Entry {
    active: u8,
    kind: u8,
    start: u64,
    sectors: u64,
}

fn entry(sector: &[u8], index: usize) -> Option<Entry> {
    let at = ENTRIES + index * 16;
    let entry = Entry {
        active: sector[at],
        kind: sector[at + 4],
        start: le32(sector, at + 8).into(),
        sectors: le32(sector, at + 12).into(),
    };
    (entry.kind != 0 && entry.sectors != 0).then_some(entry)
}

fn partition(number: u32, start_sector: u64, entry: &Entry) -> Partition {
    Partition {
        number,
        start_sector,
        sectors: entry.sectors,
        kind: PartitionKind::Byte(entry.kind),
        unique_guid: None,
        name: String::new(),
        attributes: u64::from(entry.active & 0x80),
    }
}

/// Reads the partitions. Nothing if the sector has no signature, or is the boot sector of a file system.
pub(super) fn read(disk: &File, mbr: &[u8], sectors: u64) -> Result<Option<Partitions>, TableError> {
    if mbr[510..512] != [0x55, 0xaa] || (0..4).any(|index| mbr[ENTRIES + index * 16] & 0x7f != 0) {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    let mut logical = Vec::new();
    for (number, index) in (1..).zip(0..4) {
        let Some(entry) = entry(mbr, index) else { continue };
        partitions.push(partition(number, entry.start, &entry));
        if is_extended(entry.kind) {
            read_logical(disk, entry.start, sectors, &mut logical)?;
        }
    }
    if partitions.is_empty() {
        return Ok(None);
    }
    check_places(disk, &partitions, 1, sectors.saturating_sub(1))?;
    let mut logical: Vec<Partition> = logical.into_iter().map(|logical| logical.partition).collect();
    check_places(disk, &logical, 1, sectors.saturating_sub(1))?;
    partitions.append(&mut logical);
    let disk_signature = Some(le32(mbr, SIGNATURE)).filter(|signature| *signature != 0);
    Ok(Some(Partitions { scheme: Scheme::Mbr, disk_guid: None, disk_signature, partitions }))
}

/// A logical partition with the sectors that tell of it.
struct Logical {
    partition: Partition,
    /// The sector with its entry.
    own: u64,
    /// The sector whose second entry leads to that one; the first of a chain has none.
    link: Option<u64>,
}

/// Follows a chain of logical partitions from the start of an extended one on.
fn read_logical(disk: &File, base: u64, sectors: u64, found: &mut Vec<Logical>) -> Result<(), TableError> {
    let damaged = |reason| TableError::Damaged { path: disk.path().to_owned(), reason };
    let (mut at, mut link) = (base, None);
    for _ in 0..MOST_LOGICAL {
        let number = 5 + u32::try_from(found.len()).expect("at most 240");
        if at >= sectors {
            return Err(damaged(Damage::Outside { number }));
        }
        let sector = read_at(disk, at * SECTOR, 512)?;
        if sector[510..512] != [0x55, 0xaa] {
            return Ok(());
        }
        if let Some(entry) = entry(&sector, 0) {
            found.push(Logical { partition: partition(number, at + entry.start, &entry), own: at, link });
        }
        match entry(&sector, 1) {
            Some(next) if is_extended(next.kind) => (link, at) = (Some(at), base + next.start),
            _ => return Ok(()),
        }
    }
    Err(damaged(Damage::Endless))
}

/// Extends a partition to the end of the disk, and the extended partition with it that a logical one is in. The
/// caller has made sure that nothing else is behind it.
pub(super) fn grow(disk: &File, number: u32, disk_sectors: u64) -> Result<(), TableError> {
    let path = || disk.path().to_owned();
    // An MBR counts sectors with 32 bits.
    let end = disk_sectors.min(u64::from(u32::MAX)) / ALIGNMENT * ALIGNMENT;
    let mbr = read_at(disk, 0, 512)?;
    if number <= 4 {
        let index = usize::try_from(number).expect("at most 4") - 1;
        let old = entry(&mbr, index).ok_or_else(|| TableError::NoPartition { path: path(), number })?;
        return extend(disk, 0, index, end.saturating_sub(old.start));
    }
    let sectors = super::sectors(disk)?;
    for index in 0..4 {
        let Some(extended) = entry(&mbr, index).filter(|entry| is_extended(entry.kind)) else { continue };
        let mut logical = Vec::new();
        read_logical(disk, extended.start, sectors, &mut logical)?;
        let Some(target) = logical.iter().find(|logical| logical.partition.number == number) else { continue };
        // From the outside in: at no moment does a partition leave the one that it is in.
        extend(disk, 0, index, end.saturating_sub(extended.start))?;
        if let Some(link) = target.link {
            extend(disk, link, 1, end.saturating_sub(target.own))?;
        }
        return extend(disk, target.own, 0, end.saturating_sub(target.partition.start_sector));
    }
    Err(TableError::NoPartition { path: path(), number })
}

/// Gives an entry of a table at `sector` more sectors; never fewer. Everything else in it stays.
fn extend(disk: &File, sector: u64, index: usize, sectors: u64) -> Result<(), TableError> {
    let mut bytes = read_at(disk, sector * SECTOR, 512)?;
    let field = &mut bytes[ENTRIES + index * 16 + 12..][..4];
    let old = u32::from_le_bytes(field.try_into().expect("four bytes"));
    let new = u32::try_from(sectors).expect("an end and a start have 32 bits");
    if new <= old {
        return Ok(());
    }
    field.copy_from_slice(&new.to_le_bytes());
    write_at(disk, sector * SECTOR, &bytes)?;
    disk.sync_data().map_err(|source| TableError::Disk { source })
}
