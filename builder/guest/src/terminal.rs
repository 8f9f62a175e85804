//! A terminal of the host, lent to a shell of the guest.

use std::io;
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, Winsize};

/// The size of a terminal; none where it has none.
pub fn window(terminal: &impl AsFd) -> Option<Winsize> {
    rustix::termios::tcgetwinsize(terminal).ok().filter(|size| size.ws_col > 0)
}

/// A terminal without a line discipline of its own: the shell's pseudo-terminal has one. Put back when closed, or when
/// dropped.
#[derive(Debug)]
pub struct Raw<'a, Fd: AsFd> {
    terminal: &'a Fd,
    before: Termios,
    closed: bool,
}

impl<'a, Fd: AsFd> Raw<'a, Fd> {
    /// Takes the line discipline away.
    pub fn new(terminal: &'a Fd) -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before, closed: false })
    }

    /// Puts everything back.
    pub fn close(mut self) -> io::Result<()> {
        self.closed = true;
        Ok(rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before)?)
    }
}

impl<Fd: AsFd> Drop for Raw<'_, Fd> {
    fn drop(&mut self) {
        if !self.closed {
            // Only on the way out of another error, which is the one to tell.
            let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
        }
    }
}
