//! `labwright run` as a process: started, read, interrupted.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A machine that `labwright run` runs; told to stop when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    started: Instant,
}

impl Machine {
    /// Starts it; what it says on stderr goes to `log`.
    #[expect(clippy::disallowed_methods, reason = "a process that runs beside the test is not for assert_cmd")]
    pub fn start(home: &Path, args: &[&str], log: &Path) -> Self {
        let mut command = Command::new(crate::program());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LABWRIGHT_HOME", home);
        command.args(["--format", "json", "run"]).args(args);
        let stderr = fs_err::File::create(log).expect("the log can be written").into_parts().0;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, stdout, log: log.to_owned(), started: Instant::now() }
    }

    /// Waits for the answer, one JSON value, which comes when the machine is ready.
    pub fn answer(&mut self) -> serde_json::Value {
        let mut text = String::new();
        loop {
            let read = self.stdout.read_line(&mut text).expect("stdout is UTF-8");
            assert!(read > 0, "the machine ended before it was ready:\n{}", self.said());
            if let Ok(value) = serde_json::from_str(&text) {
                return value;
            }
        }
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        fs_err::read_to_string(&self.log).expect("the log can be read")
    }

    /// The time since its start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The processes that it has started.
    pub fn children(&self) -> Vec<u32> {
        let tasks = fs_err::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let lists = tasks.map(|task| task.expect("/proc can be read").path().join("children"));
        let lists = lists.filter_map(|path| fs_err::read_to_string(path).ok());
        lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// Presses Ctrl-C.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
    }

    /// Waits until it has ended and returns its exit code.
    pub fn end(mut self, timeout: Duration) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status.code();
            }
            assert!(begin.elapsed() < timeout, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // QEMU ends with it, and the next sweep removes its directory.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
