//! Roots of every kind in every place that disks have them in: found, grown, checked, and still the same ones.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err::File;
use labwright_core::Cancel;
use labwright_disk::device::Disk;
use labwright_disk::filesystem::{FilesystemKind, grow_ext4};
use labwright_disk::fstab;
use labwright_disk::layout::{LayoutError, Root, candidates, find_root};
use labwright_disk::loop_device::{Access, LoopDevice};
use labwright_disk::mount::{Flags, Mount};
use labwright_disk::online;
use labwright_disk::system::System;
use labwright_disk::table::{self, SECTOR, TableError};

use crate::support::{has, has_root, prose, raw, scratch};

const SMALL: u64 = 420 << 20;
const LARGE: u64 = 900 << 20;

/// Runs a program that is no tool of Labwright to its good end.
#[expect(clippy::disallowed_methods, reason = "tests make and check their disks with the programs of others")]
pub(crate) fn program(name: &str, args: &[&str], input: &str) -> String {
    use std::io::Write;
    let mut command = std::process::Command::new(name);
    command.args(args).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

pub(crate) fn installed(name: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(name).exists())
}

fn ready() -> bool {
    has_root() && has("xfsprogs", installed("mkfs.xfs")) && has("btrfs-progs", installed("mkfs.btrfs"))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk to be made.
struct Kind {
    /// For sfdisk; empty for no table.
    table: &'static str,
    /// The number of the root's partition.
    number: Option<u32>,
    /// The kind of the root.
    filesystem: FilesystemKind,
    /// The subvolume that the root is put into.
    subvolume: Option<&'static str>,
    /// Whether that is the default one.
    default: bool,
}

/// One that no other test has at the same time: of two btrfs with one UUID only one can be made or mounted.
fn fresh_uuid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("0f3e9a52-7f0e-4b55-{number:04x}-{:012x}", std::process::id())
}

impl Kind {
    const fn new(table: &'static str, number: Option<u32>, filesystem: FilesystemKind) -> Self {
        Self { table, number, filesystem, subvolume: None, default: false }
    }

    fn make(&self, dir: &Path) -> PathBuf {
        self.make_and(dir, &mut |_| {})
    }

    /// Makes the disk, and does something with the file while its root is still mounted.
    fn make_and(&self, dir: &Path, act: &mut dyn FnMut(&Path)) -> PathBuf {
        let path = dir.join("disk.raw");
        drop(raw(&path, SMALL, &[(0, vec![0xeb; 440])]));
        if !self.table.is_empty() {
            program("sfdisk", &["-q", "--no-reread", "--no-tell-kernel", text(&path)], self.table);
        }
        let (offset, size) = self.place(&path);
        let device = LoopDevice::attach(&path, offset, size, Access::ReadWrite).unwrap();
        let (node, uuid) = (text(device.path()), fresh_uuid());
        match self.filesystem {
            FilesystemKind::Xfs => {
                program("mkfs.xfs", &["-q", "-f", "-L", "system", "-m", &format!("uuid={uuid}"), node], "")
            }
            FilesystemKind::Btrfs => program("mkfs.btrfs", &["-q", "-f", "-L", "system", "-U", &uuid, node], ""),
            _ => program("mke2fs", &["-q", "-F", "-t", "ext4", "-L", "system", "-U", &uuid, node], ""),
        };
        let top = dir.join("top");
        fs_err::create_dir_all(&top).unwrap();
        let mount = Mount::new(device.path(), &top, self.filesystem.as_str(), Flags::WORK, "").unwrap();
        let mut root = top.clone();
        if let Some(name) = self.subvolume {
            root = top.join(name);
            program("btrfs", &["subvolume", "create", text(&root)], "");
            if self.default {
                program("btrfs", &["subvolume", "set-default", text(&root)], "");
            }
        }
        for name in ["etc", "usr/lib", "boot"] {
            fs_err::create_dir_all(root.join(name)).unwrap();
        }
        // For whoever reads the disk, what is only synchronised is in the journal; syncfs would put it in its place.
        for (name, content) in [("usr/lib/os-release", b"ID=test\n".to_vec()), ("kept", prose(5, 3 << 20))] {
            fs_err::write(root.join(name), content).unwrap();
            File::open(root.join(name)).unwrap().sync_all().unwrap();
        }
        act(&path);
        mount.close().unwrap();
        device.close().unwrap();
        path
    }

    fn place(&self, path: &Path) -> (u64, u64) {
        let table = table::read(&File::open(path).unwrap()).unwrap();
        match self.number.map(|number| table.get(number).unwrap()) {
            Some(partition) => (partition.offset(), partition.size()),
            None => (0, File::open(path).unwrap().metadata().unwrap().len()),
        }
    }
}

/// What must be the same before and after, as programs tell it that are not ours.
fn identity(path: &Path, kind: &Kind) -> String {
    let mut identity = String::new();
    if !kind.table.is_empty() {
        for line in program("sfdisk", &["--dump", text(path)], "").lines() {
            // An extended partition grows as well.
            let fields = line.split(", ").filter(|field| !field.contains("size="));
            if !line.starts_with("last-lba") {
                identity.extend([fields.collect::<Vec<_>>().join(", "), "\n".to_owned()]);
            }
        }
    }
    let (offset, size) = kind.place(path);
    let device = LoopDevice::attach(path, offset, size, Access::ReadOnly).unwrap();
    let tags = ["-p", "-o", "export", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", "-s", "UUID_SUB"];
    let said = program("blkid", &[&tags[..], &[text(device.path())]].concat(), "");
    identity.extend(said.lines().filter(|line| !line.starts_with("DEVNAME")).map(|line| format!("{line}\n")));
    device.close().unwrap();
    identity
}

/// Grows the disk, the root's partition and its file system, as a build does.
fn grow(path: &Path, dir: &Path) -> Root {
    let root = find_root(&Disk::File(path.to_path_buf()), dir, Access::ReadWrite).unwrap();
    let disk = File::options().read(true).write(true).open(path).unwrap();
    disk.set_len(LARGE).unwrap();
    let size = match root.place.partition {
        Some(number) => table::grow(&disk, number, LARGE / SECTOR).unwrap().size(),
        None => LARGE,
    };
    let mut root = root;
    root.place.size = size;
    let device = LoopDevice::attach(path, root.place.offset, size, Access::ReadWrite).unwrap();
    let kind = root.filesystem.kind;
    if kind == FilesystemKind::Ext4 {
        grow_ext4(device.path(), &Cancel::new()).unwrap();
    } else {
        let mount = mount(&device, &root, dir);
        online::grow(mount.target(), kind, size).unwrap();
        // Once more changes nothing.
        online::grow(mount.target(), kind, size).unwrap();
        mount.syncfs().unwrap();
        mount.close().unwrap();
    }
    device.close().unwrap();
    root
}

fn mount(device: &LoopDevice, root: &Root, dir: &Path) -> Mount {
    let target = dir.join("mnt");
    fs_err::create_dir_all(&target).unwrap();
    let options = root.subvolume.as_ref().map(|name| format!("subvol={name}")).unwrap_or_default();
    Mount::new(device.path(), &target, root.filesystem.kind.as_str(), Flags::WORK, &options).unwrap()
}

#[test]
fn roots_grow_in_every_place_and_keep_who_they_are() {
    if !ready() {
        return;
    }
    let mbr = "label: dos\nlabel-id: 0x1234abcd\n";
    let primary = format!("{mbr}start=2048,size=8192,type=83\nstart=10240,type=83,bootable\n");
    let logical = format!(
        "{mbr}start=2048,size=8192,type=83,bootable\nstart=10240,type=5\nstart=12288,size=20480,type=82\n\
         start=34816,type=83\n"
    );
    let gpt = "label: gpt\nlabel-id: 5F5C2C0C-0B4E-4F70-9C7A-000000000001\n\
               start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649,name=bios\n\
               start=4096,type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709,name=\"system root\",attrs=\"GUID:59\"\n";
    let first = "label: gpt\nstart=2048,type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,name=all\n";
    let turned = "label: gpt\n1: start=206848,name=root\n2: start=2048,size=204800,name=boot\n";
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let (primary, logical) = (leak(primary), leak(logical));
    let kinds = [
        Kind::new(primary, Some(2), FilesystemKind::Ext4),
        Kind::new(primary, Some(2), FilesystemKind::Btrfs),
        Kind::new(primary, Some(2), FilesystemKind::Xfs),
        Kind::new(gpt, Some(2), FilesystemKind::Ext4),
        // The first number, and the last place.
        Kind::new(turned, Some(1), FilesystemKind::Ext4),
        Kind::new(logical, Some(6), FilesystemKind::Xfs),
        Kind::new(logical, Some(6), FilesystemKind::Ext4),
        Kind::new(gpt, Some(2), FilesystemKind::Xfs),
        Kind { subvolume: Some("@"), ..Kind::new(gpt, Some(2), FilesystemKind::Btrfs) },
        Kind { subvolume: Some("sub1"), default: true, ..Kind::new(first, Some(1), FilesystemKind::Btrfs) },
        Kind::new("", None, FilesystemKind::Xfs),
        Kind { subvolume: Some("root"), ..Kind::new("", None, FilesystemKind::Btrfs) },
    ];
    for kind in kinds {
        let scratch = scratch();
        let dir = scratch.path();
        let path = kind.make(dir);
        let what = format!("{} in {:?} of {:?}", kind.filesystem.as_str(), kind.number, kind.table);
        let before = identity(&path, &kind);
        let root = grow(&path, dir);
        let named = if kind.default { None } else { kind.subvolume };
        assert_eq!((root.place.partition, root.subvolume.as_deref()), (kind.number, named), "{what}");
        assert!(root.place.offset + root.place.size > LARGE - (2 << 20), "{what}: {root:?}");
        assert_eq!(identity(&path, &kind), before, "{what}");
        if !kind.table.is_empty() {
            let verdict = program("sfdisk", &["--verify", text(&path)], "");
            assert!(verdict.contains("No errors detected"), "{what}: {verdict}");
        }
        let mut head = [0; 440];
        std::os::unix::fs::FileExt::read_exact_at(File::open(&path).unwrap().file(), &mut head, 0).unwrap();
        assert!(root.place.partition.is_none() || head == [0xeb; 440], "{what}: the boot code");

        let device = LoopDevice::attach(&path, root.place.offset, root.place.size, Access::ReadWrite).unwrap();
        let mount = mount(&device, &root, dir);
        let space = rustix::fs::statvfs(mount.target()).unwrap();
        assert!(
            space.f_blocks * space.f_frsize > root.place.size / 100 * 85,
            "{what}: {}",
            space.f_blocks * space.f_frsize
        );
        assert!(fs_err::read(mount.target().join("kept")).unwrap() == prose(5, 3 << 20), "{what}");
        // More than there was room for.
        let large = File::create(mount.target().join("large")).unwrap();
        rustix::fs::fallocate(&large, rustix::fs::FallocateFlags::empty(), 0, 450 << 20).unwrap();
        drop(large);
        mount.syncfs().unwrap();
        mount.close().unwrap();
        let node = text(device.path());
        match kind.filesystem {
            FilesystemKind::Xfs => program("xfs_repair", &["-n", node], ""),
            FilesystemKind::Btrfs => program("btrfs", &["check", "--readonly", node], ""),
            _ => program("e2fsck", &["-f", "-n", node], ""),
        };
        device.close().unwrap();
    }
}

#[test]
fn a_root_in_front_of_others_is_found_and_never_grown() {
    if !ready() {
        return;
    }
    let mbr = "label: dos\nstart=2048,size=614400,type=83\nstart=616448,size=20480,type=82\n";
    let gpt = "label: gpt\nstart=2048,size=614400,name=root\nstart=616448,size=20480,name=swap,type=swap\n";
    for table in [mbr, gpt] {
        for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs, FilesystemKind::Btrfs] {
            let scratch = scratch();
            let dir = scratch.path();
            let path = Kind::new(table, Some(1), filesystem).make(dir);
            let mut system = System::open(Disk::File(path.clone()), dir.join("mnt"), dir, Access::ReadWrite).unwrap();
            assert_eq!((system.root().place.partition, system.root().filesystem.kind), (Some(1), filesystem));
            let disk = File::options().read(true).write(true).open(&path).unwrap();
            disk.set_len(LARGE).unwrap();
            // Where tables lie.
            let ends = || {
                let mut bytes = vec![0; 2 << 20];
                let (head, tail) = bytes.split_at_mut(1 << 20);
                std::os::unix::fs::FileExt::read_exact_at(disk.file(), head, 0).unwrap();
                std::os::unix::fs::FileExt::read_exact_at(disk.file(), tail, LARGE - (1 << 20)).unwrap();
                bytes
            };
            let before = ends();
            let error = system.grow(&Cancel::new()).unwrap_err();
            assert!(error.is_of_disk());
            assert!(error.to_string().ends_with("cannot grow: partition 2 (swap) lies behind it"), "{error}");
            assert!(ends() == before, "a refusal writes nothing");

            // It is built on as it is.
            fs_err::create_dir(dir.join("mnt")).unwrap();
            system.mount(Access::ReadWrite).unwrap();
            fs_err::write(dir.join("mnt/written"), "here").unwrap();
            for part in system.release().unwrap() {
                part.close().unwrap();
            }
            system.mount(Access::ReadOnly).unwrap();
            assert_eq!(fs_err::read(dir.join("mnt/written")).unwrap(), b"here");
            fs_err::write(dir.join("mnt/more"), "").unwrap_err();
            system.unmount().unwrap();
        }
    }
}

#[test]
fn a_root_that_cannot_grow_or_cannot_be_reached_is_refused() {
    if !has_root() {
        return;
    }
    let scratch = scratch();
    let dir = scratch.path();
    let table = "label: dos\nstart=2048,size=204800,type=83\nstart=206848,size=20480,type=82\n";
    let path = Kind::new(table, Some(1), FilesystemKind::Ext4).make(dir);
    let disk = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(find_root(&Disk::File(path.clone()), dir, Access::ReadOnly).unwrap().place.partition, Some(1));
    let head = || {
        let mut bytes = vec![0; 2 << 20];
        std::os::unix::fs::FileExt::read_exact_at(disk.file(), &mut bytes, 0).unwrap();
        bytes
    };
    let before = head();
    let error = table::grow(&disk, 1, SMALL / SECTOR).unwrap_err();
    assert!(matches!(error, TableError::InTheWay { .. }));
    let expected = format!("partition 1 of `{}` cannot grow: partition 2 (swap) lies behind it", path.display());
    assert_eq!(error.to_string(), expected);
    assert!(head() == before, "a refusal writes nothing");

    let signatures: [(&str, &[u8], usize); 3] = [
        ("an encrypted volume (LUKS)", b"LUKS\xba\xbe\0\x02", 0),
        ("a software RAID", b"\xfc\x4e\x2b\xa9", 4096),
        ("ZFS", b"\x0c\xb1\xba\0\0\0\0\0", 0x20000),
    ];
    for (name, signature, at) in signatures {
        let file = raw(&path, SMALL, &[]);
        program("sfdisk", &["-q", "--no-reread", "--no-tell-kernel", text(&path)], table);
        let place = (2048 << 9) + at as u64;
        std::os::unix::fs::FileExt::write_all_at(file.file(), signature, place).unwrap();
        let error = find_root(&Disk::File(path.clone()), dir, Access::ReadOnly).unwrap_err();
        assert!(matches!(error, LayoutError::NoRoot { .. }), "{name}: {error}");
        let expected = format!(
            "`{}` has no root file system that can be built on: partition 1 is {name}; a root lies on ext4, XFS or \
             btrfs, in a partition or in a linear logical volume of LVM",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn links_of_a_disk_lead_nowhere_but_into_it() {
    if !has_root() {
        return;
    }
    let scratch = scratch();
    let dir = scratch.path();
    let table = "label: gpt\nstart=2048,size=102400\nstart=104448,size=20480,name=boot\n";
    let kind = Kind::new(table, Some(1), FilesystemKind::Ext4);
    let path = kind.make(dir);
    let disk = File::open(&path).unwrap();
    let boot = table::read(&disk).unwrap().get(2).cloned().unwrap();
    let second = LoopDevice::attach(&path, boot.offset(), boot.size(), Access::ReadWrite).unwrap();
    program("mke2fs", &["-q", "-F", "-t", "ext4", text(second.path())], "");
    let root = find_root(&Disk::File(path.clone()), dir, Access::ReadOnly).unwrap();
    let device = LoopDevice::attach(&path, root.place.offset, root.place.size, Access::ReadWrite).unwrap();
    let mount = mount(&device, &root, dir);
    let inside = mount.target().to_owned();
    let outside = dir.join("outside");
    fs_err::create_dir_all(&outside).unwrap();
    fs_err::write(outside.join("fstab"), "secret").unwrap();
    let link = |target: &Path, name: &str| rustix::fs::symlink(target, inside.join(name)).unwrap();
    link(&outside, "absolute");
    link(Path::new("../../../../../../../../../../../../dev/shm"), "relative");
    link(Path::new("loop"), "loop");
    link(&outside.join("fstab"), "etc/fstab");
    link(Path::new("/etc/real"), "etc/linked");
    fs_err::write(inside.join("etc/real"), "of the disk").unwrap();
    fs_err::create_dir_all(inside.join("dev/shm")).unwrap();
    let at = |name: &str| mount.below(name, second.path(), "ext4", Flags::WORK, "").unwrap();
    assert!(at("absolute").is_none() && at("loop").is_none() && at("none").is_none() && at("etc/real").is_none());
    assert!(at("..").is_none() && at(".").is_none(), "the root itself is no place");
    // As the machine would see it: the link leads to a directory of the disk's own.
    let below = at("relative").unwrap();
    assert_eq!(below.target(), fs_err::canonicalize(inside.join("dev/shm")).unwrap());
    below.close().unwrap();
    assert_eq!(mount.text_below("etc/fstab").unwrap(), None);
    assert_eq!(mount.text_below("etc/linked").unwrap().as_deref(), Some("of the disk"));
    assert_eq!(mount.text_below("/etc").unwrap(), None);

    let boot = at("boot").unwrap();
    let text = "PARTLABEL=boot /boot ext4 defaults 0 2\n";
    let table = table::read(&disk).unwrap();
    let (below, missing) = fstab::below_root(text, &table, &candidates(&disk).unwrap(), &root);
    assert_eq!((below.len(), missing.len(), below[0].mount_point.as_str()), (1, 0, "/boot"));
    boot.close().unwrap();
    mount.close().unwrap();
    device.close().unwrap();
    second.close().unwrap();
}

/// As a disk is that was copied while its system ran: the files are in the journal, and nowhere else yet.
#[test]
fn a_root_in_its_journal_is_found_where_the_disk_may_be_written() {
    if !ready() {
        return;
    }
    let gpt = "label: gpt\nstart=2048,size=20480,type=swap\nstart=22528,name=root\n";
    for filesystem in [FilesystemKind::Ext4, FilesystemKind::Xfs] {
        let scratch = scratch();
        let dir = scratch.path();
        let copy = dir.join("copy.raw");
        Kind::new(gpt, Some(2), filesystem).make_and(dir, &mut |path| {
            program("cp", &["--sparse=always", text(path), text(&copy)], "");
        });
        let before = fs_err::read(&copy).unwrap();
        let error = find_root(&Disk::File(copy.clone()), dir, Access::ReadOnly).unwrap_err();
        let kind = filesystem.as_str();
        let said = format!("partition 2 is {kind} without a system in it (its journal was not replayed); ");
        assert!(error.to_string().contains(&said), "{error}");
        assert!(fs_err::read(&copy).unwrap() == before, "{kind}: the look wrote");

        let mut system = System::open(Disk::File(copy.clone()), dir.join("mnt"), dir, Access::ReadWrite).unwrap();
        assert_eq!((system.root().place.partition, system.root().filesystem.kind), (Some(2), filesystem));
        File::options().write(true).open(&copy).unwrap().set_len(LARGE).unwrap();
        fs_err::create_dir(dir.join("mnt")).unwrap();
        system.grow(&Cancel::new()).unwrap();
        system.mount(Access::ReadWrite).unwrap();
        assert!(fs_err::read(dir.join("mnt/kept")).unwrap() == prose(5, 3 << 20), "{kind}");
        system.unmount().unwrap();
        // It is there for everybody now.
        assert!(find_root(&Disk::File(copy), dir, Access::ReadOnly).is_ok(), "{kind}");
    }
}

#[test]
fn what_cannot_be_mounted_is_not_the_root_and_no_obstacle() {
    if !ready() {
        return;
    }
    let scratch = scratch();
    let dir = scratch.path();
    let gpt = "label: gpt\nstart=2048,size=40960\nstart=43008,size=614400\nstart=657408,size=32768\n\
               start=690176,size=16384\nstart=706560,size=20480,type=swap\nstart=727040,size=20480\n";
    let kind = Kind::new(gpt, Some(2), FilesystemKind::Ext4);
    let path = kind.make(dir);
    let disk = File::options().read(true).write(true).open(&path).unwrap();
    let write = |sector: u64, at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(disk.file(), bytes, sector * SECTOR + at).unwrap();
    };
    // What is left of an ext4 and of an XFS file system, an encrypted volume, swap, and an empty ext4.
    write(2048, 0x438, b"\x53\xef");
    write(657_408, 0, b"XFSB");
    write(690_176, 0, b"LUKS\xba\xbe\0\x02");
    write(706_560, 4086, b"SWAPSPACE2");
    let empty = LoopDevice::attach(&path, 727_040 * SECTOR, 20480 * SECTOR, Access::ReadWrite).unwrap();
    program("mke2fs", &["-q", "-F", "-t", "ext4", text(empty.path())], "");
    empty.close().unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert_eq!(find_root(&Disk::File(path.clone()), dir, access).unwrap().place.partition, Some(2));
    }

    let (offset, size) = kind.place(&path);
    let device = LoopDevice::attach(&path, offset, size, Access::ReadWrite).unwrap();
    let mount = Mount::new(device.path(), &dir.join("top"), "ext4", Flags::WORK, "").unwrap();
    fs_err::remove_file(dir.join("top/usr/lib/os-release")).unwrap();
    mount.syncfs().unwrap();
    mount.close().unwrap();
    device.close().unwrap();
    let error = find_root(&Disk::File(path.clone()), dir, Access::ReadWrite).unwrap_err();
    // The kernel's own words differ between its versions.
    let mut said = String::new();
    for piece in error.to_string().split_inclusive(" cannot be mounted (") {
        let behind = if said.ends_with('(') { piece.find("))").unwrap() + 1 } else { 0 };
        said.push_str(&piece[behind..]);
    }
    let expected = format!(
        "`{}` has no root file system that can be built on: partition 1 is ext4 and cannot be mounted (); partition 2 is \
         ext4 without a system in it; partition 3 is xfs and cannot be mounted (); partition 4 is an encrypted volume \
         (LUKS); partition 5 is swap; partition 6 is ext4 without a system in it; a root lies on ext4, XFS or btrfs, in \
         a partition or in a linear logical volume of LVM",
        path.display()
    );
    assert_eq!(said, expected);
}
