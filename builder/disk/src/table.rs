//! Partition tables: GPT and MBR are read, grown and (GPT) created.
//!
//! Our own code and not gptman: a stranger's table must be bounded before it is believed (gptman reserves memory for
//! as many entries as a header claims), and growth must keep every byte of every entry but one field.

mod gpt;
mod guid;
mod mbr;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fs_err::File;

use crate::named;

pub use gpt::{NewPartition, create_gpt};
pub use guid::{Guid, InvalidGuid};

/// The size of a sector in bytes; disks with other logical sectors are not built.
pub const SECTOR: u64 = 512;

/// Partitions begin and end on multiples of this many sectors (1 MiB) where there is a choice.
const ALIGNMENT: u64 = 2048;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
    /// No table: the disk may be one file system.
    None,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// The kind of table.
    pub scheme: Scheme,
    /// The disk's own GUID, in a GPT.
    pub disk_guid: Option<Guid>,
    /// The disk's own number, in an MBR that has one.
    pub disk_signature: Option<u32>,
    /// By number.
    pub partitions: Vec<Partition>,
}

impl Partitions {
    /// The partition with this number.
    pub fn get(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.number == number)
    }

    /// The PARTUUID of a partition as Linux writes it: its GUID, or in an MBR the disk's number and its own.
    pub fn part_uuid(&self, number: u32) -> Option<String> {
        let partition = self.get(number)?;
        match partition.unique_guid {
            Some(guid) => Some(guid.to_string()),
            None => self.disk_signature.map(|signature| format!("{signature:08x}-{number:02x}")),
        }
    }

    /// The extended partition that a partition lies in, if it is a logical one.
    fn around(&self, inner: &Partition) -> Option<&Partition> {
        self.partitions.iter().find(|outer| {
            inner.number > 4
                && outer.is_extended()
                && outer.start_sector <= inner.start_sector
                && outer.end_sector() >= inner.start_sector
        })
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As Linux counts: from 1 in a GPT; 1 to 4 are the MBR's own and 5 the first logical one.
    pub number: u32,
    /// The first sector.
    pub start_sector: u64,
    /// How many sectors.
    pub sectors: u64,
    /// What it is for.
    pub kind: PartitionKind,
    /// Its own GUID (PARTUUID), in a GPT.
    pub unique_guid: Option<Guid>,
    /// Its name, in a GPT; else empty.
    pub name: String,
    /// The 64 attribute bits of a GPT; in an MBR 0x80 if it is marked active.
    pub attributes: u64,
}

impl Partition {
    /// The first byte.
    pub fn offset(&self) -> u64 {
        self.start_sector * SECTOR
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// Whether it only holds logical partitions.
    pub fn is_extended(&self) -> bool {
        matches!(self.kind, PartitionKind::Byte(kind) if mbr::is_extended(kind))
    }

    fn end_sector(&self) -> u64 {
        self.start_sector + self.sectors - 1
    }

    /// Its number and, where the table tells, what it is.
    fn described(&self) -> String {
        let what = match self.kind {
            PartitionKind::Guid(Guid::SWAP) | PartitionKind::Byte(0x82) => "swap",
            PartitionKind::Guid(Guid::EFI_SYSTEM) | PartitionKind::Byte(0xef) => "the EFI system partition",
            PartitionKind::Guid(Guid::BIOS_BOOT) => "GRUB's own",
            PartitionKind::Byte(kind) if mbr::is_extended(kind) => "the extended one",
            PartitionKind::Guid(_) | PartitionKind::Byte(_) => self.name.as_str(),
        };
        if what.is_empty() { self.number.to_string() } else { format!("{} ({what})", self.number) }
    }
}

/// What a partition is for, in its table's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// GPT: the type GUID.
    Guid(Guid),
    /// MBR: the type byte.
    Byte(u8),
}

/// A table that cannot be read, made or grown.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The disk cannot be read or written; the source has the path.
    #[error("could not access a disk")]
    Disk {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The table says something impossible.
    #[error("the partition table of `{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        reason: Damage,
    },
    /// There is no such partition.
    #[error("`{}` has no partition {number}", path.display())]
    NoPartition {
        /// The disk.
        path: PathBuf,
        /// The number.
        number: u32,
    },
    /// Growth would run into another partition.
    #[error("partition {number} of `{}` cannot grow: partition {behind} lies behind it", path.display())]
    InTheWay {
        /// The disk.
        path: PathBuf,
        /// The partition to grow.
        number: u32,
        /// The first one behind it: its number, and what it is.
        behind: String,
    },
    /// No table to grow a partition in.
    #[error("`{}` has no partition table", path.display())]
    NoTable {
        /// The disk.
        path: PathBuf,
    },
    /// The disk does not have the sectors.
    #[error("`{}` has {found} sectors, not {wanted}", path.display())]
    DiskSize {
        /// The disk.
        path: PathBuf,
        /// Sectors on it.
        found: u64,
        /// Sectors wanted.
        wanted: u64,
    },
    /// The partition would become smaller.
    #[error("partition {number} of `{}` would shrink", path.display())]
    Shrink {
        /// The disk.
        path: PathBuf,
        /// The number.
        number: u32,
    },
    /// A new table does not fit or contradicts itself.
    #[error("partition {number} does not fit onto `{}` with {sectors} sectors", path.display())]
    DoesNotFit {
        /// The disk.
        path: PathBuf,
        /// The partition.
        number: u32,
        /// Sectors on the disk.
        sectors: u64,
    },
    /// A name longer than 36 UTF-16 units.
    #[error("the partition name `{name}` is longer than 36 characters")]
    Name {
        /// The name.
        name: String,
    },
}

/// What is wrong with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// No valid GPT header where the MBR promises one.
    #[error("its MBR promises a GPT that is not there")]
    NoHeader,
    /// The header's checksum.
    #[error("the checksum of the GPT header is wrong")]
    HeaderChecksum,
    /// The header's fields.
    #[error("the GPT header has an impossible {field}")]
    Header {
        /// Which field.
        field: &'static str,
    },
    /// The entries' checksum.
    #[error("the checksum of the GPT entries is wrong")]
    EntriesChecksum,
    /// A partition outside the disk, or that ends before it begins.
    #[error("partition {number} does not lie inside the disk")]
    Outside {
        /// Its number.
        number: u32,
    },
    /// Two partitions on the same sectors.
    #[error("partitions {first} and {second} overlap")]
    Overlap {
        /// One.
        first: u32,
        /// The other.
        second: u32,
    },
    /// A chain of logical partitions without end.
    #[error("its chain of logical partitions has no end")]
    Endless,
}

/// Reads the partition table of a disk.
pub fn read(disk: &File) -> Result<Partitions, TableError> {
    let sectors = sectors(disk)?;
    let mbr = read_at(disk, 0, 512)?;
    if let Some(table) = gpt::read(disk, &mbr, sectors)? {
        return Ok(table.partitions());
    }
    Ok(mbr::read(disk, &mbr, sectors)?.unwrap_or(Partitions {
        scheme: Scheme::None,
        disk_guid: None,
        disk_signature: None,
        partitions: Vec::new(),
    }))
}

/// Extends partition `number` to the end of a disk that has been enlarged to `disk_sectors`, and returns it.
///
/// Every other field of every partition stays as it is. In a GPT the backup moves to the new end; in an MBR the
/// extended partition grows with the logical one in it. Refuses where another partition lies behind it, whatever their
/// numbers.
pub fn grow(disk: &File, number: u32, disk_sectors: u64) -> Result<Partition, TableError> {
    let path = || disk.path().to_owned();
    let found = sectors(disk)?;
    if found < disk_sectors {
        return Err(TableError::DiskSize { path: path(), found, wanted: disk_sectors });
    }
    let before = read(disk)?;
    let target = before.get(number).ok_or_else(|| TableError::NoPartition { path: path(), number })?;
    let behind = before.partitions.iter().filter(|other| other.start_sector > target.end_sector());
    if let Some(behind) = behind.min_by_key(|other| other.start_sector) {
        return Err(TableError::InTheWay { path: path(), number, behind: behind.described() });
    }
    let outermost = before.around(target).unwrap_or(target);
    if target.end_sector().max(outermost.end_sector()) >= disk_sectors {
        return Err(TableError::Shrink { path: path(), number });
    }
    match before.scheme {
        Scheme::Gpt => grow_gpt(disk, number, disk_sectors)?,
        Scheme::Mbr => mbr::grow(disk, number, disk_sectors)?,
        Scheme::None => return Err(TableError::NoTable { path: path() }),
    }
    read(disk)?.get(number).cloned().ok_or_else(|| TableError::NoPartition { path: path(), number })
}

fn grow_gpt(disk: &File, number: u32, disk_sectors: u64) -> Result<(), TableError> {
    let mbr = read_at(disk, 0, 512)?;
    let mut table =
        gpt::read(disk, &mbr, sectors(disk)?)?.ok_or_else(|| TableError::NoTable { path: disk.path().to_owned() })?;
    table.grow(disk, number, disk_sectors)?;
    table.write(disk, &mbr)
}

/// Refuses partitions that leave the disk or share sectors. They need not be in order.
fn check_places(disk: &File, partitions: &[Partition], first: u64, last: u64) -> Result<(), TableError> {
    let damaged = |reason| TableError::Damaged { path: disk.path().to_owned(), reason };
    let mut by_place: Vec<&Partition> = partitions.iter().collect();
    by_place.sort_by_key(|partition| partition.start_sector);
    for partition in &by_place {
        let inside = partition.sectors > 0 && partition.start_sector >= first && partition.end_sector() <= last;
        if !inside {
            return Err(damaged(Damage::Outside { number: partition.number }));
        }
    }
    for pair in by_place.windows(2) {
        if pair[0].end_sector() >= pair[1].start_sector {
            return Err(damaged(Damage::Overlap { first: pair[0].number, second: pair[1].number }));
        }
    }
    Ok(())
}

/// How many whole sectors a disk has.
fn sectors(disk: &File) -> Result<u64, TableError> {
    rustix::fs::seek(disk, rustix::fs::SeekFrom::End(0))
        .map(|size| size / SECTOR)
        .map_err(|error| TableError::Disk { source: named(disk, &error.into()) })
}

fn read_at(disk: &File, offset: u64, size: usize) -> Result<Vec<u8>, TableError> {
    let mut bytes = vec![0; size];
    disk.file().read_exact_at(&mut bytes, offset).map_err(|error| TableError::Disk { source: named(disk, &error) })?;
    Ok(bytes)
}

fn write_at(disk: &File, offset: u64, bytes: &[u8]) -> Result<(), TableError> {
    disk.file().write_all_at(bytes, offset).map_err(|error| TableError::Disk { source: named(disk, &error) })
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
