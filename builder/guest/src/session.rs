use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use labwright_core::Mask;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::error::{Doing, StepError};
use crate::frame::{self, Frame, FrameError};
use crate::protocol::{FileEnd, Message};
use crate::shell::Seat;

/// How many lines a failure tells.
const LAST_LINES: usize = 20;

/// The longest line that is handed on in one piece.
const MAX_LINE: usize = 4096;

/// The most of a program's stdout that is kept for ourselves.
const MAX_CAPTURE: usize = 8 << 20;

/// How often orphans are reaped while a program is silent.
const REAP: Duration = Duration::from_secs(1);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The conversation with the host, and the running of programs while it goes on.
pub(crate) struct Session {
    reader: BufReader<File>,
    writer: BufWriter<File>,
    deadline: Option<(Instant, u64)>,
    environment: Vec<(String, String)>,
    mask: Mask,
    last_lines: VecDeque<String>,
    next_file: usize,
    /// Where a shell is to be offered when an action fails.
    pub(crate) seat: Option<Seat>,
}

/// A program to run.
pub(crate) struct Program {
    argv: Vec<String>,
    env: Vec<(String, String)>,
}

impl Program {
    pub(crate) fn new(program: &str) -> Self {
        Self { argv: vec![program.to_owned()], env: Vec::new() }
    }

    pub(crate) fn from_argv(argv: Vec<String>) -> Self {
        Self { argv, env: Vec::new() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    pub(crate) fn args<S: AsRef<str>>(mut self, args: &[S]) -> Self {
        self.argv.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Session {
    pub(crate) fn new(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            reader: BufReader::new(File::from(input)),
            writer: BufWriter::new(File::from(output)),
            deadline: None,
            environment: Vec::new(),
            mask: Mask::default(),
            last_lines: VecDeque::new(),
            next_file: 0,
            seat: None,
        }
    }

    pub(crate) fn read_request(&mut self) -> Result<crate::protocol::Request, FrameError> {
        frame::read_json(&mut self.reader)
    }

    pub(crate) fn limit(&mut self, seconds: Option<u64>, environment: &[(String, String)]) {
        self.deadline =
            seconds.and_then(|seconds| Some((Instant::now().checked_add(Duration::from_secs(seconds))?, seconds)));
        self.environment = environment.to_vec();
    }

    /// Has everything that is said from now on told without what `mask` hides.
    pub(crate) fn hide(&mut self, mask: Mask) {
        self.mask = mask;
    }

    /// Text as it may be told.
    pub(crate) fn masked(&self, text: &str) -> String {
        self.mask.text(text)
    }

    /// What has to be done at the end gets a minute of its own.
    pub(crate) fn limit_cleanup(&mut self) {
        self.limit(Some(60), &self.environment.clone());
    }

    pub(crate) fn say(&mut self, message: &Message) -> Result<(), StepError> {
        frame::write_json(&mut self.writer, message)?;
        self.writer.flush().map_err(FrameError::from)?;
        Ok(())
    }

    /// What is written there is sent as data.
    pub(crate) fn data(&mut self) -> impl Write {
        Data(self)
    }

    /// Sends data: bytes of a shell's terminal, say.
    pub(crate) fn show(&mut self, bytes: &[u8]) -> Result<(), StepError> {
        frame::write_data(&mut self.writer, bytes)?;
        self.writer.flush().map_err(FrameError::from)?;
        Ok(())
    }

    /// The next frame of the host.
    pub(crate) fn hear(&mut self) -> Result<Frame, FrameError> {
        frame::read(&mut self.reader)
    }

    /// The stream from the host, to wait for; none if there is something in it that was read ahead.
    pub(crate) fn silent_input(&self) -> Option<BorrowedFd<'_>> {
        self.reader.buffer().is_empty().then(|| self.reader.get_ref().as_fd())
    }

    pub(crate) fn forget_lines(&mut self) {
        self.last_lines.clear();
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.last_lines.iter().cloned().collect()
    }

    /// Skips files that an action did not need.
    pub(crate) fn set_next_file(&mut self, file: usize) {
        self.next_file = file;
    }

    /// Has the host send the next file, which has `size` bytes, and writes it into `sink`.
    pub(crate) fn receive(&mut self, size: u64, sink: &mut File, path: &std::path::Path) -> Result<(), StepError> {
        let file = self.next_file;
        self.next_file += 1;
        self.say(&Message::Want { file })?;
        let mut found = 0;
        loop {
            match frame::read(&mut self.reader)? {
                Frame::Data(piece) => {
                    found += piece.len() as u64;
                    if found > size {
                        return Err(StepError::FileSize { expected: size, found });
                    }
                    sink.write_all(&piece).doing("write", path)?;
                }
                Frame::Json(message) => {
                    let end = serde_json::from_slice(&message).map_err(|source| FrameError::Json { source })?;
                    return match end {
                        FileEnd::Abort { reason } => Err(StepError::HostAbort { reason }),
                        FileEnd::Complete if found == size => Ok(()),
                        FileEnd::Complete => Err(StepError::FileSize { expected: size, found }),
                    };
                }
            }
        }
    }

    /// Runs a program to its end; what it prints goes to the host.
    pub(crate) fn run(&mut self, program: &Program) -> Result<(), StepError> {
        self.execute(program, None)
    }

    /// Runs a program and returns what it prints on stdout.
    pub(crate) fn capture(&mut self, program: &Program) -> Result<String, StepError> {
        let mut stdout = Vec::new();
        self.execute(program, Some(&mut stdout))?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    fn execute(&mut self, program: &Program, capture: Option<&mut Vec<u8>>) -> Result<(), StepError> {
        let name = program.argv.first().cloned().unwrap_or_default();
        let (output, output_end) = pipe()?;
        let (captured, captured_end) = match &capture {
            Some(_) => pipe().map(|(read, write)| (Some(read), Some(write)))?,
            None => (None, None),
        };
        let pid = self.spawn(program, &name, output_end, captured_end)?;
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).to("watch a program")?;
        let status = self.attend(pid, &ended, File::from(output), captured.map(File::from), capture)?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => Ok(()),
            (Some(status), _) => Err(StepError::Exit { program: name, status }),
            (None, signal) => Err(StepError::Signal { program: name, signal: signal.unwrap_or_default() }),
        }
    }

    fn spawn(
        &self,
        program: &Program,
        name: &str,
        output: OwnedFd,
        captured: Option<OwnedFd>,
    ) -> Result<Pid, StepError> {
        let second = output.try_clone().to("prepare a program's output")?;
        let mut command = self.command(name);
        command.args(program.argv.iter().skip(1)).envs(program.env.iter().map(|(name, value)| (name, value)));
        command.stdin(std::process::Stdio::null()).stdout(captured.unwrap_or(second)).stderr(output);
        let child = command.spawn().map_err(|source| StepError::Start { program: name.to_owned(), source })?;
        Ok(Pid::from_child(&child))
    }

    /// A program with the surroundings of every program of the step.
    pub(crate) fn command(&self, name: &str) -> std::process::Command {
        #[expect(clippy::disallowed_methods, reason = "inside the guest, this is the place that starts programs")]
        let mut command = std::process::Command::new(name);
        command.env_clear().current_dir("/");
        command.envs([
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/sh"),
            ("PATH", PATH),
            ("LC_ALL", "C.UTF-8"),
            ("SYSTEMD_OFFLINE", "1"),
        ]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Hands on output until the program itself has ended; its children may go on.
    fn attend(
        &mut self,
        pid: Pid,
        ended: &OwnedFd,
        output: File,
        captured: Option<File>,
        capture: Option<&mut Vec<u8>>,
    ) -> Result<WaitStatus, StepError> {
        let mut unused = Vec::new();
        let capture = capture.unwrap_or(&mut unused);
        let mut lines = Lines::new(self.mask.clone());
        let mut sources = [Some(output), captured];
        let mut buffer = vec![0; 64 << 10];
        let mut status = None;
        // What was printed before the end may still be in the pipes; a child that prints on must not keep us.
        let mut patience = 16;
        loop {
            let timeout = if status.is_some() { Duration::ZERO } else { self.time_left()?.min(REAP) };
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(ended, PollFlags::IN)];
            fds.extend(sources.iter().flatten().map(|source| PollFd::new(source, PollFlags::IN)));
            let timeout = Timespec::try_from(timeout).expect("a second fits");
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).to("wait for a program"),
            }
            let mut ready = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            drop(fds);
            let mut heard = false;
            for (index, slot) in sources.iter_mut().enumerate() {
                let Some(source) = slot else { continue };
                if !ready.next().unwrap_or(false) {
                    continue;
                }
                let count = source.read(&mut buffer).to("read what a program prints")?;
                heard |= count > 0;
                if count == 0 {
                    *slot = None;
                } else if index == 1 {
                    let room = MAX_CAPTURE.saturating_sub(capture.len());
                    capture.extend_from_slice(&buffer[..count.min(room)]);
                } else {
                    lines.push(&buffer[..count]);
                    for line in lines.complete.drain(..) {
                        remember(&mut self.last_lines, &line);
                        frame::write_json(&mut self.writer, &Message::Output { line })?;
                    }
                    self.writer.flush().map_err(FrameError::from)?;
                }
            }
            if status.is_some() {
                patience -= 1;
                if !heard || patience == 0 {
                    break;
                }
            } else {
                status = reap(pid)?;
            }
        }
        for line in lines.rest() {
            remember(&mut self.last_lines, &line);
            self.say(&Message::Output { line })?;
        }
        Ok(status.expect("the loop ends behind the program"))
    }

    fn time_left(&self) -> Result<Duration, StepError> {
        let Some((deadline, seconds)) = self.deadline else { return Ok(REAP) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(StepError::TimeLimit { seconds }),
        }
    }
}

/// A writer of data frames.
struct Data<'a>(&'a mut Session);

impl Write for Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let piece = &bytes[..bytes.len().min(frame::MAX_PAYLOAD)];
        self.0.show(piece).map_err(std::io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), StepError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).to("make a pipe")
}

/// Collects every process that has ended; as PID 1 we are everyone's parent in the end. Returns how `wanted` ended.
pub(crate) fn reap(wanted: Pid) -> Result<Option<WaitStatus>, StepError> {
    let mut status = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, found))) => {
                if pid == wanted {
                    status = Some(found);
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(status),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).to("wait for a program"),
        }
    }
}

/// Ends every other process of this PID namespace. Only PID 1 may call it.
pub(crate) fn end_everything() {
    if rustix::process::getpid() != Pid::INIT {
        return;
    }
    // kill(-1) is what this is for process 1: everyone but ourselves.
    while rustix::process::kill_process_group(Pid::INIT, rustix::process::Signal::KILL).is_ok() {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn remember(last: &mut VecDeque<String>, line: &str) {
    if last.len() == LAST_LINES {
        last.pop_front();
    }
    last.push_back(line.to_owned());
}

/// Cuts a stream of bytes into lines without secrets; `\r` ends a line too, because progress displays use it.
#[derive(Default)]
struct Lines {
    mask: Mask,
    partial: Vec<u8>,
    /// So many bytes at the beginning of `partial` are known to belong to a secret that began before them.
    hidden: usize,
    complete: Vec<String>,
}

impl Lines {
    fn new(mask: Mask) -> Self {
        Self { mask, ..Self::default() }
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.end();
            } else {
                self.partial.push(byte);
                // A secret at the cut is only known with the bytes that follow.
                if self.partial.len() == MAX_LINE + Mask::OVERLAP {
                    self.cut(MAX_LINE);
                }
            }
        }
    }

    fn end(&mut self) {
        if self.partial.len() > MAX_LINE {
            self.cut(MAX_LINE);
        }
        self.cut(self.partial.len());
        self.hidden = 0;
    }

    /// Hands on the first `at` bytes as a line, and keeps the rest.
    fn cut(&mut self, at: usize) {
        if at == 0 {
            return;
        }
        let mut covered = vec![false; self.partial.len()];
        covered[..self.hidden].fill(true);
        self.mask.cover(&self.partial, &mut covered);
        let line = Mask::hide(&self.partial[..at], &covered[..at]);
        self.complete.push(String::from_utf8_lossy(&line).into_owned());
        self.hidden = covered[at..].iter().take_while(|covered| **covered).count();
        self.partial.drain(..at);
    }

    fn rest(&mut self) -> Vec<String> {
        self.end();
        std::mem::take(&mut self.complete)
    }
}

#[cfg(test)]
mod tests {
    use labwright_core::Secret;

    use super::*;

    #[test]
    fn lines_are_bounded_and_always_text() {
        let mut lines = Lines::default();
        lines.push(b"one\n\ntwo\rthr");
        lines.push(b"ee\xff\n");
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(lines.complete, ["one", "two", "three\u{fffd}"]);
        lines.complete.clear();
        assert_eq!(lines.rest(), [&"x".repeat(MAX_LINE), "x"]);
    }

    #[test]
    fn no_cut_lets_a_secret_through() {
        let secret = Secret::new(b"correct-horse-battery-staple".to_vec()).unwrap();
        for before in MAX_LINE - 60..MAX_LINE + 60 {
            for behind in ["", "z", "a whole line"] {
                let mut lines = Lines::new(Mask::new([&secret]));
                let text = format!("{}correct-horse-battery-staple{behind}", "x".repeat(before));
                // However it is delivered.
                text.as_bytes().chunks(7).for_each(|piece| lines.push(piece));
                let whole = lines.rest().concat();
                assert!(whole.len() <= before + 6 + behind.len(), "{before} {behind} {whole}");
                assert!(!whole.contains(['e', 'c']) || behind.contains('e'), "{before} {behind} {whole}");
            }
        }
    }
}
