//! A shell whose terminal is at the other end of the protocol's streams: in a machine, there is no other way out.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::error::StepError;
use crate::frame::{Frame, FrameError};
use crate::protocol::{Message, Seat};
use crate::session::{Session, reap};
use crate::shell::{Shell, wait, winsize};

/// Carries bytes both ways until the shell has ended or the person is gone; both sides know then that it is over.
pub(crate) fn carry(session: &mut Session, shell: Shell, words: String) -> Result<(), StepError> {
    session.say(&Message::ShellOpened { words })?;
    let mut person = Person::default();
    let result = bridge(session, shell, &mut person);
    // What was typed while the shell ended is still on its way, and what follows on the stream is no terminal's.
    if result.is_ok() || person.left {
        session.say(&Message::ShellClosed)?;
        while !person.left {
            person.hear(session.hear()?, None)?;
        }
    }
    result
}

/// What came from the host.
#[derive(Default)]
struct Person {
    /// What the shell has not taken yet.
    typed: Vec<u8>,
    /// Whether the host waits for a word that it was taken.
    waits: bool,
    left: bool,
}

impl Person {
    fn hear(&mut self, frame: Frame, shell: Option<&Shell>) -> Result<(), StepError> {
        match frame {
            Frame::Data(bytes) => {
                self.typed = bytes;
                self.waits = true;
            }
            Frame::Json(json) => match serde_json::from_slice(&json).map_err(|source| FrameError::Json { source })? {
                Seat::Resized(size) => {
                    if let Some(shell) = shell {
                        shell.resize(winsize(size))?;
                    }
                }
                Seat::Left => self.left = true,
            },
        }
        Ok(())
    }
}

fn bridge(session: &mut Session, mut shell: Shell, person: &mut Person) -> Result<(), StepError> {
    let mut buffer = vec![0; 16 << 10];
    let mut ended = false;
    loop {
        let (host, program) = poll(session, &shell, person.typed.is_empty(), ended)?;
        if program.intersects(PollFlags::IN | PollFlags::HUP) {
            match shell.master.read(&mut buffer) {
                // The kernel's way to say that nobody has the other end open.
                Ok(0) | Err(_) if ended => return Ok(()),
                Ok(count) => session.show(&buffer[..count])?,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        } else if ended {
            return Ok(());
        }
        if !host.is_empty() {
            person.hear(session.hear()?, Some(&shell))?;
            if person.left {
                return Ok(());
            }
        }
        if program.contains(PollFlags::OUT) && !person.typed.is_empty() {
            shell.feed(&mut person.typed);
        }
        if person.waits && person.typed.is_empty() {
            session.say(&Message::ShellTook)?;
            person.waits = false;
        }
        ended |= reap(shell.pid)?.is_some();
    }
}

/// What happened at the host and at the pseudo-terminal.
fn poll(session: &Session, shell: &Shell, taken: bool, ended: bool) -> Result<(PollFlags, PollFlags), StepError> {
    let program = if taken { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
    let program = PollFd::from_borrowed_fd(shell.master.as_fd(), program);
    if let Some(input) = session.silent_input() {
        let mut fds = [program, PollFd::from_borrowed_fd(input, PollFlags::IN)];
        wait(&mut fds, ended)?;
        Ok((fds[1].revents(), fds[0].revents()))
    } else {
        let mut fds = [program];
        wait(&mut fds, true)?;
        Ok((PollFlags::IN, fds[0].revents()))
    }
}
