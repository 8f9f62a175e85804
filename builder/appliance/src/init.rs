//! The first process: prepares the machine and carries out orders until there are no more.

use std::fs::File;
use std::io;
use std::process::{ExitCode, Stdio};

use labwright_core::causes;
use labwright_disk::filesystem::FilesystemError;
use labwright_disk::layout::LayoutError;
use labwright_disk::mount::MountError;
use labwright_disk::online::OnlineError;
use labwright_disk::table::TableError;
use labwright_guest::frame::{self, FrameError};
use labwright_guest::free_space::FreeSpaceError;

use crate::disk::{Disk, Scratch, TARGET};
use crate::machine::{self, Modules};
use crate::network;
use crate::orders::{FailureKind, Order, Reply};

/// What the machine cannot do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("could not {what}")]
    System { what: String, source: io::Error },
    #[error("{what} did not appear within {seconds} s")]
    Missing { what: &'static str, seconds: u64 },
    #[error("could not talk to the host")]
    Talk(#[from] FrameError),
    #[error("the disk is not open")]
    Closed,
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Filesystem(#[from] FilesystemError),
    #[error(transparent)]
    Online(#[from] OnlineError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    FreeSpace(#[from] FreeSpaceError),
}

impl Error {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Layout(_) | Self::Table(_) | Self::Filesystem(_) | Self::Online(_) => FailureKind::Disk,
            _ => FailureKind::Machine,
        }
    }
}

/// Adds what was being done to an error of the system.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::System { what: what(), source: error.into() })
    }
}

/// Does the work of the first process, and switches the machine off.
pub fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        complain("this program is started by the kernel of labwright's machine");
        return ExitCode::from(2);
    }
    if let Err(error) = start() {
        // The last lines of the console are shown to the user.
        complain(&causes(&error).join(": "));
    }
    rustix::fs::sync();
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::PowerOff) {
        complain(&format!("could not switch off: {error}"));
    }
    ExitCode::FAILURE
}

#[expect(clippy::print_stderr, reason = "the console is this program's only place for what cannot be told to the host")]
fn complain(text: &str) {
    eprintln!("labwright-appliance: {text}");
}

fn start() -> Result<(), Error> {
    let modules = machine::prepare()?;
    network::up().doing(|| "bring the network up".to_owned())?;
    let port = machine::port()?;
    let scratch = machine::scratch()?;
    serve(port, &modules, &scratch)
}

fn serve(mut port: File, modules: &Modules, scratch: &Scratch) -> Result<(), Error> {
    let mut disk: Option<Disk> = None;
    loop {
        let order = match frame::read_json(&mut port) {
            Ok(order) => order,
            // The host has closed its end.
            Err(FrameError::End) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let reply = match carry_out(&order, &mut disk, modules, scratch, &mut port) {
            Ok(reply) => reply,
            Err(Error::Talk(error)) => return Err(error.into()),
            Err(error) => Reply::Failed { kind: error.kind(), chain: causes(&error) },
        };
        frame::write_json(&mut port, &reply)?;
    }
}

fn carry_out(
    order: &Order,
    disk: &mut Option<Disk>,
    modules: &Modules,
    scratch: &Scratch,
    port: &mut File,
) -> Result<Reply, Error> {
    match order {
        Order::Open => {
            let opened = disk.insert(Disk::open(machine::disk('a')?, modules)?);
            Ok(Reply::Opened { root: opened.root_size(), keeps_deleted: opened.keeps_deleted() })
        }
        Order::Grow => disk.as_mut().ok_or(Error::Closed)?.grow().map(|()| Reply::Done),
        Order::Step => {
            let disk = disk.as_mut().ok_or(Error::Closed)?;
            disk.mount()?;
            step(&disk.info()?, scratch, port).map(|()| Reply::StepEnded)
        }
        Order::Commit { trim } => disk.as_mut().ok_or(Error::Closed)?.commit(*trim).map(|()| Reply::Done),
    }
}

/// Lets the guest program have the port until its step is done.
///
/// Nothing is read ahead on either side: the host sends only what it was asked for.
fn step(disk: &labwright_guest::protocol::DiskInfo, scratch: &Scratch, port: &mut File) -> Result<(), Error> {
    let archives = scratch.archives.display().to_string();
    frame::write_json(port, &Reply::Ready { root: TARGET.to_owned(), archives, disk: disk.clone() })?;
    let end = || port.try_clone().map(Stdio::from).doing(|| "hand on the port".to_owned());
    #[expect(
        clippy::disallowed_methods,
        reason = "this program starts itself as the guest program, inside the machine"
    )]
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("step").env_clear().stdin(end()?).stdout(end()?);
    let status = command.status().doing(|| "start the guest program".to_owned())?;
    if !status.success() {
        // Its failure was told in the protocol; a signal was not.
        complain(&format!("the guest program ended with {status}"));
    }
    Ok(())
}
