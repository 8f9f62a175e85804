//! What each library's failure means for the user: its kind, and what to do about it.

use std::path::Path;

use labwright_base_images::{
    BootstrapError, CacheError, CatalogError, DownloadError, FileBaseError, ImageBaseError, LockError, SignatureError,
    UnknownBase,
};
use labwright_builder::{
    BuildError, FailureKind, HomeError, InstallError, LayerError, PlanError, ReadError, SessionError, StepKind,
};
use labwright_core::Cancelled;
use labwright_disk::inspect::InspectError;
use labwright_host::ToolError;
use labwright_registry::PackError;
use labwright_registry::container_disk::FactsError;
use labwright_registry::{ImagesError, LayoutError, RemoteSetupError};
use labwright_vm::VmError;

use super::{CommandError, Kind, Sentence};

const NO_LEAKS: &str = "let commands keep secrets in /run/secrets and in /tmp, which is in memory while they run; what is \
                        in no file was in one that was deleted";

const UPDATE: &str = "`labwright build --update` chooses versions anew and rewrites labwright.lock";

const LOCKED: &str = "with --locked a build writes nothing there, and needs all that it installs to be in the file";

const MEND_LOCK: &str = "take the file from version control, or finish the merge by taking either side's lines; a build without \
                         the file locks anew";

const WITH_ROOT: &str = "the chroot runner needs root: run it with sudo, or take `--runner vm`";

const IN_MACHINE: &str =
    "the vm runner has such a machine: take `--runner vm`, or `--runner auto`, which chooses it for this disk";

impl From<ToolError> for CommandError {
    fn from(error: ToolError) -> Self {
        match &error {
            ToolError::Missing { tool } => {
                let hint = format!(
                    "install it with `apt-get install {}`; `labwright doctor` lists what else is missing",
                    tool.package()
                );
                Self::new(Kind::Host, error).hint(hint)
            }
            ToolError::Cancelled(_) => Self::new(Kind::Stopped, Cancelled),
            ToolError::Start { .. } | ToolError::Talk { .. } | ToolError::Failed { .. } => Self::new(Kind::Host, error),
        }
    }
}

impl From<Cancelled> for CommandError {
    fn from(cancelled: Cancelled) -> Self {
        Self::new(Kind::Stopped, cancelled)
    }
}

impl From<CacheError> for CommandError {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Cancelled(cancelled) => cancelled.into(),
            error @ CacheError::Io { .. } => Self::new(Kind::Host, error),
        }
    }
}

impl From<FileBaseError> for CommandError {
    fn from(error: FileBaseError) -> Self {
        match error {
            FileBaseError::Cancelled(cancelled) => cancelled.into(),
            FileBaseError::Cache(error) => error.into(),
            FileBaseError::Copy { .. } => Self::new(Kind::Host, error),
            FileBaseError::Read(_) | FileBaseError::Digest { .. } | FileBaseError::Refused { .. } => {
                Self::new(Kind::Input, error)
            }
        }
    }
}

impl From<BootstrapError> for CommandError {
    fn from(error: BootstrapError) -> Self {
        match error {
            BootstrapError::Cancelled(cancelled) => cancelled.into(),
            BootstrapError::Cache(error) => error.into(),
            BootstrapError::Tool(error @ ToolError::Failed { .. }) => {
                // mmdebstrap says itself whether a mirror or a package was the reason.
                Self::new(Kind::Step, error).context("could not make the base from packages")
            }
            BootstrapError::Tool(error) => error.into(),
            error @ BootstrapError::NoChroot { .. } => {
                Self::new(Kind::Host, error).hint("run it as root, or take `--runner vm`, which needs no privilege")
            }
            error => Self::new(Kind::Host, error),
        }
    }
}

impl From<InstallError> for CommandError {
    fn from(error: InstallError) -> Self {
        let text = error.to_string();
        match error {
            InstallError::Machine(source) => Self::from_session(source, Kind::Step).context(text),
            error @ InstallError::Work(_) => Self::new(Kind::Host, error),
        }
    }
}

impl From<DownloadError> for CommandError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Cancelled(cancelled) => cancelled.into(),
            DownloadError::Cache(error) => error.into(),
            error @ (DownloadError::Client(_) | DownloadError::File { .. }) => Self::new(Kind::Host, error),
            error => Self::new(Kind::Remote, error),
        }
    }
}

impl From<CatalogError> for CommandError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Download(error) => error.into(),
            error @ CatalogError::NoArch { .. } => Self::new(Kind::Input, error),
            error @ (CatalogError::NotLocked { .. } | CatalogError::Drift { .. }) => Self::new(Kind::Lock, error),
            error @ CatalogError::Signature {
                source: SignatureError::NoTool | SignatureError::Tool(_) | SignatureError::Io(_),
                ..
            } => Self::new(Kind::Host, error),
            error => Self::new(Kind::Remote, error),
        }
    }
}

impl From<UnknownBase> for CommandError {
    fn from(error: UnknownBase) -> Self {
        Self::new(Kind::Input, error).hint("`labwright base ls` lists the names")
    }
}

impl From<LockError> for CommandError {
    fn from(error: LockError) -> Self {
        match error {
            error @ LockError::Io { .. } => Self::new(Kind::Host, error).hint(LOCKED),
            error @ (LockError::Syntax { .. } | LockError::Conflict { .. }) => {
                Self::new(Kind::Input, error).hint(MEND_LOCK)
            }
            error @ LockError::Version { .. } => Self::new(Kind::Input, error),
        }
    }
}

impl From<ImageBaseError> for CommandError {
    fn from(error: ImageBaseError) -> Self {
        match error {
            ImageBaseError::Cancelled(cancelled) => cancelled.into(),
            ImageBaseError::Cache(error) => error.into(),
            error @ ImageBaseError::Refused { .. } => Self::new(Kind::Input, error),
        }
    }
}

impl From<HomeError> for CommandError {
    fn from(error: HomeError) -> Self {
        Self::new(Kind::Host, error)
    }
}

impl From<PlanError> for CommandError {
    fn from(error: PlanError) -> Self {
        Self::new(Kind::Input, error)
    }
}

impl From<BuildError> for CommandError {
    fn from(error: BuildError) -> Self {
        let text = error.to_string();
        match error {
            BuildError::Cancelled(cancelled) | BuildError::Layers(LayerError::Cancelled(cancelled)) => cancelled.into(),
            BuildError::Step { step, log, source, .. } => {
                let late = matches!(source, SessionError::Failed { kind: FailureKind::TimeLimit, .. });
                let gone = matches!(source, SessionError::Failed { kind: FailureKind::Lock, .. });
                let error = Self::from_session(source, Kind::Step).of_build(text, &log);
                match (late, gone) {
                    (true, _) => error.hint(raise_limit(step)),
                    (_, true) => error.hint(UPDATE),
                    _ => error,
                }
            }
            BuildError::Disk { log, source } => Self::from_session(source, Kind::Host).of_build(text, &log),
            BuildError::Lock(source) => Self { source, ..Self::sentence(Kind::Host, "") }.context(text),
            BuildError::NoSecret { .. } => Self::sentence(Kind::Usage, text),
            BuildError::Leaked { .. } => Self::sentence(Kind::Step, text).hint(NO_LEAKS),
            BuildError::Home(error) => error.into(),
            BuildError::Layers(error) => Self::new(Kind::Host, error),
        }
    }
}

impl From<ReadError> for CommandError {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Disk(source) => Self::from_session(source, Kind::Host).context(text),
            error @ ReadError::Work(_) => Self::new(Kind::Host, error),
        }
    }
}

/// What to do where a step took too long.
fn raise_limit(step: StepKind) -> String {
    match step.timeout_key() {
        Some(key) => format!("if it needs longer, say so in the recipe: `timeouts: {{{key}: 2h}}`"),
        None => format!("step `{}` has a fixed limit; something in the disk does not come to its end", step.as_str()),
    }
}

impl CommandError {
    /// The same failure, of a build with a log.
    fn of_build(self, text: String, log: &Path) -> Self {
        self.context(text).hint(format!("everything that was printed is in {}", log.display()))
    }

    /// A failure of the build worker; `kind` where the worker does not say.
    fn from_session(error: SessionError, kind: Kind) -> Self {
        match error {
            SessionError::Cancelled(cancelled) => cancelled.into(),
            SessionError::Failed { kind, mut chain } => {
                let needs_machine = kind == FailureKind::NeedsMachine;
                let kind = match kind {
                    FailureKind::Step | FailureKind::TimeLimit => Kind::Step,
                    FailureKind::Lock => Kind::Lock,
                    FailureKind::Base | FailureKind::NeedsMachine => Kind::Input,
                    FailureKind::Host => Kind::Host,
                };
                // The last of the chain is the cause of all others.
                let cause = chain.pop().unwrap_or_else(|| "the build worker failed".to_owned());
                let error = Self { context: chain, ..Self::new(kind, Sentence(cause)) };
                if needs_machine { error.hint(IN_MACHINE) } else { error }
            }
            error @ SessionError::Start(_) => Self::new(Kind::Host, error).hint(WITH_ROOT),
            error @ SessionError::Confused => Self::new(Kind::Bug, error),
            SessionError::Machine(error) => Self::new(Kind::Host, *error),
            error @ SessionError::Broken(_) => Self::new(kind, error),
        }
    }
}

impl From<LayoutError> for CommandError {
    fn from(error: LayoutError) -> Self {
        match error {
            error @ (LayoutError::NoTag { .. }
            | LayoutError::Empty { .. }
            | LayoutError::Ambiguous { .. }
            | LayoutError::NoLayout { .. }) => Self::new(Kind::Input, error),
            error => Self::new(Kind::Host, error),
        }
    }
}

impl From<FactsError> for CommandError {
    fn from(error: FactsError) -> Self {
        match error {
            FactsError::Layout(error) => error.into(),
            error => Self::new(Kind::Input, error),
        }
    }
}

impl From<PackError> for CommandError {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Cancelled(cancelled) => cancelled.into(),
            PackError::Layout(error) => error.into(),
            error => Self::new(Kind::Host, error),
        }
    }
}

impl From<InspectError> for CommandError {
    fn from(error: InspectError) -> Self {
        Self::new(Kind::Input, error)
    }
}

impl From<VmError> for CommandError {
    fn from(error: VmError) -> Self {
        match error {
            VmError::Cancelled(cancelled) => cancelled.into(),
            VmError::Tool(error) => error.into(),
            error @ (VmError::Ended { .. } | VmError::Panicked { .. } | VmError::NotReady { .. }) => {
                Self::new(Kind::Step, error)
            }
            error => Self::new(Kind::Host, error),
        }
    }
}

impl From<ImagesError> for CommandError {
    fn from(error: ImagesError) -> Self {
        match error {
            ImagesError::Cancelled(cancelled) => cancelled.into(),
            ImagesError::Layout(error) => error.into(),
            ImagesError::Facts(error) => error.into(),
            error @ (ImagesError::NoImage { .. } | ImagesError::Remote(_)) => Self::new(Kind::Remote, error),
            error @ ImagesError::WorkDir { .. } => Self::new(Kind::Host, error),
            error => Self::new(Kind::Input, error),
        }
    }
}

impl From<RemoteSetupError> for CommandError {
    fn from(error: RemoteSetupError) -> Self {
        Self::new(Kind::Usage, error)
    }
}
