use std::io;
use std::process::ExitStatus;

use labwright_core::Cancelled;

use crate::Tool;

/// Why a program of the host did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("`{}` is not installed (package {})", tool.program(), tool.package())]
    Missing {
        /// The tool.
        tool: Tool,
    },
    /// It is there and does not start.
    #[error("could not start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("could not talk to `{command}`")]
    Talk {
        /// The command line.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` ended with {status}{}", tail(stderr))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said on stderr.
        stderr: String,
    },
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
