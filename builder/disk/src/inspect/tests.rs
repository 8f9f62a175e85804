use super::qcow2::{check_tables, parse_header};
use super::*;

const CLUSTER: usize = 64 << 10;
const SIZE: u64 = 1 << 20;

/// An honest image of 1 MiB: header, refcount table, refcount block, L1, L2 and three data clusters.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 8 * CLUSTER];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    put32(&mut bytes, 4, 3);
    put32(&mut bytes, 20, 16);
    put64(&mut bytes, 24, SIZE);
    put32(&mut bytes, 36, 1);
    put64(&mut bytes, 40, at(3));
    put64(&mut bytes, 48, at(1));
    put32(&mut bytes, 56, 1);
    put32(&mut bytes, 96, 4);
    put32(&mut bytes, 100, 112);
    put64(&mut bytes, CLUSTER, at(2));
    put64(&mut bytes, 3 * CLUSTER, at(4) | 1 << 63);
    for index in 0..3 {
        put64(&mut bytes, 4 * CLUSTER + index * 8, at(5 + index) | 1 << 63);
    }
    bytes
}

fn at(cluster: usize) -> u64 {
    (cluster * CLUSTER) as u64
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Everything that `inspect` does with a qcow2 file, in memory; fails the test on a read outside or on too many.
fn check(bytes: &[u8], limits: &Limits) -> Result<bool, Refusal> {
    let length = bytes.len() as u64;
    let header = parse_header(bytes, length, limits)?;
    let mut budget = 4 * length;
    let result = check_tables(&header, length, |offset, size| {
        assert!(offset.checked_add(size).is_some_and(|end| end <= length), "reads outside the file");
        budget = budget.checked_sub(size).expect("reads more than the file has");
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + size).unwrap();
        Ok(bytes[range].to_vec())
    });
    result.map_err(|problem| match problem {
        Problem::Refused(reason) => reason,
        Problem::Read(error) => panic!("{error}"),
    })
}

type Change = fn(&mut Vec<u8>);

#[test]
fn accepts_honest_images() {
    let good: [(&str, Change, bool); 8] = [
        ("as it is", |_| {}, false),
        ("version 2", |b| put32(b, 4, 2), false),
        ("the shortest header", |b| put32(b, 100, 104), false),
        ("zstd", |b| (put64(b, 72, 8), b[104] = 1).0, false),
        (
            "sub-clusters",
            |b| (put64(b, 72, 16), put64(b, 4 * CLUSTER + 8, 0xffff_ffff), b[4 * CLUSTER + 16..5 * CLUSTER].fill(0)).0,
            false,
        ),
        ("unknown compatible and autoclear bits", |b| (put64(b, 80, 0xff), put64(b, 88, 0xf0)).0, false),
        ("an unknown extension", |b| (put32(b, 112, 0x1234_5678), put32(b, 116, 5)).0, false),
        ("a compressed cluster", |b| put64(b, 4 * CLUSTER, 1 << 62 | 3 << 54 | (at(5) + 100)), true),
    ];
    for (name, change, compressed) in good {
        let mut bytes = image();
        change(&mut bytes);
        assert_eq!(check(&bytes, &Limits::default()), Ok(compressed), "{name}");
    }
}

#[test]
fn refuses_hostile_images_each_with_its_reason() {
    const L2: usize = 4 * CLUSTER;
    const LENGTH: u64 = 8 * CLUSTER as u64;
    let length = LENGTH;
    let truncated = |table, offset| Refusal::TableOutside { table, offset, length };
    let cases: Vec<(&str, Change, Refusal)> = vec![
        ("4 bytes", |b| b.truncate(4), Refusal::HeaderTruncated),
        ("50 bytes", |b| b.truncate(50), Refusal::HeaderTruncated),
        ("103 bytes", |b| b.truncate(103), Refusal::HeaderTruncated),
        ("a header without end", |b| b.truncate(112), Refusal::HeaderTruncated),
        ("version 0", |b| put32(b, 4, 0), Refusal::Version { version: 0 }),
        ("version 1", |b| put32(b, 4, 1), Refusal::Version { version: 1 }),
        ("version 9", |b| put32(b, 4, 9), Refusal::Version { version: 9 }),
        ("backing file", |b| put64(b, 8, 0x200), Refusal::BackingFile),
        ("backing file in a version 2", |b| (put32(b, 4, 2), put64(b, 8, 0x200)).0, Refusal::BackingFile),
        ("cluster bits 8", |b| put32(b, 20, 8), Refusal::ClusterBits { bits: 8 }),
        ("cluster bits 22", |b| put32(b, 20, 22), Refusal::ClusterBits { bits: 22 }),
        ("cluster bits 2^32-1", |b| put32(b, 20, u32::MAX), Refusal::ClusterBits { bits: u32::MAX }),
        ("no size", |b| put64(b, 24, 0), Refusal::Empty),
        ("odd size", |b| put64(b, 24, 513), Refusal::UnevenSize { size: 513 }),
        ("size 2^64-1", |b| put64(b, 24, u64::MAX), Refusal::VirtualSizeTooLarge { size: u64::MAX, limit: 2 << 40 }),
        ("size 2^60", |b| put64(b, 24, 1 << 60), Refusal::VirtualSizeTooLarge { size: 1 << 60, limit: 2 << 40 }),
        ("AES", |b| put32(b, 32, 1), Refusal::Encrypted),
        ("LUKS", |b| put32(b, 32, 2), Refusal::Encrypted),
        ("no L1", |b| put32(b, 36, 0), Refusal::L1TooSmall { entries: 0, needed: 1 }),
        ("L1 too small", |b| put64(b, 24, 1 << 30), Refusal::L1TooSmall { entries: 1, needed: 2 }),
        (
            "L1 absurd",
            |b| put32(b, 36, u32::MAX),
            Refusal::TableTooLarge { table: "L1", entries: u32::MAX.into(), limit: 4 << 20 },
        ),
        ("L1 on the header", |b| put64(b, 40, 0), Refusal::TableOffset { table: "L1", offset: 0 }),
        ("L1 not aligned", |b| put64(b, 40, at(3) + 8), Refusal::TableOffset { table: "L1", offset: at(3) + 8 }),
        ("L1 outside", |b| put64(b, 40, at(8)), truncated("L1", at(8))),
        ("L1 ends outside", |b| put32(b, 36, 1 << 20), truncated("L1", at(3))),
        ("L1 at 2^64", |b| put64(b, 40, 0xffff_ffff_ffff_0000), truncated("L1", 0xffff_ffff_ffff_0000)),
        ("no refcounts", |b| put32(b, 56, 0), Refusal::NoRefcounts),
        (
            "refcounts absurd",
            |b| put32(b, 56, u32::MAX),
            Refusal::TableTooLarge { table: "refcount", entries: u64::from(u32::MAX) << 13, limit: 1 << 20 },
        ),
        ("refcounts on the header", |b| put64(b, 48, 0), Refusal::TableOffset { table: "refcount", offset: 0 }),
        ("refcounts outside", |b| put64(b, 48, at(9)), truncated("refcount", at(9))),
        ("tables overlap", |b| put64(b, 48, at(3)), Refusal::TablesOverlap { first: "L1", second: "refcount" }),
        ("snapshots", |b| put32(b, 60, 2), Refusal::Snapshots { count: 2 }),
        ("dirty", |b| put64(b, 72, 1), Refusal::Dirty),
        ("corrupt", |b| put64(b, 72, 2), Refusal::MarkedCorrupt),
        ("data file", |b| put64(b, 72, 4), Refusal::DataFile),
        ("unknown bit 5", |b| put64(b, 72, 1 << 5), Refusal::UnknownFeatures { bits: 1 << 5 }),
        ("unknown bit 63", |b| put64(b, 72, 1 << 63 | 8), Refusal::UnknownFeatures { bits: 1 << 63 }),
        ("zstd bit without type", |b| put64(b, 72, 8), Refusal::CompressionType { kind: 0 }),
        ("zstd type without bit", |b| b[104] = 1, Refusal::CompressionType { kind: 1 }),
        ("unknown compression", |b| (put64(b, 72, 8), b[104] = 7).0, Refusal::CompressionType { kind: 7 }),
        (
            "zstd bit in a short header",
            |b| (put64(b, 72, 8), put32(b, 100, 104), b[104] = 1).0,
            Refusal::CompressionType { kind: 0 },
        ),
        (
            "sub-clusters in small clusters",
            |b| (put64(b, 72, 16), put32(b, 20, 13)).0,
            Refusal::ExtendedL2 { bits: 13 },
        ),
        ("refcount order 300", |b| put32(b, 96, 300), Refusal::RefcountOrder { order: 300 }),
        ("header of 0 bytes", |b| put32(b, 100, 0), Refusal::HeaderLength { length: 0 }),
        ("header of 105 bytes", |b| put32(b, 100, 105), Refusal::HeaderLength { length: 105 }),
        ("header longer than a cluster", |b| put32(b, 100, 0x20000), Refusal::HeaderLength { length: 0x20000 }),
        (
            "extension leaves the cluster",
            |b| (put32(b, 112, 0x99), put32(b, 116, u32::MAX)).0,
            Refusal::Extension { kind: 0x99 },
        ),
        ("data file extension", |b| put32(b, 112, 0x4441_5441), Refusal::DataFile),
        (
            "data file behind another extension",
            |b| (put32(b, 112, 0x99), put32(b, 116, 3), put32(b, 128, 0x4441_5441)).0,
            Refusal::DataFile,
        ),
        ("encryption extension", |b| put32(b, 112, 0x0537_be77), Refusal::Encrypted),
        ("bitmaps", |b| put32(b, 112, 0x2385_2875), Refusal::Bitmaps),
        ("refcount block outside", |b| put64(b, CLUSTER, at(8)), truncated("refcount block", at(8))),
        (
            "refcount entry reserved",
            |b| put64(b, CLUSTER, at(2) | 1),
            Refusal::ReservedBits { table: "refcount", entry: at(2) | 1 },
        ),
        (
            "L1 entry reserved",
            |b| put64(b, 3 * CLUSTER, at(4) | 1),
            Refusal::ReservedBits { table: "L1", entry: at(4) | 1 },
        ),
        ("L2 outside", |b| put64(b, 3 * CLUSTER, at(100)), truncated("L2", at(100))),
        (
            "L2 not aligned",
            |b| put64(b, 3 * CLUSTER, at(4) + 512),
            Refusal::TableOffset { table: "L2", offset: at(4) + 512 },
        ),
        (
            "one L2 named nine times",
            |b| {
                put32(b, 36, 9);
                (0..9).for_each(|index| put64(b, 3 * CLUSTER + index * 8, at(4)));
            },
            Refusal::TooManyL2Tables { tables: 9 },
        ),
        ("L2 entry reserved", |b| put64(b, L2, at(5) | 2), Refusal::ReservedBits { table: "L2", entry: at(5) | 2 }),
        ("data on the header", |b| put64(b, L2, 512), Refusal::ClusterOffset { offset: 512 }),
        ("data outside", |b| put64(b, L2, at(1 << 20)), Refusal::ClusterOutside { offset: at(1 << 20), length }),
        (
            "compressed data outside",
            |b| put64(b, L2, 1 << 62 | 255 << 54 | (LENGTH - 600)),
            Refusal::ClusterOutside { offset: length - 600, length },
        ),
        ("compressed data on the header", |b| put64(b, L2, 1 << 62 | 0x80), Refusal::ClusterOffset { offset: 0x80 }),
        (
            "sub-cluster both data and zero",
            |b| (put64(b, 72, 16), put64(b, L2 + 8, 1 << 32 | 1)).0,
            Refusal::SubClusters { bitmap: 1 << 32 | 1 },
        ),
        (
            "the last sector cut off",
            |b| b.truncate(8 * CLUSTER - 512),
            Refusal::ClusterOutside { offset: at(7), length: length - 512 },
        ),
        (
            "half of it cut off",
            |b| b.truncate(4 * CLUSTER),
            Refusal::TableOutside { table: "L2", offset: at(4), length: at(4) },
        ),
    ];
    assert!(cases.len() >= 60);
    for (name, change, expected) in cases {
        let mut bytes = image();
        change(&mut bytes);
        assert_eq!(check(&bytes, &Limits::default()), Err(expected), "{name}");
    }
}

#[test]
fn a_damaged_image_is_never_more_than_refused() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    // Where a change means something: the header, and the first entries of each table.
    let places = [(0, 160), (CLUSTER, 64), (3 * CLUSTER, 64), (4 * CLUSTER, 160)];
    let mut bytes = image();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..3_000 {
        let undo: Vec<(usize, u8)> = (0..=random(4))
            .map(|_| {
                let (base, size) = places[random(places.len())];
                let place = base + random(size);
                let old = bytes[place];
                let fresh = [0, 1, 0x7f, 0x80, 0xff, u8::try_from(random(256)).unwrap()];
                bytes[place] = fresh[random(fresh.len())];
                (place, old)
            })
            .collect();
        let length = if random(4) == 0 { random(bytes.len()) } else { bytes.len() };
        match check(&bytes[..length], &Limits::default()) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
        for (place, old) in undo.into_iter().rev() {
            bytes[place] = old;
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} {refused}");
    assert_eq!(check(&bytes, &Limits::default()), Ok(false));
}

fn refusal(bytes: &[u8], limits: &Limits) -> Option<Refusal> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), bytes).unwrap();
    match inspect(file.path(), limits) {
        Ok(_) => None,
        Err(InspectError::Refused { reason, .. }) => Some(reason),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn raw_disks_look_like_disks() {
    let limits = Limits { virtual_size: 1 << 20, file_size: 2 << 20 };
    let disk = |change: Change| {
        let mut bytes = vec![0; 64 << 10];
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        change(&mut bytes);
        refusal(&bytes, &limits)
    };
    let other = |format| Some(Refusal::OtherFormat { format });
    assert_eq!(disk(|_| {}), None);
    assert_eq!(disk(|b| (b[510..512].fill(0), b[512..520].copy_from_slice(b"EFI PART")).0), None);
    assert_eq!(disk(|b| b[510..512].fill(0)), Some(Refusal::NotADisk));
    assert_eq!(disk(|b| b.truncate(0)), Some(Refusal::Empty));
    assert_eq!(disk(|b| b.truncate(1000)), Some(Refusal::UnevenSize { size: 1000 }));
    assert_eq!(disk(|b| b.resize(3 << 20, 0)), Some(Refusal::FileTooLarge { size: 3 << 20, limit: 2 << 20 }));
    let too_large = Refusal::VirtualSizeTooLarge { size: 1 << 20 | 512, limit: 1 << 20 };
    assert_eq!(disk(|b| b.resize(1 << 20 | 512, 0)), Some(too_large));
    assert_eq!(disk(|b| b[..4].copy_from_slice(b"KDMV")), other("VMDK"));
    assert_eq!(disk(|b| b[..8].copy_from_slice(b"vhdxfile")), other("VHDX"));
    assert_eq!(disk(|b| b[..2].copy_from_slice(b"\x1f\x8b")), other("compressed with gzip"));
    assert_eq!(disk(|b| b[0x40..0x44].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe])), other("VDI"));
    assert_eq!(disk(|b| b[0x8001..0x8006].copy_from_slice(b"CD001")), other("an ISO 9660 image"));
    assert_eq!(disk(|b| b.extend(b"conectix".iter().chain(&[0; 504]))), other("VHD"));
    assert_eq!(disk(|b| b[..4].copy_from_slice(b"QFI\xfb")), Some(Refusal::Version { version: 0 }));
}

#[test]
fn the_error_names_the_file_and_its_source_the_reason() {
    let error = inspect(Path::new("/dev"), &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "`/dev` is refused");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it is not a regular file");
}
