//! One file over HTTP: resumed, bounded, and never believed before its digest is right.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use labwright_core::{ByteSize, Cancel, Cancelled, Digest, Event, Reporter};
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use url::Url;

use super::{DownloadError, Fetcher, blocking};
use crate::file::{Progress, StreamError, digest_of};

/// How many bytes pass between two progress events.
const PROGRESS_STEP: u64 = 1 << 20;

/// How often a waiting transfer looks whether it should stop.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// What must be known to go on with a file that was begun: written beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Validator {
    url: Url,
    /// What to send as If-Range: a strong entity tag, or a date.
    if_range: String,
}

/// A file that is being downloaded, with what is known about its source.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
}

impl Partial {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn validator_path(&self) -> PathBuf {
        self.path.with_extension("from")
    }

    /// How many bytes are here, and what proves that the server still has the same file; nothing without proof.
    fn begun(&self, url: &Url) -> Option<(u64, String)> {
        let validator: Validator = serde_json::from_slice(&fs::read(self.validator_path()).ok()?).ok()?;
        let length = fs::metadata(&self.path).ok()?.len();
        (validator.url == *url && length > 0).then_some((length, validator.if_range))
    }

    fn remember(&self, url: &Url, headers: &HeaderMap) -> std::io::Result<()> {
        match if_range(headers) {
            Some(if_range) => {
                let validator = Validator { url: url.clone(), if_range };
                let json = serde_json::to_vec(&validator).expect("a validator has only strings");
                fs::write(self.validator_path(), json)
            }
            None => self.forget(),
        }
    }

    fn forget(&self) -> std::io::Result<()> {
        remove_if_there(&self.validator_path())
    }

    /// Removes the file and what is known about it.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        self.forget()?;
        remove_if_there(&self.path)
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A strong entity tag, else the date of the last change (RFC 9110, 13.1.5: weak tags prove nothing).
fn if_range(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let tag = text(header::ETAG).filter(|tag| tag.starts_with('"'));
    tag.or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned)
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) url: &'a Url,
    pub(super) digest: &'a Digest,
    pub(super) size: Option<u64>,
}

/// How one attempt ended.
enum Attempt {
    Whole,
    /// It may go better next time; the server may have said when.
    Again(Failure, Option<Duration>),
}

enum Failure {
    Network(reqwest::Error),
    Status(StatusCode),
}

/// Downloads until the file is whole and has the digest.
pub(super) async fn transfer(
    fetcher: &Fetcher,
    wanted: Wanted<'_>,
    partial: &Partial,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<(), DownloadError> {
    let file_error = |source| DownloadError::File { path: partial.path.clone(), source };
    let (mut fruitless, mut resumed) = (0, false);
    loop {
        let begun = partial.begun(wanted.url);
        let before = begun.as_ref().map_or(0, |(length, _)| *length);
        resumed |= before > 0;
        match attempt(fetcher, wanted, partial, begun, &**reporter, cancel).await? {
            Attempt::Whole => {
                let found = digest_file(&partial.path, wanted, reporter, cancel).await?;
                if found == *wanted.digest {
                    return Ok(());
                }
                partial.remove().map_err(file_error)?;
                // Two halves may come from two files if the server's proof was a lie; one file gets its chance.
                if !std::mem::take(&mut resumed) {
                    return Err(DownloadError::Digest {
                        url: wanted.url.to_string(),
                        expected: wanted.digest.clone(),
                        found,
                    });
                }
                reporter.event(Event::Warning(format!("{}: the resumed file is wrong, starting anew", wanted.url)));
            }
            Attempt::Again(failure, wait) => {
                let after = fs::metadata(&partial.path).map_or(0, |metadata| metadata.len());
                fruitless = if after > before { 1 } else { fruitless + 1 };
                if fruitless >= fetcher.retry.attempts {
                    return Err(match failure {
                        Failure::Network(source) => {
                            DownloadError::Network { url: wanted.url.to_string(), attempts: fruitless, source }
                        }
                        Failure::Status(status) => DownloadError::Status { url: wanted.url.to_string(), status },
                    });
                }
                let wait = wait.unwrap_or_else(|| fetcher.retry.pause * 2_u32.saturating_pow(fruitless - 1));
                if wait > fetcher.retry.longest_wait {
                    return Err(DownloadError::Wait { url: wanted.url.to_string(), wait });
                }
                unless_cancelled(cancel, tokio::time::sleep(wait)).await?;
            }
        }
    }
}

async fn attempt(
    fetcher: &Fetcher,
    wanted: Wanted<'_>,
    partial: &Partial,
    begun: Option<(u64, String)>,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Attempt, DownloadError> {
    let file_error = |source| DownloadError::File { path: partial.path.clone(), source };
    let mut request = fetcher.client.get(wanted.url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if let Some((length, if_range)) = &begun {
        request = request.header(header::RANGE, format!("bytes={length}-")).header(header::IF_RANGE, if_range);
    }
    let mut response = match unless_cancelled(cancel, request.send()).await? {
        Ok(response) => response,
        Err(error) => return Ok(Attempt::Again(Failure::Network(error.without_url()), None)),
    };
    let status = response.status();
    let start = match (status, begun) {
        (StatusCode::OK, _) => 0,
        (StatusCode::PARTIAL_CONTENT, Some((length, _))) if range_start(response.headers()) == Some(length) => length,
        // A range that is not ours, or a file that is shorter than what is here: from the beginning.
        (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
            partial.remove().map_err(file_error)?;
            return Ok(Attempt::Again(Failure::Status(status), Some(Duration::ZERO)));
        }
        _ if may_pass(status) => return Ok(Attempt::Again(Failure::Status(status), retry_after(&response))),
        _ => return Err(DownloadError::Status { url: wanted.url.to_string(), status }),
    };
    let total = response.content_length().map(|length| start + length);
    check_length(fetcher, wanted, total)?;
    if start == 0 {
        // In this order a crash between the two leaves a file without proof, which is not resumed.
        partial.remove().map_err(file_error)?;
    }
    let std_file =
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(&partial.path).map_err(file_error)?;
    let mut file = tokio::fs::File::from_std(std_file.into_parts().0);
    file.seek(SeekFrom::Start(start)).await.map_err(file_error)?;
    if start == 0 {
        partial.remember(wanted.url, response.headers()).map_err(file_error)?;
    }
    let task = wanted.url.to_string();
    let (mut done, mut told) = (start, start);
    let failure = loop {
        match unless_cancelled(cancel, response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                done += chunk.len() as u64;
                check_length(fetcher, Wanted { size: None, ..wanted }, Some(done))?;
                file.write_all(&chunk).await.map_err(file_error)?;
                if done - told >= PROGRESS_STEP {
                    told = done;
                    reporter.event(Event::Progress { task: task.clone(), done, total });
                }
            }
            Ok(Ok(None)) => break None,
            Ok(Err(error)) => break Some(error),
            Err(cancelled) => {
                file.flush().await.map_err(file_error)?;
                return Err(cancelled.into());
            }
        }
    };
    file.flush().await.map_err(file_error)?;
    if let Some(error) = failure {
        return Ok(Attempt::Again(Failure::Network(error.without_url()), None));
    }
    reporter.event(Event::Progress { task, done, total });
    Ok(Attempt::Whole)
}

fn check_length(fetcher: &Fetcher, wanted: Wanted<'_>, found: Option<u64>) -> Result<(), DownloadError> {
    let Some(found) = found else { return Ok(()) };
    if found > fetcher.limits.download.bytes() {
        return Err(DownloadError::TooLong { url: wanted.url.to_string(), limit: fetcher.limits.download });
    }
    match wanted.size {
        Some(expected) if expected != found => {
            Err(DownloadError::Length { url: wanted.url.to_string(), expected, found })
        }
        _ => Ok(()),
    }
}

/// Fetches a small file whole, with the date of its last change as the server gives it.
pub(super) async fn small(
    fetcher: &Fetcher,
    url: &Url,
    limit: ByteSize,
    cancel: &Cancel,
) -> Result<(Vec<u8>, Option<String>), DownloadError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let failure = match small_once(fetcher, url, limit, cancel).await? {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        if attempts >= fetcher.retry.attempts {
            return Err(match failure {
                Failure::Network(source) => DownloadError::Network { url: url.to_string(), attempts, source },
                Failure::Status(status) => DownloadError::Status { url: url.to_string(), status },
            });
        }
        unless_cancelled(cancel, tokio::time::sleep(fetcher.retry.pause * 2_u32.saturating_pow(attempts - 1))).await?;
    }
}

async fn small_once(
    fetcher: &Fetcher,
    url: &Url,
    limit: ByteSize,
    cancel: &Cancel,
) -> Result<Result<(Vec<u8>, Option<String>), Failure>, DownloadError> {
    let request = fetcher.client.get(url.clone()).header(header::ACCEPT_ENCODING, "identity").send();
    let mut response = match unless_cancelled(cancel, request).await? {
        Ok(response) => response,
        Err(error) => return Ok(Err(Failure::Network(error.without_url()))),
    };
    let status = response.status();
    if may_pass(status) {
        return Ok(Err(Failure::Status(status)));
    }
    if status != StatusCode::OK {
        return Err(DownloadError::Status { url: url.to_string(), status });
    }
    let date = response.headers().get(header::LAST_MODIFIED).and_then(|date| date.to_str().ok()).map(str::to_owned);
    let mut bytes = Vec::new();
    loop {
        match unless_cancelled(cancel, response.chunk()).await? {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(Ok((bytes, date))),
            Err(error) => return Ok(Err(Failure::Network(error.without_url()))),
        }
        if bytes.len() as u64 > limit.bytes() {
            return Err(DownloadError::TooLong { url: url.to_string(), limit });
        }
    }
}

fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Waits for something unless stopping was asked for meanwhile.
async fn unless_cancelled<T>(cancel: &Cancel, future: impl Future<Output = T>) -> Result<T, Cancelled> {
    tokio::pin!(future);
    loop {
        cancel.check()?;
        if let Ok(value) = tokio::time::timeout(CANCEL_POLL, &mut future).await {
            return Ok(value);
        }
    }
}

/// Reads the whole file again: what counts is what is on the disk, also the part of an earlier run.
async fn digest_file(
    path: &Path,
    wanted: Wanted<'_>,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<Digest, DownloadError> {
    let (task, algorithm) = (format!("digest of {}", wanted.url), wanted.digest.algorithm());
    let (path, reporter, cancel) = (path.to_owned(), Arc::clone(reporter), cancel.clone());
    blocking(move || {
        let error = |source| DownloadError::File { path: path.clone(), source };
        let mut file = fs::File::open(&path).map_err(error)?;
        let total = file.metadata().map_err(error)?.len();
        let progress = Progress { task: &task, total: Some(total), reporter: &*reporter, cancel: &cancel };
        digest_of(&mut file, algorithm, &progress).map_err(|failure| match failure {
            StreamError::Io(source) => error(source),
            StreamError::Cancelled(cancelled) => cancelled.into(),
        })
    })
    .await
}
