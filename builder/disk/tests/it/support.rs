//! What the tests share: needs, scratch directories, tools and contents.

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err::File;
use labwright_core::Cancel;
use labwright_disk::table::{Guid, NewPartition, create_gpt};
use labwright_host::{Invocation, Tool};
use tempfile::TempDir;

/// Whether a need is met. A missing one skips the test loudly, or fails it if `LABWRIGHT_REQUIRE` names it.
pub(crate) fn has(need: &str, met: bool) -> bool {
    if !met {
        #[expect(clippy::disallowed_methods, reason = "a test decides here whether it may be skipped")]
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == need), "this test needs {need}");
        eprintln!("SKIPPED: needs {need}");
    }
    met
}

pub(crate) fn has_qemu() -> bool {
    has("qemu", Tool::QemuImg.find().is_ok() && Tool::QemuStorageDaemon.find().is_ok())
}

/// Root, with the devices that loop mounts and FUSE need.
pub(crate) fn has_root() -> bool {
    let devices = ["/dev/loop-control", "/dev/fuse"].iter().all(|device| Path::new(device).exists());
    has("root", rustix::process::geteuid().is_root() && devices)
}

/// In memory where that is possible, to be fast.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Runs a tool of the host to its good end and returns what it printed.
pub(crate) fn tool<S: AsRef<OsStr>>(tool: Tool, args: impl IntoIterator<Item = S>) -> String {
    Invocation::new(tool).args(args).run(&Cancel::new()).unwrap().text()
}

pub(crate) fn qemu_img(command: &str, args: &[&OsStr]) -> String {
    tool(Tool::QemuImg, std::iter::once(OsStr::new(command)).chain(args.iter().copied()))
}

/// Fails if qemu-img finds anything wrong, leaked clusters included.
pub(crate) fn qemu_check(path: &Path) {
    let said = qemu_img("check", &["-f".as_ref(), "qcow2".as_ref(), path.as_ref()]);
    assert!(said.contains("No errors were found"), "{said}");
}

/// Bytes that no compressor makes smaller, the same ones every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bytes that compress about as well as programs do.
pub(crate) fn prose(seed: u64, length: usize) -> Vec<u8> {
    let words = noise(seed, 4096);
    noise(seed + 1, length / 16 + 1)
        .iter()
        .flat_map(|byte| words[usize::from(*byte) * 16..][..16].iter().copied())
        .take(length)
        .collect()
}

/// A sparse raw file with pieces of data in it.
pub(crate) fn raw(path: &Path, size: u64, pieces: &[(u64, Vec<u8>)]) -> File {
    let file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in pieces {
        file.file().write_all_at(bytes, *at).unwrap();
    }
    file
}

/// The UUID of the root file system of [`cloud_disk`].
pub(crate) const ROOT_UUID: &str = "6c1a9d35-1d2f-4b6e-9d0c-0123456789ab";

/// A raw disk as cloud images have it: the root, on ext4, is partition 1 and lies last, behind a BIOS boot partition
/// and an empty ESP; partition 16 is an ext4 that is no root.
pub(crate) fn cloud_disk(dir: &Path, size: u64) -> std::path::PathBuf {
    let path = dir.join("base.raw");
    let file = raw(&path, size, &[]);
    let part = |number: u8, sectors, name: &str| NewPartition {
        number: number.into(),
        start_sector: None,
        sectors,
        type_guid: if number == 1 { Guid::LINUX_ROOT_AMD64 } else { Guid::LINUX },
        unique_guid: Guid::from_random([number; 16]),
        name: name.to_owned(),
        attributes: if number == 1 { 1 << 59 | 1 } else { 0 },
    };
    let parts = [
        part(14, Some(2048), "bios"),
        part(15, Some(4096), "ESP"),
        part(16, Some(16_384), "boot"),
        part(1, None, "system root"),
    ];
    let table = create_gpt(&file, size, Guid::from_random([7; 16]), &parts).unwrap();

    let tree = dir.join("tree");
    for name in ["etc", "usr/lib", "var"] {
        fs_err::create_dir_all(tree.join(name)).unwrap();
    }
    fs_err::write(tree.join("usr/lib/os-release"), "ID=test\n").unwrap();
    fs_err::write(tree.join("var/kept"), prose(5, 1 << 20)).unwrap();
    let boot = dir.join("boot");
    fs_err::create_dir_all(&boot).unwrap();
    fs_err::write(boot.join("vmlinuz"), "kernel").unwrap();
    for (number, tree, uuid) in [(1, &tree, ROOT_UUID), (16, &boot, "6c1a9d35-1d2f-4b6e-9d0c-000000000016")] {
        let partition = table.get(number).unwrap();
        let offset = format!("offset={}", partition.offset());
        let blocks = (partition.size() / 4096).to_string();
        tool(
            Tool::Mke2fs,
            [
                "-q".as_ref(),
                "-F".as_ref(),
                "-t".as_ref(),
                "ext4".as_ref(),
                "-b".as_ref(),
                "4096".as_ref(),
                "-U".as_ref(),
                uuid.as_ref(),
                "-L".as_ref(),
                "cloud".as_ref(),
                "-E".as_ref(),
                offset.as_ref(),
                "-d".as_ref(),
                tree.as_os_str(),
                path.as_os_str(),
                blocks.as_ref(),
            ],
        );
    }
    assert_eq!(file.metadata().unwrap().len(), size, "mke2fs must not change the size of the disk");
    path
}

/// Whether a sparse file contains some bytes anywhere.
pub(crate) fn contains(path: &Path, needle: &[u8]) -> bool {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).unwrap();
    let end = seek(&file, SeekFrom::End(0)).unwrap();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let hole = seek(&file, SeekFrom::Hole(start)).unwrap().min(end);
        let mut place = start;
        while place < hole {
            let mut bytes = vec![0; usize::try_from((hole - place).min(4 << 20)).unwrap()];
            file.file().read_exact_at(&mut bytes, place).unwrap();
            // The needle is written on a block, so it does not lie across two reads.
            if bytes.chunks(512).any(|sector| sector.starts_with(needle)) {
                return true;
            }
            place += bytes.len() as u64;
        }
        at = hole;
    }
    false
}
