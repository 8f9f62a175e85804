//! The person's terminal, lent to a shell in the machine: what is typed and shown travels over the stream that the step
//! is spoken on.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use labwright_guest::frame::{self, Frame, FrameError};
use labwright_guest::protocol::{Message, Seat as Word, TYPED_PIECE, WindowSize};
use labwright_guest::terminal::{Raw, window};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};

use super::link::Watch;

/// How often the size of the terminal is looked at, and whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// What a terminal without a size of its own is taken for.
const USUAL: WindowSize = WindowSize { rows: 24, columns: 80 };

/// A terminal that may be lent.
#[derive(Debug)]
pub(crate) struct Seat(File);

impl Seat {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| io::Error::new(error.kind(), format!("could not open {}: {error}", path.display())))?;
        Ok(Self(File::from(terminal)))
    }

    pub(crate) fn size(&self) -> WindowSize {
        window(&self.0).map_or(USUAL, |size| WindowSize { rows: size.ws_row, columns: size.ws_col })
    }

    /// Lends the terminal until the shell has ended. The step's time does not go on meanwhile; `after` is what it may
    /// take from then on.
    ///
    /// `reader` must not read ahead: `stream` tells whether there is something to read.
    pub(crate) fn lend(
        &self,
        words: &str,
        stream: &UnixStream,
        watch: &Rc<RefCell<Watch<'_>>>,
        after: Duration,
        (writer, reader): (&mut dyn Write, &mut dyn Read),
    ) -> Result<(), FrameError> {
        watch.borrow_mut().begin_anew(Duration::MAX);
        let mut screen = &self.0;
        screen.write_all(words.as_bytes())?;
        let raw = Raw::new(&self.0)?;
        let mut there = true;
        self.carry(stream, watch, (&mut *writer, reader), &mut there)?;
        if there {
            frame::write_json(writer, &Word::Left)?;
        }
        raw.close()?;
        watch.borrow_mut().begin_anew(after);
        Ok(())
    }

    /// Carries bytes both ways until the shell has ended. `there` becomes false when the terminal is gone.
    fn carry(
        &self,
        stream: &UnixStream,
        watch: &Rc<RefCell<Watch<'_>>>,
        (writer, reader): (&mut dyn Write, &mut dyn Read),
        there: &mut bool,
    ) -> Result<(), FrameError> {
        let mut screen = &self.0;
        let mut size = self.size();
        // One piece at a time is on its way.
        let mut listens = true;
        loop {
            watch.borrow_mut().go_on()?;
            if self.size() != size && *there {
                size = self.size();
                frame::write_json(writer, &Word::Resized(size))?;
            }
            let (person, machine) = self.poll(stream, listens && *there)?;
            if !machine.is_empty() {
                match frame::read(reader)? {
                    // A terminal that is gone shows nothing, and is seen below.
                    Frame::Data(bytes) => drop(screen.write_all(&bytes)),
                    Frame::Json(json) => {
                        match serde_json::from_slice(&json).map_err(|source| FrameError::Json { source })? {
                            Message::ShellTook => listens = true,
                            Message::ShellClosed => return Ok(()),
                            _ => return Err(FrameError::Unexpected),
                        }
                    }
                }
            }
            if !person.is_empty() && *there {
                let mut piece = [0; TYPED_PIECE];
                match screen.read(&mut piece) {
                    Ok(count @ 1..) => {
                        frame::write_data(writer, &piece[..count])?;
                        listens = false;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // The terminal is gone, and so is whoever sat at it.
                    Ok(_) | Err(_) => {
                        frame::write_json(writer, &Word::Left)?;
                        *there = false;
                    }
                }
            }
        }
    }

    /// What happened at the terminal and at the machine; waits for a tick.
    fn poll(&self, stream: &UnixStream, listens: bool) -> io::Result<(PollFlags, PollFlags)> {
        let machine = PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN);
        let person = PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN);
        let mut fds = [machine, person];
        // A terminal that hung up is ready for ever, so it is left out while it is not listened to.
        let count = if listens { 2 } else { 1 };
        let timeout = Timespec::try_from(TICK).expect("a tick fits");
        match rustix::event::poll(&mut fds[..count], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let person = if listens { fds[1].revents() } else { PollFlags::empty() };
        Ok((person, fds[0].revents()))
    }
}
