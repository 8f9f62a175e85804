//! The GUID partition table. Source: UEFI specification 2.10, chapter 5.

use flate2::Crc;
use fs_err::File;

use super::{
    ALIGNMENT, Damage, Guid, Partition, PartitionKind, Partitions, SECTOR, Scheme, TableError, check_places, le16,
    le32, le64, read_at, write_at,
};

const SIGNATURE: &[u8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_SIZE: usize = 92;
const ENTRY_SIZE: usize = 128;
const NEW_ENTRIES: usize = 128;
/// More than any tool writes; bounds what a header can make us read.
const MOST_ENTRIES: u32 = 1024;
const LARGEST_ENTRY: u32 = 4096;
const LARGEST_TABLE: usize = 1 << 20;
/// The name is 36 UTF-16 units from byte 56 of an entry on.
const NAME: std::ops::Range<usize> = 56..128;
const NAME_UNITS: usize = 36;
/// The MBR type of the partition that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// A table in memory; entries are kept as bytes so that nothing is lost that we do not know.
#[derive(Debug)]
pub(super) struct Gpt {
    disk_guid: Guid,
    first_usable: u64,
    last_usable: u64,
    backup: u64,
    entries_sector: u64,
    entry_size: usize,
    entries: Vec<u8>,
}

/// Reads the primary table. Nothing if the MBR promises none and none is there.
pub(super) fn read(disk: &File, mbr: &[u8], sectors: u64) -> Result<Option<Gpt>, TableError> {
    let damaged = |reason| TableError::Damaged { path: disk.path().to_owned(), reason };
    let promised = protective_entries(mbr).next().is_some();
    if sectors < 2 {
        return Ok(None);
    }
    let header = read_at(disk, SECTOR, 512)?;
    if !header.starts_with(SIGNATURE) {
        return if promised { Err(damaged(Damage::NoHeader)) } else { Ok(None) };
    }
    // A stale header behind an MBR that has partitions of its own is not in use, as Linux judges too.
    if !promised && mbr[510..512] == [0x55, 0xaa] && (0..4).any(|index| mbr[446 + index * 16 + 4] != 0) {
        return Ok(None);
    }
    let header_size = usize::try_from(le32(&header, 12)).unwrap_or(usize::MAX);
    if !(HEADER_SIZE..=512).contains(&header_size) {
        return Err(damaged(Damage::Header { field: "length" }));
    }
    let mut blank = header[..header_size].to_vec();
    blank[16..20].fill(0);
    if crc(&blank) != le32(&header, 16) {
        return Err(damaged(Damage::HeaderChecksum));
    }
    let (count, entry_size) = (le32(&header, 80), le32(&header, 84));
    let table = Gpt {
        disk_guid: guid(&header, 56),
        first_usable: le64(&header, 40),
        last_usable: le64(&header, 48),
        backup: le64(&header, 32),
        entries_sector: le64(&header, 72),
        entry_size: usize::try_from(entry_size).unwrap_or(usize::MAX),
        entries: Vec::new(),
    };
    let size = u64::from(count) * u64::from(entry_size);
    let field = if le64(&header, 24) != 1 {
        Some("place")
    } else if count == 0 || count > MOST_ENTRIES {
        Some("number of entries")
    } else if !(128..=LARGEST_ENTRY).contains(&entry_size) || !entry_size.is_power_of_two() {
        Some("size of an entry")
    } else if size > LARGEST_TABLE as u64 {
        Some("size of all entries")
    } else if table.entries_sector < 2
        || table.entries_sector.checked_add(size.div_ceil(SECTOR)).is_none_or(|end| end > table.first_usable)
    {
        Some("place of the entries")
    } else if table.first_usable > table.last_usable || table.last_usable >= sectors {
        Some("range of usable sectors")
    } else {
        None
    };
    if let Some(field) = field {
        return Err(damaged(Damage::Header { field }));
    }
    let size = usize::try_from(size).expect("at most a megabyte");
    let entries = read_at(disk, table.entries_sector * SECTOR, size)?;
    if crc(&entries) != le32(&header, 88) {
        return Err(damaged(Damage::EntriesChecksum));
    }
    let table = Gpt { entries, ..table };
    // Checked on the raw numbers: the length of a partition that ends before it begins is not one.
    for (number, entry) in table.used() {
        if le64(entry, 32) > le64(entry, 40) || le64(entry, 40) > table.last_usable {
            return Err(damaged(Damage::Outside { number }));
        }
    }
    check_places(disk, &table.partitions().partitions, table.first_usable, table.last_usable)?;
    Ok(Some(table))
}

impl Gpt {
    fn used(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (1..).zip(self.entries.chunks_exact(self.entry_size)).filter(|(_, entry)| entry[..16] != [0; 16])
    }

    pub(super) fn partitions(&self) -> Partitions {
        let partition = |(number, entry): (u32, &[u8])| Partition {
            number,
            start_sector: le64(entry, 32),
            sectors: le64(entry, 40) - le64(entry, 32) + 1,
            kind: PartitionKind::Guid(guid(entry, 0)),
            unique_guid: Some(guid(entry, 16)),
            name: name(&entry[NAME]),
            attributes: le64(entry, 48),
        };
        Partitions {
            scheme: Scheme::Gpt,
            disk_guid: Some(self.disk_guid),
            disk_signature: None,
            partitions: self.used().map(partition).collect(),
        }
    }

    fn entries_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(SECTOR)
    }

    /// Moves the backup to the end of the disk and the end of one partition to the end of the usable sectors.
    pub(super) fn grow(&mut self, disk: &File, number: u32, disk_sectors: u64) -> Result<(), TableError> {
        let old_backup = self.backup;
        let backup = disk_sectors.saturating_sub(1);
        let last_usable = backup.saturating_sub(self.entries_sectors() + 1);
        if last_usable < self.last_usable {
            return Err(TableError::Shrink { path: disk.path().to_owned(), number });
        }
        let index = usize::try_from(number - 1).expect("a table has few entries") * self.entry_size;
        let old_end = le64(&self.entries, index + 40);
        let aligned = (last_usable + 1) / ALIGNMENT * ALIGNMENT - 1;
        let end = if aligned >= old_end { aligned } else { last_usable };
        self.entries[index + 40..index + 48].copy_from_slice(&end.to_le_bytes());
        self.backup = backup;
        self.last_usable = last_usable;
        // The old backup would now be inside the partition, where tools might believe it.
        if old_backup != backup && old_backup > 1 && old_backup < disk_sectors {
            let sector = read_at(disk, old_backup * SECTOR, 512)?;
            if sector.starts_with(SIGNATURE) {
                write_at(disk, old_backup * SECTOR, &[0; 512])?;
            }
        }
        Ok(())
    }

    /// Writes both copies, the backup first, and then the MBR's protective entry.
    pub(super) fn write(&self, disk: &File, mbr: &[u8]) -> Result<(), TableError> {
        let backup_entries = self.last_usable + 1;
        write_at(disk, backup_entries * SECTOR, &self.entries)?;
        write_at(disk, self.backup * SECTOR, &self.header(self.backup, 1, backup_entries))?;
        sync(disk)?;
        write_at(disk, self.entries_sector * SECTOR, &self.entries)?;
        write_at(disk, SECTOR, &self.header(1, self.backup, self.entries_sector))?;
        let mut mbr = mbr.to_vec();
        let places: Vec<usize> = protective_entries(&mbr).collect();
        for at in places {
            let start = u64::from(le32(&mbr, at + 8));
            let size = u32::try_from((self.backup + 1).saturating_sub(start)).unwrap_or(u32::MAX);
            mbr[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
        }
        write_at(disk, 0, &mbr)?;
        sync(disk)
    }

    fn header(&self, own: u64, other: u64, entries_sector: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(SIGNATURE);
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(8, &REVISION.to_le_bytes());
        put(12, &u32::try_from(HEADER_SIZE).expect("92").to_le_bytes());
        put(24, &own.to_le_bytes());
        put(32, &other.to_le_bytes());
        put(40, &self.first_usable.to_le_bytes());
        put(48, &self.last_usable.to_le_bytes());
        put(56, &self.disk_guid.bytes());
        put(72, &entries_sector.to_le_bytes());
        put(80, &u32::try_from(self.entries.len() / self.entry_size).expect("at most 1024").to_le_bytes());
        put(84, &u32::try_from(self.entry_size).expect("at most 4096").to_le_bytes());
        put(88, &crc(&self.entries).to_le_bytes());
        let checksum = crc(&header[..HEADER_SIZE]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// A partition of a table that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPartition {
    /// Its number, from 1 to 128. Numbers need not follow the order on the disk.
    pub number: u32,
    /// The first sector, or nothing to follow the partition before it in the list, on the next MiB.
    pub start_sector: Option<u64>,
    /// How many sectors, or nothing for the rest of the disk.
    pub sectors: Option<u64>,
    /// What it is for.
    pub type_guid: Guid,
    /// Its own GUID (PARTUUID).
    pub unique_guid: Guid,
    /// Its name, at most 36 UTF-16 units.
    pub name: String,
    /// The 64 attribute bits.
    pub attributes: u64,
}

/// Writes a new table for a disk of `disk_size` bytes and returns what it says. The boot code in the first 440 bytes
/// of the disk stays as it is; the rest of the MBR is made anew.
pub fn create_gpt(
    disk: &File,
    disk_size: u64,
    disk_guid: Guid,
    partitions: &[NewPartition],
) -> Result<Partitions, TableError> {
    let sectors = disk_size / SECTOR;
    let entries_sectors = (NEW_ENTRIES * ENTRY_SIZE) as u64 / SECTOR;
    let found = super::sectors(disk)?;
    if found < sectors || sectors < 2 * (entries_sectors + 2) + ALIGNMENT {
        return Err(TableError::DiskSize { path: disk.path().to_owned(), found, wanted: sectors });
    }
    let mut table = Gpt {
        disk_guid,
        first_usable: 2 + entries_sectors,
        last_usable: sectors - 2 - entries_sectors,
        backup: sectors - 1,
        entries_sector: 2,
        entry_size: ENTRY_SIZE,
        entries: vec![0; NEW_ENTRIES * ENTRY_SIZE],
    };
    let mut next = ALIGNMENT;
    for new in partitions {
        let misfit = || TableError::DoesNotFit { path: disk.path().to_owned(), number: new.number, sectors };
        let start = new.start_sector.unwrap_or(next);
        let last = match new.sectors {
            Some(count) => start.checked_add(count).ok_or_else(misfit)?.checked_sub(1).ok_or_else(misfit)?,
            None => ((table.last_usable + 1) / ALIGNMENT * ALIGNMENT).saturating_sub(1),
        };
        let index = usize::try_from(new.number).ok().and_then(|number| number.checked_sub(1)).ok_or_else(misfit)?;
        let free = index < NEW_ENTRIES && table.entries[index * ENTRY_SIZE..][..16] == [0; 16];
        if !free || start < table.first_usable || last > table.last_usable || start > last {
            return Err(misfit());
        }
        let units: Vec<u16> = new.name.encode_utf16().collect();
        if units.len() > NAME_UNITS {
            return Err(TableError::Name { name: new.name.clone() });
        }
        let entry = &mut table.entries[index * ENTRY_SIZE..][..ENTRY_SIZE];
        entry[..16].copy_from_slice(&new.type_guid.bytes());
        entry[16..32].copy_from_slice(&new.unique_guid.bytes());
        entry[32..40].copy_from_slice(&start.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[48..56].copy_from_slice(&new.attributes.to_le_bytes());
        for (place, unit) in entry[NAME].chunks_exact_mut(2).zip(units) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        next = (last + 1).next_multiple_of(ALIGNMENT);
    }
    let result = table.partitions();
    check_places(disk, &result.partitions, table.first_usable, table.last_usable)?;
    let mut mbr = read_at(disk, 0, 512)?;
    mbr[440..510].fill(0);
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    // From the second sector on; the size is filled in when the table is written.
    mbr[446..458].copy_from_slice(&[0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    table.write(disk, &mbr)?;
    Ok(result)
}

/// Where the protective entries of an MBR begin.
fn protective_entries(mbr: &[u8]) -> impl Iterator<Item = usize> {
    let signed = mbr[510..512] == [0x55, 0xaa];
    (0..4).map(|index| 446 + index * 16).filter(move |at| signed && mbr[at + 4] == PROTECTIVE)
}

fn sync(disk: &File) -> Result<(), TableError> {
    disk.sync_data().map_err(|source| TableError::Disk { source })
}

fn guid(bytes: &[u8], at: usize) -> Guid {
    Guid::from_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

fn name(bytes: &[u8]) -> String {
    let units: Vec<u16> = (0..NAME_UNITS).map(|index| le16(bytes, index * 2)).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
