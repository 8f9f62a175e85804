//! The builder's side of the vm runner: starts the machine, gives it orders, and keeps the chain of overlays.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use labwright_appliance::SCRATCH;
use labwright_appliance::orders::{self, Order, Reply};
use labwright_core::{Arch, ByteSize, Cancel, Cancelled, Event, Reporter, causes};
use labwright_disk::chain::{Backing, ChainError, create_overlay};
use labwright_disk::inspect::Format;
use labwright_disk::read_disk::DataError;
use labwright_guest::client::{self, ClientError, Outcome};
use labwright_guest::frame::{self, FrameError};
use labwright_guest::protocol::{Action, Bind, Message, Request, SUPPLIED, Terminal};
use labwright_host::{Invocation, Tool, ToolError};
use labwright_vm::{
    Cache, DirectKernel, DiskFormat, Drive, Internet, Layer, Machine, NoRoom, Port, RunningMachine, Screen,
};

use super::appliance::{self, Appliance, ApplianceError};
use super::link::{End, Watch};
use super::seat::Seat;
use super::supply::{self, Supplier, SupplyError};
use super::{VmRunner, memory, network};
use crate::chroot::wire::{self, FailureKind};
use crate::chroot::{SessionError, worker};
use crate::layer_files::LayerFiles;

/// How often it is started before that is an error: an emulated machine on a busy host can miss the timer of one of its
/// processors for ever (seen once in some twenty starts under a load of 15). Nothing was written to the disk by then.
const STARTS: u32 = 3;

/// How long the appliance may take for anything that is not a step.
const ORDER: Duration = Duration::from_mins(15);

/// What a step may take beyond its own limit, at whose end the guest program itself says so.
const GRACE: Duration = Duration::from_mins(3);

/// The size of the disk for packages; it takes only the room of what is in it.
const SCRATCH_SIZE: u64 = 32 << 30;

/// Its file in the work directory. A file system is made on it when there is something to put on it.
const SCRATCH_FILE: &str = "scratch.raw";

/// Where the guest's package manager keeps what it fetched.
const ARCHIVES: &str = "/var/cache/apt/archives";

/// btrfs does not tell which blocks are free, and QEMU drops what the machine discards only in whole clusters.
const KEEPS_DELETED: &str = "the root file system is btrfs: what the recipe deletes can stay readable in the image's \
                             free blocks, so keep secrets out of this build or use the chroot runner";

/// Why the vm runner did not carry out an order.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// There is no kernel.
    #[error(transparent)]
    Appliance(#[from] ApplianceError),
    /// The machine does not run.
    #[error(transparent)]
    Machine(#[from] labwright_vm::VmError),
    /// The machine runs and does not answer.
    #[error("the machine did not {what} within {seconds} s{}", if console.is_empty() { String::new() } else { format!("; the end of its console:\n{console}") })]
    Silent {
        /// What it did not do.
        what: &'static str,
        /// How long it was waited for, in seconds.
        seconds: u64,
        /// The last lines of its console.
        console: String,
    },
    /// The stream to the machine broke.
    #[error("could not talk to the machine")]
    Talk(#[from] FrameError),
    /// A file in the work directory cannot be used; the source has the path.
    #[error("could not prepare the machine's files")]
    File(#[from] io::Error),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// An overlay could not be made.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The machine answered something that does not fit the order.
    #[error("the machine gave an answer to another question")]
    Confused,
    /// The finished disk could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A step wants to see files of the host.
    #[error("a step in a machine cannot see `{}` of the host", path.display())]
    Bind {
        /// The files.
        path: PathBuf,
    },
    /// The host's apt did not fetch packages.
    #[error("could not fetch packages for the machine")]
    Supply(#[source] SupplyError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Errors of this runner, in the words that both runners share.
#[derive(Debug)]
pub(super) struct Failed(pub(super) SessionError);

impl<E: Into<VmError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(match error.into() {
            VmError::Cancelled(cancelled)
            | VmError::Machine(labwright_vm::VmError::Cancelled(cancelled))
            | VmError::Tool(ToolError::Cancelled(cancelled))
            | VmError::Data(DataError::Cancelled(cancelled))
            | VmError::Chain(ChainError::Cancelled(cancelled)) => SessionError::Cancelled(cancelled),
            error => SessionError::Machine(Box::new(error)),
        })
    }
}

pub(super) type Result<T> = std::result::Result<T, Failed>;

/// A disk that is open for building, in a machine.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) machine: RunningMachine,
    pub(super) stream: UnixStream,
    pub(super) work: PathBuf,
    size: ByteSize,
    pub(super) layers: LayerFiles,
    /// Whether the root is on btrfs, which compresses files and does not list free blocks.
    pub(super) is_btrfs: bool,
    /// Whether what cannot be mounted was told.
    told: bool,
    /// Whether steps get stand-ins for the programs of grub, which look for the disk.
    pub(super) has_stand_ins: bool,
}

/// A guest program that waits for its request.
pub(super) struct Conversation<'a, 'w> {
    pub(super) request: &'a Request,
    pub(super) stream: &'a UnixStream,
    pub(super) watch: &'a Rc<RefCell<Watch<'w>>>,
    pub(super) writer: &'a mut dyn io::Write,
    pub(super) reader: &'a mut dyn io::Read,
}

impl Session {
    /// Starts a machine with the disk in it.
    pub(crate) fn open(
        runner: &VmRunner,
        open: wire::Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<(Self, wire::Opened), SessionError> {
        let work = open.work.clone();
        explain(&work, Self::start(runner, open, reporter, cancel), false)
    }

    fn start(
        runner: &VmRunner,
        open: wire::Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, wire::Opened)> {
        let (work, size) = (open.work.clone(), open.size);
        let base = (open.base.path.as_path(), if open.base.qcow2 { Format::Qcow2 } else { Format::Raw });
        let above = open.layers.iter().map(|path| (path.as_path(), Format::Qcow2));
        let layers = LayerFiles::open(std::iter::once(base).chain(above))?;
        let drive = overlay(open, cancel)?;
        let (session, root) = Self::boot(runner, &work, (drive, size), &layers, Internet::Reachable, reporter, cancel)?;
        if session.is_btrfs {
            reporter.event(Event::Warning(KEEPS_DELETED.to_owned()));
        }
        Ok((session, wire::Opened { root: ByteSize::from_bytes(root) }))
    }

    /// Starts a machine with a disk of a size. Returns the size of the root's partition too, in bytes.
    pub(super) fn boot(
        runner: &VmRunner,
        work: &Path,
        (drive, size): (Drive, ByteSize),
        layers: &LayerFiles,
        internet: Internet,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, u64)> {
        let arch = Arch::host().unwrap_or(Arch::Amd64);
        let appliance = appliance::obtain(&runner.appliance_dir, arch, runner.kernel.as_deref(), reporter, cancel)?;
        let open = Order::Open { read_only: drive.read_only };
        let mut machine = machine(runner, arch, drive, work, &appliance)?;
        machine.internet = internet;
        let mut starts = 0;
        loop {
            starts += 1;
            let running = RunningMachine::start(machine.clone(), cancel)?;
            let stream = running.connect(0)?;
            let (work, layers) = (work.to_owned(), layers.try_clone()?);
            let mut session = Self {
                machine: running,
                stream,
                work,
                size,
                layers,
                is_btrfs: false,
                told: false,
                has_stand_ins: true,
            };
            match session.order(&open, "start", runner.patience, cancel) {
                Err(Failed(SessionError::Machine(error)))
                    if starts < STARTS && matches!(*error, VmError::Silent { .. }) =>
                {
                    reporter.event(Event::Warning("the machine did not start in time; starting it again".to_owned()));
                    tracing::warn!(%error, "the machine did not start");
                }
                Ok(Reply::Opened { root, keeps_deleted }) => {
                    session.is_btrfs = keeps_deleted;
                    return Ok((session, root));
                }
                Ok(_) => return Err(VmError::Confused.into()),
                // What the machine knows about the host's disk ends with it.
                Err(error) => return session.explained(Err(error)).map_err(Failed),
            }
        }
    }

    /// The same result, explained if the host's disk below the build is full, or was when the machine wrote to it.
    pub(super) fn explained<T>(&mut self, result: Result<T>) -> std::result::Result<T, SessionError> {
        let is_full = result.is_err() && self.machine.lacked_room();
        explain(&self.work, result, is_full)
    }

    pub(crate) fn grow(&mut self, cancel: &Cancel) -> std::result::Result<(), SessionError> {
        let result = self.expect_done(&Order::Grow, "grow the disk", cancel);
        self.explained(result)
    }

    pub(crate) fn step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<Vec<serde_json::Value>, SessionError> {
        let result = self.run_step(step, false, reporter, cancel);
        self.explained(result.and_then(|outcome| worker::reports(outcome).map_err(shared)))
    }

    pub(super) fn run_step(
        &mut self,
        step: wire::Step,
        read_only: bool,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Outcome> {
        let wire::Step { mut request, sources } = step;
        if let Some(bind) = request.binds.iter().find(|bind| bind.guest.as_str() != ARCHIVES) {
            return Err(VmError::Bind { path: bind.host.clone() }.into());
        }
        if let Some(bind) = request.binds.pop() {
            request.binds.clear();
            let supply = self.supply(&mut request, &sources, &bind.host, reporter, cancel)?;
            self.make_scratch(supply.as_deref(), cancel)?;
            request.binds.push(Bind { host: Path::new(SCRATCH).join("archives"), ..bind });
            if supply.is_some() {
                request.supplied = true;
                request.binds.push(Bind {
                    host: Path::new(SCRATCH).join("supplied"),
                    guest: SUPPLIED.parse().expect("a constant that is a path"),
                    read_only: true,
                });
            }
        }
        self.guest(request, &sources, read_only, reporter, cancel)
    }

    /// Has the host's apt fetch what a step installs; none where it cannot.
    ///
    /// What the guest's apt knows is asked in a step of its own, behind the package sources of the request, which are
    /// done then.
    fn supply(
        &mut self,
        request: &mut Request,
        sources: &[wire::Source],
        archives: &Path,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Option<PathBuf>> {
        if !supply::is_possible(request) {
            return Ok(None);
        }
        let is_source = |action: &Action| matches!(action, Action::AptSource { .. });
        let (mut before, rest) = request.actions.drain(..).partition::<Vec<Action>, _>(is_source);
        request.actions = rest;
        let fallbacks = request.actions.iter().find_map(|action| match action {
            Action::AptInstall { fallbacks, .. } => Some(fallbacks.clone()),
            _ => None,
        });
        before.push(Action::AptSurvey { fallbacks: fallbacks.unwrap_or_default() });
        let survey = Request { actions: before, ..request.clone() };
        let state = self.guest(survey, &[], false, reporter, cancel)?.apt_state;
        let work = self.work.join("supply");
        let supplier = Supplier {
            archives,
            work: &work,
            arch: self.machine.machine().arch,
            options: &request.apt_options,
            environment: &request.environment,
            cancel,
        };
        match supplier.supply(state, request, sources) {
            Ok(directory) => Ok(Some(directory)),
            Err(SupplyError::Cancelled(cancelled) | SupplyError::Tool(ToolError::Cancelled(cancelled))) => {
                Err(cancelled.into())
            }
            // The machine would fetch onto the same disk.
            Err(error) if worker::is_full(&self.work) => Err(VmError::Supply(error).into()),
            Err(error) => {
                let reason = causes(&error).join(": ");
                let reason = reason.lines().next().unwrap_or_default();
                reporter.event(Event::Note(format!("packages are fetched inside the machine: {reason}")));
                tracing::debug!(%error, "the host did not fetch packages");
                // What it has made so far may need the room that the machine needs.
                if work.exists() {
                    fs_err::remove_dir_all(&work)?;
                }
                Ok(None)
            }
        }
    }

    /// Makes a file system with what is in a directory on the scratch disk, and has the machine mount it. The directory
    /// is removed.
    pub(super) fn make_scratch(&mut self, content: Option<&Path>, cancel: &Cancel) -> Result<()> {
        let path = self.work.join(SCRATCH_FILE);
        let file = fs_err::OpenOptions::new().write(true).open(&path)?;
        // QEMU goes on to use this very file.
        file.set_len(0)?;
        file.set_len(SCRATCH_SIZE)?;
        drop(file);
        let empty = tempfile::tempdir_in(&self.work)?;
        let content = if let Some(content) = content {
            content
        } else {
            // apt fetches into `partial`, as its own user.
            fs_err::create_dir_all(empty.path().join("archives/partial"))?;
            empty.path()
        };
        Invocation::new(Tool::Mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"])
            // Few inodes: packages are large.
            .args(["-i", "262144", "-d"])
            .arg(content)
            .arg(&path)
            .run(cancel)?;
        drop(empty);
        let supply = self.work.join("supply");
        if supply.exists() {
            fs_err::remove_dir_all(supply)?;
        }
        self.expect_done(&Order::Scratch, "mount the disk for packages", cancel)
    }

    /// Has the guest program do a request.
    pub(super) fn guest(
        &mut self,
        mut request: Request,
        sources: &[wire::Source],
        read_only: bool,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Outcome> {
        let seat = match request.terminal.take() {
            Some(Terminal::Device(path)) => Some(Seat::open(&path)?),
            Some(Terminal::Stream(_)) | None => None,
        };
        request.terminal = seat.as_ref().map(|seat| Terminal::Stream(seat.size()));
        self.converse(
            request,
            read_only,
            reporter,
            cancel,
            |Conversation { request, stream, watch, writer, reader }| {
                client::run_step_at_terminal(
                    writer,
                    reader,
                    request,
                    &mut |index| worker::open_source(sources, index),
                    &mut |message| {
                        if let Message::Output { line } = message {
                            reporter.event(Event::Output { line: line.clone() });
                        }
                    },
                    &mut |words, writer, reader| match &seat {
                        Some(seat) => seat.lend(words, stream, watch, GRACE, (writer, reader)),
                        None => Err(FrameError::Unexpected),
                    },
                )
            },
        )
    }

    /// Has the appliance start the guest program, speaks with it, and waits for its end.
    pub(super) fn converse<T>(
        &mut self,
        mut request: Request,
        read_only: bool,
        reporter: &dyn Reporter,
        cancel: &Cancel,
        speak: impl FnOnce(Conversation<'_, '_>) -> std::result::Result<T, ClientError>,
    ) -> Result<T> {
        let host_ports = if request.network { network::move_proxies(&mut request) } else { Vec::new() };
        let order = Order::Step { read_only, host_ports };
        let Reply::Ready { root, disk, warnings } = self.order(&order, "mount the disk", ORDER, cancel)? else {
            return Err(VmError::Confused.into());
        };
        if !std::mem::replace(&mut self.told, true) {
            for warning in warnings {
                reporter.event(Event::Warning(warning));
            }
        }
        request.root = root.into();
        request.disk = self.has_stand_ins.then_some(disk);
        if request.network {
            request.dns = network::resolver(&request.dns);
        }
        let limit = request.time_limit_seconds.map_or(Duration::MAX, |limit| Duration::from_secs(limit) + GRACE);
        let watch = Watch::new(&mut self.machine, cancel, "end the step", limit);
        let mut writer = End::new(&self.stream, &watch)?;
        // Without a buffer: a lent terminal waits for what the stream itself has.
        let mut reader = End::new(&self.stream, &watch)?;
        let spoken = speak(Conversation {
            request: &request,
            stream: &self.stream,
            watch: &watch,
            writer: &mut writer,
            reader: &mut reader,
        });
        // What the step says last, and then the appliance.
        let ended = match &spoken {
            // A guest whose tree finds no place goes on sending it; the machine ends with the session.
            Err(ClientError::Talk { .. } | ClientError::Ended | ClientError::Archive { .. }) => Ok(()),
            _ => await_end(&mut reader),
        };
        let broken = ended.is_err() || matches!(spoken, Err(ClientError::Talk { .. } | ClientError::Ended));
        if broken && let Some(error) = watch.borrow_mut().stopped() {
            return Err(error.into());
        }
        ended?;
        spoken.map_err(|error| shared(worker::guest_failure(&error)))
    }

    pub(crate) fn commit(
        &mut self,
        next: &Path,
        finished_as: String,
        cancel: &Cancel,
    ) -> std::result::Result<(), SessionError> {
        let result = self.snapshot(next, finished_as, cancel);
        self.explained(result)
    }

    fn snapshot(&mut self, next: &Path, finished_as: String, cancel: &Cancel) -> Result<()> {
        self.expect_done(&Order::Commit { trim: true }, "write everything to the disk", cancel)?;
        let finished = self.machine.top(0).to_owned();
        let next = self.work.join(next);
        let backing = Backing { name: finished_as, format: Format::Qcow2 };
        create_overlay(&next, &backing, self.size.bytes(), cancel)?;
        self.machine.snapshot(0, &next)?;
        self.layers.push(&finished)?;
        Ok(())
    }

    pub(crate) fn flatten(
        &mut self,
        destination: &Path,
        compression: wire::Compression,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<wire::Flattened, SessionError> {
        let result = self.write(destination, compression, reporter, cancel);
        self.explained(result)
    }

    fn write(
        &mut self,
        destination: &Path,
        compression: wire::Compression,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<wire::Flattened> {
        let disk = self.layers.reader()?;
        worker::write(&disk, self.size, destination, compression, reporter, cancel).map_err(shared)
    }

    /// Ends the machine. What counts is in the cache and on the disk already.
    pub(crate) fn close(self) -> std::result::Result<(), SessionError> {
        self.machine.kill().map_err(|error| Failed::from(error).0)
    }

    pub(super) fn expect_done(&mut self, order: &Order, what: &'static str, cancel: &Cancel) -> Result<()> {
        match self.order(order, what, ORDER, cancel)? {
            Reply::Done => Ok(()),
            _ => Err(VmError::Confused.into()),
        }
    }

    pub(super) fn order(
        &mut self,
        order: &Order,
        what: &'static str,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<Reply> {
        self.exchange(Some(order), what, limit, cancel)
    }

    /// The next reply, to an order if there is one.
    pub(super) fn exchange(
        &mut self,
        order: Option<&Order>,
        what: &'static str,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<Reply> {
        let watch = Watch::new(&mut self.machine, cancel, what, limit);
        let reply = End::new(&self.stream, &watch).map_err(FrameError::from).and_then(|mut end| {
            if let Some(order) = order {
                frame::write_json(&mut end, order)?;
            }
            frame::read_json(&mut end)
        });
        match reply {
            Ok(Reply::Failed { kind, chain }) => {
                let kind = match kind {
                    orders::FailureKind::Disk => FailureKind::Base,
                    orders::FailureKind::Machine => FailureKind::Host,
                };
                Err(Failed(SessionError::Failed { kind, chain }))
            }
            Ok(reply) => Ok(reply),
            Err(error) => match watch.borrow_mut().stopped() {
                Some(stopped) => Err(stopped.into()),
                None => Err(error.into()),
            },
        }
    }
}

/// Reads what the guest program may still have said, up to the appliance's own word.
fn await_end(reader: &mut impl io::Read) -> std::result::Result<(), FrameError> {
    loop {
        let frame = frame::read(reader)?;
        let frame::Frame::Json(json) = frame else { return Err(FrameError::Unexpected) };
        if matches!(serde_json::from_slice(&json), Ok(Reply::StepEnded)) {
            return Ok(());
        }
    }
}

pub(super) fn shared(failed: worker::Failed) -> Failed {
    Failed(SessionError::Failed { kind: failed.kind, chain: failed.chain })
}

/// Says so if the host's disk below the build is full, or is known to have been: the machine only sees a disk that fails.
pub(super) fn explain<T>(work: &Path, result: Result<T>, is_full: bool) -> std::result::Result<T, SessionError> {
    result.map_err(|Failed(error)| {
        if !is_full && !worker::is_full(work) {
            return error;
        }
        let failed = match error {
            SessionError::Failed { kind, chain } => worker::Failed { kind, chain },
            SessionError::Machine(error) => worker::Failed { kind: FailureKind::Host, chain: causes(&*error) },
            other => return other,
        };
        let failed = failed.on_full_disk(work);
        SessionError::Failed { kind: failed.kind, chain: failed.chain }
    })
}

/// A new overlay on the layers of a disk.
fn overlay(open: wire::Open, cancel: &Cancel) -> Result<Drive> {
    let base_format = if open.base.qcow2 { Format::Qcow2 } else { Format::Raw };
    let below = if open.layers.is_empty() { base_format } else { Format::Qcow2 };
    let top = open.work.join(&open.top);
    create_overlay(&top, &Backing { name: open.backing, format: below }, open.size.bytes(), cancel)?;
    let format = if open.base.qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
    let layers = open.layers.into_iter().rev().map(|path| Layer { path, format: DiskFormat::Qcow2 });
    let backing = layers.chain([Layer { path: open.base.path, format }]).collect();
    Ok(Drive { path: top, format: DiskFormat::Qcow2, backing, read_only: false, cache: Cache::IgnoreFlushes })
}

/// The machine with a disk.
fn machine(runner: &VmRunner, arch: Arch, drive: Drive, work: &Path, appliance: &Appliance) -> Result<Machine> {
    let initrd = work.join("initrd");
    appliance.write_initramfs(&initrd)?;
    let scratch = work.join(SCRATCH_FILE);
    fs_err::File::create(&scratch)?.set_len(SCRATCH_SIZE)?;

    let mut machine = Machine::new(arch, runner.accelerator, work.join("console"), work.join("q"));
    "labwright build".clone_into(&mut machine.name);
    machine.cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    machine.memory = ByteSize::from_bytes(memory::of_machine());
    machine.screen = Screen::None;
    machine.no_room = NoRoom::Fail;
    machine.kernel =
        Some(DirectKernel { kernel: appliance.kernel(), initrd: Some(initrd), append: Appliance::command_line() });
    machine.ports = vec![Port { name: labwright_appliance::PORT.to_owned(), socket: work.join("p") }];
    machine.disks = vec![drive, Drive::raw(scratch).ignore_flushes()];
    Ok(machine)
}

#[cfg(test)]
mod tests;
