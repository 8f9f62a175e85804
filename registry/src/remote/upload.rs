//! Uploading one blob: look, mount, stream; go on after interruptions; know three ways of sending.

use std::fmt;
use std::future::Future;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fs_err as fs;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use labwright_core::Cancel;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::http::Call;
use super::token::Scope;
use super::wait::cancellable;
use super::{Progress, RemoteError, Repository};
use crate::document::Descriptor;

/// The smallest chunk that a registry wants (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// The size of chunks where one long request is refused: what every registry and proxy takes.
const CHUNK: u64 = 4 << 20;

/// Blobs up to this size go in one request, which saves a round trip.
const SMALL: u64 = 1 << 20;

/// How much of a file is read at a time.
const READ: usize = 256 << 10;

/// How many such pieces may wait for the network.
const AHEAD: usize = 4;

/// How long a registry may take to check and store a complete blob: it hashes gigabytes and may copy them.
const COMMIT: Duration = Duration::from_mins(15);

/// How long after each request to end an upload it is looked whether it has ended.
const ABANDON_PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

/// Where the bytes of an upload come from; it can be read again from any place.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// A part of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Where the blob begins in it.
        start: u64,
    },
    /// A blob in another repository.
    Remote(Box<Repository>),
}

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The repository had it.
    Existed,
    /// The registry took it over from another repository.
    Mounted,
    /// All bytes were sent.
    Uploaded,
}

/// The ways of sending, each tried when the registry refuses the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One PATCH with everything, then PUT: what docker and skopeo do.
    Stream,
    /// Several PATCHes of a fixed size.
    Chunks,
    /// One PUT with everything.
    Whole,
}

/// Where the reader of a body leaves its error: the HTTP client would only say that the body broke.
type Broken = Arc<Mutex<Option<RemoteError>>>;

/// An upload in the registry.
#[derive(Debug, Clone)]
struct Session {
    url: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// The smallest chunk that it wants.
    chunk_min: u64,
}

/// Why an attempt ended.
#[derive(Debug)]
enum Failure {
    /// An error that the caller sees, unless it may pass.
    Remote(RemoteError),
    /// The registry does not take the blob in this way.
    Way(RemoteError),
    /// The registry does not know the session, or no longer wants it.
    Lost(RemoteError),
    /// The token ended while bytes were under way.
    Token(RemoteError),
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        Self::Remote(error)
    }
}

impl Repository {
    /// Whether a blob is there.
    pub(crate) async fn has_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool, RemoteError> {
        let action = format!("look for a blob in {}", self.name());
        let call = Call::new(Method::HEAD, self.url(&format!("blobs/{}", blob.digest))?, Scope::Push, &action);
        self.repeated(cancel, || async {
            let response = self.limited(&action, self.send(&call)).await?;
            match response.status() {
                StatusCode::OK => Ok(true),
                // A storage service behind a redirect may forbid HEAD; the upload will tell what is really wrong.
                status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => Ok(false),
                _ => Err(self.judge(response, &action).await),
            }
        })
        .await
    }

    /// Makes sure that a blob is in the repository. `mount` is a repository of the same registry that has it.
    pub(crate) async fn upload(
        &self,
        blob: &Descriptor,
        body: &Body,
        mount: Option<&str>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Sent, RemoteError> {
        if self.has_blob(blob, cancel).await? {
            progress.at(blob.size);
            return Ok(Sent::Existed);
        }
        let upload = Upload {
            repository: self,
            blob,
            body,
            progress,
            action: format!("push to {}", self.name()),
            broken: Arc::default(),
        };
        upload.run(mount, cancel).await
    }
}

struct Upload<'a> {
    repository: &'a Repository,
    blob: &'a Descriptor,
    body: &'a Body,
    progress: &'a Progress,
    action: String,
    /// The error that ended reading what is sent, if one did.
    broken: Broken,
}

impl Upload<'_> {
    async fn run(&self, mut mount: Option<&str>, cancel: &Cancel) -> Result<Sent, RemoteError> {
        let mut way = if self.blob.size <= SMALL { Way::Whole } else { Way::Stream };
        let mut session: Option<Session> = None;
        let (mut failures, mut confirmed) = (0, 0);
        loop {
            let attempt = cancellable(cancel, async {
                Ok::<_, RemoteError>(self.attempt(&mut session, way, mount.take()).await)
            });
            let failure = match attempt.await {
                Ok(Ok(sent)) => return Ok(sent),
                Ok(Err(failure)) => failure,
                Err(error) => {
                    self.abandon(session).await;
                    return Err(error);
                }
            };
            // When the bytes did not come, the registry is not to blame for what followed.
            let failure = super::lock(&self.broken).take().map_or(failure, Failure::Remote);
            let (error, lost) = match failure {
                Failure::Way(error) => {
                    way = match way {
                        Way::Stream => Way::Chunks,
                        Way::Chunks => Way::Whole,
                        Way::Whole => return Err(error),
                    };
                    tracing::debug!(?way, %error, "the registry refuses this way of sending");
                    self.abandon(session.take()).await;
                    continue;
                }
                Failure::Lost(error) => (error, true),
                Failure::Token(error) | Failure::Remote(error) => (error, false),
            };
            failures += 1;
            let again = lost || matches!(error, RemoteError::LoginNeeded { .. } | RemoteError::BadLogin { .. });
            if again && failures > self.repository.remote.0.options.retries.min(3) {
                return Err(error);
            }
            if !again && let Err(error) = self.repository.pause_or_fail(failures, error, cancel).await {
                self.abandon(session).await;
                return Err(error);
            }
            session = match session {
                Some(session) if !lost => {
                    cancellable(cancel, async { Ok::<_, RemoteError>(self.status(session).await) }).await?
                }
                _ => None,
            };
            // Only what the registry confirms is progress; then the count of failures in a row begins anew.
            let offset = session.as_ref().map_or(0, |session| session.offset);
            if offset > confirmed {
                (confirmed, failures) = (offset, 0);
            }
            self.progress.at(offset);
        }
    }

    async fn attempt(&self, session: &mut Option<Session>, way: Way, mount: Option<&str>) -> Result<Sent, Failure> {
        if session.is_none() {
            *session = match self.start(mount).await? {
                Some(started) => Some(started),
                None => return Ok(Sent::Mounted),
            };
        }
        let session = session.as_mut().expect("it was started above");
        match way {
            Way::Whole if session.offset == 0 => self.put(session, self.blob.size).await?,
            Way::Whole | Way::Stream => {
                self.patch(session, self.blob.size - session.offset).await?;
                self.put(session, 0).await?;
            }
            Way::Chunks => {
                while session.offset < self.blob.size {
                    let chunk = CHUNK.max(session.chunk_min);
                    self.patch(session, chunk.min(self.blob.size - session.offset)).await?;
                }
                self.put(session, 0).await?;
            }
        }
        self.progress.at(self.blob.size);
        Ok(Sent::Uploaded)
    }

    /// Begins an upload; `None` if the blob was mounted.
    async fn start(&self, mount: Option<&str>) -> Result<Option<Session>, RemoteError> {
        let repository = self.repository;
        if let Some(from) = mount {
            let mut url = repository.url("blobs/uploads/")?;
            url.query_pairs_mut().append_pair("mount", &self.blob.digest.to_string()).append_pair("from", from);
            let call = Call::new(Method::POST, url, Scope::Mount(from), &self.action).header(CONTENT_LENGTH, "0");
            match repository.limited(&self.action, repository.send(&call)).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(None),
                // The registry did not mount, but opened an upload all the same.
                Ok(response) if response.status() == StatusCode::ACCEPTED => {
                    return self.session(&call.url, &response, 0, 0).map(Some);
                }
                // Mounting is a favour: whoever may not read the other repository can still upload.
                Ok(response) => tracing::debug!(status = %response.status(), from, "the registry does not mount"),
                Err(error) => tracing::debug!(%error, from, "the registry does not mount"),
            }
        }
        let call = Call::new(Method::POST, repository.url("blobs/uploads/")?, Scope::Push, &self.action)
            .header(CONTENT_LENGTH, "0");
        let response = repository.limited(&self.action, repository.send(&call)).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(repository.judge(response, &self.action).await);
        }
        self.session(&call.url, &response, 0, 0).map(Some)
    }

    fn session(&self, base: &Url, response: &Response, offset: u64, chunk_min: u64) -> Result<Session, RemoteError> {
        let said = response.headers().get(&CHUNK_MIN).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Session {
            url: self.repository.location(base, response, &self.action)?,
            offset,
            chunk_min: said.unwrap_or(chunk_min),
        })
    }

    /// Sends bytes from the session's offset on.
    async fn patch(&self, session: &mut Session, length: u64) -> Result<(), Failure> {
        if length == 0 {
            return Ok(());
        }
        let partial = session.offset != 0 || length != self.blob.size;
        let end = session.offset + length;
        let mut call = Call::new(Method::PATCH, session.url.clone(), Scope::Push, &self.action)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length.to_string());
        if partial {
            call = call.header(CONTENT_RANGE, format!("{}-{}", session.offset, end - 1));
        }
        let response = self.send_bytes(&call, session.offset, length).await?;
        if !matches!(response.status(), StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT) {
            return Err(self.sort(response, true).await);
        }
        // A registry may have kept less than it was sent, and says so.
        let kept = range_end(&response).filter(|_| partial).unwrap_or(end);
        let next = self.session(&session.url, &response, kept.min(end), session.chunk_min)?;
        if next.offset <= session.offset {
            return Err(Failure::Lost(self.repository.protocol(&self.action, "it takes bytes and keeps none")));
        }
        *session = next;
        if session.offset < end && length == self.blob.size {
            return Err(Failure::Lost(self.repository.protocol(&self.action, "it keeps a part of what it takes")));
        }
        Ok(())
    }

    /// Ends the upload, with all bytes (`length`) or none.
    async fn put(&self, session: &Session, length: u64) -> Result<(), Failure> {
        let mut url = session.url.clone();
        // The address may have a query of its own, which must stay.
        url.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let call = Call::new(Method::PUT, url, Scope::Push, &self.action)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length.to_string());
        let response = if length == 0 {
            self.commit(self.repository.send(&call)).await?
        } else {
            self.send_bytes(&call, 0, length).await?
        };
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.sort(response, length != 0).await),
        }
    }

    async fn commit<T>(&self, work: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
        tokio::time::timeout(COMMIT, work).await.unwrap_or_else(|_| {
            Err(RemoteError::Stalled {
                registry: self.repository.registry.clone(),
                action: self.action.clone(),
                after: COMMIT,
            })
        })
    }

    /// Sends a part of the blob as the body of a request, once.
    async fn send_bytes(&self, call: &Call<'_>, offset: u64, length: u64) -> Result<Response, Failure> {
        let options = &self.repository.remote.0.options;
        // Made anew for every redirect.
        let body = || {
            let (progress, mut done) = (self.progress.clone(), offset);
            reqwest::Body::wrap_stream(self.body.stream(self.blob, offset, length, &self.broken).inspect(
                move |piece| {
                    if let Ok(bytes) = piece {
                        done += bytes.len() as u64;
                        progress.at(done);
                    }
                },
            ))
        };
        let sending = Box::pin(self.repository.send_with(call, false, |request| request.body(body())));
        // While bytes flow, only a standstill ends it; the answer may take as long as checking the bytes does.
        let stall =
            if length == self.blob.size { options.stall.max(COMMIT.min(options.stall * 4)) } else { options.stall };
        let response = self.progress.watched(self.repository, &self.action, stall, sending).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.repository.learn(response.headers(), &self.action)?;
            // Fetch the next token now: the session that the bytes belong to is asked for with it.
            self.repository.authorization(Scope::Push, &self.action, true).await?;
            return Err(Failure::Token(self.repository.refused(&self.action).await));
        }
        Ok(response)
    }

    /// What a bad answer to bytes means for the next attempt.
    async fn sort(&self, response: Response, with_bytes: bool) -> Failure {
        let status = response.status();
        let error = self.repository.judge(response, &self.action).await;
        match status.as_u16() {
            405 | 411 | 413 | 416 | 501 if with_bytes => Failure::Way(error),
            400 | 404 | 409 | 410 | 416 => Failure::Lost(error),
            _ => Failure::Remote(error),
        }
    }

    /// Asks how much of an upload the registry has; `None` if nothing can be made of it.
    async fn status(&self, session: Session) -> Option<Session> {
        let call = Call::new(Method::GET, session.url.clone(), Scope::Push, &self.action);
        let response = self.repository.limited(&self.action, self.repository.send(&call)).await.ok()?;
        if response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let offset = range_end(&response).filter(|&offset| offset <= self.blob.size)?;
        let url = self.repository.location(&session.url, &response, &self.action).unwrap_or(session.url);
        Some(Session { url, offset, chunk_min: session.chunk_min })
    }

    /// Tells the registry that an upload will not go on. Nobody waits long for that.
    ///
    /// A registry that has not noticed yet that the request with the bytes is gone may write the upload's state once
    /// more after it was deleted; so it is asked, and told again.
    async fn abandon(&self, session: Option<Session>) {
        let Some(session) = session else { return };
        let told = async {
            for pause in ABANDON_PAUSES {
                let call = Call::new(Method::DELETE, session.url.clone(), Scope::Push, &self.action);
                let answer = self.repository.send(&call).await?;
                if !answer.status().is_success() && answer.status() != StatusCode::NOT_FOUND {
                    tracing::debug!(status = %answer.status(), "the registry does not end the upload");
                    return Ok(());
                }
                tokio::time::sleep(pause).await;
                let call = Call::new(Method::GET, session.url.clone(), Scope::Push, &self.action);
                if self.repository.send(&call).await?.status() == StatusCode::NOT_FOUND {
                    return Ok(());
                }
            }
            Ok::<_, RemoteError>(())
        };
        drop(tokio::time::timeout(Duration::from_secs(3), told).await);
    }
}

/// How many bytes the registry has, from `Range: 0-LAST`.
///
/// `0-0` is said for nothing and for one byte; it counts as nothing usable.
fn range_end(response: &Response) -> Option<u64> {
    let range = response.headers().get(RANGE)?.to_str().ok()?;
    let last: u64 = range.trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
    (last > 0).then(|| last.checked_add(1)).flatten()
}

impl Body {
    /// The `length` bytes from `offset` on.
    fn stream(
        &self,
        blob: &Descriptor,
        offset: u64,
        length: u64,
        broken: &Broken,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let broken = Arc::clone(broken);
        match self {
            Self::File { path, start } => file_stream(path.clone(), start + offset, length, broken),
            Self::Remote(source) => {
                let (source, blob) = (source.clone(), blob.clone());
                let opened = stream::once(async move { source.blob_stream(&blob, offset).await });
                take_bytes(opened.try_flatten().boxed(), length, broken)
            }
        }
    }
}

/// Cuts a stream after so many bytes.
fn take_bytes(
    stream: BoxStream<'static, Result<Bytes, RemoteError>>,
    length: u64,
    broken: Broken,
) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold((stream, length, broken), |(mut stream, left, broken)| async move {
        if left == 0 {
            return None;
        }
        match stream.next().await? {
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - bytes.len() as u64;
                Some((Ok(bytes), (stream, left, broken)))
            }
            Err(error) => {
                *super::lock(&broken) = Some(error);
                Some((Err(io::ErrorKind::BrokenPipe.into()), (stream, 0, broken)))
            }
        }
    })
    .boxed()
}

/// Reads a part of a file on a thread of its own, a little ahead of the network.
fn file_stream(path: PathBuf, start: u64, length: u64, broken: Broken) -> BoxStream<'static, io::Result<Bytes>> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let read = || -> io::Result<()> {
            let mut file = fs::File::open(&path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut left = length;
            while left > 0 {
                let mut piece = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(READ)];
                file.read_exact(&mut piece)?;
                left -= piece.len() as u64;
                // Nobody listens any more when the request has ended early.
                if sender.blocking_send(Ok(Bytes::from(piece))).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        if let Err(source) = read() {
            let kind = source.kind();
            *super::lock(&broken) = Some(RemoteError::Read { path: path.clone(), source });
            // The receiver ends the request; if it is gone, the request has ended already.
            drop(sender.blocking_send(Err(kind.into())));
        }
    });
    stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
}

impl fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("blob", &self.blob.digest).field("body", &self.body).finish_non_exhaustive()
    }
}
