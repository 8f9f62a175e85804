//! A shell for a person in the failing state of a step, between the host's terminal and a pseudo-terminal of the guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::error::{Doing, StepError};
use crate::session::{Session, reap};

/// How often the size of the terminal and the end of the shell are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Opens the host's terminal; this process is in no session that has one, so it may read and change it at any time.
pub(crate) fn open_terminal(path: &Path) -> Result<OwnedFd, StepError> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).doing("open the terminal", path)
}

/// The program in its third role: takes the terminal on stdin for its own and becomes the shell.
///
/// Doing this in a process of its own needs no code between fork and exec.
pub(crate) fn become_shell(shell: &str) -> ExitCode {
    if rustix::process::setsid().is_ok() && rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).is_ok() {
        #[expect(clippy::disallowed_methods, reason = "inside the guest, this program starts programs")]
        let error = std::process::Command::new(shell).exec();
        drop(writeln!(io::stderr(), "could not start {shell}: {error}"));
    }
    ExitCode::FAILURE
}

/// Lets a person look around and waits until they leave.
pub(crate) fn offer(session: &Session, terminal: &OwnedFd, reason: &str) -> Result<(), StepError> {
    // The last lines that programs printed are still on their way to the same screen.
    std::thread::sleep(TICK);
    let mut screen = File::from(terminal.try_clone().to("take the terminal")?);
    let words = format!(
        "\n{reason}\nThis is a shell in the disk as the failed step left it. \
         Leave it with `exit` or Ctrl-D: the build then ends as failed, and nothing done here is kept.\n"
    );
    screen.write_all(words.as_bytes()).to("write to the terminal")?;
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .to("make a pseudo-terminal")?;
    rustix::pty::unlockpt(&master).to("unlock a pseudo-terminal")?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .to("open a pseudo-terminal")?;
    let mut size = window(terminal);
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&master, size).to("set the size of a pseudo-terminal")?;
    }
    let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    let mut command = session.command("/proc/self/exe");
    command.args(["shell", shell]).env("SHELL", shell).env("TERM", "xterm-256color").env("PS1", "(failed step) \\w # ");
    let streams = (slave.try_clone().to("copy a descriptor")?, slave.try_clone().to("copy a descriptor")?);
    command.stdin(slave).stdout(streams.0).stderr(streams.1);
    let child = command.spawn().map_err(|source| StepError::Start { program: shell.to_owned(), source })?;
    // It holds the terminal's other end, whose last closing is seen as the end.
    drop(command);
    rustix::io::ioctl_fionbio(&master, true).to("prepare a pseudo-terminal")?;
    let raw = Raw::new(terminal)?;
    let result = bridge(Pid::from_child(&child), &mut screen, &mut File::from(master), &mut size);
    raw.close()?;
    result
}

fn window(terminal: &OwnedFd) -> Option<Winsize> {
    rustix::termios::tcgetwinsize(terminal).ok().filter(|size| size.ws_col > 0)
}

/// Carries bytes both ways until the shell has ended or the terminal is gone.
fn bridge(shell: Pid, screen: &mut File, master: &mut File, size: &mut Option<Winsize>) -> Result<(), StepError> {
    let mut typed: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let mut ended = false;
    loop {
        let (person, program) = poll(screen, master, typed.is_empty(), ended)?;
        if program.intersects(PollFlags::IN | PollFlags::HUP) {
            match master.read(&mut buffer) {
                // The kernel's way to say that nobody has the other end open.
                Ok(0) | Err(_) if ended => return Ok(()),
                Ok(count) => screen.write_all(&buffer[..count]).to("write to the terminal")?,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        } else if ended {
            return Ok(());
        }
        if program.contains(PollFlags::OUT) && !typed.is_empty() {
            match master.write(&typed) {
                Ok(count) => drop(typed.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => typed.clear(),
            }
        }
        if person.contains(PollFlags::IN) {
            match screen.read(&mut buffer) {
                Ok(count @ 1..) => typed.extend_from_slice(&buffer[..count]),
                // The terminal is gone, and so is whoever sat at it.
                Ok(_) | Err(_) => return Ok(()),
            }
        } else if person.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(());
        }
        let now = window_of(screen);
        if now != *size
            && let Some(new) = now
        {
            rustix::termios::tcsetwinsize(&*master, new).to("set the size of a pseudo-terminal")?;
            *size = now;
        }
        ended |= reap(shell)?.is_some();
    }
}

fn window_of(screen: &File) -> Option<Winsize> {
    rustix::termios::tcgetwinsize(screen).ok().filter(|size| size.ws_col > 0)
}

/// What happened at the terminal and at the pseudo-terminal; waits for a tick, or not at all once the shell has ended.
fn poll(screen: &File, master: &File, listen: bool, ended: bool) -> Result<(PollFlags, PollFlags), StepError> {
    let timeout = if ended { Duration::ZERO } else { TICK };
    let timeout = Timespec::try_from(timeout).expect("a tick fits");
    // Nothing more is read from the person while the shell has not taken what was typed before.
    let (person, program) = if listen { (PollFlags::IN, PollFlags::IN) } else { (PollFlags::empty(), PollFlags::OUT) };
    let program = program | PollFlags::IN;
    let mut fds = [PollFd::from_borrowed_fd(screen.as_fd(), person), PollFd::from_borrowed_fd(master.as_fd(), program)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok((fds[0].revents(), fds[1].revents())),
        Err(error) => Err(error).to("wait for the terminal"),
    }
}

/// The terminal without a line discipline of its own; put back when closed, or when dropped.
struct Raw<'a> {
    terminal: &'a OwnedFd,
    before: Termios,
    closed: bool,
}

impl<'a> Raw<'a> {
    fn new(terminal: &'a OwnedFd) -> Result<Self, StepError> {
        let before = rustix::termios::tcgetattr(terminal).to("look at the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw).to("prepare the terminal")?;
        Ok(Self { terminal, before, closed: false })
    }

    fn close(mut self) -> Result<(), StepError> {
        self.closed = true;
        rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before).to("put the terminal back")
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        if !self.closed {
            // Only on the way out of another error, which is the one to tell.
            let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
        }
    }
}
