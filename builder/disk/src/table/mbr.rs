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
    check_places(disk, &logical, 1, sectors.saturating_sub(1))?;
    partitions.append(&mut logical);
    Ok(Some(Partitions { scheme: Scheme::Mbr, disk_guid: None, partitions }))
}

fn read_logical(disk: &File, base: u64, sectors: u64, found: &mut Vec<Partition>) -> Result<(), TableError> {
    let damaged = |reason| TableError::Damaged { path: disk.path().to_owned(), reason };
    let mut at = base;
    for _ in 0..MOST_LOGICAL {
        let number = 5 + u32::try_from(found.len()).expect("at most 240");
        if at >= sectors {
            return Err(damaged(Damage::Outside { number }));
        }
        let sector = read_at(disk, at * SECTOR, 512)?;
        if sector[510..512] != [0x55, 0xaa] {
            return Ok(());
        }
        if let Some(own) = entry(&sector, 0) {
            found.push(partition(number, at + own.start, &own));
        }
        match entry(&sector, 1) {
            Some(next) if is_extended(next.kind) => at = base + next.start,
            _ => return Ok(()),
        }
    }
    Err(damaged(Damage::Endless))
}

/// Extends a primary partition to the end of the disk; the caller has made sure that nothing is behind it.
pub(super) fn grow(disk: &File, number: u32, disk_sectors: u64) -> Result<Partition, TableError> {
    let path = || disk.path().to_owned();
    let mut mbr = read_at(disk, 0, 512)?;
    let index = usize::try_from(number).expect("at most 244") - 1;
    if index > 3 {
        return Err(TableError::Logical { path: path(), number });
    }
    let old = entry(&mbr, index).ok_or_else(|| TableError::NoPartition { path: path(), number })?;
    // An MBR counts sectors with 32 bits.
    let end = disk_sectors.min(u64::from(u32::MAX)) / ALIGNMENT * ALIGNMENT;
    let sectors = end.saturating_sub(old.start).max(old.sectors);
    let field = u32::try_from(sectors).expect("both bounds have 32 bits");
    mbr[ENTRIES + index * 16 + 12..][..4].copy_from_slice(&field.to_le_bytes());
    write_at(disk, 0, &mbr)?;
    disk.sync_data().map_err(|source| TableError::Disk { source })?;
    Ok(partition(number, old.start, &Entry { sectors, ..old }))
}
