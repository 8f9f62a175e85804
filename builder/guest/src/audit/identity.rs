use std::path::Path;

use super::{Finding, Severity, small_text};
use crate::seal::{self, BOOT_ENTRIES, KEYGEN_UNIT, SealError};

/// Whatever makes SSH host keys at boot, by distribution.
const KEY_MAKERS: [&str; 7] = [
    KEYGEN_UNIT,
    "usr/lib/systemd/system/sshd-keygen@.service",
    "usr/lib/systemd/system/sshd-keygen.target",
    "usr/lib/systemd/system/ssh-keygen.service",
    "usr/lib/systemd/system/sshdgenkeys.service",
    "etc/systemd/system/regenerate_ssh_host_keys.service",
    "usr/lib/systemd/system/regenerate_ssh_host_keys.service",
];

/// What a machine's identity is besides the files that sealing removes.
pub(super) fn look(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    machine_id(root, findings)?;
    let iscsi = Path::new("etc/iscsi/initiatorname.iscsi");
    if small_text(root, iscsi)?.is_some_and(|text| text.lines().any(|line| line.starts_with("InitiatorName="))) {
        let remedy = "write `GenerateName=yes` into it, so that each machine makes its own";
        findings.push(Finding::at(iscsi, Severity::Error, "identity/iscsi", "an iSCSI initiator's name", remedy));
    }
    for pattern in BOOT_ENTRIES {
        for path in seal::expand(root, pattern)? {
            if seal::machine_id_of_entry(&path).is_some() {
                let remedy = "give the entry a name without the id (kernel-install's entry-token)";
                let what = "a boot loader entry named after a machine id";
                findings.push(Finding::at(&path, Severity::Warning, "identity/boot-entries", what, remedy));
            }
        }
    }
    if let Some(sshd) = server_without_keys(root)? {
        let remedy = "enable a unit that runs `ssh-keygen -A` before sshd, or install cloud-init";
        let what = "an SSH server for which nothing makes host keys at boot";
        findings.push(Finding::at(sshd, Severity::Warning, "identity/no-ssh-key-maker", what, remedy));
    }
    Ok(())
}

fn machine_id(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    let remedy = "empty it, or write `uninitialized` into /etc/machine-id where systemd is 247 or newer";
    for path in ["etc/machine-id", "var/lib/dbus/machine-id"].map(Path::new) {
        let Some(text) = small_text(root, path)? else { continue };
        let text = text.trim();
        if !text.is_empty() && text != "uninitialized" {
            findings.push(Finding::at(path, Severity::Error, "identity/machine-id", "a machine's id", remedy));
        }
    }
    Ok(())
}

/// The server, if it is there and no unit or program that makes its keys is.
fn server_without_keys(root: &Path) -> Result<Option<&'static Path>, SealError> {
    let sshd = Path::new("usr/sbin/sshd");
    let systemd = Path::new("etc/systemd");
    if seal::look_at(root, sshd)?.is_none() || seal::look_at(root, systemd)?.is_none() || seal::has_cloud_init(root)? {
        return Ok(None);
    }
    for maker in KEY_MAKERS {
        if seal::look_at(root, Path::new(maker))?.is_some() {
            return Ok(None);
        }
    }
    // With keys in the image, those are the finding.
    Ok(seal::expand(root, "etc/ssh/ssh_host_*")?.is_empty().then_some(sshd))
}
