//! How a command fails: what kind of failure, why, and what to do about it.

mod convert;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use labwright_core::{Cancelled, Diagnostics};

/// Whose concern a failure is; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The recipe or lab is wrong.
    Input,
    /// The command line is wrong.
    Usage,
    /// The host lacks something.
    Host,
    /// A registry, a mirror or a cluster refused.
    Remote,
    /// A build step failed.
    Step,
    /// An audit found what must not be in an image.
    Finding,
    /// What is locked cannot be had, or would have to change and may not.
    Lock,
    /// The reader of stdout went away.
    BrokenPipe,
    /// Labwright has a bug.
    Bug,
    /// A signal stopped the work.
    Stopped,
}

/// The exit codes as `labwright --help` lists them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    the recipe or lab is wrong
  2    the command line is wrong
  3    the host lacks something (see `labwright doctor`)
  4    a registry or another remote refused
  5    a build step failed
  6    an audit found what must not be in an image
  7    labwright.lock does not fit: what it has is gone, or --locked and it would have to change
  70   a bug in Labwright
  130  stopped by a signal";

impl Kind {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            // Whoever reads our output has seen enough; that is no failure.
            Self::BrokenPipe => 0,
            Self::Input => 1,
            Self::Usage => 2,
            Self::Host => 3,
            Self::Remote => 4,
            Self::Step => 5,
            Self::Finding => 6,
            Self::Lock => 7,
            Self::Bug => 70,
            Self::Stopped => 130,
        }
    }
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        Self::from(kind.code())
    }
}

/// A failed command.
#[derive(Debug)]
pub struct CommandError {
    /// Whose concern it is.
    pub kind: Kind,
    /// What was being done, outermost first; may be empty.
    pub context: Vec<String>,
    /// Why.
    pub source: Box<dyn Error + Send + Sync>,
    /// What to do about it.
    pub hints: Vec<String>,
}

/// A failure that has no cause but its own sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Sentence(pub String);

impl CommandError {
    /// A failure with its cause.
    pub fn new(kind: Kind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, context: Vec::new(), source: source.into(), hints: Vec::new() }
    }

    /// A failure that one sentence explains: a lower-case fragment without a final period.
    pub fn sentence(kind: Kind, text: impl Into<String>) -> Self {
        Self::new(kind, Sentence(text.into()))
    }

    /// Says what was being done.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        self.context.insert(0, text.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hints.push(text.into());
        self
    }

    /// The same failure, of work that was asked to stop.
    #[must_use]
    pub fn stopped(self) -> Self {
        match self.kind {
            // What failed on its own account before or while stopping is still worth its words.
            Kind::Bug | Kind::BrokenPipe => self,
            _ => Self { hints: Vec::new(), ..Self::new(Kind::Stopped, Cancelled) },
        }
    }

    /// The mistakes in a file that are the cause, if that is the cause.
    pub fn diagnostics(&self) -> Option<&Diagnostics> {
        self.source.downcast_ref()
    }

    /// What was being done and each cause, outermost first, each said once.
    pub fn chain(&self) -> Vec<String> {
        let mut lines = self.context.clone();
        let mut next: Option<&(dyn Error + 'static)> = Some(self.source.as_ref());
        while let Some(error) = next {
            let text = error.to_string();
            // Some foreign errors repeat their source in their own text.
            if lines.last().is_none_or(|last| !last.ends_with(&text)) {
                lines.push(text);
            }
            next = error.source();
        }
        lines
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain().join(": "))
    }
}

impl Error for CommandError {}

impl From<Diagnostics> for CommandError {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::new(Kind::Input, diagnostics)
    }
}

#[cfg(test)]
mod tests {
    use labwright_host::{Tool, ToolError};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not read `/x`")]
    struct Outer {
        source: std::io::Error,
    }

    #[test]
    fn each_cause_is_said_once() {
        let source = std::io::Error::other(Sentence("no such device".to_owned()));
        let error = CommandError::new(Kind::Host, Outer { source }).context("could not look at the host");
        assert_eq!(error.chain(), ["could not look at the host", "could not read `/x`", "no such device"]);
    }

    #[test]
    fn a_missing_tool_is_the_hosts_concern_and_names_its_package() {
        let error = CommandError::from(ToolError::Missing { tool: Tool::Mcopy });
        assert_eq!(error.kind.code(), 3);
        assert_eq!(error.chain(), ["`mcopy` is not installed (package mtools)"]);
        assert_eq!(
            error.hints,
            ["install it with `apt-get install mtools`; `labwright doctor` lists what else is missing"]
        );
    }

    #[test]
    fn the_help_lists_the_codes_that_are_used() {
        for kind in [
            Kind::Input,
            Kind::Usage,
            Kind::Host,
            Kind::Remote,
            Kind::Step,
            Kind::Finding,
            Kind::Lock,
            Kind::Bug,
            Kind::Stopped,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {:<5}", kind.code())), "{kind:?}");
        }
    }
}
