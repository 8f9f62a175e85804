//! Waiting: for cancellation, for retries, for something to move.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use labwright_core::{Cancel, Cancelled, Event, Reporter};
use tokio::time::{Instant, sleep};

use super::{RemoteError, Repository};

/// How often a waiting call looks whether it should stop.
const POLL: Duration = Duration::from_millis(50);

/// How often a server is tried again that has never answered: a user with a typing mistake waits for it.
const STRANGER_RETRIES: u32 = 1;

/// Bytes between two progress events.
const STEP: u64 = 1 << 20;

/// Runs something until it is done or stopping is asked for.
pub(crate) async fn cancellable<T, E: From<Cancelled>>(
    cancel: &Cancel,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::pin!(work);
    loop {
        cancel.check()?;
        tokio::select! {
            result = &mut work => return result,
            () = sleep(POLL) => {}
        }
    }
}

impl Repository {
    /// Repeats a request that fails in a way that may pass, with growing pauses.
    pub(super) async fn repeated<T, F: Future<Output = Result<T, RemoteError>>>(
        &self,
        cancel: &Cancel,
        mut request: impl FnMut() -> F,
    ) -> Result<T, RemoteError> {
        let mut failures = 0;
        loop {
            let error = match cancellable(cancel, request()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            self.pause_or_fail(failures, error, cancel).await?;
        }
    }

    /// Waits before the next attempt, or gives the error back if there should be none.
    pub(super) async fn pause_or_fail(
        &self,
        failures: u32,
        error: RemoteError,
        cancel: &Cancel,
    ) -> Result<(), RemoteError> {
        let options = &self.remote.0.options;
        let reached = self.remote.0.reached.load(Ordering::Relaxed);
        let stranger = matches!(error, RemoteError::Unreachable { .. }) && !reached;
        let retries = if stranger { options.retries.min(STRANGER_RETRIES) } else { options.retries };
        if !error.is_transient() || failures > retries {
            return Err(error);
        }
        let own = options.backoff.saturating_mul(1 << (failures - 1).min(16));
        let pause = match error.retry_after() {
            // Asking again before that would be refused as well, so there is no point in a shorter wait.
            Some(asked) if asked > options.max_pause => return Err(error),
            Some(asked) => asked.max(own),
            None => own,
        };
        tracing::debug!(registry = self.registry, failures, ?pause, %error, "request is repeated");
        cancellable(cancel, async {
            sleep(pause.min(options.max_pause)).await;
            Ok(())
        })
        .await
    }
}

/// Tells a reporter how far a transfer is; also the watch that sees whether anything moves.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    reporter: Arc<dyn Reporter>,
    task: Arc<str>,
    total: u64,
    told: Arc<AtomicU64>,
    /// Counts every movement, forward or back.
    moves: Arc<AtomicU64>,
}

impl Progress {
    pub(crate) fn new(reporter: &Arc<dyn Reporter>, task: &str, total: u64) -> Self {
        Self { reporter: Arc::clone(reporter), task: task.into(), total, told: Arc::default(), moves: Arc::default() }
    }

    /// So many bytes are done. The count goes back where something is sent again.
    pub(crate) fn at(&self, done: u64) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        let told = self.told.load(Ordering::Relaxed);
        if done == self.total || done < told || done - told >= STEP {
            self.told.store(done, Ordering::Relaxed);
            let (task, total) = (self.task.to_string(), Some(self.total));
            self.reporter.event(Event::Progress { task, done, total });
        }
    }

    /// Runs a transfer and gives up when nothing moves for `stall`.
    pub(super) async fn watched<T>(
        &self,
        repository: &Repository,
        action: &str,
        stall: Duration,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        tokio::pin!(work);
        let (mut seen, mut since) = (self.moves.load(Ordering::Relaxed), Instant::now());
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = sleep(POLL) => {}
            }
            let now = self.moves.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= stall {
                return Err(RemoteError::Stalled {
                    registry: repository.registry.clone(),
                    action: action.to_owned(),
                    after: stall,
                });
            }
        }
    }
}
