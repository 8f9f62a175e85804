//! The chroot runner: steps run at native speed in namespaces of the host, which needs root.
//!
//! It guards against accidents. A stranger's disk or recipe can still reach the host's kernel through a file system
//! or a system call: those belong in a virtual machine.
//!
//! The builder starts this program anew as a worker in namespaces of its own ([`session`]); the worker opens the
//! disk, mounts it and runs the guest program in it ([`worker`]); they talk in lines of JSON ([`wire`]).

pub(crate) mod finished;
pub(crate) mod leaks;
pub(crate) mod session;
pub(crate) mod wire;
pub(crate) mod worker;

pub use session::SessionError;
pub use wire::{FailureKind, Leak};
pub use worker::run_if_asked;
