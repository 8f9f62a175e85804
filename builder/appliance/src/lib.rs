//! What runs as the first process of the vm runner's machine: it prepares the machine, handles the disk and lets the
//! guest program do the steps.
//!
//! The host sends [`orders::Order`]s through a port of virtio-serial and gets one [`orders::Reply`] to each. While a
//! step runs, the port belongs to `labwright-guest`, whose protocol is spoken on it.
//!
//! It never decides what to build, and there is nothing of the host in its machine but the kernel, its modules and this
//! program: what a step can reach, break or read is the machine, and the network where the step has one.
//!
//! [`disk`] is for both runners: on the host the chroot runner's worker finishes disks with it.
//!
//! Main types: [`orders::Order`], [`orders::Reply`].
//!
//! ```
//! use labwright_appliance::orders::Order;
//!
//! let order = serde_json::to_string(&Order::Commit { trim: true }).unwrap();
//! assert_eq!(order, r#"{"commit":{"trim":true}}"#);
//! ```

pub mod disk;
mod init;
mod machine;
mod network;
pub mod orders;

pub use init::main;

/// The argument that makes the program the first process of a machine.
pub const ROLE: &str = "appliance";

/// The name of the port that the host talks through.
pub const PORT: &str = "labwright";

/// Where the second disk is mounted: what is needed only while building.
pub const SCRATCH: &str = "/scratch";

/// The directory of the initial RAM disk with the kernel's modules: a list for each set, and the modules that it names.
pub const MODULES: &str = "/modules";

/// A set of kernel modules, by the name of its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModuleSet {
    /// What the machine itself is made of. Loaded first.
    Machine,
    /// What XFS needs.
    Xfs,
    /// What btrfs needs.
    Btrfs,
    /// What an EFI system partition needs.
    Vfat,
    /// What logical volumes need.
    Lvm,
}

impl ModuleSet {
    /// Every set.
    pub const ALL: [Self; 5] = [Self::Machine, Self::Xfs, Self::Btrfs, Self::Vfat, Self::Lvm];

    /// The name of the list.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Vfat => "vfat",
            Self::Lvm => "lvm",
        }
    }
}
