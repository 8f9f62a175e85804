//! Builds that are stopped, killed and lied to: nothing is left behind, and the next build is right.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

use crate::archive::{Archive, can_publish};
use crate::full::wait_until;
use crate::runners::{can_emulate, share_kernel};
use crate::world::{World, base_with_apt, can_build, files, text, tool};

pub(crate) const BODY: &str = "\
disk: {size: 640Mi}
users:
  - {name: student, shell: /bin/bash}
write_files:
  - {path: /etc/motd, content: \"Welcome\\n\"}
  - {path: /opt/tree/, from: ./tree/, owner: \"student:student\"}
runcmd:
  - |
    setsid sh -c 'while :; do date >> /opt/daemon.log; sleep 0.1; done' >/dev/null 2>&1 </dev/null &
    for part in 1 2 3 4 5; do sleep 0.2; echo $part; echo $part >> /opt/parts; done
  - [sh, -c, 'echo done > /opt/done']
";
/// How often each signal is sent to builds of the chroot runner.
const ROUNDS: u32 = 20;

/// How often a build is killed: `usual`, or as `LABWRIGHT_KILLS` says.
#[expect(clippy::disallowed_methods, reason = "the contract of the tests: emulated machines start slowly")]
fn kills(usual: u32) -> u32 {
    std::env::var("LABWRIGHT_KILLS").map_or(usual, |text| text.parse().expect("LABWRIGHT_KILLS is a number"))
}

pub(crate) fn world() -> World {
    let world = World::new("faults", BODY);
    world.lab.write("r/tree/one", "one\n");
    world.lab.write("r/tree/sub/two", "two\n");
    world
}

/// Has the kernel send a signal.
pub(crate) fn signal(child: &Child, signal: &str) {
    // It may have ended by itself a moment ago.
    drop(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).output());
}

/// A random number from a seed (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Every disk that the home keeps is the one that the recipe describes.
pub(crate) fn assert_right(world: &World) {
    let disks = files(&world.home().join("disks"));
    assert!(!disks.is_empty(), "the build kept no disk");
    for qcow2 in disks {
        let disk = world.disk(&qcow2);
        disk.check();
        assert_eq!(disk.read("/etc/motd"), "Welcome\n");
        assert_eq!(disk.read("/opt/tree/one"), "one\n");
        assert_eq!(disk.read("/opt/tree/sub/two"), "two\n");
        assert_eq!(disk.read("/opt/parts"), "1\n2\n3\n4\n5\n");
        assert_eq!(disk.read("/opt/done"), "done\n");
        assert_ne!(disk.read("/opt/daemon.log"), "", "the daemon ran");
        assert!(disk.read("/etc/passwd").contains("student:"));
    }
}

/// Forgets the results, so that the next build has to make one; the step cache stays.
pub(crate) fn forget_results(world: &World) {
    for name in ["disks", "store"] {
        let dir = world.home().join(name);
        if dir.exists() {
            fs_err::remove_dir_all(dir).unwrap();
        }
    }
}

/// A signal, the exit code of a build that gets it, and how often it is sent.
type Stop = (&'static str, Option<i32>, u32);

fn stopped(runner: &str, stops: &[Stop]) {
    if !can_build() || (runner == "vm" && !can_emulate()) {
        return;
    }
    let world = world();
    share_kernel(&world.home());
    world.build_well(&["--runner", runner]);
    share_kernel(&world.home());
    let begin = Instant::now();
    world.build_well(&["--runner", runner, "--from", "disk"]);
    let mut whole = begin.elapsed();
    let mut seed = u64::from(begin.elapsed().subsec_nanos());
    for &(name, code, rounds) in stops {
        eprintln!("{name}: a build takes {whole:?}, seed {seed}");
        let mut hits = 0;
        for round in 0..rounds {
            forget_results(&world);
            if round % 5 == 0 {
                fs_err::remove_dir_all(world.home().join("bases")).unwrap();
            }
            let permille = u32::try_from(random(&mut seed) % 1000).unwrap();
            let what = format!("{runner} round {round}: {name} after {:?} of {whole:?}", whole * permille / 1000);
            match stop_once(&world, runner, (name, code), whole * permille / 1000, &what) {
                None => hits += 1,
                // The host has less to do than before.
                Some(took) => whole = took,
            }
            eprintln!("{what}: recovered after {:?} in all", begin.elapsed());
            if round % 10 == 9 || round + 1 == rounds {
                assert_right(&world);
            }
        }
        assert!(hits >= rounds / 2, "only {hits} of {rounds} signals came before the end");
        eprintln!("{name}: {rounds} of {rounds} recovered, {hits} of them hit a running build");
    }
}

/// Stops a build at a moment; returns how long it took if it came to its end before.
fn stop_once(
    world: &World,
    runner: &str,
    (name, code): (&str, Option<i32>),
    moment: Duration,
    what: &str,
) -> Option<Duration> {
    let mut build = world.start(&["--runner", runner, "--from", "disk"]);
    let begin = Instant::now();
    let mut runs = true;
    while runs && begin.elapsed() < moment {
        std::thread::sleep(Duration::from_millis(1));
        runs = build.try_wait().unwrap().is_none();
    }
    if runs {
        signal(&build, name);
    }
    let status = build.wait().unwrap();
    let took = (status.code() == Some(0)).then(|| begin.elapsed());
    if took.is_none() {
        let words = fs_err::read_to_string(world.lab.path().join("stderr")).unwrap();
        // A signal that comes before the program listens ends it as it ends any program.
        let early = moment < Duration::from_millis(300);
        assert!(status.code() == code || early && status.code().is_none(), "{what}: {status}\n{words}");
    }
    world.assert_nothing_left(what);
    world.assert_believable();
    let work = world.home().join("work");
    if code.is_some() {
        assert_eq!(files(&work), Vec::<std::path::PathBuf>::new(), "{what}");
    }
    // What the stopped build finished is used, and what it left half-made is not.
    world.build_well(&["--runner", runner]);
    assert_eq!(files(&work), Vec::<std::path::PathBuf>::new(), "{what}: not swept");
    took
}

#[test]
fn build_survives_sigint() {
    stopped("chroot", &[("INT", Some(130), ROUNDS)]);
}

#[test]
fn build_survives_sigterm() {
    stopped("chroot", &[("TERM", Some(130), ROUNDS)]);
}

#[test]
fn build_survives_sigkill() {
    stopped("chroot", &[("KILL", None, kills(ROUNDS))]);
}

#[test]
fn machine_survives_signals() {
    stopped("vm", &[("INT", Some(130), 1), ("TERM", Some(130), 1), ("KILL", None, kills(2))]);
}

/// Stops builds that are in the middle of fetching a package: the guest's apt in a chroot, the host's for a machine.
fn stopped_while_fetching(runner: &str) {
    let world = World::on(&base_with_apt(), "fetching", "");
    let archive = Archive::new(&world.lab.path().join("r"));
    archive.publish_sized(&[("one", "1", "", 1 << 20), ("two", "1", "one", 1 << 20)]);
    world.recipe(&format!("disk: {{size: 900Mi}}\n{}packages: [two]\n", archive.section()));
    share_kernel(&world.home());
    for (name, code) in [("INT", Some(130)), ("KILL", None)] {
        archive.hold();
        let mut build = world.start(&["--runner", runner]);
        let said = world.lab.path().join("stderr");
        let fetches = wait_until(&mut build, &said, "fetched its package", &|_| archive.is_waited_for());
        signal(&build, name);
        let status = build.wait().unwrap();
        let words = fs_err::read_to_string(&said).unwrap();
        let what = format!("{runner}: {name} while a package is fetched: {status}\n{words}");
        assert!(fetches && status.code() == code, "{what}");
        world.assert_nothing_left(&what);
        world.assert_believable();
        if code.is_some() {
            assert_eq!(files(&world.home().join("work")), Vec::<std::path::PathBuf>::new(), "{what}");
        }
        let end = Instant::now() + Duration::from_secs(10);
        while archive.is_waited_for() {
            assert!(Instant::now() < end, "{what}: somebody still waits for the package");
            std::thread::sleep(Duration::from_millis(5));
        }
        share_kernel(&world.home());
    }
    archive.let_go();
    world.build_well(&["--runner", runner]);
    let disk = world.disk(&world.only_disk());
    disk.check();
    assert_eq!((disk.read("/usr/share/lab/one"), disk.read("/usr/share/lab/two")), ("1\n".into(), "1\n".into()));
    assert_eq!(files(&world.home().join("work")), Vec::<std::path::PathBuf>::new(), "not swept");
}

#[test]
fn build_stopped_while_packages_are_fetched_leaves_nothing() {
    if can_build() && can_publish() {
        stopped_while_fetching("chroot");
    }
}

#[test]
fn machine_stopped_while_packages_are_fetched_leaves_nothing() {
    if can_build() && can_emulate() && can_publish() {
        stopped_while_fetching("vm");
    }
}

#[test]
fn build_with_a_full_cache_disk_stores_nothing_damaged() {
    if !can_build() {
        return;
    }
    // The first fails in the guest; in the second, only syncfs at the end of the step tells.
    for (name, sync) in [("full-seen", "&& sync"), ("full-late", "")] {
        let write = "dd if=/dev/urandom of=/opt/big bs=1M count=100";
        let world = World::new(name, &format!("runcmd: [\"{write} {sync}\"]\n"));
        let home = world.home();
        fs_err::create_dir(&home).unwrap();
        let unmount = Unmount(&home);
        // The base takes 65 MiB of it, and the disk takes 100 more while it is built.
        tool("mount", &["-t", "tmpfs", "-o", "size=130m", "tmpfs", text(&home)]);
        let said = world.build(&[]);
        assert_eq!(said.code, 3, "{said}");
        assert!(said.err.contains(&format!("the disk that holds {}/work/", text(&home))), "{said}");
        assert!(said.err.contains(" is full\""), "{said}");
        world.assert_believable();
        assert!(world.layers().is_empty(), "{:?}", world.layers());
        assert_eq!(files(&home.join("work")), Vec::<std::path::PathBuf>::new());

        tool("mount", &["-o", "remount,size=2g", text(&home)]);
        world.build_well(&[]);
        let disk = world.disk(&files(&home.join("disks"))[0]);
        disk.check();
        assert!(String::from_utf8(disk.debugfs("stat /opt/big")).unwrap().contains("Size: 104857600"));
        drop(unmount);
    }
}

/// Unmounts, also after a failed assertion.
pub(crate) struct Unmount<'a>(pub(crate) &'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l", text(self.0)]).output());
    }
}

#[test]
fn build_twice_at_once_works_once() {
    if !can_build() {
        return;
    }
    let world = world();
    let mut other = world.start(&[]);
    let answer = world.build_well(&[]);
    assert_eq!(other.wait().unwrap().code(), Some(0));
    // Both took every layer from whoever was first: each step has one, and it is in both results.
    let steps: Vec<String> = world.layers().into_iter().map(|(step, ..)| step).collect();
    assert_eq!(steps.len(), 5, "{steps:?}");
    let again = world.build_well(&[]);
    assert_eq!((&again["unchanged"], &again["digest"]), (&Value::Bool(true), &answer["digest"]));
    assert_right(&world);
    assert_eq!(files(&world.home().join("disks")).len(), 1, "one disk means one digest");
    world.assert_nothing_left("two builds");
}

/// The steps that a build took from the cache.
fn cached(answer: &Value) -> usize {
    answer["steps"].as_array().unwrap().iter().filter(|step| step["cached"] == true).count()
}

#[test]
fn build_finds_damaged_layers_and_makes_them_anew() {
    if can_build() {
        damaged("chroot");
    }
}

#[test]
fn machine_finds_damaged_layers_and_makes_them_anew() {
    if can_build() && can_emulate() {
        damaged("vm");
    }
}

fn damaged(runner: &str) {
    let world = world();
    share_kernel(&world.home());
    world.build_well(&["--runner", runner]);
    let damage = |name: &str, intact: usize, act: &dyn Fn()| {
        act();
        let answer = world.build_well(&["--runner", runner, "--force"]);
        assert_eq!(cached(&answer), intact, "{name}: {answer}");
        world.assert_believable();
        let kept: Vec<String> = world.layers().into_iter().map(|(step, ..)| step).collect();
        assert_eq!(kept.len(), 5, "{name}: built anew and kept: {kept:?}");
    };
    // The steps are disk, users, files, commands and seal.
    damage("a flipped byte", 2, &|| {
        let path = world.layer("files");
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(&path, bytes).unwrap();
    });
    damage("a truncated file", 3, &|| {
        let path = world.layer("commands");
        let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    });
    damage("a missing parent", 1, &|| fs_err::remove_file(world.layer("users")).unwrap());
    damage("a record of another parent", 3, &|| {
        let path = world.layer("commands").with_extension("json");
        let mut record: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        record["parent"] = Value::String("0".repeat(32));
        fs_err::write(&path, record.to_string()).unwrap();
    });
    damage("another layer in its place", 1, &|| {
        fs_err::copy(world.layer("files"), world.layer("users")).unwrap();
    });
    damage("half a record", 4, &|| fs_err::write(world.layer("seal").with_extension("json"), "{\"key\"").unwrap());
    forget_results(&world);
    assert_eq!(cached(&world.build_well(&["--runner", runner, "--force"])), 5, "all of it is kept");
    assert_right(&world);
}
