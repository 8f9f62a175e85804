//! The first process: prepares the machine and carries out orders until there are no more.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, Stdio};

use labwright_core::{Cancel, causes};
use labwright_disk::device::Disk;
use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::layout::candidates;
use labwright_disk::loop_device::Access;
use labwright_disk::mount::Mount;
use labwright_disk::system::{System, SystemError};
use labwright_guest::audit::{Needles, in_tree};
use labwright_guest::frame::{self, FrameError};
use labwright_guest::protocol::{Failure, Message};

use crate::ModuleSet;
use crate::disk::{self, CommitError};
use crate::machine::{self, Modules};
use crate::network;
use crate::orders::{FailureKind, Order, Reply};

/// Where the root is mounted.
const TARGET: &str = "/mnt";

/// How much of what was found goes into one message: with the longest paths it stays below what a frame may have.
const TOGETHER: usize = 40;

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
    Disk(#[from] SystemError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Error {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Disk(error) | Self::Commit(CommitError::System(error)) if error.is_of_disk() => FailureKind::Disk,
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
    serve(port, &modules)
}

fn serve(mut port: File, modules: &Modules) -> Result<(), Error> {
    let mut disk: Option<System> = None;
    let mut scratch: Option<Mount> = None;
    loop {
        let order = match frame::read_json(&mut port) {
            Ok(order) => order,
            // The host has closed its end.
            Err(FrameError::End) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let reply = match carry_out(&order, &mut disk, modules, &mut scratch, &mut port) {
            Ok(reply) => reply,
            Err(Error::Talk(error)) => return Err(error.into()),
            Err(error) => Reply::Failed { kind: error.kind(), chain: causes(&error) },
        };
        frame::write_json(&mut port, &reply)?;
    }
}

fn carry_out(
    order: &Order,
    disk: &mut Option<System>,
    modules: &Modules,
    scratch: &mut Option<Mount>,
    port: &mut File,
) -> Result<Reply, Error> {
    match order {
        Order::Open { read_only } => {
            let access = if *read_only { Access::ReadOnly } else { Access::ReadWrite };
            let opened = disk.insert(open(modules, access)?);
            let root = opened.root();
            // btrfs does not list what is free.
            let keeps_deleted = root.filesystem.kind == FilesystemKind::Btrfs;
            Ok(Reply::Opened { root: root.place.size, keeps_deleted })
        }
        Order::Scratch => {
            machine::scratch(scratch)?;
            Ok(Reply::Done)
        }
        Order::Grow => {
            disk.as_mut().ok_or(Error::Closed)?.grow(&Cancel::new())?;
            Ok(Reply::Done)
        }
        Order::Step { read_only, host_ports } => {
            for port in host_ports {
                network::allow(*port).doing(|| format!("let the step reach port {port} of the host"))?;
            }
            let system = disk.as_mut().ok_or(Error::Closed)?;
            let access = if *read_only { Access::ReadOnly } else { Access::ReadWrite };
            let warnings = system.mount(access)?.warnings().to_vec();
            let info = disk::info(system)?;
            step(&Reply::Ready { root: TARGET.to_owned(), disk: info, warnings }, port)?;
            Ok(Reply::StepEnded)
        }
        Order::Search { secrets, keys } => {
            let system = disk.as_mut().ok_or(Error::Closed)?;
            system.mount(Access::ReadOnly)?;
            let needles = if *keys { Needles::secrets_and_keys(secrets) } else { Needles::secrets(secrets) };
            let found = in_tree(TARGET.as_ref(), &needles).doing(|| "look into the files of the disk".to_owned())?;
            for some in found.chunks(TOGETHER) {
                frame::write_json(port, &Reply::Found(some.to_vec()))?;
            }
            Ok(Reply::Searched)
        }
        Order::Commit { trim: true } => {
            disk::commit(disk.as_mut().ok_or(Error::Closed)?)?;
            Ok(Reply::Done)
        }
        Order::Commit { trim: false } => {
            disk.as_mut().ok_or(Error::Closed)?.unmount()?;
            Ok(Reply::Done)
        }
    }
}

/// Loads what the disk needs and finds the system on it.
fn open(modules: &Modules, access: Access) -> Result<System, Error> {
    let device = machine::disk('a')?;
    let file = fs_err::File::open(&device).doing(|| "open the disk".to_owned())?;
    for candidate in candidates(&file).map_err(SystemError::from)? {
        match candidate.filesystem.kind {
            FilesystemKind::Xfs => modules.load(ModuleSet::Xfs)?,
            FilesystemKind::Btrfs => modules.load(ModuleSet::Btrfs)?,
            FilesystemKind::Vfat => modules.load(ModuleSet::Vfat)?,
            FilesystemKind::LvmPhysicalVolume => modules.load(ModuleSet::Lvm)?,
            _ => {}
        }
    }
    drop(file);
    Ok(System::open(Disk::Device(device), TARGET, "/look".as_ref(), access)?)
}

/// Lets the guest program have the port until its step is done.
///
/// Nothing is read ahead on either side: the host sends only what it was asked for.
fn step(ready: &Reply, port: &mut File) -> Result<(), Error> {
    frame::write_json(port, ready)?;
    let end = || port.try_clone().map(Stdio::from).doing(|| "hand on the port".to_owned());
    #[expect(
        clippy::disallowed_methods,
        reason = "this program starts itself as the guest program, inside the machine"
    )]
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg("step").env_clear().stdin(end()?).stdout(end()?);
    let status = command.status().doing(|| "start the guest program".to_owned())?;
    if !status.success() {
        complain(&format!("the guest program ended with {status}"));
    }
    if let Some(signal) = status.signal() {
        // Every other failure was told by itself.
        frame::write_json(port, &Message::Failed(gone(signal)))?;
    }
    Ok(())
}

/// What the guest program cannot say any more.
fn gone(signal: i32) -> Failure {
    Failure {
        index: None,
        reason: format!("the guest program was ended by signal {signal}, as happens when memory runs out"),
        exit_status: None,
        signal: Some(signal),
        time_limit_seconds: None,
        not_as_locked: false,
        last_lines: Vec::new(),
    }
}
