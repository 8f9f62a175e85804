//! Bases from packages: what an ordinary user makes is what root makes, it boots, and what ends in the middle leaves
//! nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use labwright_tests::{Lab, Said, said, wants_long};
use serde_json::Value;

use crate::faults::Unmount;
use crate::full::{fill, wait_until};
use crate::runners::{can_emulate, nobody_in, share_kernel};
use crate::trees::{differences, tree_at};
use crate::world::{assert_nothing_left_of, can_build, files, has, installed, text, tool};

const RECIPE: &str = "\
apiVersion: labwright/v1alpha1
kind: Recipe
metadata: {name: made, version: 1.0.0}
base: {bootstrap: debian, suite: trixie}
";

/// The first sector of the root partition.
const ROOT_SECTOR: u64 = 262_144;

/// An emulated machine on a busy host boots in less.
const BOOT: Duration = Duration::from_mins(10);

pub(crate) fn can_bootstrap() -> bool {
    let tools = ["mmdebstrap", "debugfs", "sfdisk", "mkfs.fat", "mcopy"];
    can_build() && can_emulate() && has("bootstrap", tools.iter().all(|tool| installed(tool)))
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("r/recipe.yaml", RECIPE);
    share_kernel(&lab.path().join("home"));
    lab
}

/// The disk that `base pull` says it has, as raw bytes in a file of the lab.
fn raw_disk(lab: &Lab, said: &Said) -> PathBuf {
    assert_eq!(said.code, 0, "{said}");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    let raw = lab.path().join("disk.raw");
    tool("qemu-img", &["convert", "-O", "raw", answer["path"].as_str().unwrap(), text(&raw)]);
    tool("e2fsck", &["-f", "-n", &format!("{}?offset={}", text(&raw), ROOT_SECTOR * 512)]);
    raw
}

/// The root's files, without what no two disks made of the same packages share.
fn comparable(raw: &Path, lab: &Lab) -> BTreeMap<PathBuf, String> {
    let mut tree = tree_at(raw, ROOT_SECTOR, lab.path());
    for (path, what) in &mut tree {
        let path = path.to_str().unwrap();
        let own = WITH_UUIDS.contains(&path) || IN_ANY_ORDER.contains(&path) || path.starts_with("boot/initrd.img-");
        if own && let Some((_, metadata)) = what.split_once(" links ") {
            *what = format!("own contents, links {metadata}");
        }
        // What enables a unit finds it under the one name or the other, by whether systemd is there yet.
        *what = what.replace("link to /lib/systemd/", "link to /usr/lib/systemd/");
    }
    let disk = format!("{}?offset={}", text(raw), ROOT_SECTOR * 512);
    for path in IN_ANY_ORDER {
        let text = tool("debugfs", &["-R", &format!("cat /{path}"), &disk]);
        let mut lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(without_day).collect();
        lines.sort();
        tree.insert(Path::new("lines of").join(path), lines.join("\n"));
    }
    tree
}

/// A line of an account without the day of its making: the two bases may be made before and after midnight.
fn without_day(line: &str) -> String {
    let mut fields: Vec<&str> = line.split(':').collect();
    // Only /etc/shadow has so many.
    if fields.len() == 9 {
        fields[2] = "";
    }
    fields.join(":")
}

/// Files that name the disk's own partitions and file system.
const WITH_UUIDS: [&str; 4] =
    ["boot/grub/grub.cfg", "boot/grub/i386-pc/core.img", "boot/grub/i386-pc/load.cfg", "etc/fstab"];

/// Files to which packages add lines as they are configured, in an order that the version of apt decides: as root that of
/// the host.
const IN_ANY_ORDER: [&str; 4] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"];

#[test]
fn machine_makes_for_an_ordinary_user_the_base_that_root_makes() {
    // dpkg configures two hundred packages under emulation.
    if !wants_long() || !can_bootstrap() {
        return;
    }
    let ours = lab();
    let theirs = lab();
    let made = said(&mut nobody_in(&ours, &["base", "pull", "--format", "json", "r"]));
    share_kernel(&ours.path().join("home"));
    assert!(made.err.contains("installed in a machine (this process is not root"), "{}", made.err);
    assert_nothing_left_of(ours.path(), "a bootstrap in a machine");
    assert!(files(&ours.path().join("home/bases/work")).is_empty());
    assert!(files(&ours.path().join("home/work")).is_empty());
    let found = raw_disk(&ours, &made);
    let expected = raw_disk(&theirs, &theirs.run(&["base", "pull", "--format", "json", "r"]));

    let (expected, tree) = (comparable(&expected, &theirs), comparable(&found, &ours));
    assert!(expected.len() > 10_000, "{}", expected.len());
    let different = differences(&expected, &tree);
    assert!(different.is_empty(), "the trees differ: {different:#?}");
    assert!(tree[Path::new("usr/bin/sudo")].contains(" 104755 0:0 "), "{}", tree[Path::new("usr/bin/sudo")]);
    assert!(tree[Path::new("usr/bin/chage")].contains(" 102755 0:42 "), "{}", tree[Path::new("usr/bin/chage")]);

    // Both ways have one name in the cache: root finds what nobody made.
    let again = ours.run(&["base", "pull", "--format", "json", "--runner", "chroot", "r"]);
    assert_eq!((again.code, &again.out), (0, &made.out), "{again}");
    boots(&found, &ours);
}

/// Boots a disk with the firmware's own choices, until it asks who is there.
#[expect(clippy::disallowed_methods, reason = "the base alone has no image that `labwright run` would boot")]
fn boots(raw: &Path, lab: &Lab) {
    let console = lab.path().join("console");
    let mut machine: Child = std::process::Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-display", "none", "-machine", "q35", "-cpu", "max", "-m", "1024", "-smp", "2"])
        // Without a graphics card, GRUB does not come to start a kernel.
        .args(["-accel", "tcg,thread=multi", "-device", "VGA"])
        .args(["-drive", &format!("file={},format=raw,if=virtio,snapshot=on", text(raw))])
        .args(["-serial", &format!("file:{}", text(&console))])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + BOOT;
    let mut shown = String::new();
    while !shown.contains("localhost login:") && Instant::now() < end && machine.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(200));
        shown = String::from_utf8_lossy(&fs_err::read(&console).unwrap_or_default()).into_owned();
    }
    machine.kill().unwrap();
    machine.wait().unwrap();
    assert!(shown.contains("localhost login:"), "{shown}");
}

#[test]
fn machine_bootstraps_that_are_stopped_or_killed_leave_nothing() {
    if !can_bootstrap() {
        return;
    }
    let lab = lab();
    // Where it is then: apt fetches, packages are extracted, and the machine has something to do.
    for (place, signal) in [("running apt-get update", "KILL"), ("extracting archives", "INT"), ("Setting up", "KILL")]
    {
        let log = lab.path().join("stderr");
        let mut build = nobody_in(&lab, &["build", "--format", "json", "r"]);
        let build = started(&mut build, &log);
        let end = Instant::now() + BOOT;
        while !fs_err::read_to_string(&log).unwrap().contains(place) {
            assert!(Instant::now() < end, "{place}: {}", fs_err::read_to_string(&log).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        tool("kill", &["-s", signal, &build.id().to_string()]);
        let status = build.wait_with_output().unwrap().status;
        if signal == "INT" {
            assert_eq!(status.code(), Some(130), "{place}");
            assert!(files(&lab.path().join("home/bases/work")).is_empty(), "{place}");
        }
        assert_nothing_left_of(lab.path(), place);
        share_kernel(&lab.path().join("home"));
        assert!(files(&lab.path().join("home/bases/names")).is_empty(), "{place}");
    }
    // The next run removes what SIGKILL left.
    let listed = said(&mut nobody_in(&lab, &["base", "ls"]));
    assert_eq!(listed.code, 0, "{listed}");
    assert!(files(&lab.path().join("home/bases/work")).is_empty());
}

#[test]
fn machine_meets_a_full_disk_while_a_base_is_installed() {
    if !can_bootstrap() {
        return;
    }
    let lab = Lab::new();
    let minimal = RECIPE.replace("suite: trixie", "suite: trixie, variant: minimal") + "output: {container: {}}\n";
    lab.write("r/recipe.yaml", &minimal);
    let home = lab.path().join("home");
    fs_err::create_dir(&home).unwrap();
    let unmount = Unmount(&home);
    tool("mount", &["-t", "tmpfs", "-o", "size=3g", "tmpfs", text(&home)]);
    share_kernel(&home);
    let log = lab.path().join("stderr");
    let mut build = started(&mut nobody_in(&lab, &["build", "--format", "json", "r"]), &log);
    assert!(wait_until(&mut build, &log, "unpacked a package", &|said| said.contains("Preparing to unpack")));
    let filler = home.join("filler");
    fill(&home, &filler, 0);
    let code = build.wait().unwrap().code();
    fs_err::remove_file(&filler).unwrap();
    let words = fs_err::read_to_string(&log).unwrap();
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains(&format!("the disk that holds {}/work/", text(&home))), "{words}");
    assert_nothing_left_of(&home.join("work"), "a bootstrap on a full disk");
    for place in ["work", "bases/work", "bases/names"] {
        assert_eq!(files(&home.join(place)), Vec::<PathBuf>::new(), "{place}");
    }
    drop(unmount);
}

/// Starts a program whose words go into a file.
#[expect(clippy::disallowed_methods, reason = "assert_cmd starts nothing in the background")]
fn started(command: &mut assert_cmd::Command, log: &Path) -> Child {
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(command.get_args()).env_clear();
    plain.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        plain.current_dir(dir);
    }
    let log = fs_err::File::create(log).unwrap().into_parts().0;
    plain.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}
