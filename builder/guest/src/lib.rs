//! What runs inside a disk's root file system: one step of a build, asked for over a byte stream.
//!
//! The host mounts the disk, starts `labwright-guest step` and speaks [`protocol`] with it through [`client::run_step`].
//! The program shuts itself into namespaces with the disk as its root, gives up what root may do to a host, does the
//! actions in order and puts everything back that it changed for their time: resolv.conf, policy-rc.d, grub-probe.
//!
//! It never decides what to build, mounts no disk, reads nothing of the host but what the request binds, and starts no
//! threads. It guards against accidents: with network a step shares the host's network namespace, so it reaches services
//! on the host's loopback addresses, and on kernels before 6.12 abstract sockets. Strangers' recipes and disks belong into
//! a virtual machine.
//!
//! Main types: [`protocol::Request`], [`protocol::Action`], [`protocol::Message`], [`client::Outcome`].
//!
//! ```no_run
//! use labwright_guest::client::run_step;
//! use labwright_guest::protocol::{Action, Command, Request};
//!
//! # fn example(to_guest: &mut dyn std::io::Write, from_guest: &mut dyn std::io::Read) -> Result<(), labwright_guest::client::ClientError> {
//! let request = Request::new("/mnt", vec![Action::Run(Command::Shell("ls /".to_owned()))]);
//! let mut no_files = |_| -> std::io::Result<Box<dyn std::io::Read>> { Err(std::io::ErrorKind::NotFound.into()) };
//! let outcome = run_step(to_guest, from_guest, &request, &mut no_files, &mut |message| drop(message.clone()))?;
//! assert!(outcome.packages.is_empty());
//! # Ok(())
//! # }
//! ```

mod accounts;
mod apt;
mod archive;
pub mod audit;
mod boot;
pub mod client;
mod error;
mod files;
pub mod frame;
pub mod free_space;
pub mod inventory;
mod locked;
pub mod netlink;
mod no_sync;
pub mod program;
pub mod protocol;
pub mod seal;
mod session;
mod settings;
mod shell;
mod shell_stream;
pub mod sources;
mod space;
mod stand_in;
pub mod terminal;
mod traces;
