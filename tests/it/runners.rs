//! The vm runner: what an ordinary user builds is what root builds in a chroot, and a killed build leaves no machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use labwright_tests::{Lab, program, said};

use crate::trees::{differences, root_tree};
use crate::world::{World, can_build, files, has, installed, text, tool};

/// What a test may not find in the finished disk; in two pieces here, because command lines may be logged.
const MARKER: [&str; 2] = ["6d61726b6572206f66206d616e79", "20736d616c6c2066696c657320"];

/// Owners, modes, kinds of files, capabilities and attributes, and deleted files smaller than a cluster among others.
fn recipe() -> String {
    let [first, second] = MARKER;
    format!(
        r#"disk: {{size: 600Mi}}
hostname: machine
users:
  - {{name: alice, groups: [games], shell: /bin/sh}}
write_files:
  - {{path: /opt/motd, content: "hello\n", permissions: "0640", owner: "alice:games"}}
runcmd:
  - |
    mkdir -p /opt/many; t=$(printf '%s%s' {first} {second})
    for i in $(seq 1 300); do
      echo "$t $i" > /opt/many/gone$i
      echo "live $i" > /opt/many/live$i
    done
    sync
  - |
    cd /opt; mkfifo fifo; ln -s motd link; ln motd hard; chmod 4755 hard; truncate -s 5M sparse; chown 12:34 sparse
    perl -e '
      my ($file, $cap, $note, $seen) = ("/opt/cap", "security.capability", "user.note", "seen");
      my $value = pack("V5", 0x02000001, 1 << 10, 0, 0, 0);
      open(my $new, ">", $file); close($new);
      syscall(188, $file, $cap, $value, 20, 0) == 0 or die $!;
      syscall(188, $file, $note, $seen, 4, 0) == 0 or die $!'
    hostname; cat /etc/resolv.conf; ls -l /dev /proc/self/fd; id
  - rm /opt/many/gone*
"#
    )
}

/// Whether the vm runner works here.
pub(crate) fn can_emulate() -> bool {
    has("qemu", ["qemu-system-x86_64", "qemu-img", "mke2fs"].iter().all(|tool| installed(tool)))
        && has("apt", ["apt-get", "apt-cache"].iter().all(|tool| installed(tool)))
}

/// Gives a home the kernel that an earlier test fetched, or keeps the one that this test did.
pub(crate) fn share_kernel(home: &Path) {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("appliance");
    let own = home.join("appliance");
    let (from, to) = if own.exists() { (&own, &shared) } else { (&shared, &own) };
    if from.exists() && !to.exists() {
        fs_err::create_dir_all(to.parent().unwrap()).unwrap();
        let half = to.with_extension("half");
        tool("cp", &["-r", text(from), text(&half)]);
        fs_err::rename(half, to).unwrap();
    }
}

/// Runs the program as a user who may do nothing, not even use /dev/kvm.
pub(crate) fn as_nobody(world: &World, args: &[&str]) -> labwright_tests::Said {
    said(&mut nobody(world, args))
}

/// The program, run by that user.
pub(crate) fn nobody(world: &World, args: &[&str]) -> Command {
    nobody_in(&world.lab, args)
}

/// The same in a directory that need not have a recipe.
pub(crate) fn nobody_in(lab: &Lab, args: &[&str]) -> Command {
    let (own, home) = (lab.path().join("labwright"), lab.path().join("home"));
    if !own.exists() {
        fs_err::copy(program(), &own).unwrap();
    }
    fs_err::create_dir_all(&home).unwrap();
    tool("chown", &["-R", "65534:65534", text(lab.path())]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]);
    command.arg(&own).args(args).current_dir(lab.path()).env_clear();
    command.env("LABWRIGHT_HOME", home).env("PATH", "/usr/bin:/bin");
    command
}

/// The files of the root partition of the only disk that a home has, and whether the marker is anywhere on it.
fn sealed(world: &World) -> (BTreeMap<PathBuf, String>, bool) {
    let disks = files(&world.home().join("disks"));
    assert_eq!(disks.len(), 1, "{disks:?}");
    let disk = world.disk(&disks[0]);
    disk.check();
    let tree = root_tree(world, &disk);
    (tree, disk.contains(&MARKER.concat()))
}

#[test]
fn machine_builds_for_an_ordinary_user_what_a_chroot_builds_for_root() {
    if !can_build() || !can_emulate() {
        return;
    }
    let chroot = World::new("machine", &recipe());
    chroot.build_well(&["--runner", "chroot"]);
    let vm = World::new("machine", &recipe());
    share_kernel(&vm.home());
    let said = as_nobody(&vm, &["build", "--format", "json", "r"]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("runner: vm (this process is not root"), "{}", said.err);
    share_kernel(&vm.home());
    vm.assert_nothing_left("a build in a machine");

    let ((expected, in_chroot), (found, in_vm)) = (sealed(&chroot), sealed(&vm));
    assert!(expected.len() > 1000, "{}", expected.len());
    let different = differences(&expected, &found);
    assert!(different.is_empty(), "the trees differ: {different:#?}");
    assert!(found[Path::new("opt/cap")].contains("security.capability"), "{}", found[Path::new("opt/cap")]);
    assert_eq!((in_chroot, in_vm), (false, false), "deleted files are still on the disk");

    // Each runner's layers serve the other: the same keys.
    let keys = |world: &World| {
        let mut keys: Vec<_> = world.layers().into_iter().map(|(_, record, _)| record["key"].clone()).collect();
        keys.sort_by_key(ToString::to_string);
        keys
    };
    assert_eq!(keys(&chroot), keys(&vm));
}

#[test]
fn machine_builds_that_are_killed_leave_nothing_and_go_on() {
    if !can_build() || !can_emulate() {
        return;
    }
    let world = World::new("killed", "disk: {size: 400Mi}\nruncmd: [sleep 300]\n");
    share_kernel(&world.home());
    let mut build = world.start(&["--runner", "vm"]);
    let end = Instant::now() + Duration::from_mins(4);
    // The machine is in the middle of its last command.
    while !world.layers().iter().any(|(step, ..)| step == "disk") {
        assert!(build.try_wait().unwrap().is_none() && Instant::now() < end, "the build did not come to its commands");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    build.kill().unwrap();
    build.wait().unwrap();
    share_kernel(&world.home());
    world.assert_nothing_left("a killed build in a machine");
    world.assert_believable();

    world.recipe("disk: {size: 400Mi}\nruncmd: [\"test -e /etc/passwd\"]\n");
    let answer = world.build_well(&["--runner", "vm"]);
    assert_eq!(answer["steps"][0]["cached"], true, "{answer}");

    // A step that does not end is told to; what it printed is said.
    world.recipe("disk: {size: 400Mi}\nruncmd: [\"echo before; false\"]\n");
    let said = world.build(&["--runner", "vm"]);
    assert_eq!(said.code, 5, "{said}");
    assert!(said.err.contains("before") && said.err.contains("exit status 1"), "{said}");
    world.assert_nothing_left("a failed build in a machine");
}
