//! The builder's side of the chroot runner: starts a worker and gives it orders.

use std::io::{self, BufReader};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use labwright_core::{Cancel, Cancelled, NamedSecret, Reporter};
use labwright_guest::audit::Finding;
use labwright_host::{Peer, ToolError};

use super::wire::{self, Failure, Flattened, Open, Opened, Order, Reply};
use crate::vm::VmError;

/// Why a runner did not carry out an order.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The worker could not be started.
    #[error("could not start a worker in namespaces of its own (this needs root)")]
    Start(#[source] ToolError),
    /// The connection to the worker broke.
    #[error("the build worker ended without an answer")]
    Broken(#[source] Option<io::Error>),
    /// The worker answered something that does not fit the order: the two sides are not of one version.
    #[error("the build worker gave an answer to another question")]
    Confused,
    /// The order failed.
    #[error("{}", chain.first().map_or("the build worker failed", String::as_str))]
    Failed {
        /// What kind of failure.
        kind: wire::FailureKind,
        /// What went wrong and why, outermost first.
        chain: Vec<String>,
    },
    /// The machine of the vm runner failed.
    #[error(transparent)]
    Machine(Box<VmError>),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl SessionError {
    /// Why the disk can be opened by the vm runner only, if that is what went wrong: a fragment for people.
    pub(crate) fn needs_machine(&self) -> Option<&str> {
        match self {
            Self::Failed { kind: wire::FailureKind::NeedsMachine, chain } => chain.last().map(String::as_str),
            _ => None,
        }
    }
}

/// A disk that is open for building, in a worker's namespaces.
#[derive(Debug)]
pub(crate) struct Session {
    // Dropped in this order: closing stdin makes the worker end, then it is waited for.
    orders: Option<ChildStdin>,
    replies: Receiver<io::Result<Reply>>,
    worker: Peer,
}

impl Session {
    /// Starts a worker, which is `program` called in a way that no person does, and opens the disk in it.
    pub(crate) fn open(
        program: &Path,
        open: Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, Opened), SessionError> {
        let mut session = Self::start(program)?;
        match session.order(&Order::Open(open), reporter, cancel)? {
            Reply::Opened(opened) => Ok((session, opened)),
            _ => Err(SessionError::Confused),
        }
    }

    /// Has a worker look for what must not be in an image.
    pub(crate) fn audit(
        program: &Path,
        audit: wire::Audit,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<Finding>, SessionError> {
        let mut session = Self::start(program)?;
        match session.order(&Order::Audit(audit), reporter, cancel)? {
            Reply::Audited(findings) => {
                session.close(reporter)?;
                Ok(findings)
            }
            _ => Err(SessionError::Confused),
        }
    }

    /// Has a worker write the tree of a disk as a tar archive.
    pub(crate) fn archive(
        program: &Path,
        archive: wire::Archive,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), SessionError> {
        let mut session = Self::start(program)?;
        session.expect_done(&Order::Archive(archive), reporter, cancel)?;
        session.close(reporter)
    }

    fn start(program: &Path) -> Result<Self, SessionError> {
        let mut worker = Peer::worker(program, &[wire::OUTER]).map_err(SessionError::Start)?;
        let (orders, replies) = worker.pipes().ok_or(SessionError::Confused)?;
        Ok(Self { orders: Some(orders), replies: listen(replies), worker })
    }

    pub(crate) fn grow(&mut self, reporter: &dyn Reporter, cancel: &Cancel) -> Result<(), SessionError> {
        self.expect_done(&Order::Grow, reporter, cancel)
    }

    pub(crate) fn step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<serde_json::Value>, SessionError> {
        match self.order(&Order::Step(Box::new(step)), reporter, cancel)? {
            Reply::Ran(reports) => Ok(reports),
            _ => Err(SessionError::Confused),
        }
    }

    pub(crate) fn commit(
        &mut self,
        next: &Path,
        finished_as: String,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), SessionError> {
        self.expect_done(&Order::Commit { next: next.to_owned(), finished_as }, reporter, cancel)
    }

    pub(crate) fn search(
        &mut self,
        secrets: Vec<NamedSecret>,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<wire::Leak>, SessionError> {
        match self.order(&Order::Search(secrets), reporter, cancel)? {
            Reply::Searched(leaks) => Ok(leaks),
            _ => Err(SessionError::Confused),
        }
    }

    pub(crate) fn flatten(
        &mut self,
        destination: &Path,
        compression: wire::Compression,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Flattened, SessionError> {
        match self.order(&Order::Flatten { destination: destination.to_owned(), compression }, reporter, cancel)? {
            Reply::Flattened(flattened) => Ok(flattened),
            _ => Err(SessionError::Confused),
        }
    }

    /// Lets go of the disk and waits for the worker's end.
    pub(crate) fn close(mut self, reporter: &dyn Reporter) -> Result<(), SessionError> {
        // Letting go is quick, and stopping half-way would leave nothing better behind.
        self.expect_done(&Order::Close, reporter, &Cancel::new())?;
        drop(self.orders.take());
        self.worker.wait().map_err(SessionError::Start)?;
        Ok(())
    }

    fn expect_done(&mut self, order: &Order, reporter: &dyn Reporter, cancel: &Cancel) -> Result<(), SessionError> {
        match self.order(order, reporter, cancel)? {
            Reply::Done => Ok(()),
            _ => Err(SessionError::Confused),
        }
    }

    fn order(&mut self, order: &Order, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Reply, SessionError> {
        cancel.check()?;
        let orders = self.orders.as_mut().ok_or(SessionError::Broken(None))?;
        wire::send(orders, order).map_err(|error| SessionError::Broken(Some(error)))?;
        loop {
            match self.replies.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(Reply::Event(event))) => reporter.event(event),
                Ok(Ok(Reply::Failed(Failure { kind, chain }))) => return Err(SessionError::Failed { kind, chain }),
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) => return Err(SessionError::Broken(Some(error))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(SessionError::Broken(None)),
            }
            if let Err(cancelled) = cancel.check() {
                // Its stdin closed, the worker ends at once and takes everything with it.
                drop(self.orders.take());
                return Err(cancelled.into());
            }
        }
    }
}

/// Reads replies on a thread of its own, so that waiting for one can look at `cancel` meanwhile.
fn listen(mut from: BufReader<ChildStdout>) -> Receiver<io::Result<Reply>> {
    // A flood of output waits in the pipe, not in memory.
    let (sender, receiver) = mpsc::sync_channel(256);
    std::thread::spawn(move || {
        loop {
            match wire::receive(&mut from) {
                Ok(None) => break,
                Ok(Some(reply)) => {
                    if sender.send(Ok(reply)).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    drop(sender.send(Err(error)));
                    break;
                }
            }
        }
    });
    receiver
}
