//! A Debian tree of one's own, made from a cached one, and the guest program started on it.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use labwright_guest::client::{ClientError, Outcome, run_step};
use labwright_guest::protocol::{self, Action, Message, Request};

pub(crate) fn shell(script: &str) -> Action {
    Action::Run(protocol::Command::Shell(script.to_owned()))
}

/// A copy of the tree, removed when dropped.
pub(crate) struct World {
    root: PathBuf,
    _dir: tempfile::TempDir,
    lists_before: usize,
}

#[expect(clippy::disallowed_methods, reason = "tests look which needs must be met")]
fn required(need: &str) -> bool {
    std::env::var("LABWRIGHT_REQUIRE").is_ok_and(|needs| needs.split(',').any(|word| word == need))
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skip(need: &str) {
    assert!(!required(need), "LABWRIGHT_REQUIRE names {need}, which is missing here");
    eprintln!("SKIPPED: needs {need}");
}

#[expect(clippy::disallowed_methods, reason = "tests start the program under test and what makes their tree")]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// None, after saying so, where this is not root or there is no mmdebstrap or mirror.
pub(crate) fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        skip("root");
        return None;
    }
    let base = cached_tree()?;
    // Memory, where there is some: the tree is copied for every test.
    let shm = Path::new("/dev/shm");
    let scratch = if shm.is_dir() { shm } else { base.parent()? };
    let dir = tempfile::Builder::new().prefix("labwright-guest-").tempdir_in(scratch).unwrap();
    let copied = command("cp").args(["-a", "--reflink=auto"]).arg(&base).arg(dir.path().join("root")).status().unwrap();
    assert!(copied.success());
    let lists_before = fs_err::read_dir(dir.path().join("root/var/lib/apt/lists")).unwrap().count();
    Some(World { root: dir.path().join("root"), _dir: dir, lists_before })
}

/// Made once and kept beside the build's other files; a lock keeps tests from making it twice.
fn cached_tree() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-trees");
    fs_err::create_dir_all(&dir).unwrap();
    let lock = fs_err::File::create(dir.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let tree = dir.join("trixie");
    if !tree.exists() {
        let new = dir.join("trixie.new");
        drop(fs_err::remove_dir_all(&new));
        let made = command("nice").args(["mmdebstrap", "--quiet", "--variant=minbase", "trixie"]).arg(&new).status();
        if !made.is_ok_and(|status| status.success()) {
            skip("mmdebstrap");
            return None;
        }
        fs_err::rename(&new, &tree).unwrap();
    }
    Some(tree)
}

impl World {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs_err::read_to_string(self.root().join(path)).unwrap()
    }

    pub(crate) fn lists_before(&self) -> usize {
        self.lists_before
    }

    /// Whether this host has name servers that a step can use; says so if not.
    pub(crate) fn network() -> bool {
        let found = !name_servers().is_empty();
        if !found {
            skip("network");
        }
        found
    }

    pub(crate) fn with_network(&self, actions: Vec<Action>) -> Request {
        let mut request = Request::new(self.root(), actions);
        request.network = true;
        request.dns = name_servers();
        // Mirrors of test machines are at times snapshots that count as expired.
        request.apt_options = ["Acquire::Check-Valid-Until", "Acquire::Check-Date", "APT::Install-Recommends"]
            .map(|name| (name.to_owned(), "false".to_owned()))
            .to_vec();
        request
    }

    fn start(&self) -> Child {
        let mut guest = command(env!("CARGO_BIN_EXE_labwright-guest"));
        guest.arg("step").current_dir(&self.root).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a step with these files and returns what its programs printed.
    pub(crate) fn run(&self, request: &Request, files: &[&[u8]]) -> (Result<Outcome, ClientError>, Vec<String>) {
        let mut lines = Vec::new();
        let mut guest = self.start();
        let result = talk(&mut guest, request, files, &mut |message| {
            if let Message::Output { line } = message {
                lines.push(line.clone());
            }
        });
        assert_eq!(guest.wait().unwrap().success(), result.is_ok());
        (result, lines)
    }

    /// Runs a step, drops its output, and returns the most memory that the guest program held.
    pub(crate) fn run_measured(&self, request: &Request) -> (Result<Outcome, ClientError>, u64) {
        let mut guest = self.start();
        let id = guest.id();
        let mut peak = 0;
        let result = talk(&mut guest, request, &[], &mut |message| {
            if matches!(message, Message::ActionStarted { .. } | Message::Failed(_)) {
                let children = fs_err::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
                let inner = children.split_whitespace().next().unwrap_or_default().to_owned();
                let status = fs_err::read_to_string(format!("/proc/{inner}/status")).unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
                let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
                peak = peak.max(kib * 1024);
            }
        });
        guest.wait().unwrap();
        assert!(peak > 0, "the inner process was not found");
        (result, peak)
    }

    /// Ends the outer process once a line is printed.
    pub(crate) fn run_and_terminate_at(&self, request: &Request, at: &str) -> Result<Outcome, ClientError> {
        let mut guest = self.start();
        let pid = rustix::process::Pid::from_child(&guest);
        let result = talk(&mut guest, request, &[], &mut |message| {
            if matches!(message, Message::Output { line } if line == at) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            }
        });
        guest.wait().unwrap();
        result
    }
}

fn talk(
    guest: &mut Child,
    request: &Request,
    files: &[&[u8]],
    on_message: &mut dyn FnMut(&Message),
) -> Result<Outcome, ClientError> {
    let mut writer = guest.stdin.take().unwrap();
    let mut reader = io::BufReader::new(guest.stdout.take().unwrap());
    let mut open = |index: usize| -> io::Result<Box<dyn Read>> { Ok(Box::new(io::Cursor::new(files[index].to_vec()))) };
    let writer: &mut dyn Write = &mut writer;
    run_step(writer, &mut reader, request, &mut open, on_message)
}

fn name_servers() -> Vec<String> {
    fs_err::read_to_string("/etc/resolv.conf")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("nameserver") && !line.contains(" 127."))
        .map(str::to_owned)
        .collect()
}
