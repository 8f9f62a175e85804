//! A shell for a person in the failing state of a step, between a terminal of the host and a pseudo-terminal of the guest.

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
use rustix::termios::Winsize;

use crate::error::{Doing, StepError};
use crate::protocol::{Terminal, WindowSize};
use crate::session::{Session, reap};
use crate::shell_stream;
use crate::terminal::{Raw, window};

/// How often the size of the terminal and the end of the shell are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Where a person sits.
pub(crate) enum Seat {
    /// At a terminal of this host.
    Device(OwnedFd),
    /// At the other end of the protocol's streams.
    Stream(WindowSize),
}

impl Seat {
    /// Opens a host's terminal; this process is in no session that has one, so it may read and change it at any time.
    pub(crate) fn take(terminal: &Terminal) -> Result<Self, StepError> {
        match terminal {
            Terminal::Stream(size) => Ok(Self::Stream(*size)),
            Terminal::Device(path) => {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).doing("open the terminal", path).map(Self::Device)
            }
        }
    }
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
pub(crate) fn offer(session: &mut Session, seat: Seat, reason: &str) -> Result<(), StepError> {
    let words = format!(
        "\n{reason}\nThis is a shell in the disk as the failed step left it. \
         Leave it with `exit` or Ctrl-D: the build then ends as failed, and nothing done here is kept.\n"
    );
    match seat {
        Seat::Device(terminal) => {
            // The last lines that programs printed are still on their way to the same screen.
            std::thread::sleep(TICK);
            let mut screen = File::from(terminal.try_clone().to("take the terminal")?);
            screen.write_all(words.as_bytes()).to("write to the terminal")?;
            let mut size = window(&terminal);
            let mut shell = Shell::start(session, size)?;
            let raw = Raw::new(&terminal).to("prepare the terminal")?;
            let result = bridge(&mut shell, &mut screen, &mut size);
            raw.close().to("put the terminal back")?;
            result
        }
        Seat::Stream(size) => {
            let shell = Shell::start(session, Some(winsize(size)))?;
            shell_stream::carry(session, shell, words)
        }
    }
}

pub(crate) fn winsize(size: WindowSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A shell and our end of its terminal, which never makes us wait.
pub(crate) struct Shell {
    pub(crate) pid: Pid,
    pub(crate) master: File,
}

impl Shell {
    fn start(session: &Session, size: Option<Winsize>) -> Result<Self, StepError> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .to("make a pseudo-terminal")?;
        rustix::pty::unlockpt(&master).to("unlock a pseudo-terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).to("open a pseudo-terminal")?;
        if let Some(size) = size {
            rustix::termios::tcsetwinsize(&master, size).to("set the size of a pseudo-terminal")?;
        }
        let shell = if Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
        let mut command = session.command("/proc/self/exe");
        command.args(["shell", shell]).env("SHELL", shell).env("TERM", "xterm-256color");
        command.env("PS1", "(failed step) \\w # ");
        let streams = (slave.try_clone().to("copy a descriptor")?, slave.try_clone().to("copy a descriptor")?);
        command.stdin(slave).stdout(streams.0).stderr(streams.1);
        let child = command.spawn().map_err(|source| StepError::Start { program: shell.to_owned(), source })?;
        // The command holds the terminal's other end, whose last closing is seen as the end.
        drop(command);
        rustix::io::ioctl_fionbio(&master, true).to("prepare a pseudo-terminal")?;
        Ok(Self { pid: Pid::from_child(&child), master: File::from(master) })
    }

    pub(crate) fn resize(&self, size: Winsize) -> Result<(), StepError> {
        rustix::termios::tcsetwinsize(&self.master, size).to("set the size of a pseudo-terminal")
    }

    /// Types as much as the shell's terminal takes now.
    pub(crate) fn feed(&mut self, typed: &mut Vec<u8>) {
        match self.master.write(typed) {
            Ok(count) => drop(typed.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => typed.clear(),
        }
    }
}

/// Carries bytes both ways until the shell has ended or the terminal is gone.
fn bridge(shell: &mut Shell, screen: &mut File, size: &mut Option<Winsize>) -> Result<(), StepError> {
    let mut typed: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    let mut ended = false;
    loop {
        let (person, program) = poll(screen, &shell.master, typed.is_empty(), ended)?;
        if program.intersects(PollFlags::IN | PollFlags::HUP) {
            match shell.master.read(&mut buffer) {
                // The kernel's way to say that nobody has the other end open.
                Ok(0) | Err(_) if ended => return Ok(()),
                Ok(count) => screen.write_all(&buffer[..count]).to("write to the terminal")?,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        } else if ended {
            return Ok(());
        }
        if program.contains(PollFlags::OUT) && !typed.is_empty() {
            shell.feed(&mut typed);
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
        let now = window(&screen);
        if now != *size
            && let Some(new) = now
        {
            shell.resize(new)?;
            *size = now;
        }
        ended |= reap(shell.pid)?.is_some();
    }
}

/// What happened at the terminal and at the pseudo-terminal; waits for a tick, or not at all once the shell has ended.
fn poll(screen: &File, master: &File, listen: bool, ended: bool) -> Result<(PollFlags, PollFlags), StepError> {
    // Nothing more is read from the person while the shell has not taken what was typed before.
    let (person, program) = if listen { (PollFlags::IN, PollFlags::IN) } else { (PollFlags::empty(), PollFlags::OUT) };
    let program = program | PollFlags::IN;
    let mut fds = [PollFd::from_borrowed_fd(screen.as_fd(), person), PollFd::from_borrowed_fd(master.as_fd(), program)];
    wait(&mut fds, ended)?;
    Ok((fds[0].revents(), fds[1].revents()))
}

/// Waits for a tick, or not at all once the shell has ended.
pub(crate) fn wait(fds: &mut [PollFd<'_>], at_once: bool) -> Result<(), StepError> {
    let timeout = if at_once { Duration::ZERO } else { TICK };
    let timeout = Timespec::try_from(timeout).expect("a tick fits");
    match rustix::event::poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).to("wait for the terminal"),
    }
}
