use std::os::unix::fs::symlink;

use super::*;

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

/// The findings as lines.
fn lines(root: &Path) -> Vec<String> {
    let line = |finding: Finding| format!("{:?} {} {}: {}", finding.severity, finding.id, finding.path, finding.what);
    tree(root).unwrap().into_iter().map(line).collect()
}

#[test]
fn what_sealing_does_not_decide_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for (path, text) in [
        ("boot/grub/grub.cfg", "linux /vmlinuz root=/dev/loop0p2 ro\nlinux /vmlinuz root=UUID=1-2 ro\n"),
        ("boot/loader/entries/0123456789abcdef0123456789abcdef-6.1.conf", "options root=/dev/sda1\n"),
        ("etc/apt/apt.conf.d/90proxy", "Acquire::http::Proxy \"http://proxy.example:3128\";\n"),
        ("etc/apt/apt.conf.d/91proxy", "// Acquire::http::Proxy \"http://proxy.example:3128\";\n"),
        ("etc/apt/auth.conf.d/lab.conf", "machine packages.example login ann password pw\n"),
        ("etc/apt/sources.list.d/lab.list", "# http://a:b@c\ndeb https://u:p@packages.example/debian trixie main\n"),
        ("etc/environment", "PATH=/bin\nhttps_proxy=http://ann:pw@proxy.example\nGITHUB_TOKEN=x\n"),
        ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.example:1\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/resolv.conf", "nameserver 192.0.2.1\n"),
        ("etc/shadow", "root:$y$x:1::::::\nann:!:1::::::\nbob::1::::::\ncy:*:1::::::\ndan:!$6$x:1::::::\n"),
        ("etc/systemd/system.conf", ""),
        ("etc/wgetrc", "#https_proxy = http://proxy.yoyodyne.com:18023/\n"),
        ("home/ann/.docker/config.json", "{\"auths\": {\"registry.example\": {\"auth\": \"dTpw\"}}}\n"),
        ("home/ann/.ssh/id_ed25519", "-----BEGIN OPENSSH PRIVATE KEY-----\n"),
        ("home/ann/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA ann\n"),
        ("home/ann/.ssh/authorized_keys", "ssh-ed25519 AAAA ann\n"),
        ("root/.aws/credentials", "aws_secret_access_key = x\n"),
        ("root/.bash_history", "ls\n"),
        ("root/.netrc", "machine a login b password c\n"),
        ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
        ("usr/sbin/sshd", ""),
        ("var/cache/debconf/passwords.dat", "Name: x/password\nTemplate: x/password\nValue: pw\n"),
    ] {
        write(root, path, text);
    }
    assert_eq!(
        lines(root),
        [
            "Error boot/root-device /boot/grub/grub.cfg: a root that is the device /dev/loop0p2",
            "Error credential/cloud /root/.aws/credentials: a cloud login",
            "Error credential/database /var/cache/debconf/passwords.dat: answers to questions of packages",
            "Error credential/environment /etc/environment: a token in the environment",
            "Error credential/netrc /root/.netrc: passwords for hosts",
            "Error credential/packages /etc/apt/auth.conf.d/lab.conf: an apt login",
            "Error credential/packages /etc/apt/sources.list.d/lab.list: an apt login",
            "Error credential/private-key /home/ann/.ssh/id_ed25519: a private SSH key",
            "Error credential/proxy /etc/environment: a proxy with a password",
            "Error credential/registry /home/ann/.docker/config.json: a registry login",
            "Error identity/iscsi /etc/iscsi/initiatorname.iscsi: an iSCSI initiator's name",
            "Error identity/machine-id /etc/machine-id: a machine's id",
            "Warning boot/root-device /boot/loader/entries/0123456789abcdef0123456789abcdef-6.1.conf: a root that is \
             the device /dev/sda1",
            "Warning build/policy-rc.d /usr/sbin/policy-rc.d: a policy that keeps services from starting",
            "Warning build/resolver /etc/resolv.conf: name servers",
            "Warning credential/empty-password /etc/shadow: the account `bob` without a password",
            "Warning credential/password-hash /etc/shadow: the password of `root`, the same on all machines",
            "Warning identity/boot-entries /boot/loader/entries/0123456789abcdef0123456789abcdef-6.1.conf: a boot \
             loader entry named after a machine id",
            "Warning identity/no-ssh-key-maker /usr/sbin/sshd: an SSH server for which nothing makes host keys at boot",
            "Warning leak/proxy /etc/apt/apt.conf.d/90proxy: a proxy",
            "Warning residue/histories /root/.bash_history: histories and caches of users",
        ]
    );
    // Sealing decides about these; a recipe's author, about the others.
    seal::seal(root).unwrap();
    let left: Vec<String> =
        tree(root).unwrap().into_iter().filter(Finding::fails_build).map(|found| found.id).collect();
    assert_eq!(left, ["boot/root-device"]);
}

#[test]
fn an_audit_follows_no_link_and_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    write(&outside, "secret", "machine a login b password c\n");
    write(&outside, "dir/.netrc", "machine a login b password c\n");
    let root = &temp.path().join("root");
    fs_err::create_dir_all(root.join("root")).unwrap();
    fs_err::create_dir_all(root.join("home")).unwrap();
    symlink(outside.join("secret"), root.join("root/.netrc")).unwrap();
    symlink(outside.join("dir"), root.join("home/eve")).unwrap();
    assert_eq!(lines(root), Vec::<String>::new());
    assert_eq!(lines(&outside), Vec::<String>::new());
}
