//! Chains as qemu-io writes them, read by us and by qemu-img.

use std::fmt::Write as _;
use std::path::Path;

use fs_err::File;
use labwright_core::Cancel;
use labwright_disk::chain::{Backing, create_overlay};
use labwright_disk::chain_reader::ChainReader;
use labwright_disk::inspect::Format;
use labwright_disk::qcow2_writer::{Compression, WriteOptions, write_qcow2};
use labwright_disk::read_disk::ReadDisk;

use crate::support::{has_qemu, noise, prose, qemu_img, raw, scratch};

const MIB: u64 = 1 << 20;

/// Writes, zeroes and discards at places that the seed draws.
fn scribble(layer: &Path, size: u64, seed: u64, rounds: usize) {
    let mut script = String::new();
    let numbers: Vec<u64> =
        noise(seed, rounds * 24).chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
    for draw in numbers.chunks_exact(3) {
        // Lengths from one sector to some clusters, at places of every alignment that the format knows.
        let align = [512, 4096, 65536][usize::try_from(draw[0] % 3).unwrap()];
        let offset = draw[1] % size / align * align;
        let length = (1 + draw[2] % 97) * align.min(4096);
        let length = length.min(size - offset);
        match draw[0] / 3 % 4 {
            0 => writeln!(script, "write -z {offset} {length}"),
            1 => writeln!(script, "discard {offset} {length}"),
            _ => writeln!(script, "write -P {} {offset} {length}", 1 + draw[2] % 250),
        }
        .unwrap();
    }
    let script_file = layer.with_extension("io");
    fs_err::write(&script_file, script).unwrap();
    #[expect(clippy::disallowed_methods, reason = "nothing but this test needs qemu-io")]
    let done = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", "-d", "unmap"])
        .arg(layer)
        .stdin(File::open(&script_file).unwrap().into_parts().0)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The base in `format`, and three overlays of our kind on it, the upper two larger than the base.
fn chain(dir: &Path, base: &Path, format: Format, small: u64, seed: u64) -> Vec<(File, Format)> {
    let mut files = vec![(File::open(base).unwrap(), format)];
    let mut below = Backing { name: base.file_name().unwrap().to_str().unwrap().to_owned(), format };
    for (number, size) in [(1, small), (2, small + 700 * MIB), (3, small + 700 * MIB)] {
        let name = format!("layer{number}.qcow2");
        let layer = dir.join(&name);
        create_overlay(&layer, &below, size, &Cancel::new()).unwrap();
        scribble(&layer, size, seed * 10 + number, 150);
        files.push((File::open(&layer).unwrap(), Format::Qcow2));
        below = Backing { name, format: Format::Qcow2 };
    }
    files
}

#[test]
fn reads_what_qemu_reads() {
    if !has_qemu() {
        return;
    }
    let dir = scratch();
    let small = 600 * MIB + 512 * 7;
    let pieces = [(0, prose(1, 3 << 20)), (511 * MIB + 1024, noise(2, 2 << 20)), (small - 5000, vec![9; 5000])];
    let source = raw(&dir.path().join("base.raw"), small, &pieces);
    let written = |compression| {
        let path = dir.path().join("base.qcow2");
        let options = WriteOptions { compression, threads: 2 };
        write_qcow2(&source, small, &path, options, &mut |_, _| {}, &Cancel::new()).unwrap();
        path
    };
    let raw = dir.path().join("base.raw");
    let vendor = dir.path().join("vendor.qcow2");
    for seed in 1..=5 {
        let (base, format) = match seed {
            1 => (raw.clone(), Format::Raw),
            2 => (written(Compression::Zstd), Format::Qcow2),
            3 => (written(Compression::Zlib), Format::Qcow2),
            4 => (written(Compression::None), Format::Qcow2),
            _ => {
                // As vendors publish them: version 2, and what qemu-img's own zlib writes.
                let words = ["-c", "-O", "qcow2", "-o", "compat=0.10"];
                let mut args: Vec<&std::ffi::OsStr> = words.iter().map(AsRef::as_ref).collect();
                args.extend([raw.as_os_str(), vendor.as_os_str()]);
                qemu_img("convert", &args);
                (vendor.clone(), Format::Qcow2)
            }
        };
        let reader = ChainReader::open(chain(dir.path(), &base, format, small, seed)).unwrap();
        let expected = dir.path().join("expected.raw");
        let (top, to) = (dir.path().join("layer3.qcow2"), ["-O", "raw"]);
        qemu_img("convert", &[to[0].as_ref(), to[1].as_ref(), top.as_os_str(), expected.as_os_str()]);
        let expected = File::open(expected).unwrap();
        assert_eq!(reader.size().unwrap(), ReadDisk::size(&expected).unwrap(), "{seed}");
        // What one of the two calls data must be the same in both; the rest is zeros for both.
        let mut data = 0;
        for disk in [&reader as &dyn ReadDisk, &expected] {
            let mut at = 0;
            while let Some(range) = disk.next_data(at).unwrap() {
                assert!(range.start >= at && range.end > range.start, "{seed}: {range:?} at {at}");
                // Pieces that fit no cluster.
                let end = range.end.min(range.start + 300_007);
                let mut ours = vec![0; usize::try_from(end - range.start).unwrap()];
                let mut qemus = ours.clone();
                reader.read_exact_at(&mut ours, range.start).unwrap();
                ReadDisk::read_exact_at(&expected, &mut qemus, range.start).unwrap();
                assert!(ours == qemus, "{seed}: {}..{end}", range.start);
                data += end - range.start;
                at = end;
            }
        }
        assert!(data > 6 * MIB && data < small / 4, "{seed}: {data}");
        assert!(reader.read_exact_at(&mut [0; 2], reader.size().unwrap() - 1).is_err());
    }
}

#[test]
fn damage_is_an_error_with_the_files_name() {
    if !has_qemu() {
        return;
    }
    let dir = scratch();
    let source = raw(&dir.path().join("base.raw"), 10 * MIB, &[(0, prose(1, 3 << 20))]);
    let path = dir.path().join("base.qcow2");
    let options = WriteOptions { compression: Compression::Zstd, threads: 1 };
    write_qcow2(&source, 10 * MIB, &path, options, &mut |_, _| {}, &Cancel::new()).unwrap();
    let whole = fs_err::read(&path).unwrap();
    let mut buffer = vec![0; 3 << 20];
    let mut complaints = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at..(at + 64).min(whole.len())].fill(0xa5);
        fs_err::write(&path, bytes).unwrap();
        let result = ChainReader::open([(File::open(&path).unwrap(), Format::Qcow2)])
            .and_then(|reader| reader.read_exact_at(&mut buffer, 0));
        if let Err(error) = result {
            assert!(error.to_string().contains("base.qcow2"), "{at}: {error}");
            complaints += 1;
        }
    }
    assert!(complaints > 10, "{complaints}");
    fs_err::write(&path, "no qcow2").unwrap();
    ChainReader::open([(File::open(&path).unwrap(), Format::Qcow2)]).unwrap_err();
}
