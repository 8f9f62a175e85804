//! Builds on disks of other kinds than the usual one: MBR with logical partitions, btrfs subvolumes, XFS, a /boot of
//! its own.

use std::path::{Path, PathBuf};

use crate::world::{World, can_build, derived_base, grep, has, installed, text, tool};

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
};

const XFS: Layout = Layout {
    name: "gpt-xfs",
    table: "label: gpt\nstart=2048,size=131072,name=boot\nstart=133120,size=8192,type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
            start=141312,name=root\n",
    boot: 2048,
    root: 141_312,
    sizes: (131_072, 1_124_352 - 141_312),
    filesystem: "xfs",
    subvolumes: false,
};

const BOOT_UUID: &str = "0f3e9a52-7f0e-4b55-8b9c-00000000b007";
const ROOT_UUID: &str = "0f3e9a52-7f0e-4b55-8b9c-000000000001";

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
            put(self.root, self.sizes.1, &|image| {
                if self.filesystem == "xfs" {
                    tool("mkfs.xfs", &["-q", "-m", &format!("uuid={ROOT_UUID}"), image]);
                } else {
                    tool("mkfs.btrfs", &["-q", "-U", ROOT_UUID, image]);
                }
            });
            mounted(&raw, (self.root, self.sizes.1), &top, "", || {
                let mut root = top.clone();
                let mut fstab = vec![format!("UUID={BOOT_UUID} /boot ext4 defaults 0 2\n")];
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

#[test]
fn build_on_other_disks_reaches_every_file_system_and_leaves_nothing_deleted() {
    let made = installed("mkfs.xfs") && installed("mkfs.btrfs");
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
