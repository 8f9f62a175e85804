//! What goes from a tree when it is sealed, as a table; [`crate::audit`] reports the same as findings.

use crate::audit::Severity;

/// A kind of residue: what sealing reports and an audit finds.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The id of its findings (`residue/logs`), which never changes.
    pub id: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// How bad it is in an image.
    pub severity: Severity,
    /// What to do about it.
    pub remedy: &'static str,
}

const fn kind(id: &'static str, name: &'static str, severity: Severity, remedy: &'static str) -> Kind {
    Kind { id, name, severity, remedy }
}

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
    pub(super) kind: &'static Kind,
    pub(super) deed: Deed,
    pub(super) pattern: &'static str,
}

const fn remove(kind: &'static Kind, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Remove, pattern }
}

const fn contents(kind: &'static Kind, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Contents, pattern }
}

const fn files(kind: &'static Kind, pattern: &'static str) -> Rule {
    Rule { kind, deed: Deed::Files, pattern }
}

const SHARED: &str = "all machines from this image would share it: remove it when the image is made";
const SEALED: &str = "`labwright build` removes it when it seals; elsewhere, remove it as the last thing";

pub(crate) static SSH: Kind = kind("identity/ssh-host-keys", "SSH host keys", Severity::Error, SHARED);
pub(crate) static CLOUD: Kind = kind("identity/cloud-init", "cloud-init state", Severity::Error, SHARED);
static SEED: Kind = kind("identity/random-seed", "random seeds and secrets", Severity::Error, SHARED);
static LEASE: Kind = kind("identity/network", "network leases and identities", Severity::Error, SHARED);
static ENROLLED: Kind = kind("identity/enrolment", "enrolments with services", Severity::Error, SHARED);
static PACKAGES: Kind = kind("residue/package-caches", "package lists and caches", Severity::Warning, SEALED);
static LOGS: Kind = kind("residue/logs", "logs", Severity::Warning, SEALED);
static HISTORY: Kind = kind("residue/histories", "histories and caches of users", Severity::Warning, SEALED);
static MAIL: Kind = kind("residue/mail", "mail", Severity::Warning, SEALED);
static TEMPORARY: Kind = kind("residue/temporary-files", "temporary files", Severity::Warning, SEALED);
static STAMPS: Kind = kind("residue/service-state", "state of services", Severity::Warning, SEALED);
static BACKUPS: Kind = kind("residue/account-backups", "backups of account files", Severity::Warning, SEALED);
pub(crate) static TRACES: Kind = kind("build/traces", "traces of the build", Severity::Error, SEALED);

/// Everything that goes, without its leading `/`. The first rule that names a path counts.
pub(super) static RULES: &[Rule] = &[
    remove(&SSH, "etc/ssh/ssh_host_*"),
    remove(&SSH, "etc/dropbear/dropbear_*_host_key"),
    contents(&CLOUD, "var/lib/cloud"),
    remove(&CLOUD, "etc/netplan/50-cloud-init.yaml"),
    remove(&CLOUD, "etc/network/interfaces.d/50-cloud-init*"),
    remove(&CLOUD, "etc/NetworkManager/system-connections/cloud-init-*"),
    remove(&CLOUD, "etc/NetworkManager/conf.d/*cloud-init*"),
    remove(&CLOUD, "etc/systemd/network/10-cloud-init-*"),
    remove(&CLOUD, "etc/systemd/network/*.network.d/10-cloud-init*"),
    remove(&CLOUD, "etc/sysconfig/network-scripts/ifcfg-*cloud*"),
    remove(&CLOUD, "etc/ssh/sshd_config.d/50-cloud-init.conf"),
    remove(&CLOUD, "etc/udev/rules.d/*-cloud-init*"),
    remove(&CLOUD, "etc/sudoers.d/90-cloud-init-users"),
    remove(&CLOUD, "etc/cloud/cloud.cfg.d/90-installer-network.cfg"),
    remove(&CLOUD, "etc/cloud/cloud.cfg.d/99-installer.cfg"),
    remove(&CLOUD, "etc/cloud/cloud.cfg.d/curtin-*"),
    remove(&SEED, "var/lib/systemd/random-seed"),
    remove(&SEED, "var/lib/systemd/credential.secret"),
    remove(&SEED, "var/lib/random-seed"),
    remove(&SEED, "var/lib/misc/random-seed"),
    remove(&SEED, "var/lib/urandom/random-seed"),
    remove(&SEED, "boot/loader/random-seed"),
    remove(&SEED, "boot/efi/loader/random-seed"),
    remove(&SEED, "efi/loader/random-seed"),
    contents(&LEASE, "var/lib/dhcp"),
    contents(&LEASE, "var/lib/dhclient"),
    contents(&LEASE, "var/lib/dhcpcd"),
    contents(&LEASE, "var/lib/dhcpcd5"),
    remove(&LEASE, "etc/dhcpcd.duid"),
    remove(&LEASE, "etc/dhcpcd.secret"),
    remove(&LEASE, "var/lib/NetworkManager/*.lease"),
    remove(&LEASE, "var/lib/NetworkManager/secret_key"),
    remove(&LEASE, "var/lib/NetworkManager/seen-bssids"),
    remove(&LEASE, "var/lib/NetworkManager/timestamps"),
    remove(&LEASE, "var/lib/wicked/*.xml"),
    contents(&LEASE, "var/lib/systemd/network"),
    remove(&LEASE, "etc/udev/rules.d/70-persistent-*.rules"),
    remove(&LEASE, "etc/udev/rules.d/75-persistent-*.rules"),
    remove(&LEASE, "etc/nvme/hostid"),
    remove(&LEASE, "etc/nvme/hostnqn"),
    remove(&LEASE, "var/lib/dhcpv6/*"),
    remove(&LEASE, "var/lib/wide-dhcpv6/dhcp6c_duid"),
    remove(&LEASE, "var/lib/dibbler/client-duid"),
    contents(&LEASE, "var/lib/bluetooth"),
    remove(&ENROLLED, "etc/salt/minion_id"),
    remove(&ENROLLED, "etc/salt/pki/minion/minion.p*"),
    contents(&ENROLLED, "etc/puppetlabs/puppet/ssl"),
    contents(&ENROLLED, "var/lib/puppet/ssl"),
    remove(&ENROLLED, "etc/chef/client.pem"),
    remove(&ENROLLED, "etc/pki/consumer/*"),
    remove(&ENROLLED, "etc/pki/entitlement/*"),
    remove(&ENROLLED, "etc/sysconfig/rhn/systemid*"),
    contents(&ENROLLED, "var/lib/ubuntu-advantage/private"),
    remove(&ENROLLED, "var/lib/zerotier-one/identity.*"),
    remove(&ENROLLED, "var/lib/tailscale/tailscaled.state"),
    remove(&ENROLLED, "var/lib/docker/engine-id"),
    files(&PACKAGES, "var/lib/apt/lists"),
    contents(&PACKAGES, "var/lib/apt/periodic"),
    remove(&PACKAGES, "var/cache/apt/*.bin"),
    remove(&PACKAGES, "var/cache/apt/archives/*.deb"),
    contents(&PACKAGES, "var/cache/apt/archives/partial"),
    remove(&PACKAGES, "var/cache/debconf/*-old"),
    remove(&PACKAGES, "var/lib/dpkg/*-old"),
    contents(&PACKAGES, "var/cache/dnf"),
    contents(&PACKAGES, "var/cache/libdnf5"),
    contents(&PACKAGES, "var/cache/yum"),
    contents(&PACKAGES, "var/cache/zypp"),
    contents(&PACKAGES, "var/cache/pacman/pkg"),
    contents(&PACKAGES, "var/lib/pacman/sync"),
    contents(&PACKAGES, "var/cache/apk"),
    contents(&PACKAGES, "var/cache/PackageKit"),
    remove(&PACKAGES, "var/lib/aptitude/pkgstates*"),
    contents(&LOGS, "var/log/journal"),
    contents(&LOGS, "var/log/installer"),
    files(&LOGS, "var/log"),
    remove(&LOGS, "root/anaconda-ks.cfg"),
    remove(&LOGS, "root/original-ks.cfg"),
    remove(&LOGS, "root/install.log*"),
    files(&MAIL, "var/mail"),
    files(&MAIL, "var/spool/mail"),
    files(&MAIL, "var/spool/postfix/maildrop"),
    files(&MAIL, "var/spool/exim4/input"),
    contents(&MAIL, "var/spool/mqueue"),
    contents(&HISTORY, "root/.cache"),
    contents(&HISTORY, "home/*/.cache"),
    remove(&HISTORY, "root/.*_history"),
    remove(&HISTORY, "home/*/.*_history"),
    remove(&HISTORY, "root/.viminfo"),
    remove(&HISTORY, "home/*/.viminfo"),
    remove(&HISTORY, "root/.lesshst"),
    remove(&HISTORY, "home/*/.lesshst"),
    remove(&HISTORY, "root/.wget-hsts"),
    remove(&HISTORY, "home/*/.wget-hsts"),
    remove(&HISTORY, "root/.local/state/lesshst"),
    remove(&HISTORY, "home/*/.local/state/lesshst"),
    remove(&HISTORY, "root/.Xauthority"),
    remove(&HISTORY, "home/*/.Xauthority"),
    remove(&HISTORY, "root/.ICEauthority"),
    remove(&HISTORY, "home/*/.ICEauthority"),
    remove(&HISTORY, "root/.xsession-errors*"),
    remove(&HISTORY, "home/*/.xsession-errors*"),
    remove(&HISTORY, "root/.sudo_as_admin_successful"),
    remove(&HISTORY, "home/*/.sudo_as_admin_successful"),
    remove(&HISTORY, "root/.ansible"),
    remove(&HISTORY, "root/.histfile"),
    remove(&HISTORY, "home/*/.histfile"),
    remove(&HISTORY, "root/.local/share/fish/fish_history"),
    remove(&HISTORY, "home/*/.local/share/fish/fish_history"),
    remove(&HISTORY, "root/.local/state/*history*"),
    remove(&HISTORY, "home/*/.local/state/*history*"),
    remove(&HISTORY, "root/.local/state/bash/*history*"),
    remove(&HISTORY, "home/*/.local/state/bash/*history*"),
    remove(&HISTORY, "root/.local/share/recently-used.xbel"),
    remove(&HISTORY, "home/*/.local/share/recently-used.xbel"),
    remove(&HISTORY, "root/.local/share/nano/search_history"),
    remove(&HISTORY, "home/*/.local/share/nano/search_history"),
    remove(&HISTORY, "root/.vim/.netrwhist"),
    remove(&HISTORY, "home/*/.vim/.netrwhist"),
    remove(&HISTORY, "root/.npm/_cacache"),
    remove(&HISTORY, "home/*/.npm/_cacache"),
    remove(&HISTORY, "root/.rnd"),
    remove(&HISTORY, "home/*/.rnd"),
    // What the build fetched from; a user's own is the recipe's.
    remove(&HISTORY, "root/.ssh/known_hosts"),
    remove(&HISTORY, "root/.ssh/known_hosts.old"),
    contents(&TEMPORARY, "tmp"),
    contents(&TEMPORARY, "var/tmp"),
    contents(&TEMPORARY, "run"),
    contents(&TEMPORARY, "var/crash"),
    contents(&TEMPORARY, "var/spool/abrt"),
    contents(&TEMPORARY, "var/lib/apport/coredump"),
    contents(&STAMPS, "var/lib/systemd/timers"),
    contents(&STAMPS, "var/lib/systemd/coredump"),
    contents(&STAMPS, "var/lib/systemd/timesync"),
    contents(&STAMPS, "var/lib/sudo/lectured"),
    contents(&STAMPS, "var/lib/sudo/ts"),
    remove(&STAMPS, "var/lib/logrotate/status"),
    remove(&STAMPS, "var/lib/logrotate.status"),
    remove(&BACKUPS, "etc/passwd-"),
    remove(&BACKUPS, "etc/group-"),
    remove(&BACKUPS, "etc/shadow-"),
    remove(&BACKUPS, "etc/gshadow-"),
    remove(&BACKUPS, "etc/subuid-"),
    remove(&BACKUPS, "etc/subgid-"),
    remove(&BACKUPS, "etc/passwd~"),
    remove(&BACKUPS, "etc/shadow~"),
    contents(&BACKUPS, "var/backups"),
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
