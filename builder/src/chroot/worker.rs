//! The worker: the first process of its own PID namespace, which holds everything that a build mounts, attaches and
//! starts. When it ends, for whatever reason, the kernel ends all of that with it.

use std::error::Error;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use labwright_appliance::disk::{self, CommitError};
use labwright_core::{ByteSize, Cancel, Event, Hasher, NamedSecret, Reporter, causes};
use labwright_disk::chain::{Backing, Chain, ChainSpec, create_overlay};
use labwright_disk::device::Disk as RawDisk;
use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::inspect::Format;
use labwright_disk::layout::LayoutError;
use labwright_disk::loop_device::Access;
use labwright_disk::mount::make_rprivate;
use labwright_disk::qcow2_writer::{self, Compression, WriteOptions};
use labwright_disk::read_disk::ReadDisk;
use labwright_disk::system::{System, SystemError};
use labwright_guest::audit::{self, Needles};
use labwright_guest::client::{self, ClientError, Outcome};
use labwright_guest::protocol::{self, Message};
use labwright_host::{Peer, ProcessLimit, become_first_process};

use super::leaks;
use super::wire::{self, Failure, FailureKind, Flattened, INNER, Leak, OUTER, Opened, Order, Reply, Source, Step};
use crate::guest_program;
use crate::layer_files::LayerFiles;

/// A btrfs that an old partitioning tool placed so: the disk drops units of 4 KiB only.
const NOT_ALIGNED: &str = "the root's partition does not begin on a multiple of 4 KiB: what the recipe deletes can stay \
                           readable in the image's free blocks, so keep secrets out of this build or use another base";

/// The name of the guest program in the work directory.
pub(super) const GUEST: &str = "labwright-guest";

/// With less room than this, in bytes, an overlay cannot grow by the clusters and tables that one write may need.
const LITTLE_ROOM: u64 = 1 << 20;

/// How many processes and threads a step may have: a multiple of what package managers and compilers need, and little
/// for a host. The kernel's own limit for users does not hold for root.
const PROCESSES: u32 = 2048;

pub(crate) type Result<T> = std::result::Result<T, Failed>;

/// A failed order: what it means and what happened.
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) chain: Vec<String>,
}

/// A failure of the host, where no other kind is said.
impl<E: Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { kind: FailureKind::Host, chain: causes(&error) }
    }
}

impl Failed {
    /// A failure of the disk's system: the base's where another base would do.
    #[expect(clippy::needless_pass_by_value, reason = "it stands where errors are turned into this one")]
    pub(super) fn system(error: SystemError) -> Self {
        let mut failed = Self { kind: FailureKind::Host, chain: causes(&error) };
        if error.is_of_disk() {
            failed.kind = FailureKind::Base;
        }
        if let SystemError::Layout(LayoutError::NeedsMachine { .. }) = error {
            failed.kind = FailureKind::NeedsMachine;
        }
        failed
    }

    /// The same failure, explained if the host's disk below the build is full: programs in the guest only see a disk
    /// that fails or that became read-only.
    pub(crate) fn unless_full(self, work: Option<&Path>) -> Self {
        match work {
            Some(work) if is_full(work) => self.on_full_disk(work),
            _ => self,
        }
    }

    /// The same failure, explained by the host's disk below the build.
    pub(crate) fn on_full_disk(mut self, work: &Path) -> Self {
        self.kind = FailureKind::Host;
        let reason = format!("the disk that holds {} is full", work.display());
        if !self.chain.contains(&reason) {
            self.chain.push(reason);
        }
        self
    }
}

/// Whether the host's disk below the build has no room left.
pub(crate) fn is_full(work: &Path) -> bool {
    rustix::fs::statvfs(work).is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < LITTLE_ROOM)
}

/// Does a worker's work, if this process was started as one; returns the exit code then.
///
/// The program calls this before it does anything else, in particular before it starts threads.
pub fn run_if_asked() -> Option<u8> {
    let word = std::env::args().nth(1)?;
    match word.as_str() {
        OUTER => Some(match become_first_process(INNER) {
            Ok(Some(code)) => code,
            // Not in a PID namespace of its own: nobody else than the builder should start it.
            Ok(None) | Err(_) => 70,
        }),
        INNER if rustix::process::getpid().is_init() => Some(serve()),
        INNER => Some(70),
        _ => None,
    }
}

/// Carries out orders until there are no more.
fn serve() -> u8 {
    let replies = Replies::default();
    let orders = listen();
    let mut disk: Option<Disk> = None;
    let mut work = None;
    for order in orders {
        let close = matches!(order, Order::Close);
        match &order {
            Order::Open(wire::Open { work: place, .. })
            | Order::Audit(wire::Audit { work: place, .. })
            | Order::Archive(wire::Archive { work: place, .. }) => work = Some(place.clone()),
            _ => {}
        }
        let reply = match carry_out(order, &mut disk, &replies) {
            Ok(reply) => reply,
            Err(failed) => {
                let Failed { kind, chain } = failed.unless_full(work.as_deref());
                Reply::Failed(Failure { kind, chain })
            }
        };
        if replies.send(&reply).is_err() || close {
            break;
        }
    }
    0
}

/// Reads orders on a thread of its own, which ends the whole process once the builder is gone: whatever is being
/// done then, nobody waits for it.
fn listen() -> std::sync::mpsc::Receiver<Order> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut stdin = BufReader::new(io::stdin());
        while let Ok(Some(order)) = wire::receive(&mut stdin) {
            let close = matches!(order, Order::Close);
            if sender.send(order).is_err() || close {
                return;
            }
        }
        #[expect(clippy::exit, reason = "the end of the first process is the end of everything in its namespace")]
        std::process::exit(1);
    });
    receiver
}

/// The way back to the builder; a reporter too.
#[derive(Clone, Default)]
struct Replies(Arc<Mutex<()>>);

impl Replies {
    fn send(&self, reply: &Reply) -> io::Result<()> {
        let _one_line_at_a_time = self.0.lock().expect("no holder of this lock panics");
        wire::send(&mut io::stdout(), reply)
    }
}

impl Reporter for Replies {
    fn event(&self, event: Event) {
        // A builder that is gone hears nothing; the reader of orders notices.
        drop(self.send(&Reply::Event(event)));
    }
}

fn carry_out(order: Order, disk: &mut Option<Disk>, replies: &Replies) -> Result<Reply> {
    let closed = || Failed { kind: FailureKind::Host, chain: vec!["the disk is not open".to_owned()] };
    match order {
        Order::Open(open) => {
            let opened = Disk::open(open)?;
            let root = opened.system.root();
            if root.filesystem.kind == FilesystemKind::Btrfs && !root.place.offset.is_multiple_of(4096) {
                replies.event(Event::Warning(NOT_ALIGNED.to_owned()));
            }
            let root = ByteSize::from_bytes(root.place.size);
            *disk = Some(opened);
            Ok(Reply::Opened(Opened { root }))
        }
        Order::Grow => disk.as_mut().ok_or_else(closed)?.grow().map(|()| Reply::Done),
        Order::Step(step) => disk.as_mut().ok_or_else(closed)?.step(*step, replies).map(Reply::Ran),
        Order::Commit { next, finished_as } => {
            disk.as_mut().ok_or_else(closed)?.commit(&next, finished_as).map(|()| Reply::Done)
        }
        Order::Search(secrets) => disk.as_mut().ok_or_else(closed)?.search(&secrets).map(Reply::Searched),
        Order::Flatten { destination, compression } => {
            disk.as_mut().ok_or_else(closed)?.flatten(&destination, compression, replies).map(Reply::Flattened)
        }
        Order::Audit(order) => super::finished::audit(order).map(Reply::Audited),
        Order::Archive(order) => super::finished::archive(order).map(|()| Reply::Done),
        Order::Close => {
            if let Some(disk) = disk.take() {
                disk.close()?;
            }
            Ok(Reply::Done)
        }
    }
}

/// The disk being built on.
///
/// Fields are dropped in this order, so that what lies on top goes first.
struct Disk {
    system: System,
    chain: Chain,
    layers: LayerFiles,
    work: PathBuf,
    size: ByteSize,
    /// How many steps were run.
    steps: usize,
    cancel: Cancel,
    /// Whether what cannot be mounted was told.
    told: bool,
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Makes the work directory the place where everything happens.
pub(super) fn enter_work(work: &Path) -> Result<()> {
    make_rprivate(Path::new("/"))?;
    // Programs look for themselves and their children there.
    rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None)?;
    // Relative paths keep the control socket's name within what the kernel allows.
    std::env::set_current_dir(work)?;
    guest_program::write_to(Path::new(GUEST))?;
    fs_err::create_dir("mnt")?;
    fs_err::create_dir("look")?;
    Ok(())
}

impl Disk {
    fn open(open: wire::Open) -> Result<Self> {
        enter_work(&open.work)?;
        let cancel = Cancel::new();
        let base_format = if open.base.qcow2 { Format::Qcow2 } else { Format::Raw };
        let below = if open.layers.is_empty() { base_format } else { Format::Qcow2 };
        let backing = Backing { name: open.backing, format: below };
        create_overlay(&open.top, &backing, open.size.bytes(), &cancel)?;
        let mut lower = vec![(open.base.path, base_format)];
        lower.extend(open.layers.into_iter().map(|path| (path, Format::Qcow2)));
        let spec = ChainSpec {
            lower,
            top: Some(open.top),
            mount_point: PathBuf::from("disk.raw"),
            socket: PathBuf::from("q"),
        };
        let layers = LayerFiles::open(spec.lower.iter().map(|(path, format)| (path.as_path(), *format)))?;
        let chain = Chain::open(&spec, &cancel)?;
        let raw = RawDisk::File(chain.export_path().to_owned());
        let system = System::open(raw, "mnt", Path::new("look"), Access::ReadWrite).map_err(Failed::system)?;
        Ok(Self { system, chain, layers, work: open.work, size: open.size, steps: 0, cancel, told: false })
    }

    /// Grows the root's partition to the end of the disk, and its file system to the end of the partition.
    fn grow(&mut self) -> Result<()> {
        self.system.grow(&self.cancel).map_err(Failed::system)
    }

    fn step(&mut self, step: Step, replies: &Replies) -> Result<Vec<serde_json::Value>> {
        let mounted = self.system.mount(Access::ReadWrite).map_err(Failed::system)?;
        if !std::mem::replace(&mut self.told, true) {
            for warning in mounted.warnings() {
                replies.event(Event::Warning(warning.clone()));
            }
        }
        // The guest's programs never wait for the disk, so this is what keeps it busy.
        let write_back = mounted.root().write_back()?;
        let root = self.work.join("mnt");
        let mut request = step.request;
        request.root = root;
        request.disk = Some(disk::info(&self.system).map_err(Failed::system)?);
        let program = self.work.join(GUEST);
        let id = format!("{}-{}", file_name(&self.work), self.steps);
        self.steps += 1;
        let limit = ProcessLimit::new(PROCESSES, &id);
        let mut guest = match &limit {
            Some(limit) => Peer::limited_child(&program, &["step"], limit)?,
            None => Peer::child(&program, &["step"])?,
        };
        let (mut stdin, mut stdout) = guest.pipes().expect("the pipes were not taken before");
        let sources = step.sources;
        let result = client::run_step(
            &mut stdin,
            &mut stdout,
            &request,
            &mut |index| open_source(&sources, index),
            &mut |message| {
                if let Message::Output { line } = message {
                    replies.event(Event::Output { line: line.clone() });
                }
            },
        );
        drop(stdin);
        drop(guest);
        if let Some(limit) = limit {
            limit.close()?;
        }
        drop(write_back);
        let outcome = result.map_err(|error| guest_failure(&error))?;
        reports(outcome)
    }

    fn commit(&mut self, next: &Path, finished_as: String) -> Result<()> {
        // Mounting with `discard` would do the same while the step runs, and slow it down.
        disk::commit(&mut self.system).map_err(|error| match error {
            CommitError::System(error) => Failed::system(error),
            error => error.into(),
        })?;
        let backing = Backing { name: finished_as, format: Format::Qcow2 };
        create_overlay(next, &backing, self.size.bytes(), &self.cancel)?;
        let finished = self.chain.snapshot(next)?;
        // The builder moves it into its cache from now on.
        self.layers.push(&finished)?;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        self.system.unmount().map_err(Failed::system)
    }

    fn search(&mut self, secrets: &[NamedSecret]) -> Result<Vec<Leak>> {
        self.unmount()?;
        let needles = Needles::secrets(secrets);
        let hits = leaks::in_raw(&self.layers.reader()?, &needles, &self.cancel)?;
        // What is compressed is seen in the files only.
        if hits.is_empty() && self.system.root().filesystem.kind != FilesystemKind::Btrfs {
            return Ok(Vec::new());
        }
        self.system.mount(Access::ReadOnly).map_err(Failed::system)?;
        let files = audit::in_tree(Path::new("mnt"), &needles)?;
        self.unmount()?;
        Ok(leaks::places(hits, files))
    }

    fn flatten(&mut self, destination: &Path, compression: wire::Compression, replies: &Replies) -> Result<Flattened> {
        // The layers alone: what a mount writes to the new top is no part of any, and the same layers must give the
        // same file.
        self.unmount()?;
        write(&self.layers.reader()?, self.size, destination, compression, replies, &self.cancel)
    }

    fn close(mut self) -> Result<()> {
        self.unmount()?;
        self.chain.close()?;
        Ok(())
    }
}

/// Writes the raw disk as one compressed qcow2 file.
pub(crate) fn write(
    raw: &dyn ReadDisk,
    size: ByteSize,
    destination: &Path,
    compression: wire::Compression,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Flattened> {
    let options = WriteOptions {
        compression: match compression {
            wire::Compression::Zstd => Compression::Zstd,
            wire::Compression::Zlib => Compression::Zlib,
            wire::Compression::None => Compression::None,
        },
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let mut progress = |done, total| {
        reporter.event(Event::Progress { task: "compress".to_owned(), done, total: Some(total) });
    };
    let written = qcow2_writer::write_qcow2(raw, size.bytes(), destination, options, &mut progress, cancel)?;
    Ok(Flattened { file_size: written.file_size, data: written.data_size })
}

/// A guest that says why it failed is the recipe's matter; everything else is the host's.
pub(crate) fn guest_failure(error: &ClientError) -> Failed {
    let kind = match error {
        ClientError::Failed(failure) if failure.time_limit_seconds.is_some() => FailureKind::TimeLimit,
        ClientError::Failed(failure) if failure.not_as_locked => FailureKind::Lock,
        ClientError::Failed(_) | ClientError::File { .. } | ClientError::FileChanged { .. } => FailureKind::Step,
        _ => FailureKind::Host,
    };
    Failed { kind, chain: causes(error) }
}

pub(crate) fn reports(outcome: Outcome) -> Result<Vec<serde_json::Value>> {
    let mut reports = Vec::new();
    for package in outcome.packages {
        reports.push(serde_json::to_value(protocol::Report::Package(package))?);
    }
    for finding in outcome.findings {
        reports.push(serde_json::to_value(protocol::Report::Finding(finding))?);
    }
    if !outcome.installed.is_empty() {
        reports.push(serde_json::to_value(protocol::Report::Installed(outcome.installed))?);
    }
    if let Some(inventory) = outcome.inventory {
        reports.push(serde_json::to_value(protocol::Report::Inventory(inventory))?);
    }
    if let Some(sealed) = outcome.sealed {
        reports.push(serde_json::to_value(protocol::Report::Sealed(sealed))?);
    }
    Ok(reports)
}

pub(crate) fn open_source(sources: &[Source], index: usize) -> io::Result<Box<dyn Read>> {
    match sources.get(index) {
        Some(Source::Inline(bytes)) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
        Some(Source::File { path, digest }) => {
            let file = fs_err::File::open(path)?;
            let hasher = Hasher::new(digest.algorithm());
            Ok(Box::new(Checked { file, hasher: Some(hasher), expected: digest.to_string() }))
        }
        None => Err(io::Error::new(io::ErrorKind::NotFound, "the builder sent fewer files than the step has")),
    }
}

/// A file that must still be the one that the build was planned with, or its layer would have the wrong key.
struct Checked {
    file: fs_err::File,
    hasher: Option<Hasher>,
    expected: String,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
        } else if let Some(hasher) = self.hasher.take()
            && hasher.finish().to_string() != self.expected
        {
            let path = self.file.path().display();
            return Err(io::Error::other(format!("`{path}` changed after the build was planned")));
        }
        Ok(count)
    }
}
