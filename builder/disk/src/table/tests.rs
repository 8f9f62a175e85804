use super::gpt::{NewPartition, create_gpt};
use super::*;

fn disk(size: u64) -> (tempfile::NamedTempFile, File) {
    let temporary = tempfile::NamedTempFile::new().unwrap();
    let file = File::options().read(true).write(true).open(temporary.path()).unwrap();
    file.set_len(size).unwrap();
    (temporary, file)
}

fn new(number: u32, sectors: Option<u64>, name: &str) -> NewPartition {
    NewPartition {
        number,
        start_sector: None,
        sectors,
        type_guid: Guid::LINUX,
        unique_guid: Guid::from_random([u8::try_from(number).unwrap(); 16]),
        name: name.to_owned(),
        attributes: 1 << 60 | 4,
    }
}

/// As cloud images have it: the root is number 1 and lies last.
fn cloud_disk(file: &File) -> Partitions {
    let parts = [new(14, Some(2048), "bios"), new(15, Some(8192), "ESP"), new(1, None, "röot")];
    create_gpt(file, 64 << 20, Guid::from_random([9; 16]), &parts).unwrap()
}

#[test]
fn a_new_table_is_read_back_and_keeps_the_boot_code() {
    let (_keep, file) = disk(64 << 20);
    write_at(&file, 0, &[0xeb; 512]).unwrap();
    let made = cloud_disk(&file);
    assert_eq!(read(&file).unwrap(), made);
    let root = made.get(1).unwrap();
    assert_eq!((root.start_sector, root.end_sector(), root.name.as_str()), (12288, 129_023, "röot"));
    assert_eq!(root.unique_guid.unwrap().to_string(), "01010101-0101-4101-8101-010101010101");
    let mbr = read_at(&file, 0, 512).unwrap();
    assert_eq!(mbr[..440], [0xeb; 440]);
    assert_eq!((mbr[450], le32(&mbr, 454), le32(&mbr, 458)), (0xee, 1, 131_071));
}

#[test]
fn growth_changes_one_field_and_moves_the_backup() {
    let (_keep, file) = disk(64 << 20);
    let before = cloud_disk(&file);
    let old_backup = read_at(&file, (131_072 - 1) * SECTOR, 512).unwrap();
    file.set_len(256 << 20).unwrap();
    let grown = grow(&file, 1, 524_288).unwrap();
    assert_eq!((grown.start_sector, grown.end_sector()), (12288, 522_239));
    let mut expected = before;
    expected.partitions.iter_mut().find(|partition| partition.number == 1).unwrap().sectors = grown.sectors;
    assert_eq!(read(&file).unwrap(), expected);
    assert!(old_backup.starts_with(b"EFI PART"));
    assert_eq!(read_at(&file, (131_072 - 1) * SECTOR, 512).unwrap(), [0; 512]);
    let backup = read_at(&file, (524_288 - 1) * SECTOR, 512).unwrap();
    assert!(backup.starts_with(b"EFI PART"));
    assert_eq!(le32(&read_at(&file, 0, 512).unwrap(), 458), 524_287);
    // Growing again to the same size changes nothing.
    assert_eq!(grow(&file, 1, 524_288).unwrap(), grown);
}

#[test]
fn growth_is_refused_where_it_would_do_harm() {
    let (_keep, file) = disk(64 << 20);
    cloud_disk(&file);
    assert!(
        matches!(grow(&file, 15, 131_072), Err(TableError::InTheWay { number: 15, behind, .. }) if behind == "1 (röot)")
    );
    assert!(matches!(grow(&file, 3, 131_072), Err(TableError::NoPartition { number: 3, .. })));
    assert!(matches!(grow(&file, 1, 131_073), Err(TableError::DiskSize { .. })));
    assert!(matches!(grow(&file, 1, 100_000), Err(TableError::Shrink { .. })));
}

#[test]
fn new_tables_that_do_not_fit_are_refused() {
    let (_keep, file) = disk(16 << 20);
    let make = |parts: &[NewPartition]| create_gpt(&file, 16 << 20, Guid::LINUX, parts);
    assert!(matches!(make(&[new(1, Some(1 << 20), "")]), Err(TableError::DoesNotFit { number: 1, .. })));
    assert!(matches!(make(&[new(0, None, "")]), Err(TableError::DoesNotFit { number: 0, .. })));
    assert!(matches!(make(&[new(129, None, "")]), Err(TableError::DoesNotFit { number: 129, .. })));
    assert!(matches!(make(&[new(1, Some(8), ""), new(1, None, "")]), Err(TableError::DoesNotFit { .. })));
    assert!(matches!(make(&[new(1, None, &"x".repeat(37))]), Err(TableError::Name { .. })));
    let overlapping = NewPartition { start_sector: Some(2048), ..new(2, Some(8), "") };
    let result = make(&[new(1, Some(100), ""), overlapping]);
    assert!(matches!(result, Err(TableError::Damaged { reason: Damage::Overlap { .. }, .. })));
    // Nothing was written by any of them.
    assert_eq!(read(&file).unwrap().scheme, Scheme::None);
}

/// Makes both checksums right again, as an attacker would.
fn seal(head: &mut [u8]) {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let entries = crc(&head[1024..1024 + 128 * 128]);
    head[512 + 88..512 + 92].copy_from_slice(&entries);
    head[512 + 16..512 + 20].fill(0);
    let header = crc(&head[512..512 + 92]);
    head[512 + 16..512 + 20].copy_from_slice(&header);
}

#[test]
fn damaged_tables_are_refused_and_never_believed() {
    let reason = |change: fn(&mut [u8])| {
        let (_keep, file) = disk(64 << 20);
        cloud_disk(&file);
        let mut head = read_at(&file, 0, 34 * 512).unwrap();
        change(&mut head);
        write_at(&file, 0, &head).unwrap();
        match read(&file) {
            Err(TableError::Damaged { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    let header = |field| Damage::Header { field };
    assert_eq!(reason(|h| h[512..520].fill(0)), Damage::NoHeader);
    assert_eq!(reason(|h| h[512 + 40] ^= 1), Damage::HeaderChecksum);
    assert_eq!(reason(|h| h[1024] ^= 1), Damage::EntriesChecksum);
    assert_eq!(reason(|h| h[512 + 12..512 + 16].fill(0xff)), header("length"));
    assert_eq!(reason(|h| (h[512 + 80..512 + 84].fill(0xff), seal(h)).1), header("number of entries"));
    assert_eq!(reason(|h| (h[512 + 84..512 + 88].fill(0xff), seal(h)).1), header("size of an entry"));
    assert_eq!(reason(|h| (h[512 + 72..512 + 80].fill(0xff), seal(h)).1), header("place of the entries"));
    assert_eq!(reason(|h| (h[512 + 48..512 + 56].fill(0xff), seal(h)).1), header("range of usable sectors"));
    assert_eq!(reason(|h| (h[512 + 24] = 7, seal(h)).1), header("place"));
    assert_eq!(reason(|h| (h[1024 + 40..1024 + 48].fill(0xff), seal(h)).1), Damage::Outside { number: 1 });
    assert_eq!(reason(|h| (h[1024 + 40..1024 + 48].fill(0), seal(h)).1), Damage::Outside { number: 1 });
    let overlap = Damage::Overlap { first: 14, second: 1 };
    assert_eq!(reason(|h| (h[1024 + 32..1024 + 40].copy_from_slice(&2100_u64.to_le_bytes()), seal(h)).1), overlap);
}

fn mbr(file: &File, sector: u64, entries: &[(u8, u8, u32, u32)]) {
    let mut bytes = [0; 512];
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    for (index, (active, kind, start, sectors)) in entries.iter().enumerate() {
        let at = 446 + index * 16;
        (bytes[at], bytes[at + 4]) = (*active, *kind);
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    write_at(file, sector * SECTOR, &bytes).unwrap();
}

#[test]
fn an_mbr_is_read_with_its_logical_partitions_and_grown() {
    let (_keep, file) = disk(32 << 20);
    mbr(&file, 0, &[(0, 0x05, 2048, 10_000), (0x80, 0x83, 20_480, 4096)]);
    mbr(&file, 2048, &[(0, 0x83, 2, 100), (0, 0x05, 1000, 200)]);
    mbr(&file, 3048, &[(0, 0x82, 2, 100)]);
    let table = read(&file).unwrap();
    let seen: Vec<_> = table.partitions.iter().map(|p| (p.number, p.start_sector, p.sectors, p.attributes)).collect();
    let expected = [(1, 2048, 10_000, 0), (2, 20_480, 4096, 0x80), (5, 2050, 100, 0), (6, 3050, 100, 0)];
    assert_eq!((table.scheme, seen.as_slice()), (Scheme::Mbr, expected.as_slice()));
    let grown = grow(&file, 2, 65_536).unwrap();
    assert_eq!((grown.start_sector, grown.sectors, grown.attributes), (20_480, 45_056, 0x80));
    assert_eq!(read(&file).unwrap().get(2), Some(&grown));
    assert!(matches!(grow(&file, 1, 65_536), Err(TableError::InTheWay { .. })));
    let error = grow(&file, 5, 65_536).unwrap_err().to_string();
    assert!(error.ends_with("cannot grow: partition 6 (swap) lies behind it"), "{error}");
    assert!(matches!(grow(&file, 2, 24_575), Err(TableError::Shrink { number: 2, .. })));
    // A chain of logical partitions that leads back to itself ends all the same.
    mbr(&file, 3048, &[(0, 0x82, 2, 100), (0, 0x05, 1000, 200)]);
    assert!(matches!(read(&file), Err(TableError::Damaged { .. })));
}

#[test]
fn a_logical_partition_grows_with_everything_around_it() {
    let (_keep, file) = disk(64 << 20);
    mbr(&file, 0, &[(0x80, 0x83, 2048, 4096), (0, 0x0f, 8192, 10_000)]);
    // The chain goes back and forth: the last partition on the disk is the first in it.
    mbr(&file, 8192, &[(0, 0x83, 6000, 4000), (0, 0x05, 100, 1000)]);
    mbr(&file, 8292, &[(0, 0x82, 2, 900), (0, 0x05, 2000, 3000)]);
    mbr(&file, 10_192, &[(0, 0x83, 2048, 952)]);
    write_at(&file, 440, &0x1234_abcd_u32.to_le_bytes()).unwrap();
    let before = read(&file).unwrap();
    let seen: Vec<_> = before.partitions.iter().map(|p| (p.number, p.start_sector, p.sectors)).collect();
    let all = [(1, 2048, 4096), (2, 8192, 10_000), (5, 14_192, 4000), (6, 8294, 900), (7, 12_240, 952)];
    assert_eq!(seen, all);
    assert_eq!(before.part_uuid(5).as_deref(), Some("1234abcd-05"));
    assert!(matches!(grow(&file, 7, 131_072), Err(TableError::InTheWay { behind, .. }) if behind == "5"));
    assert!(
        matches!(grow(&file, 1, 131_072), Err(TableError::InTheWay { behind, .. }) if behind == "2 (the extended one)")
    );
    let grown = grow(&file, 5, 131_072).unwrap();
    assert_eq!((grown.start_sector, grown.end_sector()), (14_192, 131_071));
    let mut expected = before;
    for (number, start) in [(2, 8192), (5, 14_192)] {
        expected.partitions.iter_mut().find(|p| p.number == number).unwrap().sectors = 131_072 - start;
    }
    assert_eq!(read(&file).unwrap(), expected);

    // The last one of a chain has a link that tells its size too.
    let (_keep, file) = disk(64 << 20);
    mbr(&file, 0, &[(0, 0x05, 2048, 10_000)]);
    mbr(&file, 2048, &[(0, 0x82, 2048, 2048), (0, 0x05, 4096, 5904)]);
    mbr(&file, 6144, &[(0, 0x83, 2048, 3856)]);
    let grown = grow(&file, 6, 131_072).unwrap();
    assert_eq!((grown.start_sector, grown.end_sector()), (8192, 131_071));
    let link = read_at(&file, 2048 * SECTOR, 512).unwrap();
    assert_eq!((le32(&link, 470), le32(&link, 474)), (4096, 131_072 - 6144));
}

#[test]
fn guids_are_written_as_linux_writes_them() {
    let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    assert_eq!(Guid::EFI_SYSTEM.to_string(), text);
    assert_eq!(text.to_uppercase().parse(), Ok(Guid::EFI_SYSTEM));
    assert_eq!(Guid::BIOS_BOOT.to_string(), "21686148-6449-6e6f-744e-656564454649");
    assert_eq!("c12a7328".parse::<Guid>(), Err(InvalidGuid));
}
