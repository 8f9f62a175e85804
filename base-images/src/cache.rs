use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use fs_err as fs;
use labwright_core::{Arch, ByteSize, Cancel, Cancelled, Digest, Event, Reporter};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{Base, DiskFormat};

/// The version of the records; a record of another version is not believed.
const RECORD_VERSION: u32 = 1;

/// How often a waiting build looks whether the lock is free.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The directory that holds finished base disks.
///
/// `disks/` has each disk under its digest, with a record of what it is; `names/` says which digest a name means;
/// `files/` has other files under their digests; `partial/` has downloads that a later run can resume; `work/` has unfinished things, which are swept when their
/// maker is gone; `locks/` has lock files. A disk counts only if its record is there, which is written last, and if
/// it has the length that the record gives.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Reading or writing below the cache directory failed.
    #[error("could not {action} in the cache directory {}", dir.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cache directory.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Stopped on request while waiting.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Where a disk came from and when its source was made: kept with the disk, for people and for `base ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum Origin {
    /// Made from a distribution's packages.
    Bootstrap {
        /// The suite (`trixie`).
        suite: String,
        /// The architecture.
        arch: Arch,
        /// How many packages are installed.
        packages: usize,
        /// The date in the archive's Release file, as it stands there.
        release_date: String,
    },
    /// Copied from a file of the user.
    File {
        /// The path at that time.
        path: PathBuf,
    },
    /// Downloaded.
    Url {
        /// The address asked for.
        url: String,
    },
    /// Taken out of a containerDisk.
    Image {
        /// The image as it was named.
        image: String,
    },
}

/// What is written beside a disk once it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) format: DiskFormat,
    pub(crate) virtual_size: ByteSize,
    pub(crate) bytes: u64,
    pub(crate) origin: Origin,
}

impl Record {
    pub(crate) fn new(
        name: String,
        digest: Digest,
        format: DiskFormat,
        virtual_size: ByteSize,
        bytes: u64,
        origin: Origin,
    ) -> Self {
        Self { version: RECORD_VERSION, name, digest, format, virtual_size, bytes, origin }
    }
}

/// A private directory for unfinished things. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    _lock: fs::File,
}

impl WorkDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory and says whether that worked.
    pub(crate) fn close(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %self.path.display(), %error, "could not remove a working directory");
        }
    }
}

/// Held while one process makes what a name means; released when dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct NameLock(#[expect(dead_code, reason = "the open file is the lock")] fs::File);

impl Cache {
    /// Opens the cache directory, making it if needed, and sweeps what killed runs left behind.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, CacheError> {
        let cache = Self { dir: dir.into() };
        for sub in ["disks", "files", "names", "partial", "work", "locks"] {
            fs::create_dir_all(cache.dir.join(sub)).map_err(|source| cache.error("make a directory", source))?;
        }
        cache.sweep().map_err(|source| cache.error("remove what an earlier run left", source))?;
        Ok(cache)
    }

    /// The cache in a directory that need not exist, for looking: makes and removes nothing.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The file with these bytes that was taken from an address, if it is here.
    pub fn find_file(&self, digest: &Digest) -> Option<PathBuf> {
        Some(self.file_path(digest)).filter(|path| path.exists())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All disks that are whole, with their origins, in the order of their names.
    pub fn list(&self) -> Result<Vec<(Base, Origin)>, CacheError> {
        let read = || -> io::Result<Vec<(Base, Origin)>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(self.dir.join("disks"))? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "json")
                    && let Some(record) = self.believe(&path)
                {
                    found.push((self.base(&record), record.origin));
                }
            }
            Ok(found)
        };
        let mut found = read().map_err(|source| self.error("list disks", source))?;
        found.sort_by(|(a, _), (b, _)| (&a.name, &a.digest).cmp(&(&b.name, &b.digest)));
        Ok(found)
    }

    /// The disk with these bytes, if it is here and whole.
    pub fn find(&self, digest: &Digest) -> Option<Base> {
        self.believe(&self.record_path(digest)).filter(|record| record.digest == *digest).map(|r| self.base(&r))
    }

    /// The disk that a name means here.
    pub(crate) fn find_name(&self, key: &str) -> Option<Base> {
        let digest = fs::read_to_string(self.name_path(key)).ok()?;
        self.find(&digest.trim().parse().ok()?)
    }

    /// Makes a name mean nothing, so that its disk is made anew.
    pub(crate) fn forget_name(&self, key: &str) -> Result<(), CacheError> {
        match fs::remove_file(self.name_path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("forget a name", error)),
            _ => Ok(()),
        }
    }

    /// Waits until no other process makes what `key` names.
    pub(crate) fn lock(&self, key: &str, reporter: &dyn Reporter, cancel: &Cancel) -> Result<NameLock, CacheError> {
        let path = self.dir.join("locks").join(format!("{key}.lock"));
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(|source| self.error("open a lock", source))?;
        let mut said = false;
        loop {
            match rustix::fs::flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(NameLock(file)),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.error("take a lock", error.into())),
            }
            if !said {
                reporter.event(Event::Note(format!("waiting for another build that makes {key}")));
                said = true;
            }
            cancel.check()?;
            thread::sleep(LOCK_POLL);
        }
    }

    /// Where the download that `key` names grows; only the holder of the lock of that key may touch it.
    pub(crate) fn partial_path(&self, key: &str) -> PathBuf {
        self.dir.join("partial").join(format!("{key}.part"))
    }

    /// Where a file that is no disk is kept.
    pub(crate) fn file_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("files").join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }

    /// A new private directory on the file system of the cache.
    pub(crate) fn work_dir(&self) -> Result<WorkDir, CacheError> {
        let make = || -> io::Result<WorkDir> {
            let _guard = self.work_guard()?;
            let dir = tempfile::Builder::new().prefix("work-").tempdir_in(self.dir.join("work"))?.keep();
            let lock = fs::File::create(dir.join(".lock"))?;
            rustix::fs::flock(lock.file(), FlockOperation::NonBlockingLockExclusive)?;
            Ok(WorkDir { path: dir, _lock: lock })
        };
        make().map_err(|source| self.error("make a working directory", source))
    }

    /// Moves a finished disk to its place and writes its record: from then on it is believed.
    pub(crate) fn store(&self, disk: &Path, record: &Record) -> Result<Base, CacheError> {
        let store = || -> io::Result<()> {
            let file = fs::File::open(disk)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o444))?;
            file.sync_all()?;
            fs::rename(disk, self.disk_path(&record.digest))?;
            sync_dir(&self.dir.join("disks"))?;
            let json = serde_json::to_vec_pretty(record).expect("a record has only strings, numbers and paths");
            self.write_whole(&self.record_path(&record.digest), &json)
        };
        store().map_err(|source| self.error("store a disk", source))?;
        Ok(self.base(record))
    }

    /// Moves a file whose digest is right to its place: from then on it is believed.
    pub(crate) fn store_file(&self, file: &Path, digest: &Digest) -> Result<PathBuf, CacheError> {
        let target = self.file_path(digest);
        let store = || -> io::Result<()> {
            let opened = fs::File::open(file)?;
            opened.set_permissions(std::fs::Permissions::from_mode(0o444))?;
            opened.sync_all()?;
            fs::rename(file, &target)?;
            sync_dir(&self.dir.join("files"))
        };
        store().map_err(|source| self.error("store a file", source))?;
        Ok(target)
    }

    /// Makes a name mean a disk that is stored already.
    pub(crate) fn set_name(&self, key: &str, digest: &Digest) -> Result<(), CacheError> {
        self.write_whole(&self.name_path(key), digest.to_string().as_bytes())
            .map_err(|source| self.error("store a name", source))
    }

    pub(crate) fn error(&self, action: &'static str, source: io::Error) -> CacheError {
        CacheError::Io { action, dir: self.dir.clone(), source }
    }

    fn base(&self, record: &Record) -> Base {
        Base {
            path: self.disk_path(&record.digest),
            format: record.format,
            digest: record.digest.clone(),
            virtual_size: record.virtual_size,
            name: record.name.clone(),
        }
    }

    fn believe(&self, record: &Path) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        let length = fs::metadata(self.disk_path(&record.digest)).ok()?.len();
        (record.version == RECORD_VERSION && length == record.bytes).then_some(record)
    }

    fn disk_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("disks").join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.disk_path(digest).with_extension("json")
    }

    fn name_path(&self, key: &str) -> PathBuf {
        self.dir.join("names").join(key)
    }

    /// Writes a small file so that it is either whole or not there.
    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.dir.join("work"))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_dir(path.parent().unwrap_or(&self.dir))
    }

    fn work_guard(&self) -> io::Result<fs::File> {
        let file = fs::File::create(self.dir.join("locks").join("work.lock"))?;
        rustix::fs::flock(file.file(), FlockOperation::LockExclusive)?;
        Ok(file)
    }

    /// Removes working directories whose maker is gone.
    fn sweep(&self) -> io::Result<()> {
        let _guard = self.work_guard()?;
        for entry in fs::read_dir(self.dir.join("work"))? {
            let path = entry?.path();
            if !path.is_dir() {
                continue;
            }
            // Whoever made it holds this lock for as long as it lives.
            if let Ok(lock) = fs::File::open(path.join(".lock"))
                && rustix::fs::flock(lock.file(), FlockOperation::NonBlockingLockExclusive).is_err()
            {
                continue;
            }
            if has_mounts(&path)? {
                tracing::warn!(path = %path.display(), "left alone: something is mounted below it");
                continue;
            }
            fs::remove_dir_all(&path)?;
        }
        Ok(())
    }
}

/// Whether a file system is mounted below a directory, in which case removing it would remove foreign files.
fn has_mounts(dir: &Path) -> io::Result<bool> {
    let dir = fs::canonicalize(dir)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|at| Path::new(at).starts_with(&dir)))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use labwright_core::Quiet;

    use super::*;

    fn record(bytes: &[u8]) -> Record {
        let size = ByteSize::from_bytes(bytes.len() as u64);
        let origin = Origin::Url { url: "https://vendor.example/disk".to_owned() };
        Record::new("test".to_owned(), Digest::sha256(bytes), DiskFormat::Raw, size, size.bytes(), origin)
    }

    fn store(cache: &Cache, bytes: &[u8]) -> Base {
        let work = cache.work_dir().unwrap();
        let disk = work.path().join("disk");
        fs::write(&disk, bytes).unwrap();
        cache.store(&disk, &record(bytes)).unwrap()
    }

    #[test]
    fn a_stored_disk_is_found_by_digest_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let base = store(&cache, b"disk");
        cache.set_name("key", &base.digest).unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        assert_eq!(cache.find(&base.digest), Some(base.clone()));
        assert_eq!(cache.find_name("key"), Some(base.clone()));
        assert_eq!(cache.find_name("other"), None);
        cache.forget_name("key").unwrap();
        cache.forget_name("key").unwrap();
        assert_eq!(cache.find_name("key"), None);
        assert_eq!(fs::read(base.path).unwrap(), b"disk");
    }

    #[test]
    fn half_made_disks_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let base = store(&cache, b"disk");
        let record_path = cache.record_path(&base.digest);
        let whole = fs::read_to_string(&record_path).unwrap();
        for broken in [&whole[..whole.len() / 2], &whole.replace("\"version\": 1", "\"version\": 2"), ""] {
            fs::write(&record_path, broken).unwrap();
            assert_eq!(cache.find(&base.digest), None, "{broken}");
            assert_eq!(cache.list().unwrap(), [], "{broken}");
        }
        fs::write(&record_path, &whole).unwrap();
        assert_eq!(cache.find(&base.digest), Some(base.clone()));
        fs::remove_file(&base.path).unwrap();
        assert_eq!(cache.find(&base.digest), None);
    }

    #[test]
    fn what_a_killed_run_left_is_swept_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let used = cache.work_dir().unwrap();
        let left = dir.path().join("work/work-left");
        fs::create_dir_all(left.join("root/etc")).unwrap();
        fs::write(left.join(".lock"), "").unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert!(used.path().exists());
        let path = used.path().to_owned();
        used.close().unwrap();
        assert!(!path.exists());
        drop(cache);
    }

    #[test]
    fn a_taken_lock_is_waited_for_until_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let held = cache.lock("key", &Quiet, &Cancel::new()).unwrap();
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let stopper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(150));
            stop.cancel();
        });
        let error = cache.lock("key", &Quiet, &cancel).unwrap_err();
        assert!(matches!(error, CacheError::Cancelled(_)), "{error:?}");
        stopper.join().unwrap();
        drop(held);
        cache.lock("key", &Quiet, &Cancel::new()).unwrap();
    }
}
