//! The builder's side of the vm runner: starts the machine, gives it orders, and keeps the chain of overlays.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use labwright_appliance::orders::{self, Order, Reply};
use labwright_core::{Arch, ByteSize, Cancel, Cancelled, Event, NamedSecret, Reporter, causes};
use labwright_disk::chain::{Backing, ChainError, create_overlay};
use labwright_disk::inspect::Format;
use labwright_disk::read_disk::DataError;
use labwright_guest::audit::Needles;
use labwright_guest::client::{self, ClientError};
use labwright_guest::frame::{self, FrameError};
use labwright_guest::protocol::Message;
use labwright_host::{Invocation, Tool, ToolError};
use labwright_vm::{Cache, DirectKernel, DiskFormat, Drive, Layer, Machine, NoRoom, Port, RunningMachine, Screen};

use super::appliance::{self, Appliance, ApplianceError};
use super::link::{End, Watch};
use super::{VmRunner, network};
use crate::chroot::wire::{self, FailureKind};
use crate::chroot::{Leak, SessionError, leaks, worker};
use crate::layer_files::LayerFiles;

/// How long the machine may take to start and to find the root. Emulated on a busy host it takes half a minute.
const START: Duration = Duration::from_mins(2);

/// How often it is started before that is an error: an emulated machine on a busy host can miss the timer of one of its
/// processors for ever (seen once in some twenty starts under a load of 15). Nothing was written to the disk by then.
const STARTS: u32 = 3;

/// How long the appliance may take for anything that is not a step.
const ORDER: Duration = Duration::from_mins(15);

/// What a step may take beyond its own limit, at whose end the guest program itself says so.
const GRACE: Duration = Duration::from_mins(3);

/// The most memory that a machine gets, and the least that it starts with.
const MEMORY: (u64, u64) = (4 << 30, 768 << 20);

/// The size of the disk for packages; it takes only the room of what is in it.
const SCRATCH_SIZE: u64 = 32 << 30;

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
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Errors of this runner, in the words that both runners share.
#[derive(Debug)]
struct Failed(SessionError);

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

type Result<T> = std::result::Result<T, Failed>;

/// A disk that is open for building, in a machine.
#[derive(Debug)]
pub(crate) struct Session {
    machine: RunningMachine,
    stream: UnixStream,
    work: PathBuf,
    size: ByteSize,
    layers: LayerFiles,
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
        explain(&work, Self::start(runner, open, reporter, cancel))
    }

    fn start(
        runner: &VmRunner,
        open: wire::Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, wire::Opened)> {
        let arch = Arch::host().unwrap_or(Arch::Amd64);
        let appliance = appliance::obtain(&runner.appliance_dir, arch, runner.kernel.as_deref(), reporter, cancel)?;
        let (work, size) = (open.work.clone(), open.size);
        let base = (open.base.path.as_path(), if open.base.qcow2 { Format::Qcow2 } else { Format::Raw });
        let above = open.layers.iter().map(|path| (path.as_path(), Format::Qcow2));
        let layers = LayerFiles::open(std::iter::once(base).chain(above))?;
        let machine = machine(runner, arch, open, &appliance, cancel)?;
        let mut starts = 0;
        let (session, opened) = loop {
            starts += 1;
            let running = RunningMachine::start(machine.clone(), cancel)?;
            let stream = running.connect(0)?;
            let mut session = Self { machine: running, stream, work: work.clone(), size, layers: layers.try_clone()? };
            match session.order(&Order::Open, "start", START, cancel) {
                Err(Failed(SessionError::Machine(error)))
                    if starts < STARTS && matches!(*error, VmError::Silent { .. }) =>
                {
                    reporter.event(Event::Warning("the machine did not start in time; starting it again".to_owned()));
                    tracing::warn!(%error, "the machine did not start");
                }
                reply => break (session, reply?),
            }
        };
        match opened {
            Reply::Opened { root, keeps_deleted } => {
                if keeps_deleted {
                    reporter.event(Event::Warning(KEEPS_DELETED.to_owned()));
                }
                Ok((session, wire::Opened { root: ByteSize::from_bytes(root) }))
            }
            _ => Err(VmError::Confused.into()),
        }
    }

    pub(crate) fn grow(&mut self, cancel: &Cancel) -> std::result::Result<(), SessionError> {
        let result = self.expect_done(&Order::Grow, "grow the disk", cancel);
        explain(&self.work, result)
    }

    pub(crate) fn step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<Vec<serde_json::Value>, SessionError> {
        let result = self.run_step(step, reporter, cancel);
        explain(&self.work, result)
    }

    fn run_step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<serde_json::Value>> {
        let wire::Step { mut request, sources } = step;
        let Reply::Ready { root, archives, disk } = self.order(&Order::Step, "mount the disk", ORDER, cancel)? else {
            return Err(VmError::Confused.into());
        };
        request.root = root.into();
        request.disk = Some(disk);
        for bind in &mut request.binds {
            if bind.guest.as_str() != ARCHIVES {
                return Err(VmError::Bind { path: bind.host.clone() }.into());
            }
            bind.host = PathBuf::from(&archives);
        }
        if request.network {
            request.dns = network::resolver(&request.dns);
        }
        for (name, value) in request.environment.iter_mut().chain(&mut request.apt_options) {
            if network::names_proxy(name) {
                *value = network::proxy(value);
            }
        }
        let limit = request.time_limit_seconds.map_or(Duration::MAX / 4, Duration::from_secs) + GRACE;
        let watch = Watch::new(&mut self.machine, cancel, "end the step", limit.min(Duration::from_hours(24 * 365)));
        let mut writer = End::new(&self.stream, &watch)?;
        let mut reader = BufReader::new(End::new(&self.stream, &watch)?);
        let outcome = client::run_step(
            &mut writer,
            &mut reader,
            &request,
            &mut |index| worker::open_source(&sources, index),
            &mut |message| {
                if let Message::Output { line } = message {
                    reporter.event(Event::Output { line: line.clone() });
                }
            },
        );
        // What the step says last, and then the appliance. Nothing else can be in the buffer.
        let ended = match &outcome {
            Err(ClientError::Talk { .. } | ClientError::Ended) => Ok(()),
            _ => await_end(&mut reader),
        };
        let broken = ended.is_err() || matches!(outcome, Err(ClientError::Talk { .. } | ClientError::Ended));
        if broken && let Some(error) = watch.borrow_mut().stopped() {
            return Err(error.into());
        }
        ended?;
        let outcome = outcome.map_err(|error| shared(worker::guest_failure(&error)))?;
        worker::reports(outcome).map_err(shared)
    }

    pub(crate) fn commit(
        &mut self,
        next: &Path,
        finished_as: String,
        cancel: &Cancel,
    ) -> std::result::Result<(), SessionError> {
        let result = self.snapshot(next, finished_as, cancel);
        explain(&self.work, result)
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
        explain(&self.work, result)
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

    /// Looks for secrets in the bytes of the finished disk.
    pub(crate) fn search(
        &mut self,
        secrets: &[NamedSecret],
        cancel: &Cancel,
    ) -> std::result::Result<Vec<Leak>, SessionError> {
        let hits = self
            .layers
            .reader()
            .map_err(Failed::from)
            .and_then(|disk| leaks::in_raw(&disk, &Needles::secrets(secrets), cancel).map_err(Failed::from));
        explain(&self.work, hits).map(leaks::bytes)
    }

    /// Ends the machine. What counts is in the cache and on the disk already.
    pub(crate) fn close(self) -> std::result::Result<(), SessionError> {
        self.machine.kill().map_err(|error| Failed::from(error).0)
    }

    fn expect_done(&mut self, order: &Order, what: &'static str, cancel: &Cancel) -> Result<()> {
        match self.order(order, what, ORDER, cancel)? {
            Reply::Done => Ok(()),
            _ => Err(VmError::Confused.into()),
        }
    }

    fn order(&mut self, order: &Order, what: &'static str, limit: Duration, cancel: &Cancel) -> Result<Reply> {
        let watch = Watch::new(&mut self.machine, cancel, what, limit);
        let reply = End::new(&self.stream, &watch).map_err(FrameError::from).and_then(|mut end| {
            frame::write_json(&mut end, order)?;
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

fn shared(failed: worker::Failed) -> Failed {
    Failed(SessionError::Failed { kind: failed.kind, chain: failed.chain })
}

/// Says so if the host's disk below the build is full: the machine only sees a disk that fails.
fn explain<T>(work: &Path, result: Result<T>) -> std::result::Result<T, SessionError> {
    result.map_err(|Failed(error)| match error {
        SessionError::Failed { kind, chain } => {
            let failed = worker::Failed { kind, chain }.unless_full(Some(work));
            SessionError::Failed { kind: failed.kind, chain: failed.chain }
        }
        SessionError::Machine(error) if worker::is_full(work) => {
            let failed = worker::Failed { kind: FailureKind::Host, chain: causes(&*error) }.unless_full(Some(work));
            SessionError::Failed { kind: failed.kind, chain: failed.chain }
        }
        other => other,
    })
}

/// The machine for a build.
fn machine(runner: &VmRunner, arch: Arch, open: wire::Open, appliance: &Appliance, cancel: &Cancel) -> Result<Machine> {
    let work = &open.work;
    let base_format = if open.base.qcow2 { Format::Qcow2 } else { Format::Raw };
    let below = if open.layers.is_empty() { base_format } else { Format::Qcow2 };
    let top = work.join(&open.top);
    create_overlay(&top, &Backing { name: open.backing, format: below }, open.size.bytes(), cancel)?;
    let initrd = work.join("initrd");
    appliance.write_initramfs(&initrd)?;
    let scratch = scratch(work, cancel)?;

    let mut machine = Machine::new(arch, runner.accelerator, work.join("console"), work.join("q"));
    "labwright build".clone_into(&mut machine.name);
    machine.cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    machine.memory = ByteSize::from_bytes(memory());
    machine.screen = Screen::None;
    machine.no_room = NoRoom::Fail;
    machine.kernel =
        Some(DirectKernel { kernel: appliance.kernel(), initrd: Some(initrd), append: Appliance::command_line() });
    machine.ports = vec![Port { name: labwright_appliance::PORT.to_owned(), socket: work.join("p") }];
    let format = if open.base.qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
    let layers = open.layers.into_iter().rev().map(|path| Layer { path, format: DiskFormat::Qcow2 });
    let backing = layers.chain([Layer { path: open.base.path, format }]).collect();
    machine.disks = vec![
        Drive { path: top, format: DiskFormat::Qcow2, backing, read_only: false, cache: Cache::IgnoreFlushes },
        Drive::raw(scratch).ignore_flushes(),
    ];
    Ok(machine)
}

/// A disk for what is needed only while building: an empty ext4 file system in a file with holes.
fn scratch(work: &Path, cancel: &Cancel) -> Result<PathBuf> {
    let path = work.join("scratch.raw");
    fs_err::File::create(&path)?.set_len(SCRATCH_SIZE)?;
    Invocation::new(Tool::Mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"])
        // Few inodes: packages are large.
        .args(["-i", "262144"])
        .arg(&path)
        .run(cancel)?;
    Ok(path)
}

/// Half of the memory that is free, in bytes, within limits. QEMU takes only what the guest touches.
fn memory() -> u64 {
    let (most, least) = MEMORY;
    let meminfo = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(most, |kib| kib * 1024);
    (free / 2).clamp(least, most)
}
