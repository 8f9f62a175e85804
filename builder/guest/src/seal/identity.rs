use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{SealError, look_at, remove_tree};

/// The first words of every file that a step puts into the image for its own time.
pub(crate) const POLICY_MARK: &str = "labwright: only while a step runs";

/// What a step that was killed may have left: files with our mark.
pub(super) fn own_traces(root: &Path) -> Result<Vec<PathBuf>, SealError> {
    let mut traces = Vec::new();
    for path in crate::traces::PATHS {
        let path = Path::new(path);
        if look_at(root, path)?.is_some_and(|metadata| metadata.is_file() && metadata.len() < 1 << 16) {
            let text = fs_err::read(root.join(path))
                .map_err(|source| SealError::Look { path: Path::new("/").join(path), source })?;
            if text.windows(POLICY_MARK.len()).any(|window| window == POLICY_MARK.as_bytes()) {
                traces.push(path.to_owned());
            }
        }
    }
    Ok(traces)
}

/// Puts back what a killed step set aside: the image's own file waits under another name.
pub(super) fn put_back(root: &Path) -> Result<(), SealError> {
    for path in crate::traces::PATHS {
        let path = Path::new(path);
        let saved = crate::stand_in::saved(path);
        if look_at(root, &saved)?.is_some() {
            let fail = |source| SealError::Write { path: Path::new("/").join(path), source };
            remove_tree(&root.join(path)).map_err(fail)?;
            fs_err::rename(root.join(&saved), root.join(path)).map_err(fail)?;
        }
    }
    Ok(())
}

/// Files of network settings whose names do not tell that cloud-init wrote them for the machine that it ran on.
const MAYBE_CLOUD_INIT: [&str; 4] = [
    "etc/netplan/*.yaml",
    "etc/network/interfaces.d/*",
    "etc/sysconfig/network-scripts/ifcfg-*",
    "etc/NetworkManager/system-connections/*",
];

/// How cloud-init signs them. Source: cloud-init, `net/netplan.py`, `net/eni.py` and `net/sysconfig.py`.
const CLOUD_INIT_MARKS: [&str; 2] = ["Created by cloud-init", "This file is generated from information provided by"];

pub(super) fn written_by_cloud_init(root: &Path) -> Result<Vec<PathBuf>, SealError> {
    let mut found = Vec::new();
    for pattern in MAYBE_CLOUD_INIT {
        for path in super::expand(root, pattern)? {
            let text = crate::audit::small_text(root, &path)?;
            if text.is_some_and(|text| CLOUD_INIT_MARKS.iter().any(|mark| text.contains(mark))) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Makes sure that every clone gets an identity of its own, and that it does not do at its first boot what is done.
pub(super) fn renew(root: &Path) -> Result<(), SealError> {
    // Before the machine's id is forgotten.
    boot_entries(root)?;
    machine_id(root)?;
    host_keys(root)?;
    iscsi(root)?;
    up_to_date(root)
}

/// The directories of boot loader entries (Boot Loader Specification).
pub(crate) const BOOT_ENTRIES: [&str; 3] =
    ["boot/loader/entries/*.conf", "boot/efi/loader/entries/*.conf", "efi/loader/entries/*.conf"];

/// The machine id at the beginning of a boot loader entry's name.
pub(crate) fn machine_id_of_entry(path: &Path) -> Option<(&str, &str)> {
    let (id, rest) = path.file_name()?.to_str()?.split_at_checked(32)?;
    let rest = rest.strip_prefix('-')?;
    (id.bytes().all(|byte| byte.is_ascii_hexdigit()) && !rest.is_empty()).then_some((id, rest))
}

/// Takes the machine's id out of the names of boot loader entries. One that names files by the id keeps its own.
fn boot_entries(root: &Path) -> Result<(), SealError> {
    for pattern in BOOT_ENTRIES {
        for path in super::expand(root, pattern)? {
            let Some((id, rest)) = machine_id_of_entry(&path) else { continue };
            let text = crate::audit::small_text(root, &path)?;
            let renamed = path.with_file_name(rest);
            if text.is_some_and(|text| !text.contains(id)) && look_at(root, &renamed)?.is_none() {
                fs_err::rename(root.join(&path), root.join(&renamed))
                    .map_err(|source| SealError::Write { path: Path::new("/").join(&renamed), source })?;
            }
        }
    }
    Ok(())
}

/// Says that `/etc` and `/var` fit this `/usr`, as systemd-update-done would behind the first boot: package managers have
/// made all caches, and making them again takes an emulated machine long. The times of the files alone say it.
/// Source: systemd.unit(5), `ConditionNeedsUpdate=`; systemd-update-done.service(8).
fn up_to_date(root: &Path) -> Result<(), SealError> {
    let Some(usr) = look_at(root, Path::new("usr"))?.filter(std::fs::Metadata::is_dir) else { return Ok(()) };
    if systemd_version(root)?.is_none() {
        return Ok(());
    }
    let time = rustix::fs::Timespec { tv_sec: usr.mtime(), tv_nsec: usr.mtime_nsec() };
    for dir in ["etc", "var"] {
        if look_at(root, Path::new(dir))?.is_some_and(|metadata| metadata.is_dir()) {
            let path = format!("{dir}/.updated");
            write(root, &path, "")?;
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(rustix::fs::CWD, root.join(&path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| SealError::Write { path: Path::new("/").join(&path), source: error.into() })?;
        }
    }
    Ok(())
}

fn write(root: &Path, path: &str, text: &str) -> Result<(), SealError> {
    let full = root.join(path);
    let fail = |source| SealError::Write { path: Path::new("/").join(path), source };
    // A link that stands there goes, so that nothing is written through it.
    remove_tree(&full).map_err(fail)?;
    fs_err::write(&full, text).map_err(fail)?;
    rustix::fs::chmod(&full, rustix::fs::Mode::from_raw_mode(0o644)).map_err(|error| fail(error.into()))
}

fn link(root: &Path, path: &str, target: &str) -> Result<(), SealError> {
    let full = root.join(path);
    let fail = |source| SealError::Write { path: Path::new("/").join(path), source };
    if let Some(parent) = full.parent() {
        fs_err::create_dir_all(parent).map_err(fail)?;
    }
    remove_tree(&full).map_err(fail)?;
    rustix::fs::symlink(target, &full).map_err(|error| fail(io::Error::from(error)))
}

/// `uninitialized` where systemd knows the word, so that first-boot units run; else an empty file.
fn machine_id(root: &Path) -> Result<(), SealError> {
    if look_at(root, Path::new("etc"))?.is_none_or(|metadata| !metadata.is_dir()) {
        return Ok(());
    }
    let word = if systemd_version(root)?.is_some_and(|version| version >= 247) { "uninitialized\n" } else { "" };
    write(root, "etc/machine-id", word)?;
    rustix::fs::chmod(root.join("etc/machine-id"), rustix::fs::Mode::from_raw_mode(0o444))
        .map_err(|error| SealError::Write { path: "/etc/machine-id".into(), source: error.into() })?;
    // D-Bus reads its own file first: a copy there would outlive the other.
    if look_at(root, Path::new("var/lib/dbus/machine-id"))?.is_some_and(|metadata| !metadata.is_symlink()) {
        link(root, "var/lib/dbus/machine-id", "/etc/machine-id")?;
    }
    Ok(())
}

/// The version of systemd, read off the name of its private library (`libsystemd-shared-257.so`).
pub(super) fn systemd_version(root: &Path) -> Result<Option<u32>, SealError> {
    for pattern in [
        "usr/lib/*/systemd/libsystemd-shared-*.so",
        "usr/lib/systemd/libsystemd-shared-*.so",
        "usr/lib64/systemd/libsystemd-shared-*.so",
        "lib/systemd/libsystemd-shared-*.so",
    ] {
        for path in super::expand(root, pattern)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digits: String =
                name.trim_start_matches("libsystemd-shared-").chars().take_while(char::is_ascii_digit).collect();
            if let Ok(version) = digits.parse() {
                return Ok(Some(version));
            }
        }
    }
    Ok(None)
}

/// A unit that makes SSH host keys where nothing else would: Debian's sshd does not make them by itself.
const KEYGEN: &str = "[Unit]
Description=Make SSH host keys that this machine lacks
Before=ssh.service sshd.service ssh.socket
ConditionFileIsExecutable=/usr/bin/ssh-keygen

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
";

/// The same for dropbear, whose package makes the keys when it is installed.
const DROPBEAR_KEYGEN: &str = "[Unit]
Description=Make dropbear host keys that this machine lacks
Before=dropbear.service dropbear.socket
ConditionFileIsExecutable=/usr/bin/dropbearkey

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'for kind in rsa ecdsa ed25519; do key=/etc/dropbear/dropbear_$${kind}_host_key; \
test -e $$key || dropbearkey -t $$kind -f $$key; done'

[Install]
WantedBy=multi-user.target
";

/// The unit that makes the keys of OpenSSH.
pub(crate) const KEYGEN_UNIT: &str = "etc/systemd/system/labwright-ssh-host-keys.service";

/// Whether cloud-init runs at boot; then it makes SSH host keys.
pub(crate) fn has_cloud_init(root: &Path) -> Result<bool, SealError> {
    let exists = |path: &str| Ok::<_, SealError>(look_at(root, Path::new(path))?.is_some());
    Ok(exists("usr/bin/cloud-init")? && !exists("etc/cloud/cloud-init.disabled")?)
}

fn host_keys(root: &Path) -> Result<(), SealError> {
    let exists = |path: &str| Ok::<_, SealError>(look_at(root, Path::new(path))?.is_some());
    if !exists("etc/systemd")? {
        return Ok(());
    }
    if exists("usr/sbin/dropbear")? && exists("etc/dropbear")? {
        unit(root, "labwright-dropbear-host-keys.service", DROPBEAR_KEYGEN)?;
    }
    if exists("usr/sbin/sshd")? && !has_cloud_init(root)? {
        unit(root, "labwright-ssh-host-keys.service", KEYGEN)?;
    }
    Ok(())
}

/// Writes a unit and enables it for the usual target.
fn unit(root: &Path, unit: &str, text: &str) -> Result<(), SealError> {
    fs_err::create_dir_all(root.join("etc/systemd/system"))
        .map_err(|source| SealError::Write { path: "/etc/systemd/system".into(), source })?;
    write(root, &format!("etc/systemd/system/{unit}"), text)?;
    link(root, &format!("etc/systemd/system/multi-user.target.wants/{unit}"), &format!("/etc/systemd/system/{unit}"))
}

/// An iSCSI initiator makes itself a new name at its first start if told so.
fn iscsi(root: &Path) -> Result<(), SealError> {
    let path = "etc/iscsi/initiatorname.iscsi";
    if look_at(root, Path::new(path))?.is_some_and(|metadata| metadata.is_file()) {
        write(root, path, "GenerateName=yes\n")?;
    }
    Ok(())
}
