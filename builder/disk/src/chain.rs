//! A chain of disk images, shown as one raw file: qcow2 overlays below `qemu-storage-daemon`, exported by FUSE.
//!
//! The daemon never decides by itself what to open: every node is named and its backing node is given, so the names
//! inside the files are not followed. Everything below the top is read-only. Flushes are ignored while working; a
//! layer counts only after [`Chain::snapshot`] or [`Chain::close`] wrote it out.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs_err::File;
use labwright_core::{Cancel, Cancelled};
use labwright_host::{Invocation, Running, Tool, ToolError};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::inspect::Format;
use crate::qmp::{Qmp, timeout};

/// How long the exported file may take to appear, and the daemon to end.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sub-clusters of 4 KiB: without them a discard that is not aligned to 64 KiB has no effect, and what was deleted
/// stays in the flattened disk.
const OVERLAY_OPTIONS: &str = "extended_l2=on,cluster_size=128k";

/// The longest path of a Unix socket, in bytes, without the final NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// A chain that could not be made, shown, continued or ended.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A program of the host failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A file cannot be opened, written or made sure of; the source has the path.
    #[error("could not prepare a file of the chain")]
    File {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The backing file's name would be read as something else than a file beside the overlay.
    #[error("`{name}` is not a plain relative file name, so no overlay can record it")]
    BackingName {
        /// The name.
        name: String,
    },
    /// A path that QEMU cannot be told.
    #[error("the path `{}` is not UTF-8", path.display())]
    PathText {
        /// The path.
        path: PathBuf,
    },
    /// The socket's path is longer than the kernel allows.
    #[error("the socket path `{}` is longer than {LONGEST_SOCKET_PATH} bytes", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// Something is mounted where the raw file should be shown.
    #[error("`{}` already shows a disk", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A chain without any disk.
    #[error("the chain has no disk")]
    Empty,
    /// This QEMU was built without FUSE exports.
    #[error("this qemu-storage-daemon has no FUSE exports; use a QEMU that was built with them, or the vm runner")]
    NoFuse,
    /// No connection to the daemon.
    #[error("could not connect to the storage daemon at `{}`", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("could not talk to the storage daemon (`{command}`)")]
    Talk {
        /// The command.
        command: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The daemon said something that is not JSON.
    #[error("could not understand the storage daemon's answer to `{command}`")]
    Answer {
        /// The command.
        command: &'static str,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// The daemon refused a command.
    #[error("the storage daemon refused `{command}`: {reason}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's class of error.
        class: String,
        /// QEMU's words.
        reason: String,
    },
    /// The daemon lives and does not do its work.
    #[error("the storage daemon did not {what} within {seconds} s{}", if stderr.is_empty() { String::new() } else { format!(": {stderr}") })]
    TimeOut {
        /// What was waited for.
        what: &'static str,
        /// How long, in seconds.
        seconds: u64,
        /// The end of what it said on stderr.
        stderr: String,
    },
    /// The daemon ended with an error.
    #[error("the storage daemon ended with {status}{}", if stderr.is_empty() { String::new() } else { format!(": {stderr}") })]
    Ended {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it said on stderr.
        stderr: String,
    },
    /// A chain without a writable top cannot go on to another one.
    #[error("the chain is read-only")]
    ReadOnly,
}

/// The disk below an overlay, as the overlay records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The file's name, relative to the overlay's directory. It need not exist yet.
    pub name: String,
    /// Its format.
    pub format: Format,
}

/// Makes an empty overlay of `size` bytes over `backing`, with sub-clusters.
///
/// The backing file is not opened: its name is the one it will have in the end.
pub fn create_overlay(path: &Path, backing: &Backing, size: u64, cancel: &Cancel) -> Result<(), ChainError> {
    let name = &backing.name;
    if name.is_empty() || name.starts_with('/') || name.contains(':') || name.contains('\0') {
        return Err(ChainError::BackingName { name: name.clone() });
    }
    Invocation::new(Tool::QemuImg)
        .args(["create", "-q", "-u", "-f", "qcow2", "-o", OVERLAY_OPTIONS, "-F", backing.format.as_str(), "-b"])
        .arg(name)
        .arg(absolute(path)?)
        .arg(size.to_string())
        .run(cancel)?;
    Ok(())
}

/// Which files make a chain and where it is shown.
#[derive(Debug, Clone)]
pub struct ChainSpec {
    /// The read-only disks, from the bottom up.
    pub lower: Vec<(PathBuf, Format)>,
    /// The writable qcow2 overlay on top, or nothing to only read.
    pub top: Option<PathBuf>,
    /// The file at which the raw disk is shown; made if it is not there.
    pub mount_point: PathBuf,
    /// The daemon's control socket; what is there is removed.
    pub socket: PathBuf,
}

/// What a disk is when it is added to the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Read-only, over what is there already.
    Lower,
    /// Writable, over what is there already.
    Top,
    /// Writable and not connected yet: a snapshot does that.
    Next,
}

/// A chain that is shown as a raw file until [`Chain::close`].
///
/// The daemon dies with the thread that called [`Chain::open`].
#[derive(Debug)]
pub struct Chain {
    daemon: Option<Running>,
    qmp: Qmp,
    cancel: Cancel,
    mount_point: PathBuf,
    socket: PathBuf,
    top: Option<PathBuf>,
    /// How many disks the graph has; the top is the node with this number.
    nodes: usize,
}

impl Chain {
    /// Starts the daemon and waits until the raw file is there.
    ///
    /// A set `cancel` ends every wait.
    pub fn open(spec: &ChainSpec, cancel: &Cancel) -> Result<Self, ChainError> {
        match Self::open_once(spec, cancel) {
            // QEMU 10.0 garbled a command of ours once in some hundred starts, or crashed (both seen). Its monitor moves
            // to another thread while it starts, which fits. A daemon that has not understood has done nothing: start
            // another.
            Err(error) if is_bad_start(&error) => {
                tracing::warn!(%error, "the storage daemon started badly; starting it again");
                Self::open_once(spec, cancel)
            }
            result => result,
        }
    }

    fn open_once(spec: &ChainSpec, cancel: &Cancel) -> Result<Self, ChainError> {
        if spec.lower.is_empty() && spec.top.is_none() {
            return Err(ChainError::Empty);
        }
        let mount_point = absolute(&spec.mount_point)?;
        let socket = absolute(&spec.socket)?;
        if socket.as_os_str().len() > LONGEST_SOCKET_PATH {
            return Err(ChainError::SocketPath { path: socket });
        }
        release_export(&mount_point)?;
        if is_mount(&mount_point)? {
            return Err(ChainError::InUse { path: mount_point });
        }
        File::options().create(true).append(true).open(&mount_point).map_err(|source| ChainError::File { source })?;
        remove_if_there(&socket)?;
        // QEMU's option syntax doubles a comma in a value.
        let socket_text = text(&socket)?.replace(',', ",,");
        // Written when the monitor is there: whoever connects before that races with its start.
        let started = socket.with_extension("pid");
        remove_if_there(&started)?;
        let mut daemon = Invocation::new(Tool::QemuStorageDaemon)
            .arg("--chardev")
            .arg(format!("socket,id=monitor,path={socket_text},server=on,wait=off"))
            .args(["--monitor", "chardev=monitor", "--pidfile"])
            .arg(&started)
            .spawn()?;
        await_file(&started, &mut daemon, cancel)?;
        let qmp = Qmp::connect(&socket, &mut daemon, cancel)?;
        let mut chain =
            Self { daemon: Some(daemon), qmp, cancel: cancel.clone(), mount_point, socket, top: None, nodes: 0 };
        for (path, format) in &spec.lower {
            chain.add(path, *format, Role::Lower)?;
        }
        if let Some(top) = &spec.top {
            chain.add(top, Format::Qcow2, Role::Top)?;
            chain.top = Some(absolute(top)?);
        }
        chain.export()?;
        Ok(chain)
    }

    /// The raw file.
    pub fn export_path(&self) -> &Path {
        &self.mount_point
    }

    /// The overlay that is written to now.
    pub fn top(&self) -> Option<&Path> {
        self.top.as_deref()
    }

    /// The daemon's process id.
    pub fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon is there until the chain is closed").id()
    }

    /// Puts the empty overlay `new_top` on top; the raw file follows. Returns the path of the overlay that is now
    /// finished and whole; who keeps it syncs it. It may be renamed at once, also while the chain is in use.
    ///
    /// What was mounted from the raw file must be synced and unmounted before. `new_top` must have been made with
    /// the size of the disk and the final name of the finished overlay as its backing file.
    pub fn snapshot(&mut self, new_top: &Path) -> Result<PathBuf, ChainError> {
        let finished = self.top.clone().ok_or(ChainError::ReadOnly)?;
        let below = node(self.nodes);
        self.add(new_top, Format::Qcow2, Role::Next)?;
        let overlay = node(self.nodes);
        if let Err(error) = self.execute("blockdev-snapshot", &json!({ "node": below, "overlay": overlay })) {
            // The raw file still writes to the old top: forget the new one.
            self.remove(self.nodes);
            self.nodes -= 1;
            return Err(error);
        }
        self.top = Some(absolute(new_top)?);
        Ok(finished)
    }

    /// Ends the daemon, and makes sure that the top is on the disk. Returns its path.
    ///
    /// What was mounted from the raw file must be synced, unmounted and freed before.
    pub fn close(mut self) -> Result<Option<PathBuf>, ChainError> {
        match self.execute("quit", &json!({})) {
            // It may be gone before its answer has been read.
            Ok(_) | Err(ChainError::Talk { .. } | ChainError::Tool(ToolError::Failed { .. })) => {}
            Err(error) => return Err(error),
        }
        let end = Instant::now() + PATIENCE;
        let status = loop {
            let daemon = self.daemon.as_mut().expect("the daemon is there until the chain is closed");
            match daemon.check() {
                Ok(()) if Instant::now() > end => return Err(timeout("end", daemon)),
                Ok(()) => thread::sleep(Duration::from_millis(5)),
                Err(ToolError::Failed { status, stderr, .. }) => break (status, stderr),
                Err(error) => return Err(error.into()),
            }
        };
        self.daemon = None;
        if !status.0.success() {
            return Err(ChainError::Ended { status: status.0, stderr: status.1.trim().to_owned() });
        }
        self.clean_up()?;
        let top = self.top.take();
        if let Some(top) = &top {
            sync(top)?;
        }
        Ok(top)
    }

    /// Adds a disk as the next node.
    fn add(&mut self, path: &Path, format: Format, role: Role) -> Result<(), ChainError> {
        let number = self.nodes + 1;
        let file = file_node(number);
        let read_only = role == Role::Lower;
        let backing = (role != Role::Next && self.nodes > 0).then(|| node(self.nodes));
        let mut protocol = json!({
            "driver": "file",
            "node-name": file,
            "filename": text(&absolute(path)?)?,
            "read-only": read_only,
            "cache": { "no-flush": true },
        });
        let mut disk = json!({
            "driver": format.as_str(),
            "node-name": node(number),
            "file": file,
            "read-only": read_only,
            "cache": { "no-flush": true },
        });
        if !read_only {
            protocol["discard"] = json!("unmap");
            disk["discard"] = json!("unmap");
        }
        if format == Format::Qcow2 {
            disk["backing"] = json!(backing);
        }
        self.execute("blockdev-add", &protocol)?;
        if let Err(error) = self.execute("blockdev-add", &disk) {
            self.remove(number);
            return Err(error);
        }
        self.nodes = number;
        Ok(())
    }

    /// Removes a disk that nothing uses; failing to do so only leaves a file open until the end.
    fn remove(&mut self, number: usize) {
        for name in [node(number), file_node(number)] {
            if let Err(error) = self.execute("blockdev-del", &json!({ "node-name": name })) {
                tracing::debug!(name, %error, "could not remove a node");
            }
        }
    }

    fn export(&mut self) -> Result<(), ChainError> {
        let arguments = json!({
            "type": "fuse",
            "id": "export",
            "node-name": node(self.nodes),
            "mountpoint": text(&self.mount_point)?,
            "writable": self.top.is_some(),
            "growable": false,
        });
        match self.execute("block-export-add", &arguments) {
            Err(ChainError::Refused { reason, .. }) if reason.contains("does not accept value 'fuse'") => {
                return Err(ChainError::NoFuse);
            }
            result => result?,
        };
        let end = Instant::now() + PATIENCE;
        loop {
            let size = fs_err::metadata(&self.mount_point).map_err(|source| ChainError::File { source })?.len();
            if size != 0 {
                return Ok(());
            }
            let daemon = self.daemon.as_mut().expect("the daemon is there until the chain is closed");
            daemon.check()?;
            self.cancel.check()?;
            if Instant::now() > end {
                return Err(timeout("show the disk", daemon));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn execute(&mut self, command: &'static str, arguments: &Value) -> Result<Value, ChainError> {
        let daemon = self.daemon.as_mut().expect("the daemon is there until the chain is closed");
        self.qmp.execute(command, arguments, daemon, &self.cancel)
    }

    fn clean_up(&self) -> Result<(), ChainError> {
        release_export(&self.mount_point)?;
        remove_if_there(&self.socket.with_extension("pid"))?;
        remove_if_there(&self.socket)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            if let Err(error) = daemon.kill() {
                tracing::error!(%error, "could not end the storage daemon");
            }
            if let Err(error) = self.clean_up() {
                tracing::error!(%error, "could not release the raw file of a chain");
            }
        }
    }
}

/// Whether a storage daemon failed in a way that another start mends.
fn is_bad_start(error: &ChainError) -> bool {
    match error {
        ChainError::Refused { reason, .. } => reason.starts_with("JSON parse error"),
        ChainError::Tool(ToolError::Failed { status, .. }) => status.signal() == Some(Signal::SEGV.as_raw()),
        _ => false,
    }
}

fn await_file(path: &Path, daemon: &mut Running, cancel: &Cancel) -> Result<(), ChainError> {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        daemon.check()?;
        cancel.check()?;
        if Instant::now() > end {
            return Err(timeout("start", daemon));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), ChainError> {
    match fs_err::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ChainError::File { source }),
        _ => Ok(()),
    }
}

/// Takes away what a storage daemon that was killed left at `mount_point`: a mount that answers "not connected".
///
/// Does nothing where there is none, or where the daemon lives.
pub fn release_export(mount_point: &Path) -> Result<(), ChainError> {
    // The kernel remembers a file's attributes for a second, also those of a dead daemon: ask past its memory.
    match statx(CWD, mount_point, AtFlags::STATX_FORCE_SYNC, StatxFlags::SIZE) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTCONN | Errno::CONNABORTED) => unmount(mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| export_error("unmount", mount_point, error)),
        Err(error) => Err(export_error("look at", mount_point, error)),
    }
}

fn export_error(what: &str, path: &Path, error: Errno) -> ChainError {
    let error = io::Error::from(error);
    let text = format!("could not {what} `{}`: {error}", path.display());
    ChainError::File { source: io::Error::new(error.kind(), text) }
}

/// Whether something is mounted at a file.
fn is_mount(path: &Path) -> Result<bool, ChainError> {
    let device = |path: &Path| match fs_err::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChainError::File { source }),
    };
    let Some(parent) = path.parent() else { return Ok(true) };
    let own = device(path)?;
    Ok(own.is_some() && own != device(parent)?)
}

/// Writes a finished layer through to the disk; QEMU was told not to.
fn sync(path: &Path) -> Result<(), ChainError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| ChainError::File { source })
}

fn file_node(number: usize) -> String {
    format!("file{number}")
}

fn node(number: usize) -> String {
    format!("disk{number}")
}

/// QEMU reads `name:rest` as a protocol, but not behind a slash.
fn absolute(path: &Path) -> Result<PathBuf, ChainError> {
    std::path::absolute(path).map_err(|source| ChainError::File { source })
}

fn text(path: &Path) -> Result<&str, ChainError> {
    path.to_str().ok_or_else(|| ChainError::PathText { path: path.to_owned() })
}
