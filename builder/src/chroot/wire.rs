//! What the builder and its worker say to each other: JSON, one value a line, over the worker's stdin and stdout.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use labwright_core::{ByteSize, Digest, Event, NamedSecret};
use labwright_guest::audit::Finding;
use labwright_guest::protocol;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The name under which the program starts itself as a worker; never typed by a person.
pub(crate) const OUTER: &str = "__build-worker";
/// The name under which the worker starts its first process.
pub(crate) const INNER: &str = "__build-worker-init";

/// Something for the worker to do. It answers each with any number of [`Reply::Event`]s and then one other reply.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Opens the disk for writing. Comes first, and once.
    Open(Open),
    /// Grows the root partition and its file system to the size of the disk.
    Grow,
    /// Runs a step in the root file system.
    Step(Box<Step>),
    /// Finishes the overlay being written, without what the file system has freed, and goes on in a new one.
    Commit {
        /// The new overlay's file name in the work directory.
        next: PathBuf,
        /// The name that the finished overlay will have, which the new one records.
        finished_as: String,
    },
    /// Looks for secrets in everything that the disk holds, freed blocks too.
    Search(Vec<NamedSecret>),
    /// Writes the disk as one compressed qcow2 file.
    Flatten {
        /// The file to write.
        destination: PathBuf,
        /// How clusters are compressed.
        compression: Compression,
    },
    /// Looks for what must not be in an image on a disk that is not open otherwise, and changes nothing.
    Audit(Audit),
    /// Writes the tree of a disk that is not open otherwise as a tar archive.
    Archive(Archive),
    /// Lets go of everything and ends.
    Close,
}

/// The disk to open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    /// The directory for everything that is half-made.
    pub(crate) work: PathBuf,
    /// The base disk.
    pub(crate) base: BaseFile,
    /// The layers on it, bottom first.
    pub(crate) layers: Vec<PathBuf>,
    /// The file name of the overlay to make, in the work directory.
    pub(crate) top: PathBuf,
    /// The backing file name to record in it.
    pub(crate) backing: String,
    /// The size of the disk.
    pub(crate) size: ByteSize,
}

/// A disk to look at.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Audit {
    /// The directory for everything that is half-made.
    pub(crate) work: PathBuf,
    /// The disk.
    pub(crate) disk: BaseFile,
    /// The size of the disk.
    pub(crate) size: ByteSize,
    /// Secrets that it must not have.
    pub(crate) secrets: Vec<NamedSecret>,
}

/// A disk whose tree is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Archive {
    /// The directory for everything that is half-made.
    pub(crate) work: PathBuf,
    /// The disk.
    pub(crate) disk: BaseFile,
    /// The size of the disk.
    pub(crate) size: ByteSize,
    /// The tar archive to write.
    pub(crate) destination: PathBuf,
}

/// A base disk as the worker needs it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BaseFile {
    pub(crate) path: PathBuf,
    pub(crate) qcow2: bool,
}

/// A step for the guest program, with the files that it is to be sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// What the guest program is told.
    pub(crate) request: protocol::Request,
    /// The contents of the request's files, in its order.
    pub(crate) sources: Vec<Source>,
}

/// Where the bytes of a file come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// A file of the host, which must still have the digest that it had when the build was planned.
    File { path: PathBuf, digest: Digest },
}

/// How clusters are compressed: `labwright_disk`'s words, in a form that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Compression {
    Zstd,
    Zlib,
    None,
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Something happened; the answer is still to come.
    Event(Event),
    /// The disk is open.
    Opened(Opened),
    /// The order was carried out.
    Done,
    /// The step was run; these are its reports.
    Ran(Vec<serde_json::Value>),
    /// The disk was searched, and has these.
    Searched(Vec<Leak>),
    /// The disk was looked at, and these were found.
    Audited(Vec<Finding>),
    /// The disk was written.
    Flattened(Flattened),
    /// The order failed.
    Failed(Failure),
}

/// What the worker found on the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    /// The size of the root file system's partition.
    pub(crate) root: ByteSize,
}

/// A secret that the disk holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leak {
    /// The secret's name.
    pub secret: String,
    /// How it is written (`in base64`).
    pub encoding: String,
    /// Where: the path of a file, or which byte of the disk.
    pub place: String,
}

/// A written disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Flattened {
    /// The size of the file.
    pub(crate) file_size: u64,
    /// Bytes of the disk that hold something.
    pub(crate) data: u64,
}

/// Why an order failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What kind of failure it is.
    pub(crate) kind: FailureKind,
    /// What went wrong, and why, outermost first.
    pub(crate) chain: Vec<String>,
}

/// What a failure means for the one who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// A step took longer than it may.
    TimeLimit,
    /// A step did not succeed: the recipe or what it downloads is to blame.
    Step,
    /// The packages cannot be those of the lock.
    Lock,
    /// The base disk is not one that can be built on.
    Base,
    /// The disk is one that only a machine can open.
    NeedsMachine,
    /// The host cannot do it.
    Host,
}

/// Writes one value as a line.
pub(crate) fn send(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    // An order may hold secrets.
    let mut line = Zeroizing::new(serde_json::to_vec(value)?);
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one line; none at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Zeroizing::new(Vec::new());
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
