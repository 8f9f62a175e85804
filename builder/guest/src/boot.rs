//! A stand-in for grub-probe: the real one cannot find the disk behind a mount of the host, so packages that write boot
//! configuration would fail or name a device of the host.

use std::ffi::OsString;

use crate::error::{Doing, StepError};
use crate::protocol::DiskInfo;
use crate::seal::POLICY_MARK;
use crate::session::{Program, Session};

const PROBE: &str = "/usr/sbin/grub-probe";
const ASIDE: &str = "/usr/sbin/grub-probe.labwright";
const DIVERT: &str = "/usr/bin/dpkg-divert";

/// The file that stands for a file system's device.
pub(crate) fn device(index: usize) -> String {
    format!("/dev/labwright/{index}")
}

/// Puts the stand-in in place through dpkg, so that an upgrade of grub leaves it alone. Returns whether it did.
pub(crate) fn divert(session: &mut Session, disk: &DiskInfo) -> Result<bool, StepError> {
    if fs_err::metadata(DIVERT).is_err() {
        return Ok(false);
    }
    let divert = Program::new(DIVERT).args(&["--quiet", "--local", "--rename", "--divert", ASIDE, "--add", PROBE]);
    session.run(&divert)?;
    fs_err::write(PROBE, script(disk)).doing("write", PROBE)?;
    rustix::fs::chmod(PROBE, rustix::fs::Mode::from_raw_mode(0o755)).doing("write", PROBE)?;
    Ok(true)
}

/// Puts the real one back.
pub(crate) fn restore(session: &mut Session) -> Result<(), StepError> {
    fs_err::remove_file(PROBE).doing("remove", PROBE)?;
    let divert = Program::new(DIVERT).args(&["--quiet", "--local", "--rename", "--divert", ASIDE, "--remove", PROBE]);
    session.run(&divert)
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
        let device = device(index);
        let answers = format!("device={device} uuid={uuid} partuuid={part} fs={fs} ;;\n");
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
    fs_label|abstraction|hints_string|compatibility_hint|bios_hints|efi_hints|baremetal_hints|cryptodisk_uuid) echo ;;
    drive) echo '(hd0)' ;;
    *) echo "grub-probe: error: $target is not known while an image is built." >&2; exit 1 ;;
esac
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::FileSystemInfo;

    #[test]
    fn the_stand_in_answers_for_each_file_system() {
        let system = |mount: &str, uuid: &str, fs: &str| FileSystemInfo {
            mount: mount.parse().unwrap(),
            uuid: uuid.to_owned(),
            partition_uuid: format!("part-{uuid}"),
            grub_fs: fs.to_owned(),
        };
        let disk = DiskInfo {
            partition_map: "gpt".to_owned(),
            file_systems: vec![system("/", "root-id", "ext2"), system("/etc", "other-id", "xfs")],
        };
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("grub-probe");
        fs_err::write(&file, script(&disk)).unwrap();
        for (args, expected) in [
            (&["--target=device", "/"][..], "/dev/labwright/0\n"),
            (&["--device", "/dev/labwright/0", "--target=fs_uuid"], "root-id\n"),
            (&["-d", "/dev/labwright/1", "-t", "fs"], "xfs\n"),
            (&["-t", "fs_uuid", "/etc/passwd"], "other-id\n"),
            (&["-t", "partuuid", "/usr/bin"], "part-root-id\n"),
            (&["--target=partmap", "/"], "gpt\n"),
            (&["--target=hints_string", "-d", "/dev/labwright/0"], "\n"),
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
