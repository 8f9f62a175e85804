//! Directories for half-made things: locked while in use, swept by the next run when their owner is gone.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// A directory of one running build. Removed when closed or dropped; after SIGKILL the next run removes it.
#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";

/// How the name of a directory begins that is being removed: whoever finds it goes on with that.
const GONE: &str = "gone-";

impl Workdir {
    /// Sweeps what dead builds left below `parent` and makes a new directory there.
    pub(crate) fn create(parent: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(parent)?;
        sweep(parent)?;
        let path = tempfile::Builder::new().prefix("build-").rand_bytes(12).tempdir_in(parent)?.keep();
        let lock = lock_file(&path)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and says why that failed, if it did.
    pub(crate) fn close(self) -> io::Result<()> {
        discard(&self.path)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = discard(&self.path)
        {
            tracing::error!(%error, "could not remove a work directory; the next build will");
        }
    }
}

fn lock_file(dir: &Path) -> io::Result<File> {
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
    Ok(file.into_parts().0)
}

/// Removes a directory, under another name: killed in the middle, with the lock file gone, it would look like one that is
/// being made.
fn discard(path: &Path) -> io::Result<()> {
    let name = path.file_name().expect("a work directory has a name").to_string_lossy();
    let gone = path.with_file_name(format!("{GONE}{name}"));
    fs_err::rename(path, &gone)?;
    remove(&gone)
}

/// Removes a directory that somebody else may be removing too.
fn remove(gone: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes the directories below `parent` whose owner is gone, and counts them.
///
/// A directory without a lock file is being made right now, unless it is old.
pub(crate) fn sweep(parent: &Path) -> io::Result<usize> {
    let mut swept = 0;
    let entries = match fs_err::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GONE)) {
            remove(&path)?;
            swept += 1;
            continue;
        }
        let old = fs_err::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 60));
        if !path.join(LOCK).exists() && !old {
            continue;
        }
        let Ok(lock) = lock_file(&path) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            match discard(&path) {
                Ok(()) => swept += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_only_what_nobody_holds() {
        let parent = tempfile::tempdir().unwrap();
        let held = Workdir::create(parent.path()).unwrap();
        fs_err::write(held.path().join("half.qcow2"), "x").unwrap();
        let dead = parent.path().join("build-dead");
        fs_err::create_dir(&dead).unwrap();
        fs_err::write(dead.join(LOCK), "").unwrap();
        fs_err::write(dead.join("half.qcow2"), "x").unwrap();

        // Whoever removed this one was killed in the middle.
        let gone = parent.path().join("gone-build-x");
        fs_err::create_dir(&gone).unwrap();
        fs_err::write(gone.join("half.qcow2"), "x").unwrap();
        // And this one is being made.
        let young = parent.path().join("build-young");
        fs_err::create_dir(&young).unwrap();

        let other = Workdir::create(parent.path()).unwrap();
        assert!(held.path().join("half.qcow2").exists());
        assert!(!dead.exists() && !gone.exists() && young.exists());

        let path = other.path().to_owned();
        other.close().unwrap();
        assert!(!path.exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
        let left: Vec<_> = fs_err::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [young]);
    }
}
