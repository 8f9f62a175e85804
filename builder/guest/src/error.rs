use std::io;
use std::path::PathBuf;

use crate::audit::Finding;
use crate::frame::FrameError;
use crate::seal::SealError;

/// Why a step cannot be done, in the guest's own words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error("could not {what} {}", path.display())]
    Path {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Talk(#[from] FrameError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("could not start `{program}`")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    /// A command of the recipe, by its number and its beginning: scripts are too long, and most look alike.
    #[error("command {number} (`{text}`) failed")]
    Command { number: usize, text: String, source: Box<Self> },
    #[error("`{program}` ended with exit status {status}")]
    Exit { program: String, status: i32 },
    #[error("`{program}` was ended by signal {signal}")]
    Signal { program: String, signal: i32 },
    #[error("the time limit of {seconds} s is over")]
    TimeLimit { seconds: u64 },
    #[error("there is no user `{name}` in the guest")]
    NoUser { name: String },
    #[error("there is no group `{name}` in the guest")]
    NoGroup { name: String },
    #[error("the guest lacks {path}, which is needed to {purpose}")]
    Missing { path: String, purpose: &'static str },
    #[error("{what} `{value}` is not valid: {rule}")]
    Invalid { what: &'static str, value: String, rule: &'static str },
    #[error("{} is a directory", path.display())]
    IsDirectory { path: PathBuf },
    #[error("the host could not send the file: {reason}")]
    HostAbort { reason: String },
    #[error("the host sent {found} bytes of a file of {expected}")]
    FileSize { expected: u64, found: u64 },
    #[error("no package source of the guest has the suite `{codename}` of its own distribution")]
    NoMirror { codename: String },
    #[error("`{package}` is in none of the guest's package sources, and {distribution} has no suite to take it from")]
    NoOtherSuite { package: String, distribution: String },
    #[error("`{package}` was installed as {version}, where apt had chosen {expected}")]
    WrongVersion { package: String, version: String, expected: String },
    #[error("apt does not say which {what} `{package}` has")]
    NoPackageFact { package: String, what: &'static str },
    #[error("apt says `{line}` of a package that it would fetch, which cannot be read")]
    Uri { line: String },
    #[error("packages cannot be installed in their locked versions: {}", first(problems))]
    NotAsLocked { problems: Vec<String> },
    #[error("packages cannot be installed in their locked versions together")]
    LockedConflict { source: Box<Self> },
    #[error("packages that are not locked would be installed: {}", first(packages))]
    NotLocked { packages: Vec<String> },
    #[error(
        "{} would boot from `root={root}`, a name that the disk has here only; it must be a UUID, LABEL or PARTUUID",
        path.display()
    )]
    BootRoot { path: PathBuf, root: String },
    #[error("a request that seals or audits does nothing else")]
    NotAlone,
    #[error("the sealed disk has what must not be in an image: {}", list(findings))]
    NotSealed { findings: Vec<Finding> },
}

/// The first findings in one line.
fn list(findings: &[Finding]) -> String {
    let named = findings.iter().map(|finding| format!("{} ({}, {})", finding.path, finding.what, finding.id));
    first(&named.collect::<Vec<_>>())
}

/// The first of some things in one line.
fn first(things: &[String]) -> String {
    /// So many are named.
    const NAMED: usize = 10;
    let rest = things.len().saturating_sub(NAMED);
    let named = things[..things.len() - rest].join(", ");
    if rest > 0 { format!("{named} and {rest} more") } else { named }
}

impl StepError {
    /// The whole chain of causes as one fragment.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    pub(crate) fn innermost(&self) -> &Self {
        if let Self::Command { source, .. } = self { source.innermost() } else { self }
    }

    pub(crate) fn exit_status(&self) -> Option<i32> {
        if let Self::Exit { status, .. } = self.innermost() { Some(*status) } else { None }
    }

    pub(crate) fn signal(&self) -> Option<i32> {
        if let Self::Signal { signal, .. } = self.innermost() { Some(*signal) } else { None }
    }

    /// Whether packages cannot be as they are locked.
    pub(crate) fn is_about_the_lock(&self) -> bool {
        matches!(self, Self::NotAsLocked { .. } | Self::LockedConflict { .. } | Self::NotLocked { .. })
    }

    pub(crate) fn time_limit(&self) -> Option<u64> {
        if let Self::TimeLimit { seconds } = self.innermost() { Some(*seconds) } else { None }
    }
}

/// Says what was to be done when a system call failed.
pub(crate) trait Doing<T> {
    /// What was to be done, and to which path.
    fn doing(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, StepError>;

    /// What was to be done.
    fn to(self, what: &'static str) -> Result<T, StepError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T, StepError> {
        self.map_err(|error| StepError::Path { what, path: path.into(), source: plain(error.into()) })
    }

    fn to(self, what: &'static str) -> Result<T, StepError> {
        self.map_err(|error| StepError::System { what, source: plain(error.into()) })
    }
}

/// The system's own reason: fs-err puts the path, which our text has, before it.
fn plain(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    let text = error.to_string();
    match text.rsplit_once("`: ") {
        Some((_, reason)) => io::Error::new(error.kind(), reason.to_owned()),
        None => error,
    }
}
