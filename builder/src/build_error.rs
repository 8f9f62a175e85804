//! Why a build, a look at a finished disk or a bootstrap failed.

use std::io;
use std::path::PathBuf;

use labwright_core::Cancelled;

use crate::chroot::{Leak, SessionError};
use crate::home::HomeError;
use crate::layers::LayerError;
use crate::plan::StepKind;

/// Why a finished disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A directory of the builder cannot be used; the source has the path.
    #[error("could not make a place to look at the disk")]
    Work(#[from] io::Error),
    /// The disk could not be opened, mounted or read.
    #[error("could not look at the disk")]
    Disk(#[from] SessionError),
}

/// Why a machine did not install the packages of a base.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A directory of the builder cannot be used; the source has the path.
    #[error("could not make a place for the machine")]
    Work(#[from] io::Error),
    /// The machine, or what ran in it, failed.
    #[error("could not install the packages of the base in a machine")]
    Machine(#[from] SessionError),
}

/// Why a disk could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("step `{}` failed{}", step.as_str(), excerpt(tail))]
    Step {
        /// The step.
        step: StepKind,
        /// The build's log.
        log: PathBuf,
        /// The last lines that were printed in the guest.
        tail: Vec<String>,
        /// Why.
        source: SessionError,
    },
    /// A secret that the recipe names was not given.
    #[error("the recipe needs the secret `{name}`")]
    NoSecret {
        /// Its name.
        name: String,
    },
    /// The finished disk holds secrets of the build.
    #[error("the disk holds what must not be in an image: {}", list(leaks))]
    Leaked {
        /// Which, and where.
        leaks: Vec<Leak>,
        /// The build's log.
        log: PathBuf,
    },
    /// The disk could not be opened, mounted or written.
    #[error("could not build on the disk")]
    Disk {
        /// The build's log.
        log: PathBuf,
        /// Why.
        source: SessionError,
    },
    /// The versions of packages could not be written down.
    #[error("could not write down which packages were installed")]
    Lock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cache failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// A directory of the builder cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl ReadError {
    /// Why the disk can be looked at by the vm runner only, if that is what went wrong: a fragment for people.
    pub fn needs_machine(&self) -> Option<&str> {
        match self {
            Self::Disk(source) => source.needs_machine(),
            Self::Work(_) => None,
        }
    }
}

impl BuildError {
    /// Why the disk can be built on by the vm runner only, if that is what went wrong: a fragment for people. No step was
    /// run then.
    pub fn needs_machine(&self) -> Option<&str> {
        match self {
            Self::Disk { source, .. } => source.needs_machine(),
            _ => None,
        }
    }
}

fn excerpt(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("; its last lines:\n    {}", tail.join("\n    ")) }
}

fn list(leaks: &[Leak]) -> String {
    /// So many are named.
    const NAMED: usize = 20;
    let mut lines: Vec<String> = leaks
        .iter()
        .take(NAMED)
        .map(|leak| format!("\n    the secret `{}` {} in {}", leak.secret, leak.encoding, leak.place))
        .collect();
    if leaks.len() > NAMED {
        lines.push(format!("\n    and {} more", leaks.len() - NAMED));
    }
    lines.concat()
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Layers(LayerError::Io(error))
    }
}
