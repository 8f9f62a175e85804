//! The programs of the host that Labwright calls, and the only crate that starts processes on it.
//!
//! [`Tool`] is at the same time the list of what a host must have: `doctor` prints it. An [`Invocation`] is a
//! tool with its arguments; it fails with the command line and the end of what the tool said.
//!
//! This crate never decides what to run or why, and never talks to the user.

mod cgroup;
mod child;
mod error;
mod family;
mod hidden;
mod invocation;
mod peer;
mod tool;

pub use cgroup::ProcessLimit;
pub use child::Running;
pub use error::ToolError;
pub use hidden::hide_variable;
pub use invocation::{Invocation, Output};
pub use peer::{Peer, become_first_process};
pub use tool::Tool;
