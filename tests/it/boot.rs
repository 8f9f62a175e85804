//! The whole way: a recipe becomes an image, and two clones of it boot, one with BIOS and one with UEFI firmware.
//!
//! It is one test, because emulated boots are what it costs: everything that needs a machine that runs is asked of
//! the same two.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use labwright_tests::machine::Machine;
use labwright_tests::terminal::{Door, Shell};
use labwright_tests::{has, program};

/// An emulated machine on a busy host boots in less.
const BOOT: Duration = Duration::from_mins(10);
/// Stopping an emulated machine's services takes less.
const END: Duration = Duration::from_mins(2);
/// One command in an emulated machine takes less.
const COMMAND: Duration = Duration::from_mins(1);

/// Searches what the learner may read for one pattern a line of its input, and prints where they are. The patterns
/// are in no argument and no variable that is exported, or the search would find itself.
const SEARCH: &str = r#"
patterns=$(cat)
find_in() { printf '%s\n' "$patterns" | grep -lsaF -f - "$@"; }
find_in -r /etc /run /var /tmp /dev/shm /home /root /opt /srv /usr/local /boot
find_in /proc/[0-9]*/cmdline /proc/[0-9]*/environ | sed 's,[0-9][0-9]*,PID,'
find_in -D read /dev/vd*
{ journalctl --no-pager; dmesg; systemctl show '*'; cloud-init query --all; } 2>&1 | find_in --label=journal -
true
"#;

/// The library's recipe with a second account that may do everything, and a terminal of its own: the test needs root
/// in the guest to restart it and to look behind its doors, and the learner must not be root.
fn recipe(dir: &Path) -> PathBuf {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/library/debian-terminal/recipe.yaml");
    let mut text = fs_err::read_to_string(library).unwrap();
    for (line, with) in [
        ("  name: debian-terminal\n", "  name: boot-test\n"),
        (
            "  - {name: \"${{ user }}\", gecos: Learner, shell: /bin/bash}\n",
            "  - {name: \"${{ user }}\", gecos: Learner, shell: /bin/bash}\n  \
               - {name: admin, shell: /bin/bash, sudo: ALL=(ALL) NOPASSWD:ALL}\n",
        ),
        (
            "  - {name: shell, type: terminal, user: \"${{ user }}\"}\n",
            "  - {name: shell, type: terminal, user: \"${{ user }}\"}\n  \
               - {name: admin, type: terminal, user: admin}\n",
        ),
    ] {
        assert_eq!(text.matches(line).count(), 1, "the library's recipe has changed: {line}");
        text = text.replace(line, with);
    }
    let path = dir.join("recipe.yaml");
    fs_err::write(&path, text).unwrap();
    path
}

/// What no two machines may share.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    machine_id: String,
    host_keys: Vec<String>,
}

impl Identity {
    fn of(shell: &mut Shell) -> Self {
        let machine_id = shell.ok("cat /etc/machine-id", COMMAND);
        assert!(machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{machine_id}");
        let keys = shell.ok("cut -d ' ' -f 2 /etc/ssh/ssh_host_*_key.pub", COMMAND);
        let host_keys: Vec<String> = keys.lines().map(str::to_owned).collect();
        assert!(host_keys.len() >= 2 && host_keys.iter().all(|key| key.starts_with("AAAA")), "{keys}");
        Self { machine_id, host_keys }
    }
}

fn phase(machine: &Machine, what: &str) {
    // Shown by `--no-capture`, and where the test fails: how far it came, and what each part took.
    println!("{:6.1} s  {what}", machine.elapsed().as_secs_f64());
}

/// Where the search, as the learner, finds a text.
fn found(shell: &mut Shell, patterns: &[&str]) -> Vec<String> {
    let input = format!("{}\r", patterns.join(" "));
    let line = "IFS= read -rsp 'input? ' p; printf '%s\\n' $p | sh /tmp/search";
    let (printed, code) = shell.run_with_input(line, Some(&input), 5 * COMMAND);
    assert_eq!(code, 0, "{printed}");
    let mut lines: Vec<String> =
        printed.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The listening sockets that are reachable from outside.
fn listeners(shell: &mut Shell) -> Vec<String> {
    let all = shell.ok("ss -Hltn | awk '{print $4}'", COMMAND);
    let mut open: Vec<String> = all
        .lines()
        .map(str::trim)
        .filter(|at| !at.starts_with("127.") && !at.starts_with("[::1]"))
        .map(str::to_owned)
        .collect();
    open.sort();
    open
}

#[test]
fn machine_two_clones_boot_to_their_terminals() {
    let tools = ["/usr/bin/qemu-system-x86_64", "/usr/bin/mmdebstrap", "/usr/share/OVMF/OVMF_CODE_4M.fd"];
    let missing: Vec<_> = tools.iter().filter(|path| !Path::new(path).exists()).collect();
    if !has("root", rustix::process::geteuid().is_root()) || !has("qemu", missing.is_empty()) {
        return;
    }

    // Kept between runs: the base and the layers are made once.
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot");
    let home = dir.join("home");
    fs_err::create_dir_all(&home).unwrap();
    let begin = Instant::now();
    let mut build = assert_cmd::Command::new(program());
    build.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LABWRIGHT_HOME", &home);
    build.arg("build").arg(recipe(&dir)).assert().success();
    println!("{:6.1} s  built", begin.elapsed().as_secs_f64());

    // Together they take less than one after the other: much of a boot waits, or uses one processor only.
    let mut bios = Machine::start(&home, &["boot-test"], &dir.join("bios.log"));
    let mut uefi = Machine::start(&home, &["boot-test", "--uefi"], &dir.join("uefi.log"));

    let answer = uefi.answer();
    phase(&uefi, "UEFI: ready");
    let (uefi_door, uefi_password) = door(&answer);
    let mut shell = uefi_door.open("/shell/", None).unwrap();
    assert_eq!(shell.ok("test -d /sys/firmware/efi && echo UEFI", COMMAND), "UEFI");
    let other = Identity::of(&mut shell);
    phase(&uefi, "UEFI: asked");
    end(uefi);

    let answer = bios.answer();
    phase(&bios, "BIOS: ready");
    let (door, password) = door(&answer);
    assert_ne!(password, uefi_password);
    refuses_strangers(&door);
    let mut shell = door.open("/shell/", None).unwrap();
    says_student(&mut shell);
    phase(&bios, "BIOS: `id` in the terminal");

    assert_eq!(shell.ok("cloud-init status --wait | grep ^status:", 3 * COMMAND), "status: done");
    let state =
        shell.ok("systemctl is-system-running --wait; systemctl --failed --no-legend --plain --no-pager", 3 * COMMAND);
    assert_eq!(state, "running", "units have failed");
    assert_eq!(shell.run("test -d /sys/firmware/efi", COMMAND).1, 1, "booted by BIOS");
    let identity = Identity::of(&mut shell);
    assert_ne!(identity.machine_id, other.machine_id);
    assert!(identity.host_keys.iter().all(|key| !other.host_keys.contains(key)), "{identity:?} {other:?}");
    let open = ["0.0.0.0:22", "0.0.0.0:7681", "[::]:22", "[::]:7681"];
    assert_eq!(listeners(&mut shell), open);
    phase(&bios, "BIOS: state, identity, listeners");

    let mut admin = door.open("/admin/", None).unwrap();
    the_learner_cannot_read_the_credential(&door, &mut shell, &mut admin, &password);
    phase(&bios, "BIOS: searched for the credential");

    let boot_id = shell.ok("cat /proc/sys/kernel/random/boot_id", COMMAND);
    assert_eq!(without_the_credential(&door, admin), "nothing");
    phase(&bios, "BIOS: closed without the credential, open with it again");

    let mut admin = door.open("/admin/", None).unwrap();
    admin.type_text("sudo systemctl reboot\r");
    door.wait_ready(false, END);
    door.wait_ready(true, BOOT);
    phase(&bios, "BIOS: ready again after the guest's own reboot");
    assert_eq!(door.with_password(&uefi_password).status("/shell/", &[]), Some(401));
    let mut shell = door.open("/shell/", None).unwrap();
    says_student(&mut shell);
    assert_ne!(shell.ok("cat /proc/sys/kernel/random/boot_id", COMMAND), boot_id, "it has rebooted");
    assert_eq!(Identity::of(&mut shell), identity, "a machine keeps its identity");
    end(bios);

    let left: Vec<_> = fs_err::read_dir(home.join("machines")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// The front door that an answer names, and its password.
fn door(answer: &serde_json::Value) -> (Door, String) {
    let names: Vec<&str> =
        answer["access"].as_array().unwrap().iter().map(|way| way["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shell", "admin"], "{answer}");
    let address = answer["access"][0]["address"].as_str().unwrap();
    assert!(address.ends_with("/shell/"), "{address}");
    (Door::of_address(address), answer["password"].as_str().unwrap().to_owned())
}

fn refuses_strangers(door: &Door) {
    let stranger = door.anonymous();
    assert_eq!(stranger.status("/-/ready", &[]), Some(200));
    for path in ["/", "/shell/", "/admin/", "/shell/token", "/nothing"] {
        assert_eq!(stranger.status(path, &[]), Some(401), "{path}");
    }
    assert_eq!(stranger.open("/shell/", None).unwrap_err(), 401);
    assert_eq!(door.with_password("guess").open("/shell/", None).unwrap_err(), 401);
    // Another page in the same browser has the credential too.
    assert_eq!(door.status("/shell/", &[("Origin", "http://other.example")]), Some(403));
    assert_eq!(door.open("/shell/", Some("http://other.example")).unwrap_err(), 403);
    assert_eq!(door.status("/shell/", &[]), Some(200));
    assert_eq!(door.status("/", &[]), Some(302));
}

fn says_student(shell: &mut Shell) {
    shell.type_text("id\r");
    shell.read_until("uid=1000(student) gid=1000(student)", COMMAND);
}

fn the_learner_cannot_read_the_credential(door: &Door, shell: &mut Shell, admin: &mut Shell, password: &str) {
    let script = SEARCH.replace('\'', "'\\''").replace('\n', "'$'\\n''");
    shell.ok(&format!("printf '%s' '{script}' > /tmp/search"), COMMAND);
    // The search finds what is there: files of the learner and of others, arguments, environments.
    let canary = "tweet-4711";
    shell.ok(
        &format!("c={canary}; echo $c | tee /tmp/canary /var/tmp/canary /dev/shm/canary ~/canary > /dev/null"),
        COMMAND,
    );
    admin.ok(&format!("echo {canary} | sudo tee /etc/canary /run/canary /var/lib/canary > /dev/null"), COMMAND);
    admin.ok(&format!("(CANARY={canary} exec -a quiet sleep 600 &) ; (exec -a {canary} sleep 600 &)"), COMMAND);
    shell.ok(&format!("(CANARY={canary} exec -a quiet sleep 600 &)"), COMMAND);
    assert_eq!(
        found(shell, &[canary]),
        [
            "/dev/shm/canary",
            "/etc/canary",
            "/home/student/canary",
            "/proc/PID/cmdline",
            "/proc/PID/environ",
            "/run/canary",
            "/tmp/canary",
            "/var/lib/canary",
            "/var/tmp/canary",
        ]
    );
    // The search may have taken longer than a terminal lives of which nobody reads.
    *admin = door.open("/admin/", None).unwrap();
    // The credential is in none of them, neither plain nor as a browser sends it; root finds it where it belongs.
    let secret = admin.ok("sudo cat /etc/labwright/credential", COMMAND);
    assert_eq!(secret, format!("student:{password}"));
    let sent = admin.ok("sudo base64 -w0 /etc/labwright/credential", COMMAND);
    // The last group of four depends on the line's end, which a browser does not send.
    let sent = &sent[..sent.len() - 4];
    assert_eq!(found(shell, &[password, sent]), Vec::<String>::new());
}

/// Takes the credential away, restarts everything that could listen, and gives it back; what listened in between.
fn without_the_credential(door: &Door, mut admin: Shell) -> String {
    // It ends the very terminal in which it is started, so it runs as a unit of its own, and not before that terminal
    // has shown that it was started.
    let script = "\
        sleep 5; \
        mv /etc/labwright/credential /root/aside; \
        systemctl stop labwright-front-door.path labwright-front-door.service \"labwright-terminal-*\"; \
        systemctl start labwright-front-door.path; \
        systemctl start labwright-front-door.service labwright-terminal-shell.service; \
        sleep 5; \
        { ss -Hltn | grep -w 7681; pgrep -l \"nginx|ttyd\"; } > /root/listened; \
        [ -s /root/listened ] || echo nothing > /root/listened; \
        sleep 10; \
        mv /root/aside /etc/labwright/credential";
    admin.ok(&format!("sudo systemd-run --quiet --unit=closed sh -c '{script}'"), COMMAND);
    door.wait_ready(false, COMMAND);
    let begin = Instant::now();
    while door.status("/", &[]).is_some() {
        assert!(begin.elapsed() < COMMAND, "the front door still answers");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(admin);
    door.wait_ready(true, COMMAND);
    door.open("/admin/", None).unwrap().ok("sudo cat /root/listened", COMMAND)
}

fn end(machine: Machine) {
    let children = machine.children();
    assert!(!children.is_empty(), "QEMU is its child");
    machine.interrupt();
    // A machine that has become ready and is told to stop has done all that was asked.
    assert_eq!(machine.end(END), Some(0));
    for id in children {
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "process {id} is left");
    }
}
