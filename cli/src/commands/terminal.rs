//! The terminal that a person sits at, lent to a shell in a failed step.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::termios::{OptionalActions, Termios};

use crate::error::{CommandError, Kind};

/// The terminal on stdin, as it was; put back when dropped, since a shell that is killed leaves it without an echo.
#[derive(Debug)]
pub(super) struct Terminal {
    path: PathBuf,
    before: Termios,
}

impl Terminal {
    /// Notes the state of the terminal on stdin; an error if there is none.
    pub(super) fn take() -> Result<Self, CommandError> {
        let stdin = rustix::stdio::stdin();
        let found = rustix::termios::tcgetattr(stdin)
            .and_then(|before| Ok((before, rustix::termios::ttyname(stdin, Vec::new())?)));
        let (before, name) = found.map_err(|error| {
            CommandError::new(Kind::Usage, std::io::Error::from(error))
                .context("`--on-error shell` needs a terminal on stdin")
        })?;
        Ok(Self { path: OsString::from_vec(name.into_bytes()).into(), before })
    }

    /// The device (`/dev/pts/3`).
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that went away needs nothing any more.
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
