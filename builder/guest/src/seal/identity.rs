use std::io;
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

/// Makes sure that every clone gets an identity of its own.
pub(super) fn renew(root: &Path) -> Result<(), SealError> {
    machine_id(root)?;
    host_keys(root)?;
    iscsi(root)
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

fn host_keys(root: &Path) -> Result<(), SealError> {
    let exists = |path: &str| Ok::<_, SealError>(look_at(root, Path::new(path))?.is_some());
    let sshd = exists("usr/sbin/sshd")?;
    let cloud_init = exists("usr/bin/cloud-init")? && !exists("etc/cloud/cloud-init.disabled")?;
    if !sshd || cloud_init || !exists("etc/systemd")? {
        return Ok(());
    }
    let unit = "labwright-ssh-host-keys.service";
    fs_err::create_dir_all(root.join("etc/systemd/system"))
        .map_err(|source| SealError::Write { path: "/etc/systemd/system".into(), source })?;
    write(root, &format!("etc/systemd/system/{unit}"), KEYGEN)?;
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
