//! Where steps run. The engine gives the same orders to every runner and does not know which one it drives.

use std::path::Path;

use labwright_core::{Cancel, NamedSecret, Reporter};

use crate::chroot::session::Session as ChrootSession;
use crate::chroot::{Leak, SessionError, wire};

/// A way to run steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Runner {
    /// In namespaces of the host, at native speed. Needs root.
    #[default]
    Chroot,
}

/// A disk that is open for building.
#[derive(Debug)]
pub(crate) enum Session {
    /// In a worker's namespaces.
    Chroot(ChrootSession),
}

impl Session {
    /// Opens a disk. `program` is this program, which some runners start anew.
    pub(crate) fn open(
        runner: &Runner,
        program: &Path,
        open: wire::Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, wire::Opened), SessionError> {
        match runner {
            Runner::Chroot => {
                let (session, opened) = ChrootSession::open(program, open, reporter, cancel)?;
                Ok((Self::Chroot(session), opened))
            }
        }
    }

    /// Grows the root partition and its file system to the size of the disk.
    pub(crate) fn grow(&mut self, reporter: &dyn Reporter, cancel: &Cancel) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.grow(reporter, cancel),
        }
    }

    /// Runs a step in the root file system and returns what the guest reported.
    pub(crate) fn step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<serde_json::Value>, SessionError> {
        match self {
            Self::Chroot(session) => session.step(step, reporter, cancel),
        }
    }

    /// Finishes the overlay being written and goes on in `next`, which records the finished one as `finished_as`.
    /// What the file system has freed is dropped from the overlay first.
    pub(crate) fn commit(
        &mut self,
        next: &Path,
        finished_as: String,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.commit(next, finished_as, reporter, cancel),
        }
    }

    /// Looks for secrets in the finished disk.
    pub(crate) fn search(
        &mut self,
        secrets: Vec<NamedSecret>,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<Leak>, SessionError> {
        match self {
            Self::Chroot(session) => session.search(secrets, reporter, cancel),
        }
    }

    /// Writes the disk as one compressed qcow2 file.
    pub(crate) fn flatten(
        &mut self,
        destination: &Path,
        compression: wire::Compression,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<wire::Flattened, SessionError> {
        match self {
            Self::Chroot(session) => session.flatten(destination, compression, reporter, cancel),
        }
    }

    /// Lets go of the disk.
    pub(crate) fn close(self, reporter: &dyn Reporter) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.close(reporter),
        }
    }
}
