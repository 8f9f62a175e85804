//! The stream to the appliance: every wait ends when the machine does, when stopping is asked for, or in time.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use labwright_core::Cancel;
use labwright_vm::RunningMachine;

use super::session::VmError;

/// How often a waiting call looks whether it should go on.
const POLL: Duration = Duration::from_millis(50);

/// How long a machine may take to end once it has closed the stream.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How many lines of the console an error shows.
const CONSOLE_LINES: usize = 20;

/// What every wait looks at.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    machine: &'a mut RunningMachine,
    cancel: &'a Cancel,
    /// What is being waited for, as in "did not …".
    what: &'static str,
    limit: Duration,
    /// When waiting ends; none: not by the clock.
    end: Option<Instant>,
    /// Why the stream was given up.
    stopped: Option<VmError>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        machine: &'a mut RunningMachine,
        cancel: &'a Cancel,
        what: &'static str,
        limit: Duration,
    ) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            machine,
            cancel,
            what,
            limit,
            end: Instant::now().checked_add(limit),
            stopped: None,
        }))
    }

    /// Why the stream was given up, or broke: a machine that ends closes it a moment before.
    pub(crate) fn stopped(&mut self) -> Option<VmError> {
        let end = Instant::now() + LAST_WORDS;
        loop {
            if let Some(stopped) = self.stopped.take() {
                return Some(stopped);
            }
            if let Err(error) = self.machine.check() {
                return Some(error.into());
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits for `limit` from now on, whatever was said before.
    pub(crate) fn begin_anew(&mut self, limit: Duration) {
        self.limit = limit;
        self.end = Instant::now().checked_add(limit);
    }

    fn check(&mut self) -> Result<(), VmError> {
        self.cancel.check()?;
        self.machine.check()?;
        if self.end.is_some_and(|end| Instant::now() > end) {
            let console = self.machine.console_tail(CONSOLE_LINES);
            return Err(VmError::Silent { what: self.what, seconds: self.limit.as_secs(), console });
        }
        Ok(())
    }

    /// An error for the caller of `read` or `write`; the reason is kept.
    pub(crate) fn go_on(&mut self) -> io::Result<()> {
        self.check().map_err(|error| {
            let text = io::Error::other(error.to_string());
            self.stopped = Some(error);
            text
        })
    }
}

/// One direction of the stream.
#[derive(Debug)]
pub(crate) struct End<'a> {
    stream: &'a UnixStream,
    watch: Rc<RefCell<Watch<'a>>>,
    /// When the watch looked last: a stream that never pauses must not keep it from that.
    looked: Instant,
}

impl<'a> End<'a> {
    pub(crate) fn new(stream: &'a UnixStream, watch: &Rc<RefCell<Watch<'a>>>) -> io::Result<Self> {
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(POLL))?;
        Ok(Self { stream, watch: Rc::clone(watch), looked: Instant::now() })
    }

    fn patiently(&mut self, mut call: impl FnMut(&mut &UnixStream) -> io::Result<usize>) -> io::Result<usize> {
        if self.looked.elapsed() > POLL {
            self.watch.borrow_mut().go_on()?;
            self.looked = Instant::now();
        }
        loop {
            match call(&mut self.stream) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                    ) =>
                {
                    self.watch.borrow_mut().go_on()?;
                }
                result => return result,
            }
        }
    }
}

impl Read for End<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.read(buffer))
    }
}

impl Write for End<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
