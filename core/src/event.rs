use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that happened during long work, told to whoever watches.
///
/// Libraries emit events and never print; the command line decides how they look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A named piece of work begins.
    Started {
        /// What begins, for people (`packages`, `push`).
        step: String,
    },
    /// The piece of work that began last under this name is done.
    Finished {
        /// The name given when it began.
        step: String,
        /// What came of it, for people (`cached`, `412.0 MiB`); empty if there is nothing to say.
        outcome: String,
    },
    /// A line that a program in the guest printed.
    Output {
        /// The line, without its end.
        line: String,
    },
    /// Bytes of a transfer or conversion.
    Progress {
        /// What moves (`layer sha256:…`); the same text for all events of one transfer.
        task: String,
        /// Bytes done so far.
        done: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// Something good to know.
    Note(String),
    /// Something that is likely not what the user wants.
    Warning(String),
}

/// Receives events. Must not block for long: the work waits meanwhile.
pub trait Reporter: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

impl fmt::Debug for dyn Reporter + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter")
    }
}

/// A reporter that drops everything, for tests and for callers who do not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Reporter for Quiet {
    fn event(&self, _: Event) {}
}
