//! Bringing blobs from where they are to where they are wanted, several at once.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use labwright_core::{Cancel, Reporter};

use super::source::{Place, Source, blocking};
use super::{Copied, Images, ImagesError};
use crate::archive::{ArchiveError, Outside};
use crate::document::Descriptor;
use crate::layout::Layout;
use crate::remote::{Progress, Repository, Sent};

/// How often a copy looks whether it should stop.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Where blobs are written to.
#[derive(Debug, Clone)]
pub(super) enum Sink {
    Layout(Layout),
    /// The layout from which an archive is written. It gets only what must be fetched first; what is on this machine
    /// goes into the archive from where it is.
    Archive(Layout),
    Registry(Box<Repository>),
}

/// One blob on its way.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) sink: Sink,
    pub(super) blob: Descriptor,
}

impl Job {
    /// Whether the blob need not be brought anywhere before the archive is written.
    fn stays(&self) -> bool {
        matches!((&self.sink, &self.source.place), (Sink::Archive(_), Place::Layout(_) | Place::Archive(_)))
    }

    fn into_outside(self, reporter: &Arc<dyn Reporter>) -> Outside {
        let progress = Progress::new(reporter, &task_name(&self.blob), self.blob.size);
        let (place, wanted) = (self.source.place, self.blob.clone());
        let open = move || -> Result<Box<dyn Read>, ArchiveError> {
            Ok(match place {
                Place::Layout(layout) => Box::new(layout.open_blob(&wanted)?),
                Place::Archive(archive) => Box::new(archive.open_blob(&wanted)?),
                Place::Registry(_) => unreachable!("only blobs on this machine stay where they are"),
            })
        };
        Outside { blob: self.blob, open: Box::new(open), progress: Box::new(move |done| progress.at(done)) }
    }
}

impl Images {
    /// Brings all blobs where they are wanted, several at once, and counts them; returns those that an archive takes
    /// from where they are. When one fails, the others are told to stop and waited for, so that each ends its upload in
    /// the registry before the failure is returned.
    pub(super) async fn transfers(
        &self,
        jobs: Vec<Job>,
        copied: &mut Copied,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<Vec<Outside>, ImagesError> {
        let stop = Cancel::new();
        let (outside, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(Job::stays);
        // Owned jobs: with borrowed ones the compiler cannot see that this future may move between threads.
        let mut transfers = stream::iter(jobs)
            .map(|job| {
                let (reporter, stopping) = (Arc::clone(reporter), stop.clone());
                async move {
                    let sent = transfer(&job, &reporter, &stopping).await?;
                    Ok::<_, ImagesError>((job.blob.size, sent))
                }
            })
            .buffer_unordered(self.remote.options().parallel.max(1));
        let mut failed = None;
        loop {
            let next = tokio::select! {
                next = transfers.next() => next,
                () = tokio::time::sleep(CANCEL_POLL) => {
                    if cancel.is_cancelled() {
                        stop.cancel();
                    }
                    continue;
                }
            };
            match next {
                Some(Ok((_, Sent::Existed))) => copied.existed += 1,
                Some(Ok((_, Sent::Mounted))) => copied.mounted += 1,
                Some(Ok((size, Sent::Uploaded))) => {
                    copied.sent += 1;
                    copied.bytes += size;
                }
                Some(Err(error)) => {
                    stop.cancel();
                    // What fails after that fails because it was stopped.
                    failed.get_or_insert(error);
                }
                None => break,
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        copied.sent += outside.len() as u64;
        // Sizes are what a stranger wrote; their sum need not fit.
        copied.bytes = outside.iter().fold(copied.bytes, |sum, job| sum.saturating_add(job.blob.size));
        Ok(outside.into_iter().map(|job| job.into_outside(reporter)).collect())
    }
}

/// What a blob is called in progress events.
pub(super) fn task_name(blob: &Descriptor) -> String {
    let kind = if blob.media_type.contains("config") { "config" } else { "layer" };
    format!("{kind} {}", blob.digest.short())
}

/// Brings one blob where it is wanted.
async fn transfer(job: &Job, reporter: &Arc<dyn Reporter>, cancel: &Cancel) -> Result<Sent, ImagesError> {
    let Job { source, sink, blob } = job;
    let progress = Progress::new(reporter, &task_name(blob), blob.size);
    match sink {
        Sink::Layout(layout) | Sink::Archive(layout) => fetch(source, layout, blob, &progress, cancel).await,
        Sink::Registry(repository) => {
            let mount = match &source.place {
                Place::Registry(from)
                    if from.registry() == repository.registry() && from.name() != repository.name() =>
                {
                    Some(from.name())
                }
                _ => None,
            };
            Ok(repository.upload(blob, &source.body(blob)?, mount, &progress, cancel).await?)
        }
    }
}

/// Brings one blob into a layout.
pub(super) async fn fetch(
    source: &Source,
    layout: &Layout,
    blob: &Descriptor,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Sent, ImagesError> {
    if layout.has(blob) {
        progress.at(blob.size);
        return Ok(Sent::Existed);
    }
    let (to, expected, progress, cancelled) = (layout.clone(), blob.clone(), progress.clone(), cancel.clone());
    match source.place.clone() {
        Place::Registry(repository) => repository.download(blob, layout, &progress, cancel).await?,
        Place::Layout(from) => {
            let file = from.open_blob(blob)?;
            blocking(move || to.add_from_reader(&expected, file, |done| progress.at(done), &cancelled)).await?;
        }
        Place::Archive(from) => {
            let reader = from.open_blob(blob)?;
            blocking(move || to.add_from_reader(&expected, reader, |done| progress.at(done), &cancelled)).await?;
        }
    }
    Ok(Sent::Uploaded)
}
