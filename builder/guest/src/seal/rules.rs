/// What happens to the paths that a rule names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    /// They go, with everything below them.
    Remove,
    /// Everything in them goes, they stay.
    Contents,
    /// All files below them go or are emptied; directories and links stay.
    Files,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) kind: &'static str,
    pub(super) deed: Deed,
    pub(super) pattern: &'static str,
}

const fn remove(kind: &'static str, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Remove, pattern }
}

const fn contents(kind: &'static str, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Contents, pattern }
}

const fn files(kind: &'static str, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Files, pattern }
}

const SSH: &str = "SSH host keys";
const CLOUD: &str = "cloud-init state";
const SEED: &str = "random seeds and secrets";
const LEASE: &str = "network leases and identities";
const PACKAGES: &str = "package lists and caches";
const LOGS: &str = "logs";
const HISTORY: &str = "histories and caches of users";
const TEMPORARY: &str = "temporary files";
const STAMPS: &str = "state of services";
const BACKUPS: &str = "backups of account files";

/// Everything that goes, without its leading `/`. The first rule that names a path counts.
pub(super) const RULES: &[Rule] = &[
    remove(SSH, "etc/ssh/ssh_host_*"),
    contents(CLOUD, "var/lib/cloud"),
    remove(CLOUD, "etc/netplan/50-cloud-init.yaml"),
    remove(CLOUD, "etc/network/interfaces.d/50-cloud-init*"),
    remove(CLOUD, "etc/NetworkManager/system-connections/cloud-init-*"),
    remove(CLOUD, "etc/NetworkManager/conf.d/*cloud-init*"),
    remove(CLOUD, "etc/systemd/network/10-cloud-init-*"),
    remove(CLOUD, "etc/systemd/network/*.network.d/10-cloud-init*"),
    remove(CLOUD, "etc/sysconfig/network-scripts/ifcfg-*cloud*"),
    remove(CLOUD, "etc/ssh/sshd_config.d/50-cloud-init.conf"),
    remove(CLOUD, "etc/udev/rules.d/*-cloud-init*"),
    remove(SEED, "var/lib/systemd/random-seed"),
    remove(SEED, "var/lib/systemd/credential.secret"),
    remove(SEED, "var/lib/random-seed"),
    remove(SEED, "var/lib/urandom/random-seed"),
    remove(SEED, "boot/loader/random-seed"),
    remove(SEED, "boot/efi/loader/random-seed"),
    remove(SEED, "efi/loader/random-seed"),
    contents(LEASE, "var/lib/dhcp"),
    contents(LEASE, "var/lib/dhclient"),
    contents(LEASE, "var/lib/dhcpcd"),
    contents(LEASE, "var/lib/dhcpcd5"),
    remove(LEASE, "etc/dhcpcd.duid"),
    remove(LEASE, "etc/dhcpcd.secret"),
    remove(LEASE, "var/lib/NetworkManager/*.lease"),
    remove(LEASE, "var/lib/NetworkManager/secret_key"),
    remove(LEASE, "var/lib/NetworkManager/seen-bssids"),
    remove(LEASE, "var/lib/NetworkManager/timestamps"),
    remove(LEASE, "var/lib/wicked/*.xml"),
    contents(LEASE, "var/lib/systemd/network"),
    remove(LEASE, "etc/udev/rules.d/70-persistent-*.rules"),
    remove(LEASE, "etc/udev/rules.d/75-persistent-*.rules"),
    remove(LEASE, "etc/nvme/hostid"),
    remove(LEASE, "etc/nvme/hostnqn"),
    files(PACKAGES, "var/lib/apt/lists"),
    contents(PACKAGES, "var/lib/apt/periodic"),
    remove(PACKAGES, "var/cache/apt/*.bin"),
    remove(PACKAGES, "var/cache/apt/archives/*.deb"),
    contents(PACKAGES, "var/cache/apt/archives/partial"),
    remove(PACKAGES, "var/cache/debconf/*-old"),
    remove(PACKAGES, "var/lib/dpkg/*-old"),
    contents(PACKAGES, "var/cache/dnf"),
    contents(PACKAGES, "var/cache/libdnf5"),
    contents(PACKAGES, "var/cache/yum"),
    contents(PACKAGES, "var/cache/zypp"),
    contents(PACKAGES, "var/cache/pacman/pkg"),
    contents(LOGS, "var/log/journal"),
    contents(LOGS, "var/log/installer"),
    files(LOGS, "var/log"),
    contents(HISTORY, "root/.cache"),
    contents(HISTORY, "home/*/.cache"),
    remove(HISTORY, "root/.*_history"),
    remove(HISTORY, "home/*/.*_history"),
    remove(HISTORY, "root/.viminfo"),
    remove(HISTORY, "home/*/.viminfo"),
    remove(HISTORY, "root/.lesshst"),
    remove(HISTORY, "home/*/.lesshst"),
    remove(HISTORY, "root/.wget-hsts"),
    remove(HISTORY, "home/*/.wget-hsts"),
    remove(HISTORY, "root/.local/state/lesshst"),
    remove(HISTORY, "home/*/.local/state/lesshst"),
    remove(HISTORY, "root/.Xauthority"),
    remove(HISTORY, "home/*/.Xauthority"),
    remove(HISTORY, "root/.ICEauthority"),
    remove(HISTORY, "home/*/.ICEauthority"),
    remove(HISTORY, "root/.xsession-errors*"),
    remove(HISTORY, "home/*/.xsession-errors*"),
    remove(HISTORY, "root/.sudo_as_admin_successful"),
    remove(HISTORY, "home/*/.sudo_as_admin_successful"),
    remove(HISTORY, "root/.ansible"),
    contents(TEMPORARY, "tmp"),
    contents(TEMPORARY, "var/tmp"),
    contents(TEMPORARY, "run"),
    contents(TEMPORARY, "var/crash"),
    contents(STAMPS, "var/lib/systemd/timers"),
    contents(STAMPS, "var/lib/systemd/coredump"),
    contents(STAMPS, "var/lib/systemd/timesync"),
    contents(STAMPS, "var/lib/sudo/lectured"),
    contents(STAMPS, "var/lib/sudo/ts"),
    remove(STAMPS, "var/lib/logrotate/status"),
    remove(STAMPS, "var/lib/logrotate.status"),
    remove(BACKUPS, "etc/passwd-"),
    remove(BACKUPS, "etc/group-"),
    remove(BACKUPS, "etc/shadow-"),
    remove(BACKUPS, "etc/gshadow-"),
    remove(BACKUPS, "etc/subuid-"),
    remove(BACKUPS, "etc/subgid-"),
];

/// Whether a name matches a pattern in which `*` stands for any characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(prefix) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let suffix = parts.pop().unwrap_or_default();
    for part in parts {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(suffix)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("ssh_host_*", "ssh_host_rsa_key.pub", true),
            ("*.deb", "x.deb", true),
            ("*.deb", "deb", false),
            ("ifcfg-*cloud*", "ifcfg-xcloudy", true),
            ("ifcfg-*cloud*", "ifcfg-eth0", false),
            (".*_history", ".bash_history", true),
            (".*_history", "bash_history", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
