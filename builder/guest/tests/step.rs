//! Steps in a real Debian tree, as root.
//!
//! The guest program under test may be linked dynamically: it starts itself again before it leaves the host's files.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod world;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use labwright_core::LockedPackage;
use labwright_guest::client::ClientError;
use labwright_guest::protocol::{
    Action, Bind, Command, DiskInfo, EntryKind, Fallback, FileSystemInfo, LockRule, Locked, Owner, Request, TreeEntry,
    User,
};
use world::{World, shell, world};

fn failure(result: Result<labwright_guest::client::Outcome, ClientError>) -> labwright_guest::protocol::Failure {
    match result.unwrap_err() {
        ClientError::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Runs a script without network and returns what it printed.
fn output(world: &World, script: &str) -> Vec<String> {
    let (result, lines) = world.run(&Request::new(world.root(), vec![shell(script)]), &[]);
    result.unwrap();
    lines
}

#[test]
fn accounts_files_and_settings() {
    let Some(world) = world() else { return };
    let ann = User {
        groups: vec!["sudo".to_owned()],
        gecos: Some("Ann".to_owned()),
        shell: Some("/bin/bash".parse().unwrap()),
        ssh_authorized_keys: vec!["ssh-ed25519 AAAA ann".to_owned()],
        ..User::new("ann")
    };
    let owner = Owner { user: "ann".to_owned(), group: None };
    let entry = |path: &str, kind, mode| TreeEntry { path: path.to_owned(), kind, mode };
    let actions = vec![
        Action::User(ann.clone()),
        Action::WriteFile {
            path: "/etc/new/motd".parse().unwrap(),
            mode: 0o640,
            owner: Owner { user: "root".to_owned(), group: Some("adm".to_owned()) },
            append: false,
            size: 6,
        },
        Action::WriteFile {
            path: "/etc/new/motd".parse().unwrap(),
            mode: 0o640,
            owner: Owner { user: "root".to_owned(), group: Some("adm".to_owned()) },
            append: true,
            size: 5,
        },
        Action::Tree {
            destination: "/opt/lab".parse().unwrap(),
            entries: vec![
                entry("bin", EntryKind::Directory, 0o750),
                entry("bin/run", EntryKind::File { size: 10 }, 0o4755),
                entry("link", EntryKind::Symlink { target: "bin/run".to_owned() }, 0),
            ],
            owner,
        },
        Action::Hostname("lab".to_owned()),
        Action::Locale("C.UTF-8".to_owned()),
        Action::Run(Command::Exec(vec!["chroot".into(), "--userspec=ann".into(), "/".into(), "id".into()])),
        shell("hostname; pwd; id -un; umask; echo $HOME $DEBIAN_FRONTEND $http_proxy; cat /etc/hosts; exit 0"),
        Action::RemovePath("/etc/new/gone".parse().unwrap()),
        Action::User(User { gecos: Some("Ann again".to_owned()), ..ann }),
    ];
    let mut request = Request::new(world.root(), actions);
    request.environment = vec![("http_proxy".to_owned(), "http://proxy.example".to_owned())];
    let (result, lines) = world.run(&request, &[b"hello\n", b"more\n", b"#!/bin/sh\n"]);
    result.unwrap();
    let expected = [
        "uid=1000(ann) gid=1000(ann) groups=1000(ann),27(sudo)",
        "labwright",
        "/",
        "root",
        "0022",
        "/root http://proxy.example",
        "127.0.0.1 localhost",
        "127.0.1.1 lab",
        "::1 localhost ip6-localhost ip6-loopback",
    ];
    assert_eq!(lines, expected);
    assert_eq!(world.read("etc/new/motd"), "hello\nmore\n");
    let facts = |path: &str| {
        let metadata = fs_err::symlink_metadata(world.root().join(path)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777)
    };
    assert_eq!(facts("etc/new"), (0, 0, 0o755));
    assert_eq!(facts("etc/new/motd"), (0, 4, 0o640));
    assert_eq!(facts("opt"), (0, 0, 0o755));
    assert_eq!(facts("opt/lab/bin"), (1000, 1000, 0o750));
    assert_eq!(facts("opt/lab/bin/run"), (1000, 1000, 0o4755));
    assert_eq!(facts("opt/lab/link"), (1000, 1000, 0o777));
    assert_eq!(facts("home/ann/.ssh"), (1000, 1000, 0o700));
    assert_eq!(facts("home/ann/.ssh/authorized_keys"), (1000, 1000, 0o600));
    assert_eq!(world.read("home/ann/.ssh/authorized_keys"), "ssh-ed25519 AAAA ann\n");
    assert!(world.read("etc/passwd").contains("ann:x:1000:1000:Ann again:/home/ann:/bin/bash\n"));
    assert!(world.read("etc/shadow").lines().any(|line| line.starts_with("ann:!")));
    assert_eq!(world.read("etc/hostname"), "lab\n");
    assert_eq!(world.read("etc/default/locale"), "LANG=C.UTF-8\n");
    assert!(!world.root().join("usr/sbin/policy-rc.d").exists());
}

#[test]
fn failures_say_why_and_put_everything_back() {
    let Some(world) = world() else { return };
    let root = world.root();
    fs_err::remove_file(root.join("etc/resolv.conf")).unwrap();
    symlink("../run/nowhere/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let inode = fs_err::symlink_metadata(root.join("etc/resolv.conf")).unwrap().ino();
    fs_err::write(root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 0\n").unwrap();
    let script = "cat /etc/resolv.conf; tail -1 /usr/sbin/policy-rc.d; false; echo not here";
    let mut request = Request::new(root, vec![shell("true"), shell(script)]);
    request.network = true;
    request.dns = vec!["nameserver 192.0.2.1".to_owned()];
    let failed = failure(world.run(&request, &[]).0);
    assert_eq!(failed.index, Some(1));
    let (named, reason) = failed.reason.split_once(" failed: ").unwrap();
    assert_eq!(named, "command 2 (`cat /etc/resolv.conf; tail -1 /usr/sbin/policy-rc.d; false; …`)");
    assert_eq!(reason, "`/bin/sh` ended with exit status 1");
    assert_eq!((failed.exit_status, failed.signal), (Some(1), None));
    let lines = ["# labwright: only while a step runs", "nameserver 192.0.2.1", "exit 101"];
    assert_eq!(failed.last_lines, lines);
    assert_eq!(fs_err::symlink_metadata(root.join("etc/resolv.conf")).unwrap().ino(), inode);
    assert_eq!(world.read("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 0\n");
    let leftovers: Vec<_> = ["etc", "usr/sbin"]
        .iter()
        .flat_map(|dir| fs_err::read_dir(root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("labwright"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");

    let one = |action| failure(world.run(&Request::new(root, vec![action]), &[b"x"]).0).reason;
    let nobody = Owner { user: "bob".to_owned(), group: None };
    let path = "/etc/x".parse().unwrap();
    let write = Action::WriteFile { path, mode: 0o644, owner: nobody, append: false, size: 1 };
    assert_eq!(one(write), "there is no user `bob` in the guest");
    let user = User { groups: vec!["wizards".to_owned()], ..User::new("ann") };
    assert_eq!(one(Action::User(user)), "there is no group `wizards` in the guest");
    assert_eq!(
        one(Action::Enable("x.service".to_owned())),
        "the guest lacks /usr/bin/systemctl, which is needed to handle units (package systemd)"
    );
    let exec = Action::Run(Command::Exec(vec!["/no/such".to_owned()]));
    assert_eq!(
        one(exec),
        "command 1 (`/no/such`) failed: could not start `/no/such`: No such file or directory (os error 2)"
    );
    let kill = Action::Run(Command::Exec(vec!["/bin/sh".into(), "-c".into(), "kill -9 $$".into()]));
    assert_eq!(one(kill), "command 1 (`/bin/sh -c kill -9 $$`) failed: `/bin/sh` was ended by signal 9");
    let early = failure(world.run(&Request::new("/no/such/root", vec![]), &[]).0);
    assert_eq!(early.index, None);
    assert_eq!(early.reason, "could not find /no/such/root: No such file or directory (os error 2)");
}

#[test]
fn the_host_is_out_of_reach() {
    let Some(world) = world() else { return };
    let socket = SocketAddr::from_abstract_name(b"labwright-test").unwrap();
    let _listener = UnixListener::bind_addr(&socket).unwrap();
    let script = r#"
        try() { if "$@" 2>/dev/null; then echo "worked: $*"; else echo "refused: $*"; fi; }
        try mknod /root/disk b 254 0
        try mount -t tmpfs none /mnt
        try umount /proc
        try mount -o remount,rw /sys
        try sh -c 'echo 1 > /proc/sys/kernel/panic'
        try sh -c 'echo h > /proc/sysrq-trigger'
        try ls /proc/1/root/
        try cat /proc/1/environ
        try hostname other
        try chroot /proc/1/cwd true
        test -s /proc/kcore || echo "no kcore"
        ls /sys/firmware | wc -l
        set -- /proc/[0-9]*; echo "processes: $#"
        ls /sys/class/net
        grep -c labwright-test /proc/net/unix || true
        ls /dev | tr '\n' ' '; echo
        grep -E 'Cap(Eff|Bnd|Inh)|NoNewPrivs' /proc/self/status
        ls -l /proc/self/fd | grep -c -E 'pipe|null|script'
    "#;
    let lines = output(&world, script);
    let expected = [
        "refused: mknod /root/disk b 254 0",
        "refused: mount -t tmpfs none /mnt",
        "refused: umount /proc",
        "refused: mount -o remount,rw /sys",
        "refused: sh -c echo 1 > /proc/sys/kernel/panic",
        "refused: sh -c echo h > /proc/sysrq-trigger",
        "refused: ls /proc/1/root/",
        "refused: cat /proc/1/environ",
        "refused: hostname other",
        "refused: chroot /proc/1/cwd true",
        "no kcore",
        "0",
        // PID 1 and the shell.
        "processes: 2",
        "lo",
        "0",
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ",
        "CapInh:\t0000000000000000",
        "CapEff:\t00000000a00405fb",
        "CapBnd:\t00000000a00405fb",
        "NoNewPrivs:\t0",
        "3",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn daemons_end_with_the_step_and_keep_nobody_waiting() {
    let Some(world) = world() else { return };
    let begin = Instant::now();
    let lines =
        output(&world, "(setsid sleep 6543 &) ; (setsid sh -c 'while :; do echo x > /root/alive; done' &)\necho hi");
    assert_eq!(lines, ["hi"]);
    assert!(begin.elapsed() < Duration::from_secs(20));
    let running = fs_err::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs_err::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x006543\0"));
    assert!(!running);
}

#[test]
fn a_flood_or_a_hang_ends_at_the_time_limit() {
    let Some(world) = world() else { return };
    for script in ["yes", "exec sleep 1000", "trap '' TERM; tr '\\0' 'x' < /dev/zero"] {
        let mut request = Request::new(world.root(), vec![shell(script)]);
        request.time_limit_seconds = Some(1);
        let begin = Instant::now();
        let (result, peak) = world.run_measured(&request);
        let failed = failure(result);
        assert_eq!(failed.reason, format!("command 1 (`{script}`) failed: the time limit of 1 s is over"));
        assert!(failed.last_lines.len() <= 20 && failed.last_lines.iter().all(|line| line.len() <= 4096));
        assert!(begin.elapsed() < Duration::from_secs(20), "{script}");
        assert!(peak < 64 << 20, "{script}: {peak} bytes");
    }
}

#[test]
fn ending_the_outer_process_ends_everything() {
    let Some(world) = world() else { return };
    let request = Request::new(world.root(), vec![shell("echo ready; sleep 7654")]);
    let begin = Instant::now();
    let result = world.run_and_terminate_at(&request, "ready");
    assert!(matches!(result, Err(ClientError::Ended)), "{result:?}");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn binds_are_seen_and_leave_nothing() {
    let Some(world) = world() else { return };
    let host = tempfile::tempdir().unwrap();
    fs_err::write(host.path().join("token"), "secret").unwrap();
    let bind = |path: &std::path::Path, guest: &str, read_only| Bind {
        host: path.to_owned(),
        guest: guest.parse().unwrap(),
        read_only,
    };
    let script = "cat /run/secrets/token; echo; echo kept > /var/cache/apt/archives/x; echo no > /run/secrets/token";
    let mut request = Request::new(world.root(), vec![shell(script)]);
    request.binds = vec![
        bind(&host.path().join("token"), "/run/secrets/token", true),
        bind(host.path(), "/var/cache/apt/archives", false),
    ];
    let failed = failure(world.run(&request, &[]).0);
    assert_eq!(failed.last_lines[0], "secret");
    assert!(failed.last_lines[1].contains("Read-only file system"), "{failed:?}");
    assert_eq!(fs_err::read_to_string(host.path().join("x")).unwrap(), "kept\n");
    assert!(!world.root().join("var/cache/apt/archives/x").exists());
    assert!(!world.root().join("run/secrets").exists());
}

fn fallback(package: &str) -> Fallback {
    Fallback { package: package.to_owned(), suite: "unstable".to_owned() }
}

#[test]
fn packages_are_installed_and_start_nothing_and_sealing_leaves_no_trace() {
    let Some(world) = world() else { return };
    if !World::network() {
        return;
    }
    let root = world.root();
    fs_err::write(root.join("tmp/stale"), "x").unwrap();
    // What cannot be as it is locked is told before anything is installed.
    let install = |packages: &[&str]| {
        let packages = packages.iter().map(|&name| name.to_owned()).collect();
        world.with_network(vec![Action::AptInstall { packages, files: vec![], fallbacks: vec![] }])
    };
    let locked = |rule, packages: &[&str]| {
        let packages = packages.iter().map(|name| LockedPackage::from_entry(name, "0.1~gone").unwrap()).collect();
        Some(Locked { packages, rule })
    };
    for (rule, packages, said) in [
        (LockRule::Keep, &["cron:amd64"][..], "in their locked versions: cron 0.1~gone (the package sources have "),
        (LockRule::Keep, &["ghost:amd64"], "in their locked versions: ghost 0.1~gone (nothing asks for it)"),
        (LockRule::Only, &[], "packages that are not locked would be installed: adduser "),
    ] {
        let mut request = install(&["cron"]);
        request.locked = locked(rule, packages);
        let failed = failure(world.run(&request, &[]).0);
        assert!(failed.not_as_locked && failed.reason.contains(said), "{failed:?}");
        assert!(!root.join("usr/sbin/cron").exists() && !root.join("etc/apt/preferences.d/labwright-pin").exists());
    }

    let mut request = world.with_network(vec![
        Action::AptInstall {
            packages: vec!["systemd".to_owned()],
            files: vec![],
            fallbacks: vec![fallback("cron"), fallback("ttyd")],
        },
        Action::Enable("cron.service".to_owned()),
        Action::Disable("cron.service".to_owned()),
        shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -E '[c]ron|[t]tyd|[s]ystemd' || echo nothing runs"),
        shell("grub-probe --target=fs_uuid /"),
    ]);
    // A version that is gone is no obstacle where it is only preferred.
    request.locked = locked(LockRule::Prefer, &["cron:amd64"]);
    request.disk = Some(DiskInfo {
        partition_map: "gpt".to_owned(),
        file_systems: vec![FileSystemInfo {
            mount: "/".parse().unwrap(),
            uuid: "1234-5678".to_owned(),
            partition_uuid: String::new(),
            grub_fs: "ext2".to_owned(),
        }],
    });
    let (result, lines) = world.run(&request, &[]);
    let outcome = result.unwrap_or_else(|error| panic!("{error:?}\n{}", lines.join("\n")));
    let (packages, installed) = (outcome.packages, outcome.installed);
    let [fact] = &packages[..] else { panic!("{packages:?}") };
    let came = |name: &str| installed.iter().find(|package| package.name() == name);
    assert_eq!(
        came("ttyd").map(|package| (package.version(), package.digest())),
        Some((&*fact.version, Some(&fact.digest)))
    );
    assert!(came("cron").is_some_and(|package| package.digest().is_some()) && came("dpkg").is_none(), "{installed:?}");
    assert_eq!(fact.name, "ttyd");
    assert!(fact.version.starts_with("1."), "{fact:?}");
    assert!(fact.source.contains("/pool/main/t/ttyd/ttyd_") && fact.source.strip_suffix(".deb").is_some(), "{fact:?}");
    assert_eq!(fact.digest.hex().len(), 64);
    assert!(!root.join("etc/apt/sources.list.d/labwright-pin.sources").exists());
    assert!(!root.join("etc/apt/preferences.d/labwright-pin").exists());
    assert!(lines.contains(&"nothing runs".to_owned()), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "1234-5678");
    assert!(root.join("usr/sbin/cron").exists() && root.join("usr/bin/ttyd").exists());
    assert!(!root.join("usr/sbin/policy-rc.d").exists());
    assert!(!root.join("usr/sbin/grub-probe").exists());
    assert_eq!(fs_err::read_dir(root.join("var/lib/apt/lists")).unwrap().count(), world.lists_before());
    assert_eq!(world.read("etc/systemd/system-preset/10-labwright-cron.service.preset"), "disable cron.service\n");
    assert!(!world.read("var/lib/dpkg/diversions").contains("grub-probe"));

    let (result, _) = world.run(&Request::new(root, vec![Action::Seal]), &[]);
    let outcome = result.unwrap();
    let inventory = outcome.inventory.unwrap();
    let names: Vec<&str> = inventory.packages.iter().map(|package| package.name.as_str()).collect();
    assert!(inventory.dpkg && names.len() > 50 && names.contains(&"cron") && names.contains(&"ttyd"), "{names:?}");
    assert_eq!(inventory.distribution.as_deref(), Some("debian"));
    let report = outcome.sealed.unwrap();
    let kinds: Vec<&str> = report.removed.iter().map(|removed| removed.kind.as_str()).collect();
    assert!(kinds.contains(&"logs") && kinds.contains(&"package lists and caches"), "{kinds:?}");
    assert!(!root.join("tmp/stale").exists());
    assert!(!root.join("var/log/dpkg.log").exists());
    assert_eq!(world.read("etc/machine-id"), "uninitialized\n");
    assert_eq!(labwright_guest::seal::plan(root).unwrap(), []);
}
