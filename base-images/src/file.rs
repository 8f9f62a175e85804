use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use labwright_core::{Algorithm, ByteSize, Cancel, Cancelled, Digest, Event, Hasher, Reporter};
use labwright_disk::inspect::{InspectError, Limits, inspect};

use crate::cache::Record;
use crate::{Base, Cache, CacheError, Origin};

/// How much is read at once; also the smallest hole that a copy keeps.
const CHUNK: usize = 1 << 16;

/// How many bytes pass between two progress events.
const PROGRESS_STEP: u64 = 16 << 20;

/// Why a file was not taken as a base.
#[derive(Debug, thiserror::Error)]
pub enum FileBaseError {
    /// The file could not be read; the source has the path.
    #[error("could not take a disk from a file")]
    Read(#[source] io::Error),
    /// The copy in the cache could not be written.
    #[error("could not copy {} into the cache", path.display())]
    Copy {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not the one that the recipe means.
    #[error("{} has the digest {found}, not {expected}: the file was changed, or the digest is another file's", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// What the recipe says.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// The disk is refused.
    #[error("cannot use {} as a base", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InspectError,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Takes a disk from a file of the user, whose digest the recipe gives.
///
/// The file is copied into the cache (cloned where the file system can), the copy's digest is checked and the copy
/// is inspected, so a later change of the file cannot matter. If a disk with this digest is in the cache already and
/// the file has its length, the file is not read again: the digest says what is used.
pub fn file_base(
    path: &Path,
    digest: &Digest,
    cache: &Cache,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Base, FileBaseError> {
    // Opening a FIFO would wait for a writer, so the kind of file is looked at first.
    let metadata = fs::metadata(path).map_err(FileBaseError::Read)?;
    if !metadata.is_file() {
        let refusal = inspect(path, &Limits::default()).err();
        return Err(match refusal {
            Some(source) => FileBaseError::Refused { path: path.to_owned(), source },
            None => FileBaseError::Read(io::ErrorKind::InvalidInput.into()),
        });
    }
    let key = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
    let _lock = cache.lock(&key, reporter, cancel)?;
    if let Some(base) = cache.find(digest)
        && fs::metadata(&base.path).is_ok_and(|cached| cached.len() == metadata.len())
    {
        return Ok(base);
    }
    let work = cache.work_dir()?;
    let copy = work.path().join("disk");
    let mut source = fs::File::open(path).map_err(FileBaseError::Read)?;
    let mut target = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&copy)
        .map_err(|source| FileBaseError::Copy { path: path.to_owned(), source })?;
    let task = format!("digest of {}", path.display());
    let progress = Progress { task: &task, total: Some(metadata.len()), reporter, cancel };
    let found = if rustix::fs::ioctl_ficlone(target.file(), source.file()).is_ok() {
        digest_of(&mut target, digest.algorithm(), &progress)
    } else {
        copy_sparse(&mut source, &mut target, digest.algorithm(), &progress)
    };
    let found = found.map_err(|error| match error {
        StreamError::Io(source) => FileBaseError::Copy { path: path.to_owned(), source },
        StreamError::Cancelled(cancelled) => cancelled.into(),
    })?;
    if found != *digest {
        return Err(FileBaseError::Digest { path: path.to_owned(), expected: digest.clone(), found });
    }
    let info = inspect(&copy, &Limits::default())
        .map_err(|source| FileBaseError::Refused { path: path.to_owned(), source })?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let size = ByteSize::from_bytes(info.virtual_size);
    let origin = Origin::File { path: path.to_owned() };
    let record = Record::new(name, found, info.format.into(), size, info.file_size, origin);
    let base = cache.store(&copy, &record)?;
    work.close().map_err(|source| cache.error("remove a working directory", source))?;
    Ok(base)
}

/// Why a long read ended early.
#[derive(Debug)]
pub(crate) enum StreamError {
    Io(io::Error),
    Cancelled(Cancelled),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Cancelled> for StreamError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

/// Whom to tell how far a long read is, and who may stop it.
#[derive(Clone, Copy)]
pub(crate) struct Progress<'a> {
    pub(crate) task: &'a str,
    pub(crate) total: Option<u64>,
    pub(crate) reporter: &'a dyn Reporter,
    pub(crate) cancel: &'a Cancel,
}

impl Progress<'_> {
    pub(crate) fn report(&self, done: u64) {
        self.reporter.event(Event::Progress { task: self.task.to_owned(), done, total: self.total });
    }
}

/// The digest of everything from the reader's place to its end.
pub(crate) fn digest_of(
    source: &mut impl Read,
    algorithm: Algorithm,
    progress: &Progress<'_>,
) -> Result<Digest, StreamError> {
    let mut hasher = Hasher::new(algorithm);
    each_chunk(source, progress, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Copies everything, leaves holes where a whole chunk is zero, and returns the digest of all bytes.
pub(crate) fn copy_sparse(
    source: &mut impl Read,
    target: &mut fs::File,
    algorithm: Algorithm,
    progress: &Progress<'_>,
) -> Result<Digest, StreamError> {
    let mut hasher = Hasher::new(algorithm);
    let mut writer = SparseWriter::new(target);
    each_chunk(source, progress, |chunk| {
        hasher.update(chunk);
        writer.write(chunk)
    })?;
    writer.finish()?;
    Ok(hasher.finish())
}

/// Writes a file from its beginning and seeks over chunks that are all zero.
#[derive(Debug)]
pub(crate) struct SparseWriter<'a> {
    file: &'a mut fs::File,
    length: u64,
}

impl<'a> SparseWriter<'a> {
    pub(crate) fn new(file: &'a mut fs::File) -> Self {
        Self { file, length: 0 }
    }

    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.length += chunk.len() as u64;
        if chunk.iter().all(|&byte| byte == 0) {
            self.file.seek(SeekFrom::Start(self.length)).map(drop)
        } else {
            self.file.write_all(chunk)
        }
    }

    /// Gives the file its full length, which a hole at its end has not done.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.file.set_len(self.length)?;
        Ok(self.length)
    }
}

fn each_chunk(
    source: &mut impl Read,
    progress: &Progress<'_>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), StreamError> {
    let mut buffer = vec![0; CHUNK];
    let (mut done, mut told) = (0, 0);
    loop {
        progress.cancel.check()?;
        let mut filled = 0;
        // Whole chunks, so that holes are found whatever the reader hands out at once.
        while filled < CHUNK {
            match source.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        take(&buffer[..filled])?;
        done += filled as u64;
        if done - told >= PROGRESS_STEP || filled < CHUNK {
            progress.report(done);
            told = done;
        }
        if filled < CHUNK {
            return Ok(());
        }
    }
}
