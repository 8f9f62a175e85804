//! The worker: the first process of its own PID namespace, which holds everything that a build mounts, attaches and
//! starts. When it ends, for whatever reason, the kernel ends all of that with it.

use std::error::Error;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use labwright_core::{ByteSize, Cancel, Event, Hasher, Reporter};
use labwright_disk::chain::{Backing, Chain, ChainSpec, create_overlay};
use labwright_disk::filesystem::{self, FilesystemKind};
use labwright_disk::inspect::Format;
use labwright_disk::layout::{Root, find_root};
use labwright_disk::loop_device::{Access, LoopDevice};
use labwright_disk::mount::{Flags, Mount, make_rprivate};
use labwright_disk::qcow2_writer::{self, Compression, WriteOptions};
use labwright_disk::{free_space, table};
use labwright_guest::client::{self, ClientError, Outcome};
use labwright_guest::protocol::{self, Message};
use labwright_host::{Invocation, Peer, Tool, become_first_process};

use super::wire::{self, Failure, FailureKind, Flattened, INNER, OUTER, Opened, Order, Reply, Source, Step};
use crate::guest_program;

/// The name of the guest program in the work directory.
const GUEST: &str = "labwright-guest";

/// With less room than this, in bytes, an overlay cannot grow by the clusters and tables that one write may need.
const LITTLE_ROOM: u64 = 1 << 20;

pub(crate) type Result<T> = std::result::Result<T, Failed>;

/// A failed order: what it means and what happened.
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) chain: Vec<String>,
}

/// A failure of the host, where no other kind is said.
impl<E: Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { kind: FailureKind::Host, chain: chain(&error) }
    }
}

impl Failed {
    fn base(error: &dyn Error) -> Self {
        Self { kind: FailureKind::Base, chain: chain(error) }
    }

    /// The same failure, explained if the host's disk below the build is full: programs in the guest only see a disk
    /// that fails or that became read-only.
    pub(crate) fn unless_full(mut self, work: Option<&Path>) -> Self {
        if let Some(work) = work
            && is_full(work)
        {
            self.kind = FailureKind::Host;
            self.chain.push(format!("the disk that holds {} is full", work.display()));
        }
        self
    }
}

/// Whether the host's disk below the build has no room left.
pub(crate) fn is_full(work: &Path) -> bool {
    rustix::fs::statvfs(work).is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < LITTLE_ROOM)
}

/// What an error says and why, outermost first.
pub(crate) fn chain(error: &dyn Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        // Transparent errors say the same twice.
        if chain.last() != Some(&text) {
            chain.push(text);
        }
        next = error.source();
    }
    chain
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
        if let Order::Open(open) = &order {
            work = Some(open.work.clone());
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
            let root = ByteSize::from_bytes(opened.root.size);
            *disk = Some(opened);
            Ok(Reply::Opened(Opened { root }))
        }
        Order::Grow => disk.as_mut().ok_or_else(closed)?.grow().map(|()| Reply::Done),
        Order::Step(step) => disk.as_mut().ok_or_else(closed)?.step(*step, replies).map(Reply::Ran),
        Order::Commit { next, finished_as, trim } => {
            disk.as_mut().ok_or_else(closed)?.commit(&next, finished_as, trim).map(|()| Reply::Done)
        }
        Order::Flatten { destination, compression } => {
            disk.as_mut().ok_or_else(closed)?.flatten(&destination, compression, replies).map(Reply::Flattened)
        }
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
    mounted: Option<Mounted>,
    chain: Chain,
    root: Root,
    work: PathBuf,
    size: ByteSize,
    cancel: Cancel,
}

struct Mounted {
    mount: Mount,
    device: LoopDevice,
}

impl Disk {
    fn open(open: wire::Open) -> Result<Self> {
        make_rprivate(Path::new("/"))?;
        // Programs look for themselves and their children there.
        rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), None)?;
        // Relative paths keep the control socket's name within what the kernel allows.
        std::env::set_current_dir(&open.work)?;
        guest_program::write_to(Path::new(GUEST))?;
        fs_err::create_dir("mnt")?;
        fs_err::create_dir("look")?;

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
        let chain = Chain::open(&spec, &cancel)?;
        let root = find_root(chain.export_path(), Path::new("look")).map_err(|error| Failed::base(&error))?;
        Ok(Self { mounted: None, chain, root, work: open.work, size: open.size, cancel })
    }

    /// Whether free blocks can be too small to be dropped: an ext4 root with blocks below the 4 KiB of a page, to which
    /// the kernel rounds what it discards.
    fn has_small_blocks(&self) -> Result<bool> {
        if self.root.filesystem.kind != FilesystemKind::Ext4 {
            return Ok(false);
        }
        // s_log_block_size of the superblock, which lies at byte 1024: 0 stands for 1 KiB, 2 for 4 KiB.
        let mut log_block_size = [0; 4];
        let raw = fs_err::File::open(self.chain.export_path())?;
        raw.file().read_exact_at(&mut log_block_size, self.root.offset + 1024 + 24)?;
        Ok(u32::from_le_bytes(log_block_size) < 2)
    }

    /// Grows the root's partition to the end of the disk, and its file system to the end of the partition.
    fn grow(&mut self) -> Result<()> {
        let raw = fs_err::OpenOptions::new().read(true).write(true).open(self.chain.export_path())?;
        let root = &mut self.root;
        match root.partition {
            Some(number) => {
                let grown = table::grow(&raw, number, self.size.bytes() / table::SECTOR)
                    .map_err(|error| Failed::base(&error))?;
                root.size = grown.size();
            }
            None => root.size = self.size.bytes() - root.offset,
        }
        raw.sync_all()?;
        drop(raw);
        match self.root.filesystem.kind {
            FilesystemKind::Ext4 => {
                let device = self.attach()?;
                filesystem::grow_ext4(device.path(), &self.cancel).map_err(|error| Failed::base(&error))?;
                device.close()?;
            }
            // These two grow only while they are mounted.
            FilesystemKind::Xfs => {
                let target = self.mount()?.mount.target().to_owned();
                Invocation::new(Tool::XfsGrowfs).arg(target).run(&self.cancel).map_err(|error| Failed::base(&error))?;
            }
            FilesystemKind::Btrfs => {
                let target = self.mount()?.mount.target().to_owned();
                Invocation::new(Tool::Btrfs)
                    .args(["filesystem", "resize", "max"])
                    .arg(target)
                    .run(&self.cancel)
                    .map_err(|error| Failed::base(&error))?;
            }
            other => {
                let reason = format!("a root file system of the kind {} cannot be grown", other.as_str());
                return Err(Failed { kind: FailureKind::Base, chain: vec![reason] });
            }
        }
        Ok(())
    }

    fn attach(&self) -> Result<LoopDevice> {
        Ok(LoopDevice::attach(self.chain.export_path(), self.root.offset, self.root.size, Access::ReadWrite)?)
    }

    fn mount(&mut self) -> Result<&Mounted> {
        let mounted = if let Some(mounted) = self.mounted.take() {
            mounted
        } else {
            let root = &self.root;
            let device = self.attach()?;
            let options = match &root.subvolume {
                Some(subvolume) => format!("discard,subvol={subvolume}"),
                None => "discard".to_owned(),
            };
            let kind = root.filesystem.kind.as_str();
            let mount = Mount::new(device.path(), Path::new("mnt"), kind, Flags::WORK, &options)?;
            Mounted { mount, device }
        };
        Ok(self.mounted.insert(mounted))
    }

    /// Makes sure that everything written so far is in the overlay, and lets go of the file system.
    fn unmount(&mut self) -> Result<()> {
        if let Some(Mounted { mount, device }) = self.mounted.take() {
            mount.syncfs()?;
            mount.close()?;
            device.close()?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step, replies: &Replies) -> Result<Vec<serde_json::Value>> {
        self.mount()?;
        let root = self.work.join("mnt");
        let mut request = step.request;
        request.root = root;
        request.disk = Some(self.disk_info()?);
        let program = self.work.join(GUEST);
        let mut guest = Peer::child(&program, &["step"])?;
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
        let outcome = result.map_err(|error| guest_failure(&error))?;
        reports(outcome)
    }

    /// What `grub-probe` in the guest should answer.
    fn disk_info(&self) -> Result<protocol::DiskInfo> {
        let raw = fs_err::File::open(self.chain.export_path())?;
        let table = table::read(&raw).map_err(|error| Failed::base(&error))?;
        let partition = self.root.partition.and_then(|number| table.get(number));
        let partition_map = match table.scheme {
            table::Scheme::Gpt => "gpt",
            table::Scheme::Mbr => "msdos",
            table::Scheme::None => "",
        };
        let file_system = &self.root.filesystem;
        let grub_fs = match file_system.kind {
            FilesystemKind::Ext4 => "ext2",
            other => other.as_str(),
        };
        Ok(protocol::DiskInfo {
            partition_map: partition_map.to_owned(),
            file_systems: vec![protocol::FileSystemInfo {
                mount: "/".parse().expect("the root is a path"),
                uuid: file_system.uuid.clone().unwrap_or_default(),
                partition_uuid: partition
                    .and_then(|partition| partition.unique_guid)
                    .map_or_else(String::new, |guid| guid.to_string()),
                grub_fs: grub_fs.to_owned(),
            }],
        })
    }

    fn commit(&mut self, next: &Path, finished_as: String, trim: bool) -> Result<()> {
        let small_blocks = trim && self.has_small_blocks()?;
        let mut free = None;
        if trim {
            let mount = &self.mount()?.mount;
            // Blocks are free once the journal says so.
            mount.syncfs()?;
            mount.fstrim()?;
            free = free_space::list(mount.target())?;
        }
        self.unmount()?;
        // Those that are smaller than a page were not dropped.
        if let Some(free) = free.filter(|_| small_blocks) {
            let device = self.attach()?;
            free_space::erase(device.path(), &free)?;
            device.close()?;
        }
        let backing = Backing { name: finished_as, format: Format::Qcow2 };
        create_overlay(next, &backing, self.size.bytes(), &self.cancel)?;
        self.chain.snapshot(next)?;
        Ok(())
    }

    fn flatten(&mut self, destination: &Path, compression: wire::Compression, replies: &Replies) -> Result<Flattened> {
        // Not mounted again: that alone would write to the disk, and the same layers must give the same file.
        self.unmount()?;
        let raw = fs_err::File::open(self.chain.export_path())?;
        write(&raw, self.size, destination, compression, replies, &self.cancel)
    }

    fn close(mut self) -> Result<()> {
        self.unmount()?;
        self.chain.close()?;
        Ok(())
    }
}

/// Writes the raw disk as one compressed qcow2 file.
pub(crate) fn write(
    raw: &fs_err::File,
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
    Ok(Flattened { file_size: written.file_size, data: written.data_size, digest: written.digest })
}

/// A guest that says why it failed is the recipe's matter; everything else is the host's.
pub(crate) fn guest_failure(error: &ClientError) -> Failed {
    let kind = match error {
        ClientError::Failed(_) | ClientError::File { .. } | ClientError::FileChanged { .. } => FailureKind::Step,
        _ => FailureKind::Host,
    };
    Failed { kind, chain: chain(error) }
}

pub(crate) fn reports(outcome: Outcome) -> Result<Vec<serde_json::Value>> {
    let mut reports = Vec::new();
    for package in outcome.packages {
        reports.push(serde_json::to_value(protocol::Report::Package(package))?);
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
