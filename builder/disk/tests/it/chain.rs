//! Chains, loop devices, mounts and growth with real disks.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use labwright_core::Cancel;
use labwright_disk::chain::{Backing, Chain, ChainError, ChainSpec, create_overlay, release_export};
use labwright_disk::device::Disk;
use labwright_disk::filesystem::{FilesystemKind, grow_ext4, probe};
use labwright_disk::inspect::Format;
use labwright_disk::layout::{LayoutError, Root, candidates, find_root};
use labwright_disk::loop_device::{Access, LoopDevice};
use labwright_disk::mount::{BindMount, Flags, Mount, MountError, make_rprivate};
use labwright_disk::qcow2_writer::{Compression, WriteOptions, write_qcow2};
use labwright_disk::table::{self, PartitionKind};
use labwright_host::Tool;

use crate::support::{
    ROOT_UUID, cloud_disk, contains, has_qemu, has_root, noise, prose, qemu_check, qemu_img, scratch, tool,
};

const SMALL: u64 = 256 << 20;
const LARGE: u64 = 1 << 30;

/// A directory with `base.qcow2`, and the paths of a chain in it.
struct Bench {
    dir: PathBuf,
    layers: PathBuf,
    cancel: Cancel,
}

impl Bench {
    fn new(dir: &Path) -> Self {
        let raw = cloud_disk(dir, SMALL);
        let (layers, cancel) = (dir.join("layers"), Cancel::new());
        fs_err::create_dir_all(&layers).unwrap();
        let options = WriteOptions { compression: Compression::Zstd, threads: 2 };
        let source = File::open(&raw).unwrap();
        write_qcow2(&source, SMALL, &layers.join("base.qcow2"), options, &mut |_, _| {}, &cancel).unwrap();
        fs_err::remove_file(raw).unwrap();
        Self { dir: dir.to_owned(), layers, cancel }
    }

    fn layer(&self, name: &str) -> PathBuf {
        self.layers.join(name)
    }

    fn overlay(&self, name: &str, backing: &str) {
        let backing = Backing { name: backing.to_owned(), format: Format::Qcow2 };
        create_overlay(&self.layer(name), &backing, LARGE, &self.cancel).unwrap();
    }

    fn spec(&self, lower: &[&str], top: Option<&str>) -> ChainSpec {
        ChainSpec {
            lower: lower.iter().map(|name| (self.layer(name), Format::Qcow2)).collect(),
            top: top.map(|name| self.layer(name)),
            // A comma must not end an option.
            mount_point: self.dir.join("disk, shown.raw"),
            socket: self.dir.join("q,mp"),
        }
    }

    fn open(&self, lower: &[&str], top: Option<&str>) -> Chain {
        Chain::open(&self.spec(lower, top), &self.cancel).unwrap()
    }

    /// Grows the disk, its root partition and the file system, and returns where the root is now.
    fn grow(&self, chain: &Chain) -> Root {
        let root = find_root(&Disk::File(chain.export_path().to_owned()), &self.dir, Access::ReadWrite).unwrap();
        let disk = File::options().read(true).write(true).open(chain.export_path()).unwrap();
        let grown = table::grow(&disk, root.place.partition.unwrap(), LARGE / 512).unwrap();
        let device = LoopDevice::attach(chain.export_path(), grown.offset(), grown.size(), Access::ReadWrite).unwrap();
        grow_ext4(device.path(), &self.cancel).unwrap();
        device.close().unwrap();
        {
            let mut root = root;
            root.place.size = grown.size();
            root
        }
    }

    fn mount(&self, chain: &Chain, root: &Root) -> (LoopDevice, Mount) {
        let device =
            LoopDevice::attach(chain.export_path(), root.place.offset, root.place.size, Access::ReadWrite).unwrap();
        let target = self.dir.join("mnt");
        fs_err::create_dir_all(&target).unwrap();
        let mount = Mount::new(device.path(), &target, "ext4", Flags::WORK, "discard").unwrap();
        (device, mount)
    }
}

fn is_clean(device: &Path) {
    tool(Tool::E2fsck, ["-fn".as_ref(), device.as_os_str()]);
}

/// What sfdisk says of a disk, without what growth changes.
fn identity(disk: &Path) -> (Vec<String>, String) {
    let dump = tool(Tool::Sfdisk, ["--dump".as_ref(), disk.as_os_str()]);
    let kept = |line: &&str| !line.starts_with("last-lba") && !line.starts_with("device");
    let lines = dump.lines().filter(kept).map(|line| match line.split_once(" : ") {
        Some((_, fields)) => {
            fields.split(", ").filter(|field| !field.starts_with("size=")).collect::<Vec<_>>().join(", ")
        }
        None => line.to_owned(),
    });
    (lines.collect(), tool(Tool::Sfdisk, ["--verify".as_ref(), disk.as_os_str()]))
}

fn ready() -> bool {
    has_qemu() && has_root()
}

#[test]
fn a_disk_grows_through_the_chain_and_what_is_deleted_is_gone() {
    if !ready() {
        return;
    }
    let scratch = scratch();
    let bench = Bench::new(scratch.path());
    let marker = b"MARKER-that-must-not-survive";
    let secret = [marker.as_slice(), &noise(1, (12 << 20) - marker.len())].concat();

    let chain = bench.open(&["base.qcow2"], None);
    let (before, _) = identity(chain.export_path());
    assert_eq!(before.len(), 10, "{before:?}");
    chain.close().unwrap();

    bench.overlay("t1.qcow2", "base.qcow2");
    let mut chain = bench.open(&["base.qcow2"], Some("t1.qcow2"));
    let root = bench.grow(&chain);
    assert_eq!(
        (root.place.partition, root.filesystem.uuid.as_deref(), root.subvolume.as_deref()),
        (Some(1), Some(ROOT_UUID), None)
    );
    assert!(root.place.size > LARGE - (20 << 20), "{root:?}");
    let (after, verdict) = identity(chain.export_path());
    assert_eq!(after, before);
    assert!(verdict.contains("No errors detected"), "{verdict}");

    let (device, mount) = bench.mount(&chain, &root);
    assert_eq!(fs_err::read(mount.target().join("var/kept")).unwrap(), prose(5, 1 << 20));
    fs_err::write(mount.target().join("secret"), &secret).unwrap();
    // More than the disk could hold before.
    fs_err::write(mount.target().join("large"), noise(2, 300 << 20)).unwrap();
    mount.syncfs().unwrap();
    mount.close().unwrap();
    device.close().unwrap();
    assert!(contains(chain.export_path(), marker), "the search must be able to find it");

    bench.overlay("t2.qcow2", "L1.qcow2");
    assert_eq!(chain.snapshot(&bench.layer("t2.qcow2")).unwrap(), bench.layer("t1.qcow2"));
    fs_err::rename(bench.layer("t1.qcow2"), bench.layer("L1.qcow2")).unwrap();
    let (device, mount) = bench.mount(&chain, &root);
    fs_err::remove_file(mount.target().join("secret")).unwrap();
    fs_err::remove_file(mount.target().join("large")).unwrap();
    fs_err::write(mount.target().join("second"), "step").unwrap();
    mount.syncfs().unwrap();
    assert!(mount.fstrim().unwrap() > 0);
    mount.syncfs().unwrap();
    mount.close().unwrap();
    is_clean(device.path());
    device.close().unwrap();
    assert_eq!(chain.top(), Some(bench.layer("t2.qcow2").as_path()));
    assert_eq!(chain.close().unwrap(), Some(bench.layer("t2.qcow2")));
    for layer in ["L1.qcow2", "t2.qcow2"] {
        qemu_check(&bench.layer(layer));
    }
    assert!(contains(&bench.layer("L1.qcow2"), marker), "the first layer still has it");

    // The chain opens by the names inside its files too, also somewhere else.
    let moved = bench.dir.join("moved");
    fs_err::rename(&bench.layers, &moved).unwrap();
    fs_err::rename(&moved, &bench.layers).unwrap();
    let chain = bench.open(&["base.qcow2", "L1.qcow2", "t2.qcow2"], None);
    assert!(!contains(chain.export_path(), marker), "a deleted file is still in the flattened disk");
    let flat = bench.dir.join("flat.qcow2");
    let source = File::open(chain.export_path()).unwrap();
    let options = WriteOptions { compression: Compression::Zstd, threads: 2 };
    let written = write_qcow2(&source, LARGE, &flat, options, &mut |_, _| {}, &bench.cancel).unwrap();
    assert!(written.data_size < 64 << 20, "holes must stay holes: {written:?}");
    drop(source);
    assert!(matches!(bench.open_error(), ChainError::InUse { .. }));
    chain.close().unwrap();
    qemu_check(&flat);
    qemu_img("compare", &[flat.as_ref(), bench.layer("t2.qcow2").as_ref()]);
}

impl Bench {
    /// What opening the same place once more says.
    fn open_error(&self) -> ChainError {
        let spec = ChainSpec { socket: self.dir.join("other"), ..self.spec(&["base.qcow2"], None) };
        Chain::open(&spec, &self.cancel).unwrap_err()
    }
}

#[test]
fn a_finished_layer_survives_the_death_of_the_daemon() {
    if !ready() {
        return;
    }
    let scratch = scratch();
    let bench = Bench::new(scratch.path());
    bench.overlay("t1.qcow2", "base.qcow2");
    let mut chain = bench.open(&["base.qcow2"], Some("t1.qcow2"));
    let root = bench.grow(&chain);
    let (device, mount) = bench.mount(&chain, &root);
    let content = noise(4, 20 << 20);
    fs_err::write(mount.target().join("step"), &content).unwrap();
    mount.syncfs().unwrap();
    mount.close().unwrap();
    device.close().unwrap();
    bench.overlay("t2.qcow2", "L1.qcow2");
    chain.snapshot(&bench.layer("t2.qcow2")).unwrap();

    let daemon = rustix::process::Pid::from_raw(i32::try_from(chain.daemon_id()).unwrap()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    fs_err::rename(bench.layer("t1.qcow2"), bench.layer("L1.qcow2")).unwrap();
    bench.overlay("t3.qcow2", "L1.qcow2");
    let error = chain.snapshot(&bench.layer("t3.qcow2")).unwrap_err();
    assert!(error.to_string().contains("signal: 9"), "{error}");
    // As after the death of everything: nobody cleans up before the next run.
    let mount_point = chain.export_path().to_owned();
    let stale = fs_err::metadata(&mount_point).unwrap_err();
    assert_eq!(stale.kind(), io::ErrorKind::NotConnected);
    release_export(&mount_point).unwrap();
    release_export(&mount_point).unwrap();
    assert_eq!(fs_err::metadata(&mount_point).unwrap().len(), 0);
    drop(chain);

    qemu_check(&bench.layer("L1.qcow2"));
    let chain = bench.open(&["base.qcow2", "L1.qcow2"], Some("t3.qcow2"));
    let (device, mount) = bench.mount(&chain, &root);
    assert!(fs_err::read(mount.target().join("step")).unwrap() == content);
    mount.close().unwrap();
    is_clean(device.path());
    device.close().unwrap();
    chain.close().unwrap();
}

#[test]
fn a_full_cache_disk_is_noticed() {
    if !ready() {
        return;
    }
    let scratch = scratch();
    let mut bench = Bench::new(scratch.path());
    let small = bench.dir.join("small");
    fs_err::create_dir_all(&small).unwrap();
    let cache = Mount::new(Path::new("tmpfs"), &small, "tmpfs", Flags::WORK, "size=24m").unwrap();
    fs_err::rename(bench.layer("base.qcow2"), bench.dir.join("base.qcow2")).unwrap();
    bench.layers = small;
    bench.overlay("t1.qcow2", "../base.qcow2");
    let chain = bench.open(&["../base.qcow2"], Some("t1.qcow2"));
    let root = bench.grow(&chain);
    let (device, mount) = bench.mount(&chain, &root);
    mount.syncfs().unwrap();
    let written = fs_err::write(mount.target().join("large"), noise(3, 64 << 20));
    assert!(written.is_ok(), "the disk of the guest has room: {written:?}");
    let error = mount.syncfs().unwrap_err();
    assert!(matches!(error, MountError::Sync { .. }), "{error:?}");
    drop(mount);
    drop(device);
    drop(chain);
    cache.close().unwrap();
}

#[test]
fn the_root_is_found_by_what_is_in_it() {
    if !has_root() {
        return;
    }
    let scratch = scratch();
    let path = cloud_disk(scratch.path(), SMALL);
    let disk = File::open(&path).unwrap();
    let known: Vec<_> =
        candidates(&disk).unwrap().into_iter().map(|found| (found.place.partition, found.filesystem.kind)).collect();
    assert_eq!(known, [(Some(1), FilesystemKind::Ext4), (Some(16), FilesystemKind::Ext4)]);
    assert_eq!(
        find_root(&Disk::File(path.clone()), scratch.path(), Access::ReadOnly).unwrap().place.partition,
        Some(1)
    );

    // The same file system without a table around it.
    let root = table::read(&disk).unwrap().get(1).cloned().unwrap();
    assert!(matches!(root.kind, PartitionKind::Guid(guid) if guid == table::Guid::LINUX_ROOT_AMD64));
    let bare = scratch.path().join("bare.raw");
    let mut bytes = vec![0; usize::try_from(root.size()).unwrap()];
    disk.file().read_exact_at(&mut bytes, root.offset()).unwrap();
    fs_err::write(&bare, &bytes).unwrap();
    let found = find_root(&Disk::File(bare.clone()), scratch.path(), Access::ReadOnly).unwrap();
    assert_eq!((found.place.partition, found.place.offset, found.place.size), (None, 0, root.size()));
    assert_eq!(probe(&File::open(&bare).unwrap(), 0, found.place.size).unwrap(), Some(found.filesystem));

    // A file system without a system in it.
    let boot = table::read(&disk).unwrap().get(16).cloned().unwrap();
    bytes.truncate(usize::try_from(boot.size()).unwrap());
    disk.file().read_exact_at(&mut bytes, boot.offset()).unwrap();
    fs_err::write(&bare, &bytes).unwrap();
    let error = find_root(&Disk::File(bare.clone()), scratch.path(), Access::ReadOnly).unwrap_err();
    assert!(matches!(error, LayoutError::NoRoot { .. }));
    let expected = "has no root file system that can be built on: the whole disk is ext4 without a system in it (its \
                    journal was not replayed); a root lies on ext4, XFS or btrfs, in a partition or in a linear logical \
                    volume of LVM";
    assert_eq!(error.to_string(), format!("`{}` {expected}", bare.display()));
}

#[test]
fn a_chain_that_cannot_be_opened_says_why() {
    if !has_qemu() {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    fs_err::write(path("text"), [b'x'; 4096]).unwrap();
    let open = |lower: Vec<(PathBuf, Format)>, socket: PathBuf| {
        let spec = ChainSpec { lower, top: None, mount_point: path("raw"), socket };
        Chain::open(&spec, &Cancel::new()).unwrap_err()
    };
    let error = open(vec![(path("text"), Format::Qcow2)], path("socket"));
    assert_eq!(error.to_string(), "the storage daemon refused `blockdev-add`: Image is not in qcow2 format");
    let error = open(vec![(path("none"), Format::Raw)], path("socket"));
    assert!(error.to_string().ends_with("No such file or directory"), "{error}");
    assert!(matches!(open(vec![], path("socket")), ChainError::Empty));
    let deep = path(&"x".repeat(120));
    assert!(matches!(open(vec![(path("text"), Format::Raw)], deep), ChainError::SocketPath { .. }));
    assert!(!path("socket").exists(), "a failed chain leaves no socket");

    let backing = |name: &str| {
        let backing = Backing { name: name.to_owned(), format: Format::Qcow2 };
        create_overlay(&path("overlay"), &backing, 1 << 20, &Cancel::new())
    };
    for name in ["", "/etc/shadow", "json:{}", "nbd:host"] {
        assert!(matches!(backing(name), Err(ChainError::BackingName { .. })), "{name}");
    }
    backing("not-there-yet.qcow2").unwrap();
    let info = qemu_img("info", &["-U".as_ref(), "--output=json".as_ref(), path("overlay").as_ref()]);
    assert!(
        info.contains(r#""backing-filename": "not-there-yet.qcow2""#) && info.contains(r#""extended-l2": true"#),
        "{info}"
    );
}

#[test]
fn loop_devices_have_the_size_they_were_asked_for_and_go_away() {
    if !has_root() {
        return;
    }
    let scratch = scratch();
    let path = scratch.path().join("disk");
    fs_err::write(&path, noise(1, 4 << 20)).unwrap();
    let device = LoopDevice::attach(&path, 1 << 20, 1 << 19, Access::ReadOnly).unwrap();
    let shown = fs_err::read(device.path()).unwrap();
    assert!(shown == fs_err::read(&path).unwrap()[1 << 20..(1 << 20) + (1 << 19)]);
    let node = device.path().to_owned();
    let written = File::options().write(true).open(&node).and_then(|file| file.file().write_all_at(&[0; 512], 0));
    assert!(written.is_err(), "it is read-only");
    device.close().unwrap();
    let name = node.file_name().unwrap().to_str().unwrap().to_owned();
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    let now = fs_err::read_to_string(&backing);
    assert!(now.as_ref().is_ok_and(|now| !now.contains(&*path.to_string_lossy())) || now.is_err(), "{now:?}");
    let missing = LoopDevice::attach(&scratch.path().join("none"), 0, 512, Access::ReadOnly).unwrap_err();
    let cause = std::error::Error::source(&missing).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::NotFound);
}

#[test]
fn bind_mounts_obey_their_flags_and_a_busy_one_says_so() {
    if !has_root() {
        return;
    }
    let scratch = scratch();
    let [source, target] = ["source", "target"].map(|name| scratch.path().join(name));
    fs_err::create_dir_all(&source).unwrap();
    fs_err::create_dir_all(&target).unwrap();
    fs_err::write(source.join("file"), "seen").unwrap();
    let bind = BindMount::new(&source, &target, Flags::LOOK, false).unwrap();
    make_rprivate(bind.target()).unwrap();
    assert_eq!(fs_err::read_to_string(target.join("file")).unwrap(), "seen");
    assert_eq!(fs_err::write(target.join("file"), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    let options = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    let line = options.lines().find(|line| line.contains(&*target.to_string_lossy())).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec,noatime "), "{line}");

    let held = File::open(target.join("file")).unwrap();
    let busy = bind.close().unwrap_err();
    assert!(matches!(busy, MountError::Unmount { .. }), "{busy:?}");
    assert!(!target.join("file").exists(), "it is out of the tree of files all the same");
    drop(held);
    assert!(matches!(make_rprivate(&target), Err(MountError::Private { .. })), "it is no mount any more");
    let missing = Mount::new(&source, &target, "ext4", Flags::LOOK, "").unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("could not mount `{}` as ext4 on `{}`", source.display(), target.display())
    );
}

#[test]
fn a_stopped_build_leaves_no_daemon_and_no_export() {
    if !ready() {
        return;
    }
    let scratch = scratch();
    let bench = Bench::new(scratch.path());
    bench.cancel.cancel();
    let error = Chain::open(&bench.spec(&["base.qcow2"], None), &bench.cancel).unwrap_err();
    assert!(matches!(error, ChainError::Cancelled(_)), "{error:?}");

    let cancel = Cancel::new();
    let chain = Chain::open(&bench.spec(&["base.qcow2"], None), &cancel).unwrap();
    let process = PathBuf::from(format!("/proc/{}", chain.daemon_id()));
    assert!(process.exists());
    let (shown, socket) = (chain.export_path().to_owned(), bench.spec(&[], None).socket);
    assert_eq!(fs_err::metadata(&shown).unwrap().len(), SMALL);
    drop(chain);
    assert!(!process.exists() && !socket.exists());
    assert_eq!(fs_err::metadata(&shown).unwrap().len(), 0);
}
