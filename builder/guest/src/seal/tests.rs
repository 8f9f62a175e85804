use std::os::unix::fs::{PermissionsExt, symlink};

use super::rules::Rule;
use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

/// Every path of a tree with what is in it, directories with a trailing slash.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, lines: &mut Vec<String>) {
        for (name, metadata) in list(root, dir).unwrap() {
            let path = dir.join(name);
            let text = path.display().to_string();
            if metadata.is_dir() {
                lines.push(format!("{text}/"));
                walk(root, &path, lines);
            } else if metadata.is_symlink() {
                lines.push(format!("{text} -> {}", fs_err::read_link(root.join(&path)).unwrap().display()));
            } else {
                lines.push(format!("{text} = {:?}", fs_err::read_to_string(root.join(&path)).unwrap()));
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, Path::new(""), &mut lines);
    lines
}

#[test]
fn a_used_tree_loses_its_past_and_keeps_the_rest() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for (path, text) in [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/ssh/ssh_host_rsa_key", "secret"),
        ("etc/ssh/sshd_config", "kept"),
        ("etc/passwd", "kept"),
        ("etc/passwd-", "old"),
        ("etc/netplan/50-cloud-init.yaml", "x"),
        ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.example:1\n"),
        ("home/ann/.bash_history", "curl"),
        ("home/ann/.cache/pip/x", "12345"),
        ("home/ann/notes", "kept"),
        ("root/.lesshst", "x"),
        ("run/lock/x", "x"),
        ("tmp/.hidden", "x"),
        ("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so", "kept"),
        ("usr/sbin/policy-rc.d", "#!/bin/sh\n# labwright: only while a step runs\nexit 101\n"),
        ("usr/sbin/sshd", "kept"),
        ("etc/systemd/system.conf", "kept"),
        ("var/cache/apt/archives/a.deb", "1234567"),
        ("var/cache/apt/archives/lock", "kept"),
        ("var/cache/apt/pkgcache.bin", "x"),
        ("var/lib/apt/extended_states", "kept"),
        ("var/lib/apt/lists/partial/x", "x"),
        ("var/lib/apt/lists/mirror_InRelease", "x"),
        ("var/lib/cloud/instances/i-1/x", "x"),
        ("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("var/lib/dhcp/dhclient.leases", "x"),
        ("var/lib/systemd/random-seed", "x"),
        ("var/lib/systemd/credential.secret", "x"),
        ("var/log/apt/history.log", "x"),
        ("var/log/dpkg.log", "x"),
        ("var/log/journal/0123/system.journal", "x"),
        ("var/log/wtmp", "x"),
    ] {
        write(root, path, text);
    }
    let report = seal(root).unwrap();
    let kept = [
        "etc/",
        r#"etc/.updated = """#,
        "etc/iscsi/",
        r#"etc/iscsi/initiatorname.iscsi = "GenerateName=yes\n""#,
        r#"etc/machine-id = "uninitialized\n""#,
        "etc/netplan/",
        r#"etc/passwd = "kept""#,
        "etc/ssh/",
        r#"etc/ssh/sshd_config = "kept""#,
        "etc/systemd/",
        "etc/systemd/system/",
        &format!("etc/systemd/system/labwright-ssh-host-keys.service = {KEYGEN_TEXT:?}"),
        "etc/systemd/system/multi-user.target.wants/",
        "etc/systemd/system/multi-user.target.wants/labwright-ssh-host-keys.service -> \
         /etc/systemd/system/labwright-ssh-host-keys.service",
        r#"etc/systemd/system.conf = "kept""#,
        "home/",
        "home/ann/",
        "home/ann/.cache/",
        r#"home/ann/notes = "kept""#,
        "root/",
        "run/",
        "tmp/",
        "usr/",
        "usr/lib/",
        "usr/lib/x86_64-linux-gnu/",
        "usr/lib/x86_64-linux-gnu/systemd/",
        r#"usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so = "kept""#,
        "usr/sbin/",
        r#"usr/sbin/sshd = "kept""#,
        "var/",
        r#"var/.updated = """#,
        "var/cache/",
        "var/cache/apt/",
        "var/cache/apt/archives/",
        r#"var/cache/apt/archives/lock = "kept""#,
        "var/lib/",
        "var/lib/apt/",
        r#"var/lib/apt/extended_states = "kept""#,
        "var/lib/apt/lists/",
        "var/lib/apt/lists/partial/",
        "var/lib/cloud/",
        "var/lib/dbus/",
        "var/lib/dbus/machine-id -> /etc/machine-id",
        "var/lib/dhcp/",
        "var/lib/systemd/",
        "var/log/",
        "var/log/apt/",
        "var/log/journal/",
        r#"var/log/wtmp = """#,
    ];
    assert_eq!(tree(root), kept);
    let time = |path: &str| fs_err::metadata(root.join(path)).unwrap().modified().unwrap();
    assert_eq!((time("etc/.updated"), time("var/.updated")), (time("usr"), time("usr")));
    let mode = fs_err::metadata(root.join("etc/machine-id")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o444);
    let sums: Vec<(&str, u64, u64)> =
        report.removed.iter().map(|removed| (removed.kind.as_str(), removed.entries, removed.bytes)).collect();
    assert_eq!(
        sums,
        [
            ("SSH host keys", 1, 6),
            ("backups of account files", 1, 3),
            ("cloud-init state", 4, 2),
            ("histories and caches of users", 4, 10),
            ("logs", 5, 4),
            ("network leases and identities", 1, 1),
            ("package lists and caches", 4, 10),
            ("random seeds and secrets", 2, 2),
            ("temporary files", 3, 2),
            ("traces of the build", 1, 55),
        ]
    );
    assert_eq!(plan(root).unwrap(), []);
    assert_eq!(seal(root).unwrap(), SealReport::default());
}

/// The unit as an image has it; a copy, so that a change is seen.
const KEYGEN_TEXT: &str = "[Unit]\nDescription=Make SSH host keys that this machine lacks\nBefore=ssh.service \
    sshd.service ssh.socket\nConditionFileIsExecutable=/usr/bin/ssh-keygen\n\n[Service]\nType=oneshot\n\
    RemainAfterExit=yes\nExecStart=/usr/bin/ssh-keygen -A\n\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn links_are_removed_and_never_followed() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    write(&outside, "precious", "kept");
    let root = &temp.path().join("root");
    for dir in ["etc", "var/log", "var/lib/systemd", "home", "root"] {
        fs_err::create_dir_all(root.join(dir)).unwrap();
    }
    symlink(&outside, root.join("tmp")).unwrap();
    symlink(&outside, root.join("var/log/journal")).unwrap();
    symlink(&outside, root.join("home/eve")).unwrap();
    symlink(&outside, root.join("root/.cache")).unwrap();
    symlink(outside.join("precious"), root.join("etc/machine-id")).unwrap();
    symlink(outside.join("precious"), root.join("var/lib/systemd/random-seed")).unwrap();
    seal(root).unwrap();
    assert_eq!(tree(&outside), [r#"precious = "kept""#]);
    let root_tree = tree(root);
    // No systemd is known here, so the file is empty.
    assert!(root_tree.contains(&r#"etc/machine-id = """#.to_owned()), "{root_tree:?}");
    assert!(!root_tree.iter().any(|line| line.contains("random-seed")), "{root_tree:?}");
}

#[test]
fn files_that_others_own_are_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    write(root, "etc/resolv.conf", "nameserver 192.0.2.1\n");
    write(root, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n");
    write(root, "usr/sbin/sshd", "");
    write(root, "usr/bin/cloud-init", "");
    write(root, "etc/systemd/system.conf", "");
    seal(root).unwrap();
    let tree = tree(root).join("\n");
    assert!(tree.contains("nameserver") && tree.contains("exit 0"), "{tree}");
    assert!(!tree.contains("labwright"), "{tree}");
}

/// A path that a pattern names, with something in it.
fn example(root: &Path, rule: &Rule) -> PathBuf {
    let path = rule.pattern.replace('*', "x");
    match rule.deed {
        Deed::Remove => write(root, &path, "x"),
        Deed::Contents | Deed::Files => write(root, &format!("{path}/sub/x"), "x"),
    }
    if matches!(rule.deed, Deed::Remove) { path.into() } else { Path::new(&path).join("sub/x") }
}

#[test]
fn every_rule_is_found_by_an_audit_until_the_tree_is_sealed() {
    let ids = |root: &Path| -> Vec<String> {
        crate::audit::tree(root).unwrap().into_iter().map(|finding| finding.id).collect()
    };
    for rule in RULES {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let path = example(root, rule);
        assert!(ids(root).contains(&rule.kind.id.to_owned()), "{rule:?}: {:?}", ids(root));
        seal(root).unwrap();
        assert!(!root.join(&path).exists(), "{rule:?}");
        assert_eq!(ids(root), Vec::<String>::new(), "{rule:?}");
    }
    // All at once.
    let temp = tempfile::tempdir().unwrap();
    for rule in RULES {
        example(temp.path(), rule);
    }
    seal(temp.path()).unwrap();
    assert_eq!(ids(temp.path()), Vec::<String>::new());
}

#[test]
fn what_cloud_init_signed_goes_and_other_settings_stay() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    write(root, "etc/netplan/10-eth.yaml", "# This file is generated from information provided by the datasource.\n");
    write(root, "etc/sysconfig/network-scripts/ifcfg-eth0", "# Created by cloud-init automatically, do not edit.\n");
    write(root, "etc/netplan/20-lab.yaml", "network: {version: 2}\n");
    seal(root).unwrap();
    assert_eq!(
        tree(root),
        [
            "etc/",
            r#"etc/machine-id = """#,
            "etc/netplan/",
            r#"etc/netplan/20-lab.yaml = "network: {version: 2}\n""#,
            "etc/sysconfig/",
            "etc/sysconfig/network-scripts/"
        ]
    );
}

#[test]
fn boot_entries_lose_the_machines_id_where_nothing_else_has_it() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    let id = "0123456789abcdef0123456789abcdef";
    write(root, &format!("boot/loader/entries/{id}-6.1.conf"), "linux /vmlinuz-6.1\n");
    write(root, &format!("boot/loader/entries/{id}-6.2.conf"), &format!("linux /{id}/6.2/linux\n"));
    write(root, "boot/loader/entries/other.conf", "");
    seal(root).unwrap();
    let entries: Vec<_> =
        list(root, Path::new("boot/loader/entries")).unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(entries, ["0123456789abcdef0123456789abcdef-6.2.conf", "6.1.conf", "other.conf"]);
    let left = crate::audit::tree(root).unwrap();
    assert_eq!(left.iter().map(|finding| finding.id.as_str()).collect::<Vec<_>>(), ["identity/boot-entries"]);
    assert!(left.iter().all(|finding| !finding.fails_build()), "the machine's first update renames it");
}

#[test]
fn what_a_killed_step_set_aside_comes_back() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    write(root, "etc/resolv.conf", "# labwright: only while a step runs\nnameserver 192.0.2.1\n");
    symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/.labwright-resolv.conf")).unwrap();
    seal(root).unwrap();
    let lines = tree(root);
    assert!(lines.contains(&"etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("labwright")), "{lines:?}");
}

#[test]
fn dropbear_makes_its_keys_at_boot() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    write(root, "usr/sbin/dropbear", "");
    write(root, "etc/dropbear/dropbear_rsa_host_key", "secret");
    write(root, "etc/systemd/system.conf", "");
    seal(root).unwrap();
    let lines = tree(root);
    assert!(!lines.iter().any(|line| line.contains("rsa_host_key =")), "{lines:?}");
    let unit = "etc/systemd/system/labwright-dropbear-host-keys.service";
    assert!(fs_err::read_to_string(root.join(unit)).unwrap().contains("dropbearkey -t $$kind -f $$key"));
    assert!(root.join("etc/systemd/system/multi-user.target.wants/labwright-dropbear-host-keys.service").is_symlink());
}
