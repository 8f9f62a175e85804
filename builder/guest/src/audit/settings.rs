use std::path::Path;

use super::{Finding, Severity, small_text};
use crate::seal::{self, POLICY_MARK, SealError};

/// Files in which proxies are set.
const PROXIES: &[&str] = &[
    "etc/apt/apt.conf",
    "etc/apt/apt.conf.d/*",
    "etc/environment",
    "etc/environment.d/*",
    "etc/profile",
    "etc/profile.d/*",
    "etc/bash.bashrc",
    "etc/systemd/system.conf",
    "etc/systemd/system.conf.d/*",
    "etc/systemd/system/*.d/*.conf",
    "etc/yum.conf",
    "etc/dnf/dnf.conf",
    "etc/yum.repos.d/*.repo",
    "etc/zypp/zypp.conf",
    "etc/sysconfig/proxy",
    "etc/wgetrc",
    "etc/gitconfig",
    "etc/npmrc",
    "etc/pip.conf",
    "root/.wgetrc",
    "root/.curlrc",
    "root/.gitconfig",
    "root/.npmrc",
    "root/.bashrc",
    "root/.profile",
    "root/.docker/config.json",
    "root/.config/pip/pip.conf",
    "home/*/.wgetrc",
    "home/*/.curlrc",
    "home/*/.gitconfig",
    "home/*/.npmrc",
    "home/*/.bashrc",
    "home/*/.profile",
    "home/*/.docker/config.json",
    "home/*/.config/pip/pip.conf",
];

/// Files that tell a kernel where its root is.
const BOOT: &[&str] = &[
    "boot/grub/grub.cfg",
    "boot/grub2/grub.cfg",
    "boot/extlinux/extlinux.conf",
    "boot/loader/entries/*.conf",
    "boot/efi/loader/entries/*.conf",
    "efi/loader/entries/*.conf",
    "etc/kernel/cmdline",
];

pub(super) fn look(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    proxies(root, findings)?;
    policy(root, findings)?;
    resolver(root, findings)?;
    boot(root, findings)
}

/// Whether a line of a settings file is one that counts.
fn counts(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with(['#', ';']) && !line.starts_with("//")
}

/// Whether a text has a URL with a user and a password in it.
pub(super) fn has_login(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(|c: char| c == '/' || c == '"' || c == '\'' || c.is_whitespace()).next();
        let login = authority.and_then(|authority| authority.rsplit_once('@')).map(|(login, _)| login);
        // What a shell or another program puts in is not here.
        login.is_some_and(|login| {
            login.split_once(':').is_some_and(|(_, password)| !password.is_empty() && !password.contains(['$', '{']))
        })
    })
}

fn proxies(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    for pattern in PROXIES {
        for path in seal::expand(root, pattern)? {
            let Some(text) = small_text(root, &path)? else { continue };
            let lines = || {
                text.lines()
                    .filter(|line| counts(line) && line.contains("://") && line.to_ascii_lowercase().contains("proxy"))
            };
            if lines().any(has_login) {
                let remedy = "remove it: proxies of the place where an image is made are given for its time only";
                let what = "a proxy with a password";
                findings.push(Finding::at(&path, Severity::Error, "credential/proxy", what, remedy));
            } else if lines().next().is_some() {
                let remedy = "remove it, unless every machine from this image is to use it";
                findings.push(Finding::at(&path, Severity::Warning, "leak/proxy", "a proxy", remedy));
            }
        }
    }
    Ok(())
}

/// Another tool's `policy-rc.d` that keeps services from starting; ours is a trace of the build.
fn policy(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    let path = Path::new("usr/sbin/policy-rc.d");
    if small_text(root, path)?.is_some_and(|text| text.contains("exit 101") && !text.contains(POLICY_MARK)) {
        let remedy = "remove it, or packages that are installed later do not start their services";
        let what = "a policy that keeps services from starting";
        findings.push(Finding::at(path, Severity::Warning, "build/policy-rc.d", what, remedy));
    }
    Ok(())
}

/// Name servers of the place where the image was made. Machines have a link there, or what DHCP writes.
fn resolver(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    let path = Path::new("etc/resolv.conf");
    let Some(text) = small_text(root, path)? else { return Ok(()) };
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    if !text.contains(POLICY_MARK) && servers.into_iter().any(|server| !server.trim().starts_with("127.")) {
        let remedy = "empty it: a machine learns its name servers from its network";
        findings.push(Finding::at(path, Severity::Warning, "build/resolver", "name servers", remedy));
    }
    Ok(())
}

/// A root that is named by a device of the place where the image was made.
fn boot(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    for pattern in BOOT {
        for path in seal::expand(root, pattern)? {
            let Some(text) = small_text(root, &path)? else { continue };
            let devices = text
                .lines()
                .filter(|line| counts(line))
                .flat_map(str::split_whitespace)
                .filter_map(|word| word.strip_prefix("root=/dev/"));
            for device in devices {
                // Names that belong to the disk itself stay true elsewhere.
                if ["disk/", "mapper/", "mmcblk"].iter().any(|stable| device.starts_with(stable)) {
                    continue;
                }
                let elsewhere = ["loop", "nbd", "fuse", "labwright", "dm-"].iter().any(|kind| device.starts_with(kind));
                let severity = if elsewhere { Severity::Error } else { Severity::Warning };
                let remedy = "name the root by UUID, LABEL or PARTUUID, as `update-grub` does while an image is built";
                let what = format!("a root that is the device /dev/{device}");
                findings.push(Finding::at(&path, severity, "boot/root-device", what, remedy));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::has_login;

    #[test]
    fn logins_in_urls_are_told_from_ports_and_variables() {
        for (text, expected) in [
            ("http_proxy=http://ann:pw@proxy.example:3128/", true),
            ("Acquire::http::Proxy \"http://ann:pw@proxy.example\";", true),
            ("http://proxy.example:3128/", false),
            ("http://ann@proxy.example:3128", false),
            ("http://proxy.example/a:b@c", false),
            ("http://ann:$PASSWORD@proxy.example", false),
            ("deb https://u:p@packages.example/debian trixie main", true),
        ] {
            assert_eq!(has_login(text), expected, "{text}");
        }
    }
}
