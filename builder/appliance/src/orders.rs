//! What host and appliance say to each other, as frames of `labwright_guest::frame`.

use labwright_core::NamedSecret;
use labwright_guest::audit::InTree;
use labwright_guest::protocol::DiskInfo;
use serde::{Deserialize, Serialize};

/// Something for the appliance to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Finds the root file system. Comes first.
    Open {
        /// Whether nothing can be written, not even what a journal has: for an audit.
        read_only: bool,
    },
    /// Grows the root partition and its file system to the size of the disk.
    Grow,
    /// Mounts the second disk, anew if it is: the host has made a file system on it.
    Scratch,
    /// Mounts the root and lets the guest program do a step: behind [`Reply::Ready`], the port speaks its protocol until
    /// [`Reply::StepEnded`].
    Step {
        /// TCP ports on the host's loopback address that the step may reach: proxies. All others are refused.
        host_ports: Vec<u16>,
        /// Whether nothing can be written: for an audit.
        read_only: bool,
    },
    /// Looks into every file, with the file systems mounted read-only. Answered by any number of [`Reply::Found`] and
    /// then [`Reply::Searched`].
    Search {
        /// What for.
        secrets: Vec<NamedSecret>,
        /// Whether private keys are looked for too.
        keys: bool,
    },
    /// Makes sure that everything is on the disk, and lets go of it.
    Commit {
        /// Whether what the file system has freed is erased as well: behind the last step.
        trim: bool,
    },
}

/// What the appliance answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The disk is open.
    Opened {
        /// The size of the root file system's partition, in bytes.
        root: u64,
        /// Whether what was deleted can stay in free blocks at the end.
        keeps_deleted: bool,
    },
    /// The order was carried out.
    Done,
    /// The guest program was started.
    Ready {
        /// Where the root is mounted.
        root: String,
        /// What boot loaders in the guest should see.
        disk: DiskInfo,
        /// What could not be mounted, in sentences.
        warnings: Vec<String>,
    },
    /// The first or next of what was found in files.
    Found(Vec<InTree>),
    /// Every file was looked into.
    Searched,
    /// The guest program has ended.
    StepEnded,
    /// The order failed.
    Failed {
        /// What a failure means for the one who reads it.
        kind: FailureKind,
        /// What went wrong, and why, outermost first.
        chain: Vec<String>,
    },
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The disk is not one that can be built on.
    Disk,
    /// The machine cannot do it.
    Machine,
}
