//! Mounts with a guard, and what must be asked of a mounted file system before its disk is believed.

use std::ffi::{CString, NulError};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fs_err::File;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, mount_remount,
    unmount,
};

/// Between two rounds of writing back.
const WRITE_BACK_PAUSE: Duration = Duration::from_secs(1);

/// How long to wait until another build has let go of the same btrfs.
const TURN: Duration = Duration::from_mins(10);

/// More than anybody's /etc/fstab.
const LONGEST_TEXT: u64 = 64 << 10;

const FITRIM: Opcode = ioctl::opcode::read_write::<TrimRange>(b'X', 121);

/// A mount that could not be made, used or ended.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel does not mount it.
    #[error("could not mount `{}` as {file_system} on `{}`", source_path.display(), target.display())]
    Mount {
        /// What was to be mounted.
        source_path: PathBuf,
        /// Where.
        target: PathBuf,
        /// The kind of file system.
        file_system: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel does not bind it.
    #[error("could not bind `{}` to `{}`", source_path.display(), target.display())]
    Bind {
        /// What was to be shown.
        source_path: PathBuf,
        /// Where.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Mounts would still travel to other namespaces.
    #[error("could not make the mounts below `{}` private", path.display())]
    Private {
        /// The mount.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The mounted root cannot be opened; the source has the path.
    #[error("could not open a mounted file system")]
    Open {
        /// The reason, with the path.
        source: io::Error,
    },
    /// Something written since the mount did not reach the disk: it must not be used.
    #[error("what was written to `{}` did not reach its disk", target.display())]
    Sync {
        /// Where it is mounted.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Freed blocks could not be dropped.
    #[error("could not drop the free blocks of `{}`", target.display())]
    Trim {
        /// Where it is mounted.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Still in use, most often by a process.
    #[error("could not unmount `{}`", target.display())]
    Unmount {
        /// Where it is mounted.
        target: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A mount option with a NUL byte.
    #[error("a mount option of `{}` has a NUL byte", target.display())]
    Option {
        /// Where it should be mounted.
        target: PathBuf,
        /// Where the byte is.
        source: NulError,
    },
}

impl MountError {
    /// Whether this kernel does not know the kind of file system.
    pub fn is_unknown_kind(&self) -> bool {
        let unknown = Some(Errno::NODEV.raw_os_error());
        matches!(self, Self::Mount { source, .. } if source.raw_os_error() == unknown)
    }
}

/// How a file system is mounted. Guests' disks are mounted without their device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    /// Nothing can be written.
    pub read_only: bool,
    /// Device nodes do not work.
    pub no_devices: bool,
    /// Set-user-id bits and file capabilities have no effect.
    pub no_set_uid: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
}

impl Flags {
    /// For looking at a disk: nothing can be written and nothing in it has any power.
    pub const LOOK: Self = Self { read_only: true, no_devices: true, no_set_uid: true, no_exec: true };
    /// For working inside a disk: written and executed, set-user-id programs included, without device nodes.
    pub const WORK: Self = Self { read_only: false, no_devices: true, no_set_uid: false, no_exec: false };

    fn bits(self) -> MountFlags {
        let mut bits = MountFlags::NOATIME;
        bits.set(MountFlags::RDONLY, self.read_only);
        bits.set(MountFlags::NODEV, self.no_devices);
        bits.set(MountFlags::NOSUID, self.no_set_uid);
        bits.set(MountFlags::NOEXEC, self.no_exec);
        bits
    }
}

/// A mounted file system. Access times are never written.
#[derive(Debug)]
pub struct Mount {
    target: PathBuf,
    /// Opened at mount time: the kernel tells each write-back error once to every descriptor that was open before.
    root: Option<File>,
    mounted: bool,
}

impl Mount {
    /// Mounts `source` on the directory `target`; `data` are the file system's own options, joined by commas.
    pub fn new(source: &Path, target: &Path, file_system: &str, flags: Flags, data: &str) -> Result<Self, MountError> {
        call_mount(source, target, target, file_system, flags, data)?;
        Self::guard(target)
    }

    /// Mounts `source` on a directory of this file system, which is named as seen from its root. Nothing if it has no
    /// such directory.
    ///
    /// The name is a stranger's, and so are the links that it may lead over: it is looked up with this root as the
    /// root of everything, and what was found is mounted on, not its name.
    pub fn below(
        &self,
        directory: &str,
        source: &Path,
        file_system: &str,
        flags: Flags,
        data: &str,
    ) -> Result<Option<Self>, MountError> {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(found) = self.open_below(directory, open)? else { return Ok(None) };
        let link = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let target = fs_err::read_link(&link).map_err(|source| MountError::Open { source })?;
        let root = fs_err::canonicalize(&self.target).map_err(|source| MountError::Open { source })?;
        if target == root || !target.starts_with(&root) {
            return Ok(None);
        }
        call_mount(source, &link, &target, file_system, flags, data)?;
        drop(found);
        Self::guard(&target).map(Some)
    }

    /// The text of a small regular file of this file system, looked up as by [`Self::below`]. Nothing if there is none.
    pub fn text_below(&self, path: &str) -> Result<Option<String>, MountError> {
        let failed = |source| MountError::Open { source };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Some(file) = self.open_below(path, flags)? else { return Ok(None) };
        let file = std::fs::File::from(file);
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LONGEST_TEXT).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>, MountError> {
        let root = self.root.as_ref().expect("the descriptor is there until the mount is closed");
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(root, path, flags, Mode::empty(), resolve) {
                Ok(found) => return Ok(Some(found)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL) => return Ok(None),
                // Something was renamed meanwhile, anywhere.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => {
                    let text = format!("`{path}` below `{}`: {error}", self.target.display());
                    let error = io::Error::from(error);
                    return Err(MountError::Open { source: io::Error::new(error.kind(), text) });
                }
            }
        }
    }

    fn guard(target: &Path) -> Result<Self, MountError> {
        let mut mount = Self { target: target.to_owned(), root: None, mounted: true };
        mount.root = Some(File::open(target).map_err(|source| MountError::Open { source })?);
        Ok(mount)
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes everything back, and fails if anything that was written since the mount was lost.
    ///
    /// With a full cache disk write, sync and umount all succeed; only this call tells.
    pub fn syncfs(&self) -> Result<(), MountError> {
        let root = self.root.as_ref().expect("the descriptor is there until the mount is closed");
        rustix::fs::syncfs(root).map_err(|error| MountError::Sync { target: self.target.clone(), source: error.into() })
    }

    /// Has what is written go on to the disk every second, on a thread of its own, until the guard is dropped.
    ///
    /// Left alone, the kernel would begin half a minute later, and [`Self::syncfs`] would have to wait for all of it.
    pub fn write_back(&self) -> Result<WriteBack, MountError> {
        // Opened anew and not duplicated: duplicates share what they were told of errors.
        let root = File::open(&self.target).map_err(|source| MountError::Open { source })?;
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(WRITE_BACK_PAUSE) {
                // An error is told again to `Mount::syncfs`, which looks through a descriptor of its own.
                if let Err(error) = rustix::fs::syncfs(&root) {
                    tracing::debug!(%error, "could not write back");
                }
            }
        });
        Ok(WriteBack { stop: Some(stop), thread: Some(thread) })
    }

    /// Tells the disk which blocks are free and returns the number of bytes in them, as the file system counts.
    ///
    /// The disk below may ignore it, so this number proves nothing about what the disk still contains.
    pub fn fstrim(&self) -> Result<u64, MountError> {
        let root = self.root.as_ref().expect("the descriptor is there until the mount is closed");
        let mut range = TrimRange { start: 0, length: u64::MAX, minimum: 0 };
        trim(root, &mut range).map_err(|source| MountError::Trim { target: self.target.clone(), source })?;
        Ok(range.length)
    }

    /// Unmounts it. If it is in use, that is an error, and it is taken out of the tree of files all the same.
    pub fn close(mut self) -> Result<(), MountError> {
        // The own descriptor would make it busy.
        self.root = None;
        unmount(&self.target, UnmountFlags::NOFOLLOW)
            .map_err(|error| MountError::Unmount { target: self.target.clone(), source: error.into() })?;
        self.mounted = false;
        Ok(())
    }
}

/// Calls mount(2). `place` is where it mounts and `target` what an error calls it.
fn call_mount(
    source: &Path,
    place: &Path,
    target: &Path,
    file_system: &str,
    flags: Flags,
    data: &str,
) -> Result<(), MountError> {
    let options = CString::new(data).map_err(|source| MountError::Option { target: target.to_owned(), source })?;
    let options = if data.is_empty() { None } else { Some(options.as_c_str()) };
    let begin = Instant::now();
    loop {
        match rustix::mount::mount(source, place, file_system, flags.bits(), options) {
            Ok(()) => return Ok(()),
            // Before Linux 6.7, of two btrfs file systems with one id only one can be mounted: another build has the
            // same base open.
            Err(Errno::EXIST) if file_system == "btrfs" && begin.elapsed() < TURN => {
                tracing::warn!(source = %source.display(), "waiting for another mount of the same btrfs");
                thread::sleep(WRITE_BACK_PAUSE);
            }
            Err(error) => {
                return Err(MountError::Mount {
                    source_path: source.to_owned(),
                    target: target.to_owned(),
                    file_system: file_system.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
}

/// A thread that writes back; see [`Mount::write_back`].
#[derive(Debug)]
pub struct WriteBack {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes back panicked");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.root = None;
        if self.mounted
            && let Err(error) = unmount(&self.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        {
            tracing::error!(target_path = %self.target.display(), %error, "could not unmount");
        }
    }
}

/// A directory or file that is shown at a second place.
#[derive(Debug)]
pub struct BindMount {
    target: PathBuf,
    mounted: bool,
}

impl BindMount {
    /// Shows `source` at `target` too, with everything mounted below it if `recursive`. The flags hold for the
    /// outermost mount.
    pub fn new(source: &Path, target: &Path, flags: Flags, recursive: bool) -> Result<Self, MountError> {
        let failed = |error: rustix::io::Errno| MountError::Bind {
            source_path: source.to_owned(),
            target: target.to_owned(),
            source: error.into(),
        };
        if recursive { mount_bind_recursive(source, target) } else { mount_bind(source, target) }.map_err(failed)?;
        let mount = Self { target: target.to_owned(), mounted: true };
        // A bind mount takes its flags only from a second call.
        mount_remount(target, flags.bits() | MountFlags::BIND, "").map_err(failed)?;
        Ok(mount)
    }

    /// Where it is shown.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Takes it away. If it is in use, that is an error, and it is taken out of the tree of files all the same.
    pub fn close(mut self) -> Result<(), MountError> {
        unmount(&self.target, UnmountFlags::NOFOLLOW)
            .map_err(|error| MountError::Unmount { target: self.target.clone(), source: error.into() })?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = unmount(&self.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        {
            tracing::error!(target_path = %self.target.display(), %error, "could not unmount");
        }
    }
}

/// Keeps all mounts at and below `path` from travelling to and from other mount namespaces.
pub fn make_rprivate(path: &Path) -> Result<(), MountError> {
    mount_change(path, MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|error| MountError::Private { path: path.to_owned(), source: error.into() })
}

/// `struct fstrim_range` of linux/fs.h.
#[repr(C)]
struct TrimRange {
    start: u64,
    length: u64,
    minimum: u64,
}

#[expect(unsafe_code, reason = "freed blocks are dropped by ioctl")]
fn trim(root: &File, range: &mut TrimRange) -> io::Result<()> {
    // SAFETY: `TrimRange` has the layout of `struct fstrim_range`, which this call reads and writes.
    Ok(unsafe { ioctl::ioctl(root, Updater::<FITRIM, TrimRange>::new(range)) }?)
}
