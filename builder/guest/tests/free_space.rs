//! Deleted contents are gone from the free blocks of file systems of several kinds, and nothing else is.
#![expect(clippy::unwrap_used, reason = "a test ends where something is wrong")]

use std::fmt::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err::File;
use labwright_guest::free_space::{FreeSpaceError, zero_free_space};

/// An old habit of partition tables: no block of the file system begins on a unit of the disk.
const OFFSET: u64 = 63 * 512;
const SIZE: u64 = 320 << 20;
const SMALL: u64 = 8 << 20;
/// What is around the file system.
const GUARD: u8 = 0xa5;

#[expect(clippy::disallowed_methods, reason = "tests look which needs must be met")]
fn has(need: &str, met: bool) -> bool {
    if !met {
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == need), "LABWRIGHT_REQUIRE names {need}, which is missing here");
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("SKIPPED: needs {need}");
        }
    }
    met
}

fn installed(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

#[expect(clippy::disallowed_methods, reason = "tests start the programs that make and check their disks")]
fn tool(program: &str, args: &[&str]) -> String {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(args).env("PATH", path).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// In memory where that is possible, to be fast.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system on a disk, with something before and behind it.
struct Made {
    dir: tempfile::TempDir,
    disk: PathBuf,
}

/// The text that a file is full of.
fn content(kind: &str, number: usize) -> String {
    // Of many lengths, so that free extents have many lengths too.
    format!("{kind} marker {number:04} ").repeat(1 + number * 37 % 400)
}

/// Half of these are deleted by each test, every other one.
const FILES: usize = 300;

fn name(number: usize) -> String {
    format!("dir{}/file{number}", number % 7)
}

fn kind(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "kept" } else { "deleted" }
}

fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for number in 0..FILES {
        let path = tree.join(name(number));
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content(kind(number), number)).unwrap();
    }
    tree
}

/// An empty disk with guards around the place of the file system.
fn disk(dir: &Path) -> PathBuf {
    let path = dir.join("disk");
    let file = File::create(&path).unwrap();
    file.file().write_all_at(&vec![GUARD; 63 * 512], 0).unwrap();
    file.file().write_all_at(&[GUARD; 5000], OFFSET + SIZE).unwrap();
    path
}

/// How debugfs and e2fsck are told of the file system.
fn place(disk: &Path) -> String {
    format!("{}?offset={OFFSET}", text(disk))
}

fn ext4(options: &[&str]) -> Made {
    let dir = scratch();
    let (tree, disk) = (tree(dir.path()), disk(dir.path()));
    let (offset, size) = (format!("offset={OFFSET},nodiscard"), format!("{}k", SIZE >> 12));
    tool("mke2fs", &[&["-q", "-F", "-E", &offset, "-d", text(&tree)], options, &[text(&disk), &size]].concat());
    let mut requests = String::new();
    for number in (0..FILES).filter(|number| kind(*number) == "deleted") {
        writeln!(requests, "rm /{}", name(number)).unwrap();
    }
    let script = dir.path().join("script");
    fs_err::write(&script, requests).unwrap();
    tool("debugfs", &["-w", "-f", text(&script), &place(&disk)]);
    Made { dir, disk }
}

/// How often a text is on a disk, in whatever place.
fn count(disk: &Path, what: &str) -> usize {
    // grep reads a line as a whole, and a hole of many megabytes would be one.
    let found = tool("sh", &["-c", r#"tr '\0' '\n' < "$0" | grep -oaF -- "$1" | wc -l"#, text(disk), what]);
    found.trim().parse().unwrap()
}

impl Made {
    /// Zeroes the free blocks and looks what else happened.
    fn zero(&self) -> u64 {
        let disk = &self.disk;
        assert!(count(disk, "deleted marker") > 500, "the search must be able to find it");
        let kept = count(disk, "kept marker");
        let file = File::options().read(true).write(true).open(disk).unwrap();
        let freed = zero_free_space(&file, OFFSET, SIZE).unwrap().unwrap();
        assert_eq!(count(disk, "deleted marker"), 0);
        assert_eq!(count(disk, "kept marker"), kept);
        for (at, length) in [(0, 63 * 512), (OFFSET + SIZE, 5000)] {
            let mut bytes = vec![0; length];
            file.file().read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes.iter().all(|byte| *byte == GUARD), "others' bytes were written");
        }
        assert_eq!(file.metadata().unwrap().len(), OFFSET + SIZE + 5000);
        freed
    }
}

/// Mounts the file system for as long as something is done in it.
fn mounted(dir: &Path, disk: &Path, options: &str, act: impl FnOnce(&Path)) {
    let mount = dir.join("mount");
    fs_err::create_dir_all(&mount).unwrap();
    let options = format!("loop,offset={OFFSET},sizelimit={SIZE},{options}");
    tool("mount", &["-o", &options, text(disk), text(&mount)]);
    act(&mount);
    tool("umount", &[text(&mount)]);
}

#[test]
fn ext4_has_nothing_left_of_deleted_files() {
    if !has("qemu", installed("mke2fs") && installed("debugfs")) {
        return;
    }
    for options in [
        &["-t", "ext4", "-b", "4096"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-O", "^64bit,^metadata_csum,uninit_bg"],
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
        &["-t", "ext4", "-b", "1024", "-O", "^flex_bg,sparse_super2"],
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"],
    ] {
        let made = ext4(options);
        let freed = made.zero();
        assert!(freed > 4 << 20, "{options:?}: {freed}");
        tool("e2fsck", &["-f", "-n", &place(&made.disk)]);
        for number in (0..FILES).step_by(2) {
            if number.is_multiple_of(50) {
                let found = tool("debugfs", &["-R", &format!("cat /{}", name(number)), &place(&made.disk)]);
                assert_eq!(found, content("kept", number), "{options:?}");
            }
        }
    }
}

#[test]
fn xfs_has_nothing_left_of_deleted_files() {
    let root = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !has("root", root) || !has("xfsprogs", installed("mkfs.xfs")) {
        return;
    }
    for options in [&["-m", "crc=1"][..], &["-b", "size=1024", "-m", "rmapbt=1"]] {
        let dir = scratch();
        let (tree, disk, image) = (tree(dir.path()), disk(dir.path()), dir.path().join("image"));
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        tool("mkfs.xfs", &[&["-q", "-f"], options, &[text(&image)]].concat());
        let (from, to) = (format!("if={}", text(&image)), format!("of={}", text(&disk)));
        let flags = ["conv=notrunc,sparse", "oflag=seek_bytes", "bs=1M", "status=none"];
        tool("dd", &[&[&*from, &*to, &format!("seek={OFFSET}")], &flags[..]].concat());
        mounted(dir.path(), &disk, "nouuid", |mount| {
            tool("cp", &["-r", &format!("{}/.", text(&tree)), text(mount)]);
            tool("sync", &["-f", text(mount)]);
            for number in (0..FILES).filter(|number| kind(*number) == "deleted") {
                fs_err::remove_file(mount.join(name(number))).unwrap();
            }
        });
        let made = Made { dir, disk };
        let freed = made.zero();
        assert!((SIZE / 2..SIZE).contains(&freed), "{options:?}: {freed}");
        mounted(made.dir.path(), &made.disk, "nouuid,ro", |mount| {
            for number in (0..FILES).step_by(2) {
                assert_eq!(fs_err::read_to_string(mount.join(name(number))).unwrap(), content("kept", number));
            }
        });
        let back = ["iflag=skip_bytes,count_bytes", "conv=sparse", "bs=1M", "status=none"];
        let (skip, size) = (format!("skip={OFFSET}"), format!("count={SIZE}"));
        let (from, to) = (format!("if={}", text(&made.disk)), format!("of={}", text(&image)));
        tool("dd", &[&[&*from, &*to, &*skip, &*size], &back[..]].concat());
        tool("xfs_repair", &["-n", text(&image)]);
    }
}

#[test]
fn what_is_no_sound_file_system_is_left_alone() {
    if !has("qemu", installed("mke2fs") && installed("debugfs")) {
        return;
    }
    let dir = scratch();
    let path = dir.path().join("image");
    File::create(&path).unwrap().set_len(SMALL).unwrap();
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "64bit", "-b", "4096", text(&path)]);
    let image = fs_err::read(&path).unwrap();
    let result = |changes: &[(usize, u8)], size| {
        let mut bytes = image.clone();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        fs_err::write(&path, &bytes).unwrap();
        let result = zero_free_space(&File::options().read(true).write(true).open(&path).unwrap(), 0, size);
        assert!(fs_err::read(&path).unwrap() == bytes, "{changes:?}: it was written to");
        result
    };
    assert!(matches!(result(&[], SMALL), Ok(Some(2_000_000..))));
    assert!(matches!(result(&[(1024 + 0x38, 0)], SMALL), Ok(None)));
    assert!(matches!(result(&[(1024 + 0x60, image[1024 + 0x60] | 4)], SMALL), Err(FreeSpaceError::Unclean { .. })));
    for (at, value) in [
        (1024 + 0x18, 0xff),
        (1024 + 0x14, 9),
        (1024 + 0x20, 1),
        (1024 + 0x22, 0xff),
        (1024 + 0xfe, 3),
        (1024 + 0x7, 0xff),
        // The first group's bitmap lies elsewhere, and it has another number of free blocks.
        (4096 + 3, 0xff),
        (4096 + 0xc, image[4096 + 0xc] ^ 1),
    ] {
        let result = result(&[(at, value)], SMALL);
        assert!(matches!(result, Err(FreeSpaceError::Damaged { .. })), "{at:#x}: {result:?}");
    }
    // A disk that ends before the file system does.
    assert!(matches!(result(&[], SMALL / 2), Err(FreeSpaceError::Damaged { .. })));
}
