//! Disks from addresses: downloaded, checked, unpacked and stored.

mod error;
mod transfer;
mod unpack;

use std::fmt;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use labwright_core::{ByteSize, Cancel, Digest, Event, Reporter};
use labwright_disk::inspect::{Limits as DiskLimits, inspect};
use url::Url;

pub use error::DownloadError;

use crate::cache::Record;
use crate::file::{Progress, StreamError};
use crate::{Base, Cache, Origin};
use transfer::{Partial, Wanted};
use unpack::{Compression, UnpackError};

/// How much is accepted from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest file that is downloaded.
    pub download: ByteSize,
    /// The longest file that a compressed one may unpack to.
    pub unpacked: ByteSize,
}

impl Default for Limits {
    /// 32 GiB and 128 GiB.
    fn default() -> Self {
        Self { download: ByteSize::from_bytes(32 << 30), unpacked: ByteSize::from_bytes(128 << 30) }
    }
}

/// How long to go on when a server or the network fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// After so many attempts in a row without progress it ends.
    pub attempts: u32,
    /// The pause after the first failed attempt; it doubles with each further one.
    pub pause: Duration,
    /// The longest pause that a server may ask for.
    pub longest_wait: Duration,
    /// After so long without a byte a connection counts as broken.
    pub stall: Duration,
}

impl Default for Retry {
    /// 5 attempts, 1 s, 120 s and 60 s.
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(1),
            longest_wait: Duration::from_mins(2),
            stall: Duration::from_mins(1),
        }
    }
}

/// Fetches files over HTTP. Sends no credentials, follows at most five redirects, and never from https to http.
///
/// The caller must have installed a TLS provider for rustls (`rustls::crypto::ring`).
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: reqwest::Client,
    limits: Limits,
    retry: Retry,
}

impl Fetcher {
    /// A fetcher with these bounds.
    pub fn new(limits: Limits, retry: Retry) -> Result<Self, DownloadError> {
        let redirects = reqwest::redirect::Policy::custom(|attempt| {
            let downgrade = attempt.url().scheme() != "https"
                && attempt.previous().last().is_some_and(|previous| previous.scheme() == "https");
            if downgrade || attempt.previous().len() > 5 { attempt.stop() } else { attempt.follow() }
        });
        let client = reqwest::Client::builder()
            .user_agent(concat!("labwright/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects)
            .referer(false)
            .connect_timeout(retry.stall)
            .read_timeout(retry.stall)
            .build()
            .map_err(DownloadError::Client)?;
        Ok(Self { client, limits, retry })
    }

    /// Fetches a small text, such as a list of checksums, with its `Last-Modified` as the server gives it.
    pub(crate) async fn small(&self, url: &Url, cancel: &Cancel) -> Result<(Vec<u8>, Option<String>), DownloadError> {
        /// Checksum lists have some kilobytes.
        const LIMIT: ByteSize = ByteSize::from_bytes(4 << 20);
        transfer::small(self, url, LIMIT, cancel).await
    }
}

/// A disk at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What to call it to people.
    pub name: String,
    /// Where it is: qcow2 or raw, as it is or compressed with gzip, xz or zstd.
    pub url: Url,
    /// The digest of the file there, as it comes over the wire.
    pub digest: Digest,
    /// The length of the file there in bytes, if that is known from elsewhere.
    pub size: Option<u64>,
}

/// What every download needs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Fetches.
    pub fetcher: &'a Fetcher,
    /// Keeps.
    pub cache: &'a Cache,
    /// Is told.
    pub reporter: &'a Arc<dyn Reporter>,
    /// Stops.
    pub cancel: &'a Cancel,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("fetcher", self.fetcher).field("cache", self.cache).finish_non_exhaustive()
    }
}

impl Source {
    fn key(&self) -> String {
        format!("download-{}-{}", self.digest.algorithm().as_str(), self.digest.hex())
    }

    /// The disk, if the file at the address was taken before.
    pub fn find(&self, cache: &Cache) -> Option<Base> {
        cache.find_name(&self.key())
    }
}

/// Takes a disk from an address, or from the cache if a file with this digest was taken before.
///
/// A download that breaks is resumed, by this run or by the next, if the server proves that it still has the same
/// file. Nothing is unpacked or inspected before its digest is right.
pub async fn url_base(source: &Source, context: &Context<'_>) -> Result<Base, DownloadError> {
    let Context { fetcher, cache, reporter, cancel } = *context;
    let key = source.key();
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    let _lock = {
        let (cache, key, reporter, cancel) = (cache.clone(), key.clone(), Arc::clone(reporter), cancel.clone());
        blocking(move || cache.lock(&key, &*reporter, &cancel)).await?
    };
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    reporter.event(Event::Started { step: format!("download {}", source.name) });
    let partial = Partial::new(cache.partial_path(&key));
    let wanted = Wanted { url: &source.url, digest: &source.digest, size: source.size };
    transfer::transfer(fetcher, wanted, &partial, reporter, cancel).await?;
    let base = {
        let (source, cache, limits) = (source.clone(), cache.clone(), fetcher.limits);
        let (reporter, cancel) = (Arc::clone(reporter), cancel.clone());
        blocking(move || {
            let base = take_in(&source, &partial, limits, &cache, &*reporter, &cancel);
            // The digest is right, so whatever was wrong stays wrong; only a stopped run goes on later.
            if !matches!(base, Err(DownloadError::Cancelled(_) | DownloadError::Cache(_))) {
                let path = partial.path().to_owned();
                partial.remove().map_err(|source| DownloadError::File { path, source })?;
            }
            base
        })
        .await?
    };
    cache.set_name(&key, &base.digest)?;
    let outcome = format!("{} {}", base.digest.short(), base.format);
    reporter.event(Event::Finished { step: format!("download {}", source.name), outcome });
    Ok(base)
}

/// Takes a file that is no disk from an address, as it is, or from the cache if it was taken before; returns where the
/// cache keeps it.
///
/// Resumed and checked like a disk. The caller decides what the file is good for: nothing but its digest was looked at.
pub async fn url_file(source: &Source, context: &Context<'_>) -> Result<PathBuf, DownloadError> {
    let Context { fetcher, cache, reporter, cancel } = *context;
    let kept = cache.file_path(&source.digest);
    if kept.exists() {
        return Ok(kept);
    }
    let key = format!("file-{}-{}", source.digest.algorithm().as_str(), source.digest.hex());
    let _lock = {
        let (cache, key, reporter, cancel) = (cache.clone(), key.clone(), Arc::clone(reporter), cancel.clone());
        blocking(move || cache.lock(&key, &*reporter, &cancel)).await?
    };
    if kept.exists() {
        return Ok(kept);
    }
    let step = format!("download {}", source.name);
    reporter.event(Event::Started { step: step.clone() });
    let partial = Partial::new(cache.partial_path(&key));
    let wanted = Wanted { url: &source.url, digest: &source.digest, size: source.size };
    transfer::transfer(fetcher, wanted, &partial, reporter, cancel).await?;
    let kept = cache.store_file(partial.path(), &source.digest)?;
    let path = partial.path().to_owned();
    partial.remove().map_err(|source| DownloadError::File { path, source })?;
    reporter.event(Event::Finished { step, outcome: source.digest.short().to_string() });
    Ok(kept)
}

/// Runs something that waits for disks or locks where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Unpacks, inspects and stores a file whose digest is right.
fn take_in(
    source: &Source,
    partial: &Partial,
    limits: Limits,
    cache: &Cache,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Base, DownloadError> {
    let at = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| DownloadError::File { path, source }
    };
    let mut file = fs::File::open(partial.path()).map_err(at(partial.path()))?;
    let mut head = Vec::new();
    (&mut file).take(16).read_to_end(&mut head).map_err(at(partial.path()))?;
    file.rewind().map_err(at(partial.path()))?;
    let work = cache.work_dir()?;
    let disk = work.path().join("disk");
    let digest = match Compression::of(&head) {
        None => {
            fs::rename(partial.path(), &disk).map_err(at(partial.path()))?;
            source.digest.clone()
        }
        Some(compression) => {
            let mut target = fs::File::create_new(&disk).map_err(at(&disk))?;
            let task = format!("unpacking {}", source.name);
            let progress = Progress { task: &task, total: None, reporter, cancel };
            unpack::unpack(compression, file, &mut target, limits.unpacked, &progress).map_err(|error| match error {
                UnpackError::Bomb => DownloadError::Bomb { url: source.url.to_string(), limit: limits.unpacked },
                UnpackError::Stream(StreamError::Io(reason)) => {
                    DownloadError::Unpack { url: source.url.to_string(), source: reason }
                }
                UnpackError::Stream(StreamError::Cancelled(cancelled)) => cancelled.into(),
            })?
        }
    };
    let info = inspect(&disk, &DiskLimits::default())
        .map_err(|reason| DownloadError::Refused { url: source.url.to_string(), source: reason })?;
    let size = ByteSize::from_bytes(info.virtual_size);
    let origin = Origin::Url { url: source.url.to_string() };
    let record = Record::new(source.name.clone(), digest, info.format.into(), size, info.file_size, origin);
    let base = cache.store(&disk, &record)?;
    work.close().map_err(|source| cache.error("remove a working directory", source))?;
    Ok(base)
}
