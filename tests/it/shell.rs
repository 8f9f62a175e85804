//! `build --on-error shell`: a person at a terminal gets into the failing state and out again.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use labwright_tests::program;
use rustix::pty::OpenptFlags;
use rustix::termios::LocalModes;

use crate::runners::{can_emulate, share_kernel};
use crate::world::{World, can_build, files};

/// An emulated machine on a busy host may start twice.
const PATIENCE: Duration = Duration::from_mins(5);

/// A build at a pseudo-terminal.
struct Seat {
    build: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    seen: String,
    // Open, so that the terminal outlives the build and can be looked at.
    slave: OwnedFd,
}

impl Seat {
    #[expect(clippy::disallowed_methods, reason = "assert_cmd gives no terminal")]
    fn take(world: &World, runner: &str) -> Self {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let size = rustix::termios::Winsize { ws_row: 31, ws_col: 97, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        let mut command = std::process::Command::new(program());
        command
            .args(["build", "--runner", runner, "--on-error", "shell", "r"])
            .current_dir(world.lab.path())
            .env_clear();
        command.env("LABWRIGHT_HOME", world.home()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave.try_clone().unwrap());
        let build = command.spawn().unwrap();
        let keys = File::from(master);
        let mut from = keys.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { build, keys, screen, seen: String::new(), slave }
    }

    fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < end, "`{text}` did not come, but:\n{}", self.seen);
            match self.screen.recv_timeout(Duration::from_millis(100)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the terminal closed after:\n{}", self.seen),
            }
        }
    }

    /// Types a line; the answer ends with a mark that its echo does not have.
    fn ask(&mut self, line: &str) -> String {
        self.keys.write_all(format!("{line}; printf '<%s>' done\r").as_bytes()).unwrap();
        self.wait_for("<done>")
    }

    fn echoes(&self) -> bool {
        rustix::termios::tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

#[test]
fn build_opens_a_shell_in_the_failing_state() {
    if can_build() {
        opens_a_shell("chroot");
    }
}

#[test]
fn machine_opens_a_shell_in_the_failing_state() {
    if can_build() && can_emulate() {
        opens_a_shell("vm");
    }
}

fn opens_a_shell(runner: &str) {
    let body = |end: &str| {
        format!(
            "users: [{{name: student}}]\n\
             runcmd:\n  - echo half > /opt/half\n  - \"sleep 1234 & echo the last words; {end}\"\n"
        )
    };
    let world = World::new("failing", &body("exit 3"));
    share_kernel(&world.home());
    let mut seat = Seat::take(&world, runner);
    let before = seat.wait_for("Leave it with `exit` or Ctrl-D");
    assert!(before.contains("the last words\r\n"), "{before}");
    assert!(before.contains("ended with exit status 3"), "{before}");
    let answer = seat.ask("cat /opt/half; stty size; tty; id -un");
    assert!(answer.contains("half\r\n") && answer.contains("31 97\r\n"), "{answer}");
    assert!(answer.contains("/dev/pts/0\r\n") && answer.contains("root\r\n"), "{answer}");
    // The same world as the step's: what it left running, its stand-ins, and nothing of the host.
    let answer = seat.ask("grep -l 1234 /proc/[0-9]*/cmdline; head -c 50 /usr/sbin/policy-rc.d; ls /home /work");
    assert!(answer.contains("labwright: only while a step runs"), "{answer}");
    assert!(answer.contains("/cmdline\r\n") && answer.contains("student\r\n"), "{answer}");
    // Much in both directions at once, and a terminal that changes its size.
    let much = "x".repeat(3000);
    let answer = seat.ask(&format!("seq 1 20000; echo {much} | wc -c"));
    assert!(answer.contains("\r\n20000\r\n3001\r\n"), "{answer}");
    let size = rustix::termios::Winsize { ws_row: 20, ws_col: 70, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&seat.slave, size).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let answer = seat.ask("stty size");
    assert!(answer.contains("20 70\r\n"), "{answer}");
    // Ctrl-C ends what runs in the shell and not the build.
    seat.keys.write_all(b"sleep 1000\r").unwrap();
    seat.wait_for("sleep 1000");
    std::thread::sleep(Duration::from_millis(500));
    seat.keys.write_all(b"\x03").unwrap();
    assert!(seat.ask("echo still").contains("still\r\n"));
    assert!(!seat.echoes(), "the shell has the terminal");
    seat.keys.write_all(b"exit\r").unwrap();
    let words = seat.wait_for("everything that was printed is in");
    assert!(words.contains("step `commands` failed"), "{words}");
    assert_eq!(seat.build.wait().unwrap().code(), Some(5));
    assert!(seat.echoes(), "the terminal is as it was");
    world.assert_nothing_left("a shell that was left");

    // A build that is killed while somebody is in the shell leaves nothing either.
    let mut seat = Seat::take(&world, runner);
    seat.wait_for("Leave it with `exit` or Ctrl-D");
    seat.build.kill().unwrap();
    seat.build.wait().unwrap();
    world.assert_nothing_left("a killed build with a shell");

    // And one that is asked to stop puts the terminal back.
    let mut seat = Seat::take(&world, runner);
    seat.wait_for("Leave it with `exit` or Ctrl-D");
    seat.ask("true");
    let pid = rustix::process::Pid::from_child(&seat.build);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(seat.build.wait().unwrap().code(), Some(130));
    assert!(seat.echoes(), "the terminal is as it was");
    world.assert_nothing_left("a stopped build with a shell");

    // The next build goes on behind the last good step.
    world.recipe(&body("true"));
    let answer = world.build_well(&["--runner", runner]);
    let cached: Vec<_> = answer["steps"].as_array().unwrap().iter().map(|step| step["cached"] == true).collect();
    assert_eq!(cached, [true, false, false]);
    assert_eq!(world.disk(&files(&world.home().join("disks"))[0]).read("/opt/half"), "half\n");
}

#[test]
fn build_says_which_limit_is_over_and_who_can_have_a_shell() {
    if !can_build() {
        return;
    }
    let world = World::new("slow", "runcmd: [\"sleep 600\"]\ntimeouts: {runcmd: 1s}\n");
    let said = world.lab.run(&["build", "r"]);
    assert_eq!(said.code, 5, "{said}");
    assert!(said.err.contains("the time limit of 1 s is over"), "{said}");
    assert!(said.err.contains("say so in the recipe: `timeouts: {runcmd: 2h}`"), "{said}");
    world.assert_nothing_left("a step out of time");

    let said = world.lab.run(&["build", "--on-error", "shell", "r"]);
    assert_eq!(said.code, 2, "{said}");
    assert!(said.err.contains("error: `--on-error shell` needs a terminal on stdin"), "{said}");
}
