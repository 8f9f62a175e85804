use std::io;
use std::path::PathBuf;
use std::time::Duration;

use labwright_core::{ByteSize, Cancelled, Digest};
use labwright_disk::inspect::InspectError;

use crate::CacheError;

/// Why nothing came from an address.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The HTTP client could not be set up.
    #[error("could not set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The server could not be reached, or the connection broke, more often than we try.
    #[error("could not download {url}: gave up after {attempts} attempts without progress")]
    Network {
        /// What was asked for.
        url: String,
        /// How often in a row nothing came.
        attempts: u32,
        /// What went wrong last.
        source: reqwest::Error,
    },
    /// The server answers with an error, more often than we try if it is one that may pass.
    #[error("could not download {url}: the server answers {status}{}", status_help(*status))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: reqwest::StatusCode,
    },
    /// The server says to wait longer than we do.
    #[error("could not download {url}: the server says to come back in {} s", wait.as_secs())]
    Wait {
        /// What was asked for.
        url: String,
        /// How long it says to wait.
        wait: Duration,
    },
    /// The file is longer than is accepted.
    #[error("{url} is longer than {}, the most that is accepted", limit.human())]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: ByteSize,
    },
    /// The server has a file of another length than is known from elsewhere.
    #[error("{url} has {found} bytes, not {expected}: the vendor has changed the file")]
    Length {
        /// What was asked for.
        url: String,
        /// The known length in bytes.
        expected: u64,
        /// The server's length in bytes.
        found: u64,
    },
    /// The file is another one than was meant.
    #[error("{url} has the digest {found}, not {expected}: the file was changed, or the digest is another file's")]
    Digest {
        /// What was asked for.
        url: String,
        /// What was meant.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The compressed file cannot be unpacked.
    #[error("could not unpack {url}")]
    Unpack {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The compressed file unpacks to more than is accepted.
    #[error("{url} unpacks to more than {}, the most that is accepted", limit.human())]
    Bomb {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: ByteSize,
    },
    /// The disk is refused.
    #[error("cannot use {url} as a base")]
    Refused {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        source: InspectError,
    },
    /// A file of the download could not be read or written.
    #[error("could not work on {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

fn status_help(status: reqwest::StatusCode) -> &'static str {
    match status.as_u16() {
        404 | 410 => ": the file is not there; look at the address",
        401 | 403 => ": it wants credentials, which base downloads never send",
        429 => ": too many requests; try again later",
        500..=599 => ": the server is in trouble; try again later",
        _ => "",
    }
}
