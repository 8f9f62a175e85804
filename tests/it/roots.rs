//! Builds on disks of other kinds than the usual one: MBR with logical partitions, btrfs subvolumes, XFS, a /boot of
//! its own, an EFI system partition, LVM.

use std::path::{Path, PathBuf};

use crate::runners::{as_nobody, can_emulate, share_kernel};
use crate::world::{World, can_build, derived_base, files, grep, has, installed, sha256, text, tool};

/// The file systems of a test disk.
struct Layout {
    name: &'static str,
    /// For sfdisk.
    table: &'static str,
    boot: u64,
    root: u64,
    /// Sectors of the boot partition, and of the root's.
    sizes: (u64, u64),
    filesystem: &'static str,
    subvolumes: bool,
    /// The EFI system partition, by its first sector and its number of sectors.
    esp: Option<(u64, u64)>,
}

const BTRFS: Layout = Layout {
    name: "mbr-btrfs",
    table: "label: dos\nlabel-id: 0x1234abcd\nstart=2048,size=131072,type=83,bootable\nstart=133120,type=5\n\
            start=135168,size=20480,type=82\nstart=157696,type=83\n",
    boot: 2048,
    root: 157_696,
    sizes: (131_072, 1_126_400 - 157_696),
    filesystem: "btrfs",
    subvolumes: true,
    esp: None,
};

const XFS: Layout = Layout {
    name: "gpt-xfs-esp",
    table: "label: gpt\nstart=2048,size=131072,name=boot\nstart=133120,size=8192,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
            start=141312,name=root\n",
    boot: 2048,
    root: 141_312,
    sizes: (131_072, 1_124_352 - 141_312),
    filesystem: "xfs",
    subvolumes: false,
    esp: Some((133_120, 8192)),
};

/// As Debian's installer makes it: the root and swap are logical volumes, and swap lies behind the root.
const LVM: Layout = Layout {
    name: "mbr-lvm",
    table: "label: dos\nlabel-id: 0x1234abcd\nstart=2048,size=131072,type=83,bootable\nstart=133120,type=8e\n",
    boot: 2048,
    root: 133_120,
    sizes: (131_072, 1_126_400 - 133_120),
    filesystem: "ext4",
    subvolumes: false,
    esp: None,
};

/// The root's part of the volume group, and that of swap, in extents of 4 MiB.
const EXTENTS: (u64, u64) = (110, 4);
const GROUP: &str = "lab-vg";
/// The size of an extent, and where the first one begins, in sectors.
const EXTENT: (u64, u64) = (8192, 2048);

const BOOT_UUID: &str = "0f3e9a52-7f0e-4b55-8b9c-00000000b007";
const ROOT_UUID: &str = "0f3e9a52-7f0e-4b55-8b9c-000000000001";
const ESP_SERIAL: &str = "1A2B-3C4D";

/// Where the parts of the copy of a running system's disk begin, in sectors.
const REMAINS: u64 = 2048;
const COPIED_ROOT: u64 = 10240;

/// LVM2's programs with one device, without the device mapper and udev, and without a trace on this host.
fn lvm2(command: &str, node: &str, args: &[&str]) -> String {
    let settings = format!(
        "global {{ use_lvmlockd=0 use_lvmpolld=0 activation=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
         backup {{ backup=0 archive=0 }} devices {{ use_devicesfile=0 obtain_device_list_from_udev=0 \
         external_device_info_source=\"none\" filter=[\"a|^{node}$|\",\"r|.*|\"] }}"
    );
    let said = tool(command, &[&["--config", &settings], args].concat());
    String::from_utf8(said).unwrap().trim().to_owned()
}

/// Shows a part of a disk to programs for as long as something is done with it.
fn shown<T>(raw: &Path, (sector, sectors): (u64, u64), act: impl FnOnce(&str) -> T) -> T {
    let (offset, size) = ((sector * 512).to_string(), (sectors * 512).to_string());
    let node = tool("losetup", &["-f", "--show", "-o", &offset, "--sizelimit", &size, text(raw)]);
    let node = String::from_utf8(node).unwrap();
    let result = act(node.trim());
    tool("losetup", &["-d", node.trim()]);
    result
}

/// Mounts a part of a raw disk for as long as something is done in it.
fn mounted(raw: &Path, (sector, sectors): (u64, u64), at: &Path, options: &str, act: impl FnOnce()) {
    fs_err::create_dir_all(at).unwrap();
    let options = format!("loop,offset={},sizelimit={}{options}", sector * 512, sectors * 512);
    tool("mount", &["-o", &options, text(raw), text(at)]);
    act();
    tool("umount", &[text(at)]);
}

impl Layout {
    /// A base with the tree of the usual one.
    fn base(&self) -> PathBuf {
        derived_base(self.name, |usual, work, disk| {
            let (raw, tree, top, image) = (work.join("raw"), work.join("tree"), work.join("top"), work.join("image"));
            fs_err::File::create(&raw).unwrap().set_len(550 << 20).unwrap();
            let table = assert_cmd::Command::new("/usr/sbin/sfdisk")
                .args(["-q", "--no-reread", "--no-tell-kernel", text(&raw)])
                .write_stdin(self.table)
                .output();
            assert!(table.unwrap().status.success());
            // mkfs knows no offsets, so it makes the file system in a file of its own.
            let put = |sector: u64, sectors: u64, make: &dyn Fn(&str)| {
                fs_err::File::create(&image).unwrap().set_len(sectors * 512).unwrap();
                make(text(&image));
                let (from, to, seek) =
                    (format!("if={}", text(&image)), format!("of={}", text(&raw)), format!("seek={}", sector * 512));
                tool("dd", &[&from, &to, &seek, "oflag=seek_bytes", "conv=notrunc,sparse", "bs=1M", "status=none"]);
            };
            put(self.boot, self.sizes.0, &|image| {
                tool("mke2fs", &["-q", "-t", "ext4", "-b", "1024", "-U", BOOT_UUID, image]);
            });
            let mut root_place = (self.root, self.sizes.1);
            if self.name == LVM.name {
                shown(&raw, root_place, |node| {
                    lvm2("pvcreate", node, &["-y", "--dataalignment", "1m", node]);
                    lvm2("vgcreate", node, &[GROUP, node]);
                    for (name, extents) in [("root", EXTENTS.0), ("swap_1", EXTENTS.1)] {
                        let extents = extents.to_string();
                        lvm2("lvcreate", node, &["-y", "-an", "-Zn", "-Wn", "-l", &extents, "-n", name, GROUP]);
                    }
                });
                root_place = (self.root + EXTENT.1, EXTENTS.0 * EXTENT.0);
            }
            if let Some((sector, sectors)) = self.esp {
                put(sector, sectors, &|image| {
                    tool("mkfs.vfat", &["-i", &ESP_SERIAL.replace('-', ""), image]);
                });
            }
            put(root_place.0, root_place.1, &|image| {
                if self.filesystem == "ext4" {
                    tool("mke2fs", &["-q", "-t", "ext4", "-U", ROOT_UUID, image]);
                } else if self.filesystem == "xfs" {
                    tool("mkfs.xfs", &["-q", "-m", &format!("uuid={ROOT_UUID}"), image]);
                } else {
                    tool("mkfs.btrfs", &["-q", "-U", ROOT_UUID, image]);
                }
            });
            mounted(&raw, (self.boot, self.sizes.0), &tree, "", || {
                fs_err::create_dir(tree.join("efi")).unwrap();
            });
            mounted(&raw, root_place, &top, "", || {
                let mut root = top.clone();
                let mut fstab = vec![format!("UUID={BOOT_UUID} /boot ext4 defaults 0 2\n")];
                if self.esp.is_some() {
                    fstab.push(format!("UUID={ESP_SERIAL} /boot/efi vfat umask=0077 0 1\n"));
                }
                if self.name == LVM.name {
                    fstab.push("/dev/mapper/lab--vg-root / ext4 errors=remount-ro 0 1\n".to_owned());
                    fstab.push("/dev/mapper/lab--vg-swap_1 none swap sw 0 0\n".to_owned());
                }
                if self.subvolumes {
                    for name in ["@", "@home"] {
                        tool("btrfs", &["subvolume", "create", text(&top.join(name))]);
                    }
                    root = top.join("@");
                    fstab.push(format!("UUID={ROOT_UUID} /home btrfs subvol=@home,compress=zstd 0 0\n"));
                }
                fs_err::create_dir_all(&tree).unwrap();
                let usual_raw = work.join("usual");
                tool("qemu-img", &["convert", "-O", "raw", text(usual), text(&usual_raw)]);
                let sectors = fs_err::metadata(&usual_raw).unwrap().len() / 512 - 4096 - 2048;
                mounted(&usual_raw, (4096, sectors), &tree, ",ro,noload", || {
                    tool("cp", &["-a", &format!("{}/.", text(&tree)), text(&root)]);
                });
                fs_err::write(root.join("etc/fstab"), fstab.concat()).unwrap();
                fs_err::create_dir_all(root.join("boot")).unwrap();
            });
            tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(disk)]);
        })
    }

    /// The parts of a built disk, by what sfdisk says.
    fn parts(&self, raw: &Path) -> ((u64, u64), (u64, u64)) {
        let parts = crate::world::partitions(raw);
        let at = |sector: u64| {
            let part = parts.iter().find(|part| part["start"].as_u64() == Some(sector)).unwrap();
            (sector, part["size"].as_u64().unwrap())
        };
        (at(self.boot), at(self.root))
    }
}

/// A disk with an ESP, built on in a machine: this is where an ESP is mounted on hosts whose own kernel has no vfat.
#[test]
fn machine_builds_reach_boot_and_the_efi_system_partition() {
    let made = installed("mkfs.xfs") && installed("mkfs.vfat") && installed("mtype");
    if !can_build() || !can_emulate() || !has("mtools", made) {
        return;
    }
    let body = "disk: {size: 1Gi}\nwrite_files:\n  - {path: /boot/here, content: \"on boot\\n\"}\n  \
                - {path: /boot/efi/here, content: \"on the ESP\\n\"}\n  - {path: /opt/here, content: \"on the root\\n\"}\n\
                runcmd:\n  - |\n    set -ex\n    test \"$(grub-probe -t fs /boot/efi)\" = fat\n    \
                test \"$(grub-probe -t fs /boot)\" = ext2\n    test \"$(grub-probe -t fs /)\" = xfs\n    \
                test \"$(grub-probe -t fs_uuid /boot/efi/x)\" = 1A2B-3C4D\n    \
                printf 'a\\303\\244' > /boot/efi/a-long-name.text\n    \
                grep -E ' /boot/efi .* vfat ' /proc/self/mountinfo\n    df /boot/efi /boot /\n";
    let world = World::on(&XFS.base(), "esp", body);
    share_kernel(&world.home());
    let said = as_nobody(&world, &["build", "--format", "json", "--runner", "vm", "r"]);
    assert_eq!(said.code, 0, "{said}");
    assert!(!said.err.contains("stays unmounted"), "{said}");
    share_kernel(&world.home());
    world.assert_nothing_left("a build in a machine");
    let disk = world.disk(&world.only_disk());
    let raw: &Path = &disk.raw;
    let esp = format!("{}@@{}", text(raw), XFS.esp.unwrap().0 * 512);
    assert_eq!(tool("mtype", &["-i", &esp, "::here"]), b"on the ESP\n");
    assert_eq!(tool("mtype", &["-i", &esp, "::a-long-name.text"]), "a\u{e4}".as_bytes());
    shown(raw, XFS.esp.unwrap(), |node| tool("fsck.vfat", &["-n", node]));
    let (boot, root) = XFS.parts(raw);
    let at = world.lab.path().join("mounted");
    mounted(raw, boot, &at, ",ro", || {
        assert_eq!(fs_err::read_to_string(at.join("here")).unwrap(), "on boot\n");
        assert!(!at.join("efi/here").exists(), "the ESP was not mounted when it was written");
    });
    mounted(raw, root, &at, ",ro,nouuid", || {
        assert_eq!(fs_err::read_to_string(at.join("opt/here")).unwrap(), "on the root\n");
        assert!(!at.join("boot/here").exists(), "/boot was not mounted when it was written");
        let space = rustix::fs::statvfs(&at).unwrap();
        assert!(space.f_blocks * space.f_frsize > 800 << 20, "it did not grow");
    });
    shown(raw, root, |node| tool("xfs_repair", &["-n", node]));
}

#[test]
fn machine_builds_grow_a_root_on_lvm_and_a_chroot_says_where_it_works() {
    let made = ["pvcreate", "vgcreate", "lvcreate", "vgck"].iter().all(|name| installed(name));
    if !can_build() || !can_emulate() || !has("lvm2", made) {
        return;
    }
    let body = "disk: {size: 1Gi}\nwrite_files:\n  - {path: /boot/here, content: \"on boot\\n\"}\nruncmd:\n  - |\n    \
                set -ex\n    test \"$(grub-probe -t device /)\" = /dev/mapper/lab--vg-root\n    \
                test \"$(grub-probe -t abstraction /usr)\" = lvm\n    test -z \"$(grub-probe -t abstraction /boot)\"\n    \
                test -e /dev/mapper/lab--vg-root\n    df -h / /boot\n    \
                head -c 400000000 /dev/zero | tr '\\0' x > /opt/large\n    rm /opt/large\n    \
                echo grown > /opt/here\n";
    let base = LVM.base();
    let world = World::on(&base, "lvm", body);
    let said = world.build(&["--runner", "chroot"]);
    assert_eq!(said.code, 1, "{said}");
    let why = "has its root in LVM (partition 2), which only a machine of its own can open";
    assert!(said.err.contains(why) && said.err.contains("take `--runner vm`"), "{said}");
    world.assert_nothing_left("a refusal");

    // Left the choice, root gets what works, and why it is not the usual.
    share_kernel(&world.home());
    let said = world.build(&[]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("runner: vm after all (") && said.err.contains(&format!("{why}), emulated")), "{said}");
    share_kernel(&world.home());
    world.assert_nothing_left("a build in a machine");
    let disk = world.disk(&world.only_disk());
    let raw: &Path = &disk.raw;
    let (boot, group) = LVM.parts(raw);
    let usual = tempfile::Builder::new().prefix("usual-").tempfile_in(world.lab.path()).unwrap().into_temp_path();
    tool("qemu-img", &["convert", "-O", "raw", text(&base), text(&usual)]);
    let (before, after) = (lvm_facts(&usual, LVM.parts(&usual).1), lvm_facts(raw, group));
    assert_eq!(before.0.split(' ').next(), after.0.split(' ').next(), "the group is another one");
    assert!(after.0.ends_with(" 0"), "something is free: {after:?}");
    assert!(before.1[1] == after.1[1] && before.1[1].starts_with("swap_1 "), "{before:?} {after:?}");
    let id = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
    assert_eq!(id(&before.1[0]), id(&after.1[0]));
    assert_eq!(after.2.len(), 3, "swap lies between the root's two segments: {after:?}");

    // The root, put together by what LVM2 says of it, in pieces of 1 MiB.
    let root = world.lab.path().join("root");
    let mut at = 0;
    for piece in after.2.iter().filter_map(|line| line.strip_prefix("root PV:")) {
        let (first, last) = piece.split_once('-').unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        let skip = (group.0 + EXTENT.1 + first * EXTENT.0) / 2048;
        let numbers = [("skip", skip), ("seek", at * 4), ("count", (last - first + 1) * 4)];
        let mut args = vec![format!("if={}", text(raw)), format!("of={}", text(&root))];
        args.extend(numbers.map(|(name, number)| format!("{name}={number}")));
        args.extend(["bs=1M", "conv=notrunc,sparse", "status=none"].map(str::to_owned));
        tool("dd", &args.iter().map(String::as_str).collect::<Vec<_>>());
        at += last - first + 1;
    }
    fs_err::OpenOptions::new().write(true).open(&root).unwrap().set_len(at << 22).unwrap();
    tool("e2fsck", &["-f", "-n", text(&root)]);
    let facts = String::from_utf8(tool("dumpe2fs", &["-h", text(&root)])).unwrap();
    let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(fact("Filesystem UUID:"), ROOT_UUID);
    let number = |name: &str| fact(name).parse::<u64>().unwrap();
    assert_eq!(number("Block count:") * number("Block size:"), at << 22);
    assert_eq!(tool("debugfs", &["-R", "cat /opt/here", text(&root)]), b"grown\n");
    assert!(!grep(raw, &"x".repeat(5000)), "the disk still has what was deleted");
    let mount = world.lab.path().join("mounted");
    mounted(raw, boot, &mount, ",ro", || {
        assert_eq!(fs_err::read_to_string(mount.join("here")).unwrap(), "on boot\n");
    });
    let said = world.lab.run(&["audit", "--format", "json", text(&world.only_disk())]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("runner: vm after all (") && said.err.contains(&format!("{why}), emulated")), "{said}");
}

/// A copy of the disk of a running system, whose root is in the journal of its file system, beside what is left of
/// another file system.
fn copied_while_running() -> PathBuf {
    derived_base("gpt-xfs-journal", |usual, work, disk| {
        let at = |name: &str| work.join(name);
        let (raw, tree, top, usual_raw) = (at("raw"), at("tree"), at("top"), at("usual"));
        let file = fs_err::File::create(&raw).unwrap();
        file.set_len(550 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(file.file(), b"\x53\xef", REMAINS * 512 + 0x438).unwrap();
        let table = format!("label: gpt\nstart={REMAINS},size=8192\nstart={COPIED_ROOT},name=root\n");
        let table = assert_cmd::Command::new("/usr/sbin/sfdisk").args(["-q", text(&raw)]).write_stdin(table).output();
        assert!(table.unwrap().status.success());
        let root = (COPIED_ROOT, (550 << 11) - COPIED_ROOT - 2048);
        shown(&raw, root, |node| tool("mkfs.xfs", &["-q", node]));
        tool("qemu-img", &["convert", "-O", "raw", text(usual), text(&usual_raw)]);
        let sectors = fs_err::metadata(&usual_raw).unwrap().len() / 512 - 4096 - 2048;
        mounted(&raw, root, &top, "", || {
            mounted(&usual_raw, (4096, sectors), &tree, ",ro,noload", || {
                tool("cp", &["-a", text(&tree), text(&top.join("system"))]);
            });
        });
        mounted(&raw, root, &top, "", || {
            for entry in files(&top.join("system")) {
                fs_err::rename(&entry, top.join(entry.file_name().unwrap())).unwrap();
            }
            fs_err::File::open(&top).unwrap().sync_all().unwrap();
            tool("cp", &["--sparse=always", text(&raw), text(&at("copy"))]);
        });
        tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&at("copy")), text(disk)]);
    })
}

#[test]
fn machine_and_chroot_builds_find_a_root_in_its_journal_beside_what_cannot_be_mounted() {
    if !can_build() || !can_emulate() || !has("xfsprogs", installed("mkfs.xfs")) {
        return;
    }
    let base = copied_while_running();
    let digest = sha256(&base);
    for runner in ["chroot", "vm"] {
        let world = World::on(&base, "journal", "disk: {size: 1Gi}\nruncmd: [\"echo here > /opt/here\"]\n");
        share_kernel(&world.home());
        // A disk that nobody may write is looked at as it is.
        let said = world.lab.run(&["audit", "--format", "json", "--runner", runner, "r/base.qcow2"]);
        assert_eq!(said.code, 1, "{said}");
        let others = "partition 1 is ext4 and cannot be mounted (";
        let root = "partition 2 is xfs without a system in it (its journal was not replayed); a root lies on ";
        assert!(said.err.contains(others) && said.err.contains(root), "{said}");
        world.build_well(&["--runner", runner]);
        share_kernel(&world.home());
        world.assert_nothing_left(runner);
        assert_eq!(sha256(&world.lab.path().join("r/base.qcow2")), digest, "{runner} wrote to the base");
        let disk = world.disk(&world.only_disk());
        let size = crate::world::partitions(&disk.raw)[1]["size"].as_u64().unwrap();
        let root = (COPIED_ROOT, size);
        let at = world.lab.path().join("mounted");
        mounted(&disk.raw, root, &at, ",ro,nouuid", || {
            assert_eq!(fs_err::read_to_string(at.join("opt/here")).unwrap(), "here\n");
            assert!(files(&at.join("system")).is_empty() && at.join("etc/passwd").exists());
        });
        shown(&disk.raw, root, |node| tool("xfs_repair", &["-n", node]));
    }
}

/// What LVM2 says of the group, its volumes and their segments; its own check must find nothing.
fn lvm_facts(raw: &Path, place: (u64, u64)) -> (String, Vec<String>, Vec<String>) {
    let fields = ["--noheadings", "--units", "s", "--nosuffix", "--separator", " ", "-o"];
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    shown(raw, place, |node| {
        let list = |command: &str, names: &str| lvm2(command, node, &[&fields[..], &[names, GROUP]].concat());
        lvm2("vgck", node, &[GROUP]);
        let volumes = lines(&list("lvs", "lv_name,lv_uuid,lv_size"));
        let segments = list("lvs", "lv_name,seg_pe_ranges").replace(node, "PV");
        (list("vgs", "vg_uuid,vg_free"), volumes, lines(&segments))
    })
}

#[test]
fn build_on_other_disks_reaches_every_file_system_and_leaves_nothing_deleted() {
    let made = installed("mkfs.xfs") && installed("mkfs.btrfs") && installed("mkfs.vfat");
    if !can_build() || !has("xfsprogs", made) || !has("btrfs-progs", made) {
        return;
    }
    let halves = ["4f6c64206d61726b6572206f66206120", "73746570207468617420697320676f6e"];
    let token = halves.concat();
    for layout in [BTRFS, XFS] {
        let grub = layout.filesystem;
        let partuuid = if layout.subvolumes { "1234abcd-06" } else { "" };
        let home = if layout.subvolumes { "grep -q '/@home /home ' /proc/self/mountinfo" } else { "true" };
        let write = |place: &str, text: &str| format!("  - {{path: {place}, content: \"{text}\\n\"}}\n");
        let many = format!("{token} ").repeat(300);
        // Files of many lengths, in both file systems; half of them go.
        let files: String = (0..40)
            .map(|number| {
                let dir = ["/opt/m", "/boot/m"][number % 2];
                let text =
                    if number % 4 < 2 { many[..33 + number * 230].to_owned() } else { "kept".repeat(number * 60) };
                write(&format!("{dir}{number}"), &text)
            })
            .collect();
        let body = format!(
            "disk: {{size: 1Gi}}\nwrite_files:\n{files}{}runcmd:\n  - |\n    set -ex\n    \
             for n in $(seq 0 39); do [ $((n % 4)) -ge 2 ] || rm -f /opt/m$n /boot/m$n; done\n    \
             test \"$(grub-probe -t fs /boot)\" = ext2\n    test \"$(grub-probe -t fs /)\" = {grub}\n    \
             test \"$(grub-probe -t fs_uuid /boot/x)\" = {BOOT_UUID}\n    \
             test \"$(grub-probe -t fs_uuid /usr)\" = {ROOT_UUID}\n    \
             test -z '{partuuid}' || test \"$(grub-probe -t partuuid /)\" = '{partuuid}'\n    {home}\n    \
             grub-install /dev/sda\n    df -h / /boot\n",
            write("/home/here", "at home"),
        );
        let base = layout.base();
        let world = World::on(&base, layout.name, &body);
        // At the same time, and on the same base, so that the same UUIDs are mounted twice.
        let other = World::on(&base, "other", "disk: {size: 1Gi}\nruncmd: [sleep 3, echo other > /opt/other]\n");
        let mut second = other.start(&[]);
        world.build_well(&[]);
        assert!(
            second.wait().unwrap().success(),
            "{}",
            fs_err::read_to_string(other.lab.path().join("stderr")).unwrap()
        );
        world.assert_nothing_left(layout.name);

        let built = world.only_disk();
        let disk = world.disk(&built);
        let raw: &Path = &disk.raw;
        assert!(!grep(raw, &token), "{}: the disk still has what a later step deleted", layout.name);
        assert!(grep(raw, &"kept".repeat(20)), "the search would find it");
        let (boot, root) = layout.parts(raw);
        assert_eq!(boot, (layout.boot, layout.sizes.0));
        assert!(root.0 + root.1 > (1 << 21) - 4096, "{root:?}");
        let at = world.lab.path().join("mounted");
        let read = |name: &str| fs_err::read_to_string(at.join(name)).unwrap();
        mounted(raw, boot, &at, ",ro", || {
            assert_eq!(read("m3"), "kept".repeat(180) + "\n");
            assert!(!at.join("m1").exists());
        });
        let (options, home) = match layout.filesystem {
            "xfs" => (",ro,nouuid", "home/here"),
            _ => (",ro,subvol=/", "@home/here"),
        };
        mounted(raw, root, &at, options, || {
            assert_eq!(read(home), "at home\n");
            let space = rustix::fs::statvfs(&at).unwrap();
            assert!(space.f_blocks * space.f_frsize > 800 << 20, "it did not grow");
            assert!(!at.join("boot/m3").exists(), "/boot was not mounted when it was written");
        });
        let node = tool("losetup", &["-f", "--show", "-o", &(root.0 * 512).to_string(), text(raw)]);
        let node = String::from_utf8(node).unwrap();
        let check: &[&str] = if layout.filesystem == "xfs" { &["xfs_repair", "-n"] } else { &["btrfs", "check"] };
        tool(check[0], &[&check[1..], &[node.trim()]].concat());
        tool("losetup", &["-d", node.trim()]);
    }
}
