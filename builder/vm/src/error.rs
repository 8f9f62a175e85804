use std::io;
use std::path::PathBuf;
use std::time::Duration;

use labwright_core::Cancelled;
use labwright_host::ToolError;

use crate::HttpError;

/// Why a machine did not start, become ready or answer.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A path cannot be given to QEMU.
    #[error("QEMU cannot take the path `{}`: it is not UTF-8", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The path of a socket is longer than the system allows.
    #[error("the path of a socket of the machine has more than 107 bytes: `{}`", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// Nobody listens at the host's end of a port.
    #[error("could not connect to the machine's port `{}`", path.display())]
    Port {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// QEMU did not start.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// QEMU ended, or the guest switched the machine off.
    #[error("the machine ended by itself{}", tail(console))]
    Ended {
        /// The last lines of its console.
        console: String,
        /// How QEMU ended.
        source: ToolError,
    },
    /// The kernel gave up.
    #[error("the machine's kernel panicked{}", tail(console))]
    Panicked {
        /// The last lines of its console.
        console: String,
    },
    /// The time was over.
    #[error("the machine was not ready after {} s: {last}{}", after.as_secs(), tail(console))]
    NotReady {
        /// How long it was waited for.
        after: Duration,
        /// What the last request for readiness got.
        last: NotReady,
        /// The last lines of its console.
        console: String,
    },
    /// The control channel failed.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What the last request for readiness got.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// An answer other than 200.
    #[error("port {port} answers {status} at {path}")]
    Status {
        /// The port on the host.
        port: u16,
        /// The path that was asked for.
        path: String,
        /// The status.
        status: u16,
    },
    /// No answer.
    #[error("port {port}: {error}")]
    NoAnswer {
        /// The port on the host.
        port: u16,
        /// What happened.
        error: HttpError,
    },
}

/// Why QEMU's control channel did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// Nobody listens on the socket.
    #[error("could not connect to QEMU's control socket `{}`", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("QEMU's control socket failed at `{command}`")]
    Talk {
        /// The command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// QEMU closed the channel, as it does when it ends.
    #[error("QEMU closed its control socket at `{command}`")]
    Closed {
        /// The command.
        command: String,
    },
    /// No answer in time.
    #[error("QEMU did not answer `{command}` in {} s", after.as_secs())]
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A line that is longer than any that QEMU sends.
    #[error("QEMU's answer to `{command}` is longer than {limit} bytes")]
    TooLong {
        /// The command.
        command: String,
        /// The longest line that is read.
        limit: usize,
    },
    /// A line that is not JSON.
    #[error("QEMU's answer to `{command}` is not JSON")]
    Json {
        /// The command.
        command: String,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// QEMU says no.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error (`GenericError`).
        class: String,
        /// QEMU's words.
        description: String,
    },
}

fn tail(console: &str) -> String {
    if console.is_empty() {
        "; its console is empty".to_owned()
    } else {
        format!("; the end of its console:\n{console}")
    }
}
