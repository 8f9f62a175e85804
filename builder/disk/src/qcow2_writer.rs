//! Writes a raw disk as a compressed qcow2 file: in parallel, and with the same bytes for any number of threads.
//!
//! Workers read and compress batches of clusters; one writer puts them into the file in the order of the disk. An L2
//! table goes into the file as soon as the disk has passed its range, the L1 table and the reference counts at the
//! end and the header last. A file that is killed half-way has no header and another name.

mod encode;
mod layout;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::thread;

use labwright_core::{Cancel, Cancelled};

use crate::read_disk::ReadDisk;
use encode::{Cluster, Encoder};
use layout::Layout;

/// The cluster size in bytes, as QEMU's default and as most readers have tried it.
pub(crate) const CLUSTER: usize = 64 << 10;

/// How many clusters a worker takes at once.
const BATCH_CLUSTERS: u64 = 16;
const BATCH: u64 = BATCH_CLUSTERS * CLUSTER as u64;

/// How many batches may be in work or wait for the writer, which bounds the memory to about 32 MiB and a little for
/// each thread.
const WINDOW: u64 = 32;

/// More threads than this bring nothing and would need more memory than promised.
const MOST_THREADS: usize = 8;

/// How clusters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at level 3: the fastest and nearly the smallest; QEMU 5.1 and later read it.
    Zstd,
    /// Deflate at level 6 with a window of 4 KiB, which every reader of qcow2 understands.
    Zlib,
    /// Not compressed; only zero clusters are left out.
    None,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// How clusters are stored.
    pub compression: Compression,
    /// How many threads compress; at least one and at most eight are used. The result does not depend on it.
    pub threads: usize,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file's size in bytes.
    pub file_size: u64,
    /// How many bytes of the disk were in clusters that are not all zero.
    pub data_size: u64,
}

/// A disk that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The raw disk cannot be read; the source has the path.
    #[error("could not read the raw disk")]
    Read {
        /// The reason, with the path.
        source: io::Error,
    },
    /// The raw disk ends too early.
    #[error("the disk to write has {found} bytes, not {size}")]
    Short {
        /// Bytes in it.
        found: u64,
        /// Bytes that were asked for.
        size: u64,
    },
    /// A size that no guest can use, or that the format's tables do not hold.
    #[error("a disk of {size} bytes cannot be written: the size must be a multiple of 512, above 0 and at most 64 TiB")]
    Size {
        /// The size.
        size: u64,
    },
    /// The qcow2 file cannot be written.
    #[error("could not write `{}`", path.display())]
    Write {
        /// The file as it will be called.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The compressor failed.
    #[error("could not compress a cluster")]
    Compress {
        /// The reason.
        source: io::Error,
    },
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What one worker made of one batch.
struct Batch {
    /// Its number among the batches that were taken.
    ticket: u64,
    /// The number of the first cluster.
    first: u64,
    /// The clusters that are not all zero, by their place in the batch.
    clusters: Vec<(u64, Cluster)>,
}

/// Writes the first `size` bytes of `source` to `destination`, which appears whole and at once.
///
/// It need not have reached the medium yet: who keeps it syncs it. Holes of `source` are skipped. `progress` gets the bytes of the disk that are done, and `size`.
pub fn write_qcow2(
    source: &dyn ReadDisk,
    size: u64,
    destination: &Path,
    options: WriteOptions,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &Cancel,
) -> Result<Written, WriteError> {
    if size == 0 || !size.is_multiple_of(512) || size > layout::LARGEST_DISK {
        return Err(WriteError::Size { size });
    }
    let found = source.size().map_err(|source| WriteError::Read { source })?;
    if found < size {
        return Err(WriteError::Short { found, size });
    }
    let write = |source| WriteError::Write { path: destination.to_owned(), source };
    let directory = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let temporary = tempfile::Builder::new()
        .prefix(PARTIAL_PREFIX)
        .suffix(".qcow2")
        .permissions(permissions)
        .tempfile_in(directory)
        .map_err(write)?;

    let layout = Layout::new(temporary.as_file(), size, options.compression);
    let (file_size, data_size) = fill(source, size, layout, options, progress, cancel, &write)?;
    temporary.persist(destination).map_err(|error| write(error.error))?;
    Ok(Written { file_size, data_size })
}

/// How the name of an unfinished file begins. It stays behind only after SIGKILL or a loss of power.
pub const PARTIAL_PREFIX: &str = ".labwright-partial-";

fn fill(
    source: &dyn ReadDisk,
    size: u64,
    mut layout: Layout<'_>,
    options: WriteOptions,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &Cancel,
    write: &dyn Fn(io::Error) -> WriteError,
) -> Result<(u64, u64), WriteError> {
    let threads = options.threads.clamp(1, MOST_THREADS);
    let queue = Queue::new(source, size);
    let (sender, receiver) = channel();
    let data = thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || work(queue, options.compression, &sender));
        }
        drop(sender);
        let result = store(&receiver, &queue, &mut layout, progress, cancel, write);
        queue.stop();
        result
    })?;
    let file_size = layout.finish().map_err(write)?;
    progress(size, size);
    Ok((file_size, data))
}

/// Puts the workers' batches into the file, in the order of the disk whatever the order in which they come.
/// Returns how many bytes of the disk they hold.
fn store(
    receiver: &Receiver<Result<Batch, WriteError>>,
    queue: &Queue<'_>,
    layout: &mut Layout<'_>,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &Cancel,
    write: &dyn Fn(io::Error) -> WriteError,
) -> Result<u64, WriteError> {
    let mut early = BTreeMap::new();
    let (mut next, mut data) = (0, 0);
    // Ends when every worker has come to the end of the disk.
    for batch in receiver {
        cancel.check()?;
        let batch = batch?;
        early.insert(batch.ticket, batch);
        while let Some(batch) = early.remove(&next) {
            for (index, cluster) in &batch.clusters {
                layout.store(batch.first + index, cluster).map_err(write)?;
                data += CLUSTER as u64;
            }
            progress(((batch.first + BATCH_CLUSTERS) * CLUSTER as u64).min(queue.size), queue.size);
            next += 1;
            queue.stored();
        }
    }
    Ok(data)
}

/// Hands out the batches that have data in them, never more than the window ahead of the writer.
struct Queue<'a> {
    source: &'a dyn ReadDisk,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The first byte that nobody has taken.
    next: u64,
    /// The range of data at or behind it that was found last.
    data: Range<u64>,
    /// How many batches were taken.
    taken: u64,
    /// How many of them are in the file.
    stored: u64,
    stopped: bool,
}

impl<'a> Queue<'a> {
    fn new(source: &'a dyn ReadDisk, size: u64) -> Self {
        Self { source, size, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The next batch: its number among those that are taken, and its first byte. Nothing at the end of the disk.
    fn take(&self) -> Result<Option<(u64, u64)>, WriteError> {
        let state = self.state.lock().expect("no holder of this lock panics");
        let full = |state: &mut State| !state.stopped && state.taken - state.stored >= WINDOW;
        let mut state = self.changed.wait_while(state, full).expect("no holder of this lock panics");
        if state.stopped || state.next >= self.size {
            return Ok(None);
        }
        if state.data.end <= state.next {
            let next = self.source.next_data(state.next).map_err(|source| WriteError::Read { source })?;
            let Some(data) = next else {
                state.next = self.size;
                return Ok(None);
            };
            state.data = data;
        }
        let begin = state.next.max(state.data.start / BATCH * BATCH);
        let ticket = state.taken;
        state.next = begin + BATCH;
        state.taken += 1;
        Ok(Some((ticket, begin)))
    }

    fn stored(&self) {
        self.state.lock().expect("no holder of this lock panics").stored += 1;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().expect("no holder of this lock panics").stopped = true;
        self.changed.notify_all();
    }
}

/// One worker: takes, reads and compresses batches until there are no more.
fn work(queue: &Queue<'_>, compression: Compression, sender: &Sender<Result<Batch, WriteError>>) {
    let batches = || -> Result<(), WriteError> {
        let mut encoder = Encoder::new(compression).map_err(|source| WriteError::Compress { source })?;
        let mut buffer = vec![0; usize::try_from(BATCH).expect("a batch is small")];
        while let Some((ticket, begin)) = queue.take()? {
            let end = (begin + BATCH).min(queue.size);
            let clusters = encode(queue.source, begin, end, &mut buffer, &mut encoder)?;
            if sender.send(Ok(Batch { ticket, first: begin / CLUSTER as u64, clusters })).is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    if let Err(error) = batches() {
        // Nobody listens any more once the writer has failed.
        drop(sender.send(Err(error)));
    }
}

fn encode(
    source: &dyn ReadDisk,
    begin: u64,
    end: u64,
    buffer: &mut [u8],
    encoder: &mut Encoder,
) -> Result<Vec<(u64, Cluster)>, WriteError> {
    let length = usize::try_from(end - begin).expect("a batch is small");
    source.read_exact_at(&mut buffer[..length], begin).map_err(|source| WriteError::Read { source })?;
    // The last cluster of the disk may be cut off.
    let padded = length.next_multiple_of(CLUSTER);
    buffer[length..padded].fill(0);
    let mut clusters = Vec::new();
    for (index, plain) in (0..).zip(buffer[..padded].chunks_exact(CLUSTER)) {
        if !is_zero(plain) {
            let cluster = encoder.encode(plain).map_err(|source| WriteError::Compress { source })?;
            clusters.push((index, cluster));
        }
    }
    Ok(clusters)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Comparing a slice with itself moved by one is a single memcmp, fast without optimisation too.
    bytes[0] == 0 && bytes[..bytes.len() - 1] == bytes[1..]
}
