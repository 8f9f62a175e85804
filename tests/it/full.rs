//! A host's disk that fills up in the middle of each step: what is damaged is not stored, the error says what is wrong, and
//! the build works once there is room.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::archive::{Archive, can_publish};
use crate::faults::{Unmount, assert_right, forget_results, world};
use crate::runners::{can_emulate, share_kernel};
use crate::world::{World, assert_nothing_left_of, base_with_apt, can_build, files, text, tool};

/// The steps of the recipe, what follows them, and the words on stderr with which each begins.
const STEPS: [(&str, &str); 7] = [
    ("disk", r#""event":"started","step":"disk""#),
    ("users", r#""event":"started","step":"users""#),
    ("files", r#""event":"started","step":"files""#),
    ("commands", r#""event":"started","step":"commands""#),
    ("seal", r#""event":"started","step":"seal""#),
    ("compress", r#""event":"started","step":"compress""#),
    ("pack", r#""event":"progress","task":"layer""#),
];

/// The size of a package, in bytes: longer to write than a test takes to notice.
const PACKAGE: usize = 64 << 20;

/// So often a step is tried again that was over before the disk was full.
const TRIES: u32 = 2;

#[test]
fn build_meets_a_full_disk_in_each_step() {
    if can_build() {
        starved("chroot");
    }
}

#[test]
fn machine_meets_a_full_disk_in_each_step() {
    if can_build() && can_emulate() {
        starved("vm");
    }
}

/// The machine saw its writes fail; when its command gives up, there is room again, so that only QEMU still knows why.
#[test]
fn machine_remembers_that_the_disk_was_full() {
    if !(can_build() && can_emulate()) {
        return;
    }
    let world = World::new(
        "full-before",
        "disk: {size: 640Mi}\n\
         runcmd: ['echo ready; sleep 3; dd if=/dev/urandom of=/opt/large bs=1M count=32 oflag=direct || echo refused; sleep 5; exit 1']\n",
    );
    let home = world.home();
    fs_err::create_dir(&home).unwrap();
    let unmount = Unmount(&home);
    tool("mount", &["-t", "tmpfs", "-o", "size=320m", "tmpfs", text(&home)]);
    share_kernel(&home);
    let (filler, said) = (home.join("filler"), world.lab.path().join("stderr"));
    let mut build = world.start(&["--runner", "vm"]);
    wait_for(&mut build, &said, r#""line":"ready""#);
    fill(&home, &filler, 0);
    assert!(wait_for(&mut build, &said, r#""line":"refused""#), "{}", fs_err::read_to_string(&said).unwrap());
    fs_err::remove_file(&filler).unwrap();
    let code = build.wait().unwrap().code();
    let words = fs_err::read_to_string(&said).unwrap();
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains(&format!("the disk that holds {}/work/", text(&home))), "{words}");
    drop(unmount);
}

#[test]
fn build_meets_a_full_disk_while_packages_are_installed() {
    if can_build() && can_publish() {
        starved_of_packages("chroot");
    }
}

#[test]
fn machine_meets_a_full_disk_while_packages_are_installed() {
    if can_build() && can_emulate() && can_publish() {
        starved_of_packages("vm");
    }
}

/// The disk fills up while a package is fetched (for the vm runner, by the host's apt), and while it is unpacked.
fn starved_of_packages(runner: &str) {
    let world = World::on(&base_with_apt(), "full-packages", "");
    let archive = Archive::new(&world.lab.path().join("r"));
    archive.publish_sized(&[("large", "1", "", PACKAGE)]);
    world.recipe(&format!("disk: {{size: 900Mi}}\n{}packages: [large]\n", archive.section()));
    let home = world.home();
    fs_err::create_dir(&home).unwrap();
    let unmount = Unmount(&home);
    tool("mount", &["-t", "tmpfs", "-o", "size=1200m", "tmpfs", text(&home)]);
    share_kernel(&home);
    let (filler, said) = (home.join("filler"), world.lab.path().join("stderr"));
    for moment in ["fetched", "unpacked"] {
        let mut build;
        if moment == "fetched" {
            archive.hold();
            build = world.start(&["--runner", runner]);
            wait_until(&mut build, &said, "fetched its package", &|_| archive.is_waited_for());
            fill(&home, &filler, 0);
            archive.let_go();
        } else if runner == "chroot" {
            // Unpacking is a matter of a moment here, so there is room for fetching and for half of that from the start.
            fill(&home, &filler, PACKAGE as u64 / 2 * 3);
            build = world.start(&["--runner", runner]);
        } else {
            build = world.start(&["--runner", runner]);
            wait_for(&mut build, &said, "Unpacking large");
            fill(&home, &filler, 0);
        }
        let code = build.wait().unwrap().code();
        fs_err::remove_file(&filler).unwrap();
        let words = fs_err::read_to_string(&said).unwrap();
        let what = format!("{runner}, full while a package is {moment}: exit code {code:?}\n{words}");
        assert_eq!(code, Some(3), "{what}");
        let full = format!("the disk that holds {}/work/", text(&home));
        // The step may be over before the disk is: then its layer finds no room.
        let layer = moment == "unpacked" && words.contains("No space left");
        assert!(words.contains(&full) && words.contains(" is full") || layer, "{what}");
        assert!(!words.contains("packages are fetched inside the machine"), "{what}");
        assert_nothing_left_of(&home.join("work"), &what);
        world.assert_believable();
        assert_eq!(files(&home.join("work")), Vec::<PathBuf>::new(), "{what}");
        let kept: Vec<String> = world.layers().into_iter().map(|(step, ..)| step).collect();
        // What was unpacked before the disk was full is whole, as was checked.
        assert!(kept == ["disk"] || (moment == "unpacked" && kept == ["disk", "packages"]), "{kept:?}: {what}");
        eprintln!("{runner}, full while a package is {moment}: {}", words.lines().last().unwrap_or_default());
    }
    world.build_well(&["--runner", runner]);
    let disk = world.disk(&world.only_disk());
    disk.check();
    assert_eq!(disk.read("/usr/share/lab/large"), "1\n");
    let noise = String::from_utf8(disk.debugfs("stat /usr/share/large.noise")).unwrap();
    assert!(noise.contains(&format!("Size: {PACKAGE}")), "{noise}");
    assert_nothing_left_of(&home.join("work"), "a build with room again");
    drop(unmount);
}

fn starved(runner: &str) {
    let world = world();
    let home = world.home();
    fs_err::create_dir(&home).unwrap();
    let unmount = Unmount(&home);
    tool("mount", &["-t", "tmpfs", "-o", "size=320m", "tmpfs", text(&home)]);
    share_kernel(&home);
    for (step, begins) in STEPS {
        let mut tries = 0;
        loop {
            let (code, words) = starve(&world, runner, step, begins);
            let what = format!("{runner}, full at {step}: exit code {code:?}\n{words}");
            assert_eq!(code, Some(3), "{what}");
            let full = format!("the disk that holds {}/work/", text(&home));
            assert!(words.contains(&full) && words.contains(" is full") || words.contains("No space left"), "{what}");
            // The home itself is a mount, of ours.
            assert_nothing_left_of(&home.join("work"), &what);
            world.assert_believable();
            assert_eq!(files(&home.join("work")), Vec::<PathBuf>::new(), "{what}");
            eprintln!("{runner}, full at {step}: {}", words.lines().last().unwrap_or_default());
            if step == "compress" || step == "pack" || world.layers().iter().all(|(kept, ..)| kept != step) {
                break;
            }
            // It had written everything before the disk was full: so what is kept must be right.
            eprintln!("{runner}: {step} was kept");
            world.build_well(&["--runner", runner, "--force"]);
            assert_right(&world);
            forget_results(&world);
            tries += 1;
            if tries == TRIES {
                break;
            }
        }
    }
    world.build_well(&["--runner", runner]);
    assert_right(&world);
    assert_nothing_left_of(&home.join("work"), "a build with room again");
    drop(unmount);
}

/// Builds, and fills the disk when a step begins. Gives the room back, and returns how the build ended and what it said.
fn starve(world: &World, runner: &str, step: &str, begins: &str) -> (Option<i32>, String) {
    let from = if STEPS[..5].iter().any(|(name, _)| *name == step) { vec!["--from", step] } else { vec!["--force"] };
    let mut build = world.start(&[&["--runner", runner][..], &from].concat());
    let said = world.lab.path().join("stderr");
    let filler = world.home().join("filler");
    let begun = wait_for(&mut build, &said, begins);
    if begun {
        fill(&world.home(), &filler, 0);
    }
    let code = build.wait().unwrap().code();
    if begun {
        fs_err::remove_file(&filler).unwrap();
    }
    (code, fs_err::read_to_string(&said).unwrap())
}

/// Waits until the build says something; false if it ends without.
fn wait_for(build: &mut Child, said: &Path, words: &str) -> bool {
    wait_until(build, said, &format!("said {words}"), &|said| said.contains(words))
}

/// Waits until something is so, which may depend on what the build has said; false if it ends before.
pub(crate) fn wait_until(build: &mut Child, said: &Path, what: &str, is_so: &dyn Fn(&str) -> bool) -> bool {
    let end = Instant::now() + Duration::from_mins(5);
    loop {
        let ended = build.try_wait().unwrap().is_some();
        let words = fs_err::read_to_string(said).unwrap();
        if is_so(&words) {
            return true;
        }
        if ended {
            return false;
        }
        assert!(Instant::now() < end, "the build never {what}: {words}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes all the room that there is but so many bytes.
pub(crate) fn fill(home: &Path, filler: &Path, but: u64) {
    let file = fs_err::File::create(filler).unwrap();
    let mut at = 0;
    let mut piece = 64 << 20;
    while piece >= 4096 {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
    if but > 0 {
        file.set_len(at - but).unwrap();
    }
    let room = rustix::fs::statvfs(home).unwrap();
    eprintln!("filled {} MiB, {} blocks are left", at >> 20, room.f_bavail);
}
