//! Stand-ins for two programs of grub, and a look at what was written for the boot loader.
//!
//! The real grub-probe cannot find the disk behind a mount of the host, so packages that write boot configuration
//! would fail or name a device of the host. The real grub-install would look for a disk to write to, and there is none:
//! an upgrade of grub calls it (by a trigger where /etc/grub.d/enable_cloud exists) and would fail. Without it the boot
//! loader on the disk and its modules in /boot/grub stay as they are, which fit each other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Doing, StepError};
use crate::protocol::{DiskInfo, FileSystemInfo};
use crate::seal::POLICY_MARK;
use crate::session::{Program, Session};

const PROBE: &str = "/usr/sbin/grub-probe";
const INSTALL: &str = "/usr/sbin/grub-install";
const DIVERT: &str = "/usr/bin/dpkg-divert";

/// More than any boot menu.
const LONGEST_MENU: u64 = 4 << 20;

/// The file that stands for a file system's device. A logical volume has its own name, which is the same in every
/// machine.
pub(crate) fn device(index: usize, system: &FileSystemInfo) -> String {
    match &system.volume {
        Some(volume) => volume.device.clone(),
        None => format!("/dev/labwright/{index}"),
    }
}

/// Moves a program aside or back, through dpkg.
fn dpkg_divert(session: &mut Session, deed: &str, path: &str) -> Result<(), StepError> {
    let aside = format!("{path}.labwright");
    session.run(&Program::new(DIVERT).args(&["--quiet", "--local", "--rename", "--divert", &aside, deed, path]))
}

/// Puts the stand-ins in place through dpkg, so that an upgrade of grub leaves them alone. Returns whether it did.
pub(crate) fn divert(session: &mut Session, disk: &DiskInfo) -> Result<bool, StepError> {
    if fs_err::metadata(DIVERT).is_err() {
        return Ok(false);
    }
    for (path, text) in [(PROBE, script(disk)), (INSTALL, no_install())] {
        dpkg_divert(session, "--add", path)?;
        fs_err::write(path, text).doing("write", path)?;
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o755)).doing("write", path)?;
    }
    Ok(true)
}

/// Puts the real ones back.
pub(crate) fn restore(session: &mut Session) -> Result<(), StepError> {
    for path in [INSTALL, PROBE] {
        fs_err::remove_file(path).doing("remove", path)?;
        dpkg_divert(session, "--remove", path)?;
    }
    Ok(())
}

fn no_install() -> String {
    format!(
        "#!/bin/sh\n# {POLICY_MARK}\n\
         echo 'grub-install: the boot loader on the disk stays as it is while an image is built.' >&2\nexit 0\n"
    )
}

/// What boot menus name as the root, by file.
pub(crate) type Roots = BTreeMap<PathBuf, BTreeSet<String>>;

/// The roots that the boot menus of the image name now.
pub(crate) fn roots() -> Roots {
    let mut files: Vec<PathBuf> =
        ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/extlinux/extlinux.conf"].map(PathBuf::from).to_vec();
    for dir in ["/boot/loader/entries", "/boot/efi/loader/entries", "/efi/loader/entries"] {
        files.extend(fs_err::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())));
    }
    // A menu that is not there or not readable names nothing.
    let read = |path: PathBuf| {
        let metadata = fs_err::symlink_metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        fs_err::File::open(&path).ok()?.take(LONGEST_MENU.min(metadata.len())).read_to_end(&mut bytes).ok()?;
        Some((path, named_roots(&String::from_utf8_lossy(&bytes))))
    };
    files.into_iter().filter_map(read).collect()
}

/// The values of `root=` on the lines that start a kernel.
fn named_roots(menu: &str) -> BTreeSet<String> {
    let kernels = menu.lines().filter(|line| {
        let word = line.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        matches!(word.as_str(), "linux" | "linux16" | "linuxefi" | "options" | "append")
    });
    kernels
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|word| Some(word.strip_prefix("root=")?.to_owned()))
        .collect()
}

/// Refuses a boot menu that a step made to name a device of the build: no machine has one of this name. The
/// names of the disk's own logical volumes every machine has.
pub(crate) fn check_roots(before: &Roots, now: &Roots, disk: Option<&DiskInfo>) -> Result<(), StepError> {
    const LASTING: [&str; 5] = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/disk/by-"];
    let systems = disk.iter().flat_map(|disk| &disk.file_systems);
    let volumes: Vec<&str> = systems.filter_map(|system| Some(system.volume.as_ref()?.device.as_str())).collect();
    for (path, roots) in now {
        let known = |root: &&String| {
            LASTING.iter().any(|name| root.starts_with(name))
                || !root.starts_with("/dev/")
                || volumes.contains(&root.as_str())
                // The image's own choice, which machines boot with.
                || before.get(path).is_some_and(|before| before.contains(*root))
        };
        if let Some(root) = roots.iter().find(|root| !known(root)) {
            return Err(StepError::BootRoot { path: Path::new(path).to_owned(), root: root.clone() });
        }
    }
    Ok(())
}

/// The kernels that are installed.
pub(crate) fn kernels() -> Vec<OsString> {
    let mut names: Vec<OsString> = fs_err::read_dir("/boot")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-"))
        .collect();
    names.sort();
    names
}

/// Writes the boot menu anew, if the image has one of grub's.
///
/// A kernel's package does not do it itself here: its hook leaves it out where systemd-detect-virt sees a container,
/// and it sees one in every PID namespace.
pub(crate) fn update_menu(session: &mut Session) -> Result<(), StepError> {
    let there = |path: &str| fs_err::metadata(path).is_ok();
    if there("/boot/grub/grub.cfg") && there("/usr/sbin/update-grub") {
        session.run(&Program::new("/usr/sbin/update-grub"))?;
    }
    Ok(())
}

/// Where initramfs-tools looks for settings that are for the making of an initial RAM disk and do not get into it.
pub(crate) const INITRAMFS_HOOKS: &str = "/usr/share/initramfs-tools/conf-hooks.d";

/// Tells initramfs-tools the kind of the root, so that it takes along the program that checks it at boot. It would look
/// for the root among the block devices, of which a step has none.
pub(crate) fn root_type(disk: &DiskInfo) -> Option<String> {
    let root = disk.file_systems.iter().find(|system| system.mount.as_str() == "/")?;
    // grub has one name for all of them.
    let kind = if root.grub_fs == "ext2" { "ext4" } else { &root.grub_fs };
    // "auto" is what its configuration has where nobody chose.
    Some(format!("# {POLICY_MARK}\n[ \"${{FSTYPE:-auto}}\" != auto ] || FSTYPE={kind}\n"))
}

/// A word for the shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The stand-in: answers for each file system, found by device or by the longest mount point that holds the path.
fn script(disk: &DiskInfo) -> String {
    let mut systems: Vec<_> = disk.file_systems.iter().enumerate().collect();
    systems.sort_by_key(|(_, system)| std::cmp::Reverse(system.mount.as_str().len()));
    let mut devices = String::new();
    let mut mounts = String::new();
    for (index, system) in systems {
        let mount = system.mount.as_str().trim_end_matches('/');
        let whole = quote(if mount.is_empty() { "/" } else { mount });
        let (uuid, part, fs) = (quote(&system.uuid), quote(&system.partition_uuid), quote(&system.grub_fs));
        let device = quote(&device(index, system));
        let volume = quote(system.volume.as_ref().map_or("", |volume| volume.grub.as_str()));
        let answers = format!("device={device} uuid={uuid} partuuid={part} fs={fs} volume={volume} ;;\n");
        devices.extend([&device, ") ", &answers]);
        mounts.extend([&whole, "|", &quote(mount), "/*) ", &answers]);
    }
    let wrong = r#"echo "grub-probe: error: $place is not on this disk." >&2; exit 1 ;;"#;
    let map = quote(&disk.partition_map);
    format!(
        r#"#!/bin/sh
# {POLICY_MARK}
target=fs
place=/
while [ $# -gt 0 ]; do
    case "$1" in
        -t|--target) target=$2; shift ;;
        --target=*) target=${{1#*=}} ;;
        -t*) target=${{1#-t}} ;;
        -m|--device-map) shift ;;
        -*) ;;
        *) place=$1 ;;
    esac
    [ $# -gt 0 ] && shift
done
case "$place" in /dev/*) ;; *) place=$(readlink -f -- "$place") || exit 1 ;; esac
case "$place" in
{devices}/dev/*) {wrong}
{mounts}*) {wrong}
esac
case "$target" in
    device) echo "$device" ;;
    disk) echo /dev/labwright/disk ;;
    fs) echo "$fs" ;;
    fs_uuid) echo "$uuid" ;;
    partuuid) echo "$partuuid" ;;
    partmap) echo {map} ;;
    abstraction) [ -z "$volume" ] || echo lvm ;;
    compatibility_hint|bios_hints|efi_hints|baremetal_hints) echo "$volume" ;;
    hints_string) [ -z "$volume" ] || echo "--hint='$volume' " ;;
    fs_label|cryptodisk_uuid) echo ;;
    drive) [ -z "$volume" ] && echo '(hd0)' || echo "($volume)" ;;
    *) echo "grub-probe: error: $target is not known while an image is built." >&2; exit 1 ;;
esac
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::VolumeInfo;

    #[test]
    fn a_root_by_a_name_of_the_build_is_refused() {
        let menu = |root: &str| {
            let text = format!(
                "set root='hd0,gpt1'\nsearch --fs-uuid x\n\tlinux /boot/vmlinuz-6 root={root} ro quiet\n\
                 \tinitrd /boot/initrd.img-6\necho root=/dev/sda9\n"
            );
            Roots::from([(PathBuf::from("/boot/grub/grub.cfg"), named_roots(&text))])
        };
        for good in ["UUID=abc", "PARTUUID=1234abcd-01", "LABEL=root", "/dev/disk/by-uuid/abc", "zfs:AUTO"] {
            check_roots(&Roots::new(), &menu(good), None).unwrap();
        }
        for bad in ["/dev/loop0", "/dev/labwright/0", "/dev/vda1", "/dev/mapper/x"] {
            let error = check_roots(&menu("UUID=abc"), &menu(bad), None).unwrap_err().to_string();
            let expected = "/boot/grub/grub.cfg would boot from";
            assert!(error.starts_with(expected) && error.contains(&format!("`root={bad}`")), "{error}");
            // What the image had before is its own matter.
            check_roots(&menu(bad), &menu(bad), None).unwrap();
        }
        assert_eq!(
            named_roots("title x\noptions root=UUID=1 rootflags=subvol=root rw\n"),
            ["UUID=1".to_owned()].into()
        );
        assert_eq!(named_roots("LABEL linux\n  APPEND root=/dev/sda1\n"), ["/dev/sda1".to_owned()].into());
    }

    #[test]
    fn the_stand_in_answers_for_each_file_system() {
        let system = |mount: &str, uuid: &str, fs: &str| FileSystemInfo {
            mount: mount.parse().unwrap(),
            uuid: uuid.to_owned(),
            partition_uuid: format!("part-{uuid}"),
            grub_fs: fs.to_owned(),
            volume: None,
        };
        let volume = VolumeInfo { device: "/dev/mapper/vg-usr".to_owned(), grub: "lvmid/a/b".to_owned() };
        let usr = FileSystemInfo { volume: Some(volume), ..system("/usr", "usr-id", "ext2") };
        let disk = DiskInfo {
            partition_map: "gpt".to_owned(),
            file_systems: vec![system("/", "root-id", "ext2"), system("/etc", "other-id", "xfs"), usr],
        };
        let menu = |root: &str| Roots::from([(PathBuf::from("x"), [root.to_owned()].into())]);
        check_roots(&Roots::new(), &menu("/dev/mapper/vg-usr"), Some(&disk)).unwrap();
        check_roots(&Roots::new(), &menu("/dev/mapper/vg-other"), Some(&disk)).unwrap_err();
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("grub-probe");
        fs_err::write(&file, script(&disk)).unwrap();
        for (args, expected) in [
            (&["--target=device", "/"][..], "/dev/labwright/0\n"),
            (&["--device", "/dev/labwright/0", "--target=fs_uuid"], "root-id\n"),
            (&["-d", "/dev/labwright/1", "-t", "fs"], "xfs\n"),
            (&["-t", "fs_uuid", "/etc/passwd"], "other-id\n"),
            (&["-t", "partuuid", "/var"], "part-root-id\n"),
            (&["-t", "device", "/usr/bin"], "/dev/mapper/vg-usr\n"),
            (&["-t", "abstraction", "-d", "/dev/mapper/vg-usr"], "lvm\n"),
            (&["-t", "hints_string", "/usr"], "--hint='lvmid/a/b' \n"),
            (&["-t", "compatibility_hint", "/usr"], "lvmid/a/b\n"),
            (&["-t", "drive", "/usr"], "(lvmid/a/b)\n"),
            (&["--target=partmap", "/"], "gpt\n"),
            (&["--target=compatibility_hint", "-d", "/dev/labwright/0"], "\n"),
            (&["-t", "drive", "/"], "(hd0)\n"),
            (&["--target=fs_uuid", "--device", "/dev/sda1"], ""),
            (&["--target=zero_check", "/"], ""),
        ] {
            #[expect(clippy::disallowed_methods, reason = "a shell script is tested by a shell")]
            let output = std::process::Command::new("sh").arg(&file).args(args).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{args:?}");
            assert_eq!(output.status.success(), !expected.is_empty(), "{args:?}");
        }
    }
}
