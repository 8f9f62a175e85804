//! Helpers for tests of the whole program: a directory of its own for each test, and needs that may be missing.
//!
//! This crate never calls the libraries of Labwright: it starts the program, as a user does.
//!
//! Main types: [`Lab`], a place where the program runs; [`machine::Machine`], a machine that it runs;
//! [`terminal::Door`], the way into that.

pub mod machine;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::sync::Once;

use assert_cmd::Command;
use tempfile::TempDir;

/// A directory in which the program runs, with a home of its own.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
}

/// What the program said and how it ended, as a snapshot shows it.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// stdout.
    pub out: String,
    /// stderr.
    pub err: String,
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code: {}\n--- stdout ---\n{}--- stderr ---\n{}", self.code, self.out, self.err)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// An empty directory.
    pub fn new() -> Self {
        Self { dir: TempDir::new().expect("the temporary directory can be written") }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, and the directories that it is in.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs_err::create_dir_all(path.parent().expect("a file is in a directory")).expect("the directory can be made");
        fs_err::write(&path, text).expect("the file can be written");
        path
    }

    /// The program, in the directory, with an environment in which nothing but the essential is set.
    pub fn labwright(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(args).current_dir(self.path()).env_clear().env("LABWRIGHT_HOME", self.path().join("home"));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Starts the program with its stdout connected to something.
    #[expect(clippy::disallowed_methods, reason = "assert_cmd cannot connect stdout to anything but a pipe of its own")]
    pub fn spawn(&self, args: &[&str], stdout: std::process::Stdio) -> std::process::Child {
        let mut command = std::process::Command::new(program());
        command.args(args).current_dir(self.path()).env_clear().env("LABWRIGHT_HOME", self.path().join("home"));
        command.stdin(std::process::Stdio::null()).stdout(stdout).stderr(std::process::Stdio::null());
        command.spawn().expect("the program starts")
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        said(&mut self.labwright(args))
    }
}

/// Runs a command to its end.
pub fn said(command: &mut Command) -> Said {
    let output = command.output().expect("the program starts");
    Said {
        code: output.status.code().expect("no signal ended the program"),
        out: String::from_utf8(output.stdout).expect("the program writes UTF-8"),
        err: String::from_utf8(output.stderr).expect("the program writes UTF-8"),
    }
}

/// The program, built from the same source as these tests.
///
/// Cargo tells a test only of programs of its own package, so it is looked for beside the test. It is built first,
/// once for each run of nextest, which starts a process for each test, and once for each process elsewhere.
pub fn program() -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test.ancestors().nth(2).expect("a test is in target/PROFILE/deps").join("labwright");
    BUILT.call_once(|| {
        let stamp = nextest_run().map(|run| path.with_file_name(format!(".labwright-built-for-{run}")));
        if stamp.as_ref().is_some_and(|stamp| stamp.exists()) {
            return;
        }
        let mut build = Command::new("cargo");
        build.args(["build", "--quiet", "--package", "labwright"]);
        build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
        if let Some(target) = path.ancestors().nth(2) {
            build.env("CARGO_TARGET_DIR", target);
        }
        build.assert().success();
        if let Some(stamp) = stamp {
            fs_err::write(stamp, "").expect("the target directory can be written");
        }
    });
    path
}

/// The id of this run of nextest, if it is one.
#[expect(clippy::disallowed_methods, reason = "nextest tells it by the environment only")]
fn nextest_run() -> Option<String> {
    std::env::var("NEXTEST_RUN_ID").ok()
}

/// Whether a need is met. A missing one is said loudly, and fails the test where `LABWRIGHT_REQUIRE` names it.
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "the contract of the tests; a skip must be seen")]
pub fn has(need: &str, met: bool) -> bool {
    if !met {
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == need), "LABWRIGHT_REQUIRE names {need}, which is missing");
        eprintln!("SKIPPED: needs {need}");
    }
    met
}

/// Whether tests that take a quarter of an hour are wanted: `LABWRIGHT_LONG=1`. They are too long for each change; who touches what
/// they test runs them, and they run before a release.
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "the contract of the tests; a skip must be seen")]
pub fn wants_long() -> bool {
    let wanted = std::env::var_os("LABWRIGHT_LONG").is_some();
    if !wanted {
        eprintln!("SKIPPED: takes long; LABWRIGHT_LONG=1 runs it");
    }
    wanted
}
