//! A host's disk that fills up in the middle of each step: what is damaged is not stored, the error says what is wrong, and
//! the build works once there is room.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::faults::{Unmount, assert_right, forget_results, world};
use crate::runners::{can_emulate, share_kernel};
use crate::world::{World, assert_nothing_left_of, can_build, files, text, tool};

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
        fill(&world.home(), &filler);
    }
    let code = build.wait().unwrap().code();
    if begun {
        fs_err::remove_file(&filler).unwrap();
    }
    (code, fs_err::read_to_string(&said).unwrap())
}

/// Waits until the build says something; false if it ends without.
fn wait_for(build: &mut Child, said: &Path, words: &str) -> bool {
    let end = Instant::now() + Duration::from_mins(5);
    loop {
        let ended = build.try_wait().unwrap().is_some();
        if fs_err::read_to_string(said).unwrap().contains(words) {
            return true;
        }
        if ended {
            return false;
        }
        assert!(Instant::now() < end, "the build never said {words}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Takes all the room that there is.
fn fill(home: &Path, filler: &Path) {
    let file = fs_err::File::create(filler).unwrap();
    let mut at = 0;
    let mut piece = 64 << 20;
    while piece >= 4096 {
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
    let room = rustix::fs::statvfs(home).unwrap();
    eprintln!("filled {} MiB, {} blocks are left", at >> 20, room.f_bavail);
}
