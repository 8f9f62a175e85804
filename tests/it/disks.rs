//! What is in a built disk and what is not, what a build does to its host, and when it works at all.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use serde_json::Value;

use crate::world::{World, can_build, files, grep, has, installed, partitions, sha256, text, tool};

/// The names of the steps that a build ran and did not take from the cache.
fn ran(answer: &Value) -> Vec<&str> {
    let steps = answer["steps"].as_array().unwrap().iter();
    steps.filter(|step| step["cached"] == false).map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn build_leaves_nothing_of_a_deleted_file_in_the_disk() {
    if !can_build() {
        return;
    }
    // 64 bytes that are nowhere else; not all in one piece in the recipe, whose command lines may be logged.
    let halves = ["4f6c64206d61726b6572206f66206120", "73746570207468617420697320676f6e"];
    let token = halves.concat();
    let world = World::new(
        "marker",
        &format!(
            "write_files:\n  - {{path: /opt/marker, content: \"{token}\\n\"}}\n\
             \x20 - {{path: /opt/many, content: \"{}\"}}\n  - {{path: /opt/kept, content: \"kept {}\"}}\n\
             runcmd: [rm /opt/marker /opt/many]\n",
            format!("{token} ").repeat(2000),
            token.to_uppercase(),
        ),
    );
    world.build_well(&[]);
    assert!(grep(&world.layer("files"), &token), "the step that writes the marker has it in its layer");
    let disk = world.disk(&world.only_disk());
    disk.check();
    assert!(!disk.contains(&token), "the disk still has what a later step deleted");
    // The search would find it, were it there.
    assert!(disk.contains(&format!("kept {}", token.to_uppercase())));
}

#[test]
fn build_says_which_step_failed_and_keeps_all_that_it_printed() {
    if !can_build() {
        return;
    }
    let world = World::new("failing", "runcmd:\n  - seq -f 'line %g' 1 500; echo 'the very end' >&2; exit 3\n");
    let said = world.lab.run(&["build", "r"]);
    assert_eq!((said.code, said.out.as_str()), (5, ""), "{said}");
    let logs = files(&world.home().join("logs/failing"));
    assert_eq!(logs.len(), 1);
    let error = said.err.split_once("error: ").expect("an error is said").1;
    assert!(error.starts_with("step `commands` failed; its last lines:\n"), "{error}");
    assert!(error.contains("    line 500\n") && error.contains("    the very end\n"), "{error}");
    assert!(!error.contains("line 450\n"), "only the last lines: {error}");
    assert!(error.contains("ended with exit code 3") || error.contains("status 3"), "{error}");
    assert!(error.contains(text(&logs[0])), "{error}");
    let log = fs_err::read_to_string(&logs[0]).unwrap();
    for number in 1..=500 {
        assert!(log.contains(&format!("line {number}\n")), "line {number} is not in the log");
    }
    assert!(log.contains("the very end\n"));
    world.assert_nothing_left("a failed step");
}

#[test]
fn build_commands_do_no_harm_to_the_host() {
    if !can_build() {
        return;
    }
    let world = World::new("hostile", "");
    let name = format!("labwright-hostile-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let secret = world.lab.write("secret", "of the host\n");
    let mut victim = Victim::start();
    let device = fs_err::metadata(&secret).unwrap().dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let (secret, victim_id) = (text(&secret).to_owned(), victim.0.id());
    let knob = Path::new("/proc/sys/kernel/printk_ratelimit_burst");
    let before = fs_err::read_to_string(knob).unwrap();
    let host_name = tool("uname", &["-n"]);
    // Landlock keeps abstract sockets apart from Linux 6.12 on.
    let release = String::from_utf8(tool("uname", &["-r"])).unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let scoped = has("landlock", (numbers.next(), numbers.next()) >= (Some(6), Some(12)));
    let socket = if scoped { "got socket" } else { "true" };
    let body = format!(
        r#"runcmd:
  - |
    set +e
    got() {{ echo "$1" >> /opt/broke; }}
    mknod /opt/disk b {major} {minor} && dd if=/opt/disk of=/dev/null bs=512 count=1 && got disk
    mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null bs=512 count=1 && got mem
    mount -t tmpfs tmpfs /mnt && got mount
    mount -o remount,dev / && got remount
    umount /proc && got umount
    test -e {secret} && got direct
    for root in /proc/1/root /proc/self/root/../../../../.. /proc/1/cwd/../../../../..; do
        test -e "$root{secret}" && got "$root"
    done
    nsenter -t 1 -m test -e {secret} && got nsenter
    perl -e 'mkdir "/opt/x"; chroot "/opt/x"; chdir ".." for 1..60; chroot "."; exit !-e "{secret}"' && got chroot
    kill -0 {victim_id} 2>/dev/null && grep -q 'sleep 4321' /proc/{victim_id}/cmdline && got sees
    kill -9 {victim_id}
    echo 4321 > /proc/sys/kernel/printk_ratelimit_burst && got sysctl
    hostname of-the-guest && got hostname
    date -s @0 && got clock
    ls /dev/loop-control /dev/sda /dev/vda /dev/kmsg /dev/fuse && got devices
    test -d /sys/block/loop0 && echo 1 > /sys/block/loop0/queue/read_ahead_kb && got sys
    for fd in /proc/[0-9]*/fd/*; do test -e "$fd{secret}" && got "$fd"; done
    perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); exit !connect(S, pack_sockaddr_un("\0{name}"))' && {socket}
    perl -MSocket -e 'socket(L, PF_UNIX, SOCK_STREAM, 0); bind(L, pack_sockaddr_un("\0{name}-own")); listen(L, 1);
        socket(S, PF_UNIX, SOCK_STREAM, 0); exit !connect(S, pack_sockaddr_un("\0{name}-own"))' || got 'no socket of its own'
    dd if=/dev/zero of=/opt/fill bs=1M && got 'endless space'
    rm /opt/fill
    yes flood | head -c 200000; tr "\\0" x < /dev/zero | head -c 3000000
    (i=0; while [ $i -lt 3000 ]; do sleep 1000 & i=$((i+1)); done) 2>/dev/null
    set -- /proc/[0-9]*
    echo $# > /opt/processes
    kill -9 -1
    until set -- /proc/[0-9]*; test $# -lt 50; do :; done
    for i in 1 2 3 4 5; do setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' & done
    kill -9 -1
    echo ended > /opt/ended
"#
    );
    world.recipe(&body);
    world.build_well(&[]);
    let alive = victim.0.try_wait().unwrap().is_none();
    drop(victim);
    assert!(alive, "the guest killed a process of the host");
    assert_eq!(fs_err::read_to_string(knob).unwrap(), before);
    assert_eq!(tool("uname", &["-n"]), host_name);
    let disk = world.disk(&world.only_disk());
    disk.check();
    assert_eq!(disk.read("/opt/broke"), "", "what the commands could do");
    assert_eq!(disk.read("/opt/ended"), "ended\n", "the commands ran to their end");
    let controlled = Path::new("/sys/fs/cgroup/pids").exists()
        || fs_err::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").is_ok_and(|list| list.contains("pids"));
    if has("cgroup", controlled) {
        let processes: u32 = disk.read("/opt/processes").trim().parse().unwrap();
        assert!((1000..=2048).contains(&processes), "a bomb of 3000 processes came to {processes}");
    }
    drop(listener);
    world.assert_nothing_left("hostile commands");
}

/// A process of the host that the guest tries to find and to kill.
struct Victim(std::process::Child);

impl Victim {
    #[expect(clippy::disallowed_methods, reason = "assert_cmd starts nothing in the background")]
    fn start() -> Self {
        Self(std::process::Command::new("sleep").arg("4321").stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Ended before is ended too, and the test says what that means.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn build_grows_the_disk_and_never_shrinks_it() {
    if !can_build() {
        return;
    }
    let world = World::new("size", "disk: {size: 1Gi}\n");
    world.build_well(&[]);
    let base = world.disk(&world.lab.path().join("r/base.qcow2"));
    let grown = world.disk(&world.only_disk());
    grown.check();
    assert_eq!(fs_err::metadata(&grown.raw).unwrap().len(), 1 << 30);
    assert_eq!(grown.superblock("Filesystem UUID"), base.superblock("Filesystem UUID"));
    let (old, new) = (partitions(&base.raw), partitions(&grown.raw));
    assert_eq!(old[0], {
        let mut same = new[0].clone();
        same["node"] = old[0]["node"].clone();
        same
    });
    for field in ["start", "type", "uuid", "name", "attrs"] {
        assert_eq!(old[1][field], new[1][field], "{field}");
    }
    // To the last sector before the second table, but for what alignment takes.
    let end = new[1]["start"].as_u64().unwrap() + new[1]["size"].as_u64().unwrap();
    assert!(((1 << 21) - 34 - 2048..=(1 << 21) - 33).contains(&end), "{end}");
    let blocks: u64 = grown.superblock("Block count").parse().unwrap();
    assert_eq!(blocks, new[1]["size"].as_u64().unwrap() / 8);

    world.recipe("disk: {size: 100Mi}\n");
    let said = world.lab.run(&["build", "r"]);
    assert_eq!(
        (said.code, said.err.lines().rfind(|line| line.starts_with("error: "))),
        (
            1,
            Some("error: the base `base.qcow2` has a disk of 320Mi, and the recipe asks for 100Mi: disks never shrink")
        ),
        "{said}"
    );
}

#[test]
fn build_does_no_more_than_it_must() {
    if !can_build() {
        return;
    }
    let body = |motd: &str| {
        format!(
            "disk: {{size: 640Mi}}\nusers: [{{name: student}}]\nwrite_files: [{{path: /etc/motd, content: \"{motd}\\n\"}}]\n\
             runcmd: [cp /etc/motd /opt/copy]\n"
        )
    };
    let world = World::new("again", &body("one"));
    let first = world.build_well(&[]);
    assert_eq!(ran(&first), ["disk", "users", "files", "commands", "seal"]);
    let layers = || -> Vec<_> {
        let mut found: Vec<_> = files(&world.home().join("layers"))
            .into_iter()
            .map(|path| (path.clone(), fs_err::metadata(&path).unwrap().mtime_nsec(), path.metadata().unwrap().ino()))
            .collect();
        found.sort();
        found
    };
    let before = layers();
    let again = world.build_well(&[]);
    assert_eq!((&again["unchanged"], &again["digest"]), (&Value::Bool(true), &first["digest"]));
    assert_eq!(layers(), before, "nothing was touched");

    // The same layers, flattened and packed again on another day, give the same image.
    let forced = world.build_well(&["--force"]);
    assert_eq!(ran(&forced), Vec::<&str>::new());
    assert_eq!(forced["digest"], first["digest"]);

    world.recipe(&body("two"));
    let changed = world.build_well(&[]);
    assert_eq!(ran(&changed), ["files", "commands", "seal"]);
    assert_ne!(changed["digest"], first["digest"]);
    world.recipe(&body("one"));
    let back = world.build_well(&["-o", "out.qcow2"]);
    assert_eq!((ran(&back), &back["digest"]), (Vec::new(), &first["digest"]));
    let disk = world.disk(&world.lab.path().join("out.qcow2"));
    assert_eq!(disk.read("/opt/copy"), "one\n");
}

#[test]
fn build_results_are_read_by_other_tools_and_have_no_clock_in_them() {
    if !can_build() || !has("skopeo", installed("skopeo")) || !has("umoci", installed("umoci")) {
        return;
    }
    let world = World::new("packed", "runcmd: [\"echo packed > /opt/packed\"]\n");
    let first = world.build_well(&[]);
    let push = |to: &str| {
        let said = world.lab.run(&["push", "packed:1.0.0", &format!("oci:{to}:1.0.0")]);
        assert_eq!(said.code, 0, "{said}");
        world.lab.path().join(to)
    };
    let inspect = |dir: &Path| -> Value {
        let source = format!("oci:{}:1.0.0", text(dir));
        serde_json::from_slice(&tool("skopeo", &["inspect", "--config", &source])).unwrap()
    };
    let out = push("out");
    let config = inspect(&out);
    assert_eq!((&config["architecture"], &config["os"]), (&"amd64".into(), &"linux".into()));
    assert_eq!(config["created"], "1970-01-01T00:00:00Z");

    let image = format!("{}:1.0.0", text(&out));
    let bundle = world.lab.path().join("bundle");
    tool("umoci", &["raw", "unpack", "--image", &image, text(&bundle)]);
    let entry = |path: &Path| {
        let data = fs_err::metadata(path).unwrap();
        (data.uid(), data.gid(), data.mode() & 0o7777)
    };
    let inside = files(&bundle.join("disk"));
    assert_eq!(inside.len(), 1, "{inside:?}");
    assert_eq!(files(&bundle), [bundle.join("disk")]);
    assert_eq!(entry(&bundle.join("disk")), (107, 107, 0o555));
    assert_eq!(entry(&inside[0]), (107, 107, 0o444));
    tool("qemu-img", &["check", "-q", "-f", "qcow2", text(&inside[0])]);
    assert_eq!(sha256(&inside[0]), sha256(&world.only_disk()));
    let disk = world.disk(&inside[0]);
    assert_eq!(disk.read("/opt/packed"), "packed\n");

    // Another day changes when the image says it was created, and nothing else.
    let mut later = world.lab.labwright(&["build", "--format", "json", "--force", "r"]);
    let later = labwright_tests::said(later.env("SOURCE_DATE_EPOCH", "1700000000"));
    assert_eq!(later.code, 0, "{later}");
    let later: Value = serde_json::from_str(&later.out).unwrap();
    assert_ne!(later["digest"], first["digest"]);
    let mut dated = inspect(&push("dated"));
    assert_eq!(dated["created"], "2023-11-14T22:13:20Z");
    // The tar's times are of that day as well, so the layer has another digest around the same disk.
    for changed in ["created", "rootfs"] {
        dated[changed] = config[changed].clone();
    }
    let label = "org.opencontainers.image.created";
    assert_eq!(dated["config"]["Labels"][label], "2023-11-14T22:13:20Z");
    dated["config"]["Labels"][label] = config["config"]["Labels"][label].clone();
    assert_eq!(dated, config);
    let other = world.lab.path().join("other");
    tool(
        "umoci",
        &["raw", "unpack", "--image", &format!("{}:1.0.0", text(&world.lab.path().join("dated"))), text(&other)],
    );
    assert_eq!(sha256(&files(&other.join("disk"))[0]), sha256(&inside[0]));
}
