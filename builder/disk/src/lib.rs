//! How disks are handled: looked at, chained, shown, mounted, grown and written.
//!
//! - [`inspect`] refuses what no tool should open, before any does.
//! - [`chain_reader`] reads qcow2 overlays as one disk; [`chain`] shows them as one raw file that can be written to; [`loop_device`] makes a block device of one partition of it, and
//!   [`mount`] mounts that.
//! - [`device`] makes block devices of a disk's parts, and [`device_mapper`] of the logical volumes that [`lvm`] reads and grows.
//! - [`table`] reads, creates and grows partition tables; [`filesystem`] recognises and grows file systems;
//!   [`layout`] finds the root, and by its [`fstab`] what belongs below it.
//! - [`system`] is the disk of an installed system as a whole: found, grown, mounted ([`mounted`]), let go of.
//! - [`online`] grows file systems while they are mounted.
//! - [`read_disk`] reads what a disk holds without its holes.
//! - [`qcow2_writer`] writes the finished disk, compressed and reproducible.
//!
//! This crate never decides what a disk is for: it knows no recipe, no cache, no cloud-init. It never follows a name
//! that a disk contains, starts programs only through `labwright-host`, and never talks to the user.
//!
//! ```
//! use std::path::Path;
//!
//! use labwright_disk::inspect::{InspectError, Limits, Refusal, inspect};
//!
//! let error = inspect(Path::new("/dev/null"), &Limits::default()).unwrap_err();
//! assert!(matches!(error, InspectError::Refused { reason: Refusal::NotAFile, .. }));
//! ```

pub mod chain;
#[cfg(feature = "writer")]
pub mod chain_reader;
pub mod device;
pub mod device_mapper;
pub mod filesystem;
pub mod fstab;
pub mod inspect;
pub mod layout;
pub mod loop_device;
pub mod lvm;
pub mod mount;
pub mod mounted;
pub mod online;
#[cfg(feature = "writer")]
pub mod qcow2_writer;
mod qmp;
pub mod read_disk;
pub mod system;
pub mod table;

/// Adds the path to an error of a call that fs-err does not wrap.
fn named(file: &fs_err::File, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("could not access `{}`: {error}", file.path().display()))
}
