//! Downloading one blob: verified while it streams, resumed where it broke, nameless until it is whole.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use labwright_core::{Cancel, Digest, Hasher};
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::http::Call;
use super::token::Scope;
use super::wait::cancellable;
use super::{Progress, RemoteError, Repository};
use crate::document::{Descriptor, MAX_DOCUMENT};
use crate::layout::{Layout, LayoutError};

/// How many pieces may wait for the disk.
const AHEAD: usize = 16;

impl Repository {
    /// Opens a blob from `offset` on. Bytes before it that a registry sends in spite of the range are dropped.
    pub(super) async fn blob_stream(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, RemoteError>>, RemoteError> {
        let action = format!("read a blob of {}", self.name());
        let mut call = Call::new(Method::GET, self.url(&format!("blobs/{}", blob.digest))?, Scope::Pull, &action);
        if offset > 0 {
            call = call.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.limited(&action, self.send(&call)).await?;
        let begins = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let first =
                    range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
                if first != Some(offset) {
                    return Err(self.protocol(&action, "it sends another part than was asked for"));
                }
                offset
            }
            _ => return Err(self.judge(response, &action).await),
        };
        if let Some(length) = response.content_length()
            && begins + length != blob.size
        {
            return Err(self.wrong_size(blob, begins.saturating_add(length)));
        }
        let mut drop_first = offset - begins;
        let registry = self.registry.clone();
        Ok(response
            .bytes_stream()
            .map(move |piece| {
                let mut piece = piece.map_err(|error| RemoteError::from_http(&registry, &action, error))?;
                let dropped = usize::try_from(drop_first).unwrap_or(usize::MAX).min(piece.len());
                drop_first -= dropped as u64;
                Ok(piece.split_off(dropped))
            })
            .boxed())
    }

    /// Fetches and verifies a small blob, such as a config.
    pub(crate) async fn small_blob(&self, blob: &Descriptor, cancel: &Cancel) -> Result<Bytes, RemoteError> {
        if blob.size > MAX_DOCUMENT {
            let action = format!("read a blob of {}", self.name());
            return Err(RemoteError::DocumentTooLarge { registry: self.registry.clone(), action });
        }
        self.blob_in_memory(blob, cancel).await
    }

    /// Fetches and verifies a blob; the caller has looked at its size.
    pub(crate) async fn blob_in_memory(&self, blob: &Descriptor, cancel: &Cancel) -> Result<Bytes, RemoteError> {
        let action = format!("read a blob of {}", self.name());
        self.repeated(cancel, || async {
            let mut stream = self.blob_stream(blob, 0).await?;
            let mut bytes = BytesMut::new();
            // The limit is for silence: a slow line may take its time for a few megabytes.
            while let Some(piece) = self.limited(&action, async { Ok(stream.next().await) }).await? {
                bytes.extend_from_slice(&piece?);
                if bytes.len() as u64 > blob.size {
                    return Err(self.wrong_size(blob, bytes.len() as u64));
                }
            }
            if (bytes.len() as u64) < blob.size {
                return Err(self.wrong_size(blob, bytes.len() as u64));
            }
            let mut hasher = Hasher::new(blob.digest.algorithm());
            hasher.update(&bytes);
            let found = hasher.finish();
            if found == blob.digest { Ok(bytes.freeze()) } else { Err(self.wrong_digest(blob, found)) }
        })
        .await
    }

    fn wrong_digest(&self, blob: &Descriptor, found: Digest) -> RemoteError {
        RemoteError::WrongDigest { registry: self.registry.clone(), expected: blob.digest.clone(), found }
    }

    fn wrong_size(&self, blob: &Descriptor, found: u64) -> RemoteError {
        RemoteError::WrongSize {
            registry: self.registry.clone(),
            digest: blob.digest.clone(),
            expected: blob.size,
            found,
        }
    }

    /// Fetches a blob into a layout. Where the connection breaks, it goes on from there.
    pub(crate) async fn download(
        &self,
        blob: &Descriptor,
        layout: &Layout,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), RemoteError> {
        let sink = Sink::start(layout, blob)?;
        let action = format!("read a blob of {}", self.name());
        let stall = self.remote.0.options.stall;
        let (mut offset, mut failures) = (0, 0);
        while offset < blob.size {
            let before = offset;
            let attempt = progress.watched(self, &action, stall, async {
                let mut stream = self.blob_stream(blob, offset).await?;
                while let Some(piece) = stream.next().await {
                    let piece = piece?;
                    if offset + piece.len() as u64 > blob.size {
                        return Err(self.wrong_size(blob, offset + piece.len() as u64));
                    }
                    offset += piece.len() as u64;
                    if !sink.push(piece).await {
                        // The disk failed; `finish` says how.
                        return Ok(());
                    }
                    progress.at(offset);
                }
                Ok(())
            });
            match cancellable(cancel, attempt).await {
                Ok(()) if offset == blob.size || sink.is_broken() => break,
                // The body ended early without an error: that happens where no length was announced.
                Ok(()) if offset == before => return Err(self.wrong_size(blob, offset)),
                Ok(()) => {}
                Err(error) => {
                    failures = if offset > before { 1 } else { failures + 1 };
                    self.pause_or_fail(failures, error, cancel).await?;
                }
            }
        }
        let (temp, found) = sink.finish().await?;
        if found != blob.digest {
            return Err(self.wrong_digest(blob, found));
        }
        let (layout, digest) = (layout.clone(), blob.digest.clone());
        tokio::task::spawn_blocking(move || layout.settle(temp, &digest)).await.expect("storing does not panic")?;
        progress.at(blob.size);
        Ok(())
    }
}

type Written = Result<(tempfile::NamedTempFile, Digest), LayoutError>;

/// Hashes and writes on a thread of its own, so that the network need not wait.
struct Sink {
    sender: mpsc::Sender<Bytes>,
    result: oneshot::Receiver<Written>,
}

impl Sink {
    fn start(layout: &Layout, blob: &Descriptor) -> Result<Self, RemoteError> {
        let mut temp = layout.temp_blob()?;
        let path = layout.blob_path(&blob.digest);
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let (sender, mut receiver) = mpsc::channel::<Bytes>(AHEAD);
        let (done, result) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let mut write = || -> std::io::Result<()> {
                while let Some(piece) = receiver.blocking_recv() {
                    hasher.update(&piece);
                    temp.write_all(&piece)?;
                }
                Ok(())
            };
            let written = write().map_err(|source| LayoutError::Write { path, source });
            // Nobody waits for it after a failed download; then the temporary file goes with the message.
            drop(done.send(written.map(|()| (temp, hasher.finish()))));
        });
        Ok(Self { sender, result })
    }

    /// Hands on a piece; `false` if nobody takes it any more.
    async fn push(&self, piece: Bytes) -> bool {
        self.sender.send(piece).await.is_ok()
    }

    fn is_broken(&self) -> bool {
        self.sender.is_closed()
    }

    async fn finish(self) -> Written {
        drop(self.sender);
        self.result.await.expect("the writer does not panic")
    }
}
