use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use labwright_core::Cancel;

use crate::family::Family;
use crate::{Running, Tool, ToolError};

/// How much of a tool's stderr an error keeps, in bytes.
const STDERR_TAIL: usize = 2048;

/// How often a waiting call looks whether it should stop.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A tool and its arguments.
#[derive(Debug, Clone)]
pub struct Invocation {
    tool: Tool,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    current_dir: Option<PathBuf>,
    with_family: bool,
}

/// What a tool said before it ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Everything on stdout.
    pub stdout: Vec<u8>,
    /// Everything on stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// stdout as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Invocation {
    /// A call without arguments.
    pub fn new(tool: Tool) -> Self {
        Self { tool, args: Vec::new(), env: Vec::new(), stdin: Vec::new(), current_dir: None, with_family: false }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the tool's environment. The locale is always `C.UTF-8`, so that its words can be read.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Gives the tool something to read on stdin; otherwise it reads nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The directory that the tool starts in.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Has everything that the tool starts end with it, whether it ends by itself, is stopped or dies with this process:
    /// for tools that have others do their work. It gets a process group of its own.
    #[must_use]
    pub fn with_family(mut self) -> Self {
        self.with_family = true;
        self
    }

    /// The command line, for messages.
    pub fn command_line(&self) -> String {
        let mut line = self.tool.program().to_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    /// Runs the tool to its end and returns what it said; an exit status other than 0 is an error.
    ///
    /// A set `cancel` kills the tool.
    pub fn run(&self, cancel: &Cancel) -> Result<Output, ToolError> {
        let mut stdout = Vec::new();
        let (status, stderr) = self.execute(cancel, |chunk| stdout.extend_from_slice(chunk), |_| {})?;
        self.judge(status, &stderr)?;
        Ok(Output { stdout, stderr })
    }

    /// Runs the tool to its end and hands on each line of its stdout and stderr as it comes.
    pub fn stream(&self, cancel: &Cancel, line: &(dyn Fn(&str) + Sync)) -> Result<(), ToolError> {
        let mut out = Lines::default();
        let mut err = std::sync::Mutex::new(Lines::default());
        let (status, stderr) = self.execute(
            cancel,
            |chunk| out.push(chunk, line),
            |chunk| err.lock().expect("no holder of this lock panics").push(chunk, line),
        )?;
        out.finish(line);
        err.get_mut().expect("no holder of this lock panics").finish(line);
        self.judge(status, &stderr)
    }

    /// Starts the tool and returns a handle to it, for tools that serve until they are stopped.
    ///
    /// The tool dies with the thread that called this, so call it from one that lives as long as the tool should.
    pub fn spawn(&self) -> Result<Running, ToolError> {
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Running::start(&mut command, self.command_line())
    }

    fn command(&self) -> Result<Command, ToolError> {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that starts the host's programs")]
        let mut command = Command::new(self.tool.find()?);
        command.args(&self.args).env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
        crate::hidden::apply(&mut command);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        Ok(command)
    }

    fn judge(&self, status: std::process::ExitStatus, stderr: &[u8]) -> Result<(), ToolError> {
        if status.success() {
            return Ok(());
        }
        let tail = &stderr[stderr.len().saturating_sub(STDERR_TAIL)..];
        Err(ToolError::Failed {
            command: self.command_line(),
            status,
            stderr: String::from_utf8_lossy(tail).into_owned(),
        })
    }

    fn execute(
        &self,
        cancel: &Cancel,
        mut stdout: impl FnMut(&[u8]) + Send,
        on_stderr: impl Fn(&[u8]) + Send + Sync,
    ) -> Result<(std::process::ExitStatus, Vec<u8>), ToolError> {
        cancel.check()?;
        let mut command = self.command()?;
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = |source| ToolError::Start { command: self.command_line(), source };
        let talk = |source| ToolError::Talk { command: self.command_line(), source };
        // This thread waits for the tool, so the tool dies with the process, even with one that got SIGKILL.
        crate::child::set_death_signal(&mut command);
        let mut family = if self.with_family { Some(Family::prepare(&mut command).map_err(start)?) } else { None };
        let mut child = command.spawn().map_err(start)?;
        let (stdin, mut out, mut err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A tool may stop reading before the end; its exit status tells what that means.
                scope.spawn(move || drop(stdin.write_all(&self.stdin)));
            }
            let reader = scope.spawn(move || read_all(out.as_mut(), |chunk| stdout(chunk)));
            let err_reader = scope.spawn(move || {
                let mut kept = Vec::new();
                read_all(err.as_mut(), |chunk| {
                    kept.extend_from_slice(chunk);
                    on_stderr(chunk);
                });
                kept
            });
            let status = loop {
                if let Some(status) = child.try_wait().map_err(talk)? {
                    break Ok(status);
                }
                if let Err(cancelled) = cancel.check() {
                    if let Some(family) = family.take() {
                        family.end(&child);
                    }
                    drop(child.kill());
                    child.wait().map_err(talk)?;
                    break Err(ToolError::Cancelled(cancelled));
                }
                thread::sleep(POLL);
            };
            // What goes on behind the tool's back may hold its output open.
            drop(family);
            reader.join().expect("the reader does not panic");
            let stderr = err_reader.join().expect("the reader does not panic");
            Ok((status?, stderr))
        })
    }
}

fn read_all(source: Option<&mut impl Read>, mut take: impl FnMut(&[u8])) {
    let Some(source) = source else { return };
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = source.read(&mut buffer) {
        take(&buffer[..count]);
    }
}

/// Cuts a stream of bytes into lines; `\r` ends a line too, because progress displays use it.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, chunk: &[u8], line: &(dyn Fn(&str) + Sync)) {
        for &byte in chunk {
            if byte == b'\n' || byte == b'\r' {
                self.finish(line);
            } else {
                self.0.push(byte);
            }
        }
    }

    fn finish(&mut self, line: &(dyn Fn(&str) + Sync)) {
        if !self.0.is_empty() {
            line(&String::from_utf8_lossy(&self.0));
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    fn tar(args: &[&str]) -> Invocation {
        Invocation::new(Tool::Tar).args(args)
    }

    #[test]
    fn returns_what_a_tool_says() {
        let output = tar(&["--version"]).run(&Cancel::new()).unwrap();
        assert!(output.text().contains("tar"), "{output:?}");
        let lines = Mutex::new(Vec::new());
        tar(&["--version"]).stream(&Cancel::new(), &|line| lines.lock().unwrap().push(line.to_owned())).unwrap();
        assert_eq!(lines.lock().unwrap().join("\n"), output.text().replace("\n\n", "\n").trim_end());
    }

    #[test]
    fn a_failure_has_the_command_line_and_the_reason() {
        let error = tar(&["--no-such-option"]).run(&Cancel::new()).unwrap_err().to_string();
        assert!(error.starts_with("`tar --no-such-option` ended with exit status: 64"), "{error}");
        assert!(error.contains("unrecognized option"), "{error}");
    }

    #[test]
    fn hidden_variables_do_not_reach_a_tool() {
        let words = || tar(&["-cf", "/dev/null", "--checkpoint=1", "--checkpoint-action=exec=env", "/etc/passwd"]);
        let home = |output: &Output| output.text().lines().any(|line| line.starts_with("PATH="));
        assert!(home(&words().run(&Cancel::new()).unwrap()));
        crate::hide_variable("PATH");
        assert!(!home(&words().run(&Cancel::new()).unwrap()), "the tool itself was found before");
    }

    #[test]
    fn cancelling_kills_the_tool() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        let begin = Instant::now();
        let stopper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            clone.cancel();
        });
        let checkpoint = tar(&["-cf", "/dev/null", "--checkpoint=1", "--checkpoint-action=sleep=30", "/etc"]);
        assert!(matches!(checkpoint.run(&cancel), Err(ToolError::Cancelled(_))));
        assert!(begin.elapsed() < Duration::from_secs(20));
        stopper.join().unwrap();
    }

    /// A tool whose child would go on for half a minute, and the number of that child.
    fn parent_of_a_sleeper(dir: &std::path::Path) -> (Invocation, impl Fn() -> u32 + Send + use<>) {
        let pid = dir.join("pid");
        let action = format!("--checkpoint-action=exec=sleep 30 & echo $! >{}; wait", pid.display());
        let call = tar(&["-cf", "/dev/null", "--checkpoint=1", &action, "/etc/passwd"]).with_family();
        (call, move || {
            loop {
                if let Some(pid) = fs_err::read_to_string(&pid).ok().and_then(|text| text.trim().parse().ok()) {
                    return pid;
                }
                thread::sleep(POLL);
            }
        })
    }

    /// Whether a process goes on; one that is dead may wait for a while to be reaped.
    fn is_alive(pid: u32) -> bool {
        let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    #[test]
    fn what_a_tool_started_is_stopped_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (call, child) = parent_of_a_sleeper(dir.path());
        let cancel = Cancel::new();
        let clone = cancel.clone();
        let begin = Instant::now();
        let stopper = thread::spawn(move || {
            let child = child();
            assert!(is_alive(child));
            clone.cancel();
            child
        });
        assert!(matches!(call.run(&cancel), Err(ToolError::Cancelled(_))));
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(!is_alive(stopper.join().unwrap()));
    }

    #[test]
    fn what_a_tool_left_behind_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (call, child) = parent_of_a_sleeper(dir.path());
        // As the one above, but the tool itself does not wait. Its output is held open by the child.
        let call = Invocation { args: call.args.iter().map(|arg| without_wait(arg)).collect(), ..call };
        let begin = Instant::now();
        call.run(&Cancel::new()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert!(!is_alive(child()));
    }

    fn without_wait(arg: &OsStr) -> OsString {
        arg.to_string_lossy().replace("; wait", "").into()
    }

    #[test]
    fn input_is_fed_and_may_be_ignored() {
        let output = tar(&["-tf", "-"]).stdin(vec![0; 10240]).run(&Cancel::new()).unwrap();
        assert_eq!(output.stdout, b"");
        tar(&["--version"]).stdin(vec![0; 1 << 20]).run(&Cancel::new()).unwrap();
    }
}
