//! The qcow2 writer against qemu-img.

use std::path::Path;

use labwright_core::Cancel;
use labwright_disk::inspect::{CompressionKind, DiskInfo, Format, Limits, inspect};
use labwright_disk::qcow2_writer::{Compression, PARTIAL_PREFIX, WriteError, WriteOptions, Written, write_qcow2};

use crate::support::{has_qemu, noise, prose, qemu_check, qemu_img, raw, scratch};

const MIB: u64 = 1 << 20;

/// Pieces of data and where they are.
type Pieces = Vec<(u64, Vec<u8>)>;

fn write(source: &fs_err::File, size: u64, to: &Path, compression: Compression, threads: usize) -> Written {
    write_qcow2(source, size, to, WriteOptions { compression, threads }, &mut |_, _| {}, &Cancel::new()).unwrap()
}

#[test]
fn qemu_reads_what_is_written_and_threads_make_no_difference() {
    if !has_qemu() {
        return;
    }
    let dir = scratch();
    let shapes: [(&str, u64, Pieces); 7] = [
        ("one sector", 512, vec![(0, vec![7; 512])]),
        ("empty", 10 * MIB, vec![]),
        ("no whole cluster at the end", 3 * 65536 + 512, vec![(0, prose(1, 3 * 65536 + 512))]),
        (
            "noise and prose in turn",
            6 * MIB,
            (0..24).map(|n| (n * MIB / 4, if n % 3 == 0 { noise(n, 180_000) } else { prose(n, 200_000) })).collect(),
        ),
        ("the last byte", 700 * MIB, vec![(700 * MIB - 1, vec![1])]),
        (
            "around the end of an L2 table",
            1300 * MIB,
            vec![(512 * MIB - 100_000, prose(2, 300_000)), (1024 * MIB - 5, noise(3, 100_000))],
        ),
        ("a byte in each of many clusters", 40 * MIB, (0..600).map(|n| (n * 65536 + n, vec![1, 2])).collect()),
    ];
    for (name, size, pieces) in shapes {
        let source = raw(&dir.path().join("disk.raw"), size, &pieces);
        for compression in [Compression::Zstd, Compression::Zlib, Compression::None] {
            let (one, four) = (dir.path().join("one.qcow2"), dir.path().join("four.qcow2"));
            let written = write(&source, size, &one, compression, 1);
            assert_eq!(write(&source, size, &four, compression, 4), written, "{name} {compression:?}");
            let bytes = fs_err::read(&one).unwrap();
            assert!(bytes == fs_err::read(&four).unwrap(), "{name} {compression:?}");
            assert_eq!(bytes.len() as u64, written.file_size, "{name}");
            qemu_check(&one);
            qemu_img(
                "compare",
                &["-f".as_ref(), "raw".as_ref(), "-F".as_ref(), "qcow2".as_ref(), source.path().as_ref(), one.as_ref()],
            );
            let info = inspect(&one, &Limits::default()).unwrap();
            assert_eq!((info.virtual_size, info.format), (size, Format::Qcow2), "{name}");
        }
    }
    let left: Vec<_> = fs_err::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_compresses_is_compressed_and_what_does_not_is_not() {
    let dir = scratch();
    let size = 4 * MIB;
    let source = raw(&dir.path().join("disk.raw"), size, &[(0, prose(1, 1 << 20)), (2 * MIB, noise(2, 1 << 20))]);
    let to = dir.path().join("disk.qcow2");
    for (compression, kind) in
        [(Compression::Zstd, CompressionKind::Zstd), (Compression::Zlib, CompressionKind::Deflate)]
    {
        let written = write(&source, size, &to, compression, 2);
        assert_eq!(written.data_size, 2 * MIB);
        // The noise, the prose at less than a half, and six clusters of header and tables.
        assert!(written.file_size < MIB + MIB / 2 + 6 * 65536, "{compression:?} {}", written.file_size);
        let info = DiskInfo {
            format: Format::Qcow2,
            virtual_size: size,
            file_size: written.file_size,
            compression: Some(kind),
        };
        assert_eq!(inspect(&to, &Limits::default()).unwrap(), info);
    }
    let plain = write(&source, size, &to, Compression::None, 2);
    assert_eq!(plain.file_size, 2 * MIB + 5 * 65536);
}

#[test]
fn failures_leave_nothing_behind() {
    let dir = scratch();
    let source = raw(&dir.path().join("disk.raw"), 8 * MIB, &[(0, noise(1, 8 << 20))]);
    let to = dir.path().join("disk.qcow2");
    let options = WriteOptions { compression: Compression::Zstd, threads: 3 };
    fs_err::write(&to, "the old one").unwrap();
    let try_write =
        |size, cancel: &Cancel| write_qcow2(&source, size, &to, options, &mut |_, _| cancel.cancel(), cancel);
    assert!(matches!(try_write(8 * MIB, &Cancel::new()), Err(WriteError::Cancelled(_))));
    assert!(matches!(try_write(9 * MIB, &Cancel::new()), Err(WriteError::Short { .. })));
    assert!(matches!(try_write(100, &Cancel::new()), Err(WriteError::Size { size: 100 })));
    assert!(matches!(try_write(0, &Cancel::new()), Err(WriteError::Size { size: 0 })));
    assert_eq!(fs_err::read(&to).unwrap(), b"the old one");
    let left: Vec<_> = fs_err::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(PARTIAL_PREFIX)), "{left:?}");
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn progress_rises_to_the_size() {
    let dir = scratch();
    let size = 5 * MIB;
    let source = raw(&dir.path().join("disk.raw"), size, &[(MIB, prose(1, 2 << 20))]);
    let mut seen = Vec::new();
    let options = WriteOptions { compression: Compression::Zstd, threads: 2 };
    let mut progress = |done, total| seen.push((done, total));
    write_qcow2(&source, size, &dir.path().join("disk.qcow2"), options, &mut progress, &Cancel::new()).unwrap();
    assert_eq!(seen, [(2 * MIB, size), (3 * MIB, size), (5 * MIB, size)]);
}
