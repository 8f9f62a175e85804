//! The vm runner: steps run in a small machine, so that an ordinary user can build without privileges, loop devices
//! or FUSE, and strangers' disks and recipes reach neither the host's kernel nor its files.
//!
//! The machine has a distribution's kernel ([`appliance`]) and an initial RAM disk of our own ([`initramfs`]) whose only
//! program is `labwright-appliance`. [`session`] starts it, gives it orders through [`link`], and makes a snapshot of
//! the disk behind each step by QEMU's own control channel; [`search`] is what it looks for on the disk.

pub(crate) mod appliance;
mod apt_root;
mod bootstrap;
mod index;
mod initramfs;
mod kernel_modules;
mod link;
mod memory;
mod network;
mod package;
mod repack;
mod search;
mod seat;
pub(crate) mod session;
mod supply;

pub use appliance::ApplianceError;
pub use session::VmError;

/// How machines are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRunner {
    /// What executes the guest's instructions.
    pub accelerator: labwright_vm::Accelerator,
    /// A kernel package (`.deb`) to take instead of the distribution's own.
    pub kernel: Option<std::path::PathBuf>,
    /// The directory in which kernels are kept, by digest.
    pub appliance_dir: std::path::PathBuf,
    /// How long a machine may take to start and to find the root, before it is started again; see [`VmRunner::PATIENCE`].
    pub patience: std::time::Duration,
}

impl VmRunner {
    /// Emulated on a busy host, a machine takes half a minute to start.
    pub const PATIENCE: std::time::Duration = std::time::Duration::from_mins(2);
}
