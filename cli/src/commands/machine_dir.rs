//! Directories of machines that run: locked while in use, swept when their owner is gone.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tempfile::TempDir;

/// The name of the file whose lock says that the directory is in use.
const LOCK: &str = "lock";

/// The files of one running machine. Removed when closed or dropped; after SIGKILL the next sweep removes it.
#[derive(Debug)]
pub(super) struct MachineDir {
    dir: TempDir,
    _lock: fs_err::File,
}

impl MachineDir {
    /// A new private directory below `parent`, where those that killed runs left are swept first.
    pub(super) fn create(parent: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(parent)?;
        // A run that starts at this moment has made its lock file and may not hold the lock yet.
        sweep_older(parent, Duration::from_secs(10))?;
        // Short, because the path of a socket has at most 107 bytes; private, because the seed has the credential.
        let dir = tempfile::Builder::new()
            .prefix("m")
            .rand_bytes(8)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)?;
        let lock = fs_err::File::create(dir.path().join(LOCK))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { dir, _lock: lock })
    }

    /// A file in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Removes it.
    pub(super) fn close(self) -> io::Result<()> {
        self.dir.close()
    }
}

/// Removes the directories whose owners are gone, and counts them.
pub(super) fn sweep(parent: &Path) -> io::Result<u64> {
    sweep_older(parent, Duration::ZERO)
}

fn sweep_older(parent: &Path, age: Duration) -> io::Result<u64> {
    let mut count = 0;
    if !parent.exists() {
        return Ok(count);
    }
    for entry in fs_err::read_dir(parent)? {
        let path = entry?.path();
        // Without a lock file it is being made or removed at this moment.
        let Ok(lock) = fs_err::File::open(path.join(LOCK)) else { continue };
        if lock.metadata()?.modified()?.elapsed().is_ok_and(|elapsed| elapsed < age) {
            continue;
        }
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs_err::remove_dir_all(&path)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_uses_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let used = MachineDir::create(parent.path()).unwrap();
        let killed = MachineDir::create(parent.path()).unwrap();
        // As after SIGKILL: the lock is gone, the directory stays.
        let MachineDir { dir, _lock: lock } = killed;
        let left = dir.keep();
        drop(lock);
        assert_eq!(sweep(parent.path()).unwrap(), 1);
        assert!(!left.exists());
        assert!(used.file(LOCK).exists());
        assert_eq!(used.dir.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        used.close().unwrap();
        assert_eq!(sweep(parent.path()).unwrap(), 0);
    }
}
