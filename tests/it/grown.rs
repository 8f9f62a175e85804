//! Disks of other kinds than the usual one boot after a build has grown them and given them a kernel: btrfs subvolumes
//! in a logical partition of an MBR, and XFS behind a /boot of its own in a GPT.
//!
//! It is one test, because emulated boots are what it costs. The bases have the real boot loader, put there by the
//! real grub-install on real partitions, and a menu without a kernel: what boots is what the build wrote.

use std::path::{Path, PathBuf};
use std::time::Duration;

use labwright_tests::machine::Machine;
use labwright_tests::program;
use labwright_tests::terminal::Door;

use crate::world::{has, installed, sha256, text, tool};

/// Stopping an emulated machine's services takes less.
const END: Duration = Duration::from_mins(2);
/// One command in an emulated machine takes less.
const COMMAND: Duration = Duration::from_mins(1);

/// Makes a disk of a kind out of the root of another one, without its kernel.
/// Arguments: the kind, the raw disk with the root in its first partition, the disk to make, a directory for the work.
const MAKE: &str = r#"
set -eu
kind=$1 from=$2 to=$3 work=$4
root=$work/root source=$work/source loop='' source_loop=''
end() {
    set +e
    umount -R "$root" "$source" 2> /dev/null
    for device in $loop $source_loop; do partx -d "$device"; losetup -d "$device"; done
}
trap end EXIT
partitions() {
    # A run that was killed may have left some on the device.
    partx -d "$1" 2> /dev/null || true
    partx -a "$1"
}
mkdir "$root" "$source"
source_loop=$(losetup -f --show -r "$from")
partitions "$source_loop"
mount -o ro,noload "${source_loop}p1" "$source"
truncate -s 2500M "$to"
case $kind in
btrfs) sfdisk -q "$to" << END
label: dos
label-id: 0x5eed0002
start=2048,size=204800,type=82
start=206848,type=5
start=208896,type=83
END
;;
xfs) sfdisk -q "$to" << END
label: gpt
start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649
start=4096,size=524288,name=boot
start=528384,name=root
END
;;
esac
loop=$(losetup -f --show "$to")
partitions "$loop"
case $kind in
btrfs)
    mkfs.btrfs -q "${loop}p5"
    mount "${loop}p5" "$root"
    btrfs -q subvolume create "$root/@"
    btrfs -q subvolume create "$root/@home"
    umount "$root"
    mount -o subvol=@ "${loop}p5" "$root"
    mkdir "$root/home"
    mount -o subvol=@home "${loop}p5" "$root/home"
    uuid=$(blkid -s UUID -o value "${loop}p5")
    fstab="UUID=$uuid / btrfs defaults,subvol=@ 0 0
UUID=$uuid /home btrfs defaults,subvol=@home 0 0"
    ;;
xfs)
    mkfs.xfs -q "${loop}p3"
    mkfs.ext4 -q -b 4096 "${loop}p2"
    mount "${loop}p3" "$root"
    mkdir "$root/boot"
    mount "${loop}p2" "$root/boot"
    fstab="UUID=$(blkid -s UUID -o value "${loop}p3") / xfs defaults 0 0
UUID=$(blkid -s UUID -o value "${loop}p2") /boot ext4 defaults 0 2"
    ;;
esac
cp -a "$source/." "$root/"
printf '%s\n' "$fstab" > "$root/etc/fstab"
rm -f "$root/etc/initramfs-tools/conf.d/root_type"
for dir in dev proc sys; do mount --bind "/$dir" "$root/$dir"; done
in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }
in_root sh -c 'dpkg --purge --force-depends $(dpkg-query --show --showformat "\${Package}\n" "linux-image-*")'
echo "(hd0) $loop" > "$root/boot/grub/device.map"
in_root grub-install --target=i386-pc "$loop"
rm "$root/boot/grub/device.map"
in_root update-grub
! grep root= "$root/boot/grub/grub.cfg"
"#;

/// A base of the kind, as a qcow2 file in `dir`.
fn base(kind: &str, usual: &Path, dir: &Path) -> PathBuf {
    let work = tempfile::tempdir_in(dir).unwrap();
    let raw = work.path().join("raw");
    tool("sh", &["-c", MAKE, "make", kind, text(usual), text(&raw), text(work.path())]);
    let disk = dir.join(format!("{kind}.qcow2"));
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&disk)]);
    disk
}

fn build(home: &Path, args: &[&str]) {
    let mut build = assert_cmd::Command::new(program());
    build.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LABWRIGHT_HOME", home);
    build.arg("build").args(args).assert().success();
}

#[test]
fn machine_grown_disks_of_other_kinds_boot() {
    let tools = ["qemu-system-x86_64", "mmdebstrap", "sfdisk", "partx", "blkid"];
    if !has("root", rustix::process::geteuid().is_root())
        || !has("qemu", tools.iter().all(|tool| installed(tool)))
        || !has("xfsprogs", installed("mkfs.xfs"))
        || !has("btrfs-progs", installed("mkfs.btrfs"))
    {
        return;
    }
    // The home of the other boot test, which has the bootstrapped base.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = target.join("boot/home");
    fs_err::create_dir_all(&home).unwrap();
    let work = tempfile::tempdir_in(target).unwrap();
    let dir = work.path();
    let head = "apiVersion: labwright/v1alpha1\nkind: Recipe\n";
    let recipe = |name: &str, body: &str| {
        let path = dir.join(name);
        fs_err::create_dir_all(&path).unwrap();
        fs_err::write(path.join("recipe.yaml"), format!("{head}metadata: {{name: {name}, version: 1.0.0}}\n{body}"))
            .unwrap();
        path
    };

    let usual = recipe("grown-usual", "base: {bootstrap: debian, suite: trixie}\npackages: [xfsprogs, btrfs-progs]\n");
    let (disk, raw) = (dir.join("usual.qcow2"), dir.join("usual.raw"));
    build(&home, &[text(&usual), "-o", text(&disk)]);
    tool("qemu-img", &["convert", "-O", "raw", text(&disk), text(&raw)]);

    let kinds = ["btrfs", "xfs"];
    for kind in kinds {
        let base = base(kind, &raw, dir);
        let path = recipe(
            &format!("grown-{kind}"),
            &format!(
                "base: {{file: {}, digest: \"sha256:{}\"}}\ndisk: {{size: 4Gi}}\n\
                 packages: [linux-image-cloud-amd64]\n\
                 users: [{{name: admin, sudo: ALL=(ALL) NOPASSWD:ALL}}]\n\
                 access: [{{name: admin, type: terminal, user: admin}}]\n\
                 # An upgrade of the boot loader's own packages calls grub-install and writes the menu.\n\
                 runcmd:\n  - apt-get update\n  - apt-get install -y --reinstall grub-cloud-amd64 grub-pc-bin grub2-common\n",
                text(&base),
                sha256(&base)
            ),
        );
        build(&home, &[text(&path)]);
    }

    let mut machines =
        kinds.map(|kind| Machine::start(&home, &[&format!("grown-{kind}")], &dir.join(format!("{kind}.log"))));
    for (kind, machine) in kinds.iter().zip(&mut machines) {
        let answer = machine.answer();
        println!("{:6.1} s  {kind}: ready", machine.elapsed().as_secs_f64());
        let door = Door::of_address(answer["access"][0]["address"].as_str().unwrap());
        let mut shell = door.open("/admin/", None).unwrap();
        let mut say = |line: &str| shell.ok(line, 3 * COMMAND);
        assert_eq!(say("findmnt -no FSTYPE /"), *kind);
        let root = say("findmnt -no UUID /");
        assert!(say("cat /proc/cmdline").contains(&format!("root=UUID={root} ")), "{kind}: the root by its UUID");
        let size: u64 = say("df --output=size -B1M / | tail -n 1").trim().parse().unwrap();
        let grown = if *kind == "btrfs" { 3900..4096 } else { 3500..3900 };
        assert!(grown.contains(&size), "{kind}: the root has {size} MiB");
        // The initial RAM disk has the program that checks the root, as one made in a running system would.
        let checker = format!("fsck.{kind}");
        assert_eq!(say(&format!("lsinitramfs /boot/initrd.img-* | grep -c {checker}")), "1", "{kind}: {checker}");
        let mounts = if *kind == "btrfs" { ["/home", "/@home"] } else { ["/boot", "/"] };
        assert_eq!(say(&format!("findmnt -no FSROOT {}", mounts[0])), mounts[1], "{kind}");
        assert_eq!(say("systemctl is-system-running --wait"), "running", "{kind}: {}", machine.said());
        println!("{:6.1} s  {kind}: asked", machine.elapsed().as_secs_f64());
    }
    for machine in machines {
        machine.interrupt();
        assert_eq!(machine.end(END), Some(0));
    }
}
