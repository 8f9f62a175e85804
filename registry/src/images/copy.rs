//! Copying an image from anywhere to anywhere, bytes and digests unchanged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use labwright_core::{Arch, Cancel, Event, ImageRef, Reporter};

use super::source::{Parts, Place, Source, blocking};
use super::{Images, ImagesError};
use crate::annotations::REF_NAME;
use crate::archive::{ArchiveError, write_archive};
use crate::container_disk::choose;
use crate::document::{Descriptor, Document};
use crate::layout::{Layout, LayoutError, WriteGuard};
use crate::remote::{Progress, Repository, Sent, size_warnings};

/// How often a copy looks whether it should stop.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// What is copied.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Only the image for this architecture, which gets another digest than the whole; none means everything.
    pub arch: Option<Arch>,
    /// Signatures, attestations and whatever else refers to the image, too.
    pub referrers: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { arch: None, referrers: true }
    }
}

/// What a copy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// What was copied.
    pub image: Descriptor,
    /// The tag in the target; none where it has only a digest.
    pub tag: Option<String>,
    /// Bytes of blobs that were transferred.
    pub bytes: u64,
    /// Blobs that were transferred.
    pub sent: u64,
    /// Blobs that the target had.
    pub existed: u64,
    /// Blobs that the registry took over from another of its repositories.
    pub mounted: u64,
}

/// Where an image is written to.
enum Target {
    Layout { layout: Layout, tag: Option<String>, store: bool, guard: WriteGuard },
    Archive { file: PathBuf, tag: Option<String>, layout: Layout, work: tempfile::TempDir },
    Registry { repository: Box<Repository>, reference: String },
}

impl Images {
    /// Copies an image: push, pull, and everything between.
    ///
    /// Blobs that the target has are not transferred. Blobs go in parallel and come before the documents that name
    /// them; the tag comes last, so a copy that breaks off leaves the target as it was. Progress is told per blob, as
    /// the task `KIND DIGEST`; warnings about sizes that a registry is known to refuse come first.
    pub async fn copy(
        &self,
        source: &ImageRef,
        target: &ImageRef,
        options: &CopyOptions,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<Copied, ImagesError> {
        let mut source = self.open(source, cancel).await?;
        source.root.annotations.remove(REF_NAME);
        if let Some(arch) = options.arch
            && let (_, Document::Index(index)) = source.document(&source.root, cancel).await?
        {
            source.root = choose(&index.manifests, Some(arch))?.bare();
        }
        let parts = source.parts(options.referrers, cancel).await?;
        let target = self.target(target, &source)?;
        if let Target::Registry { repository, .. } = &target {
            for warning in size_warnings(repository.registry(), parts.blobs.iter().map(|blob| blob.size)) {
                reporter.event(Event::Warning(warning));
            }
        }
        let mut copied = Copied { image: source.root.clone(), tag: None, bytes: 0, sent: 0, existed: 0, mounted: 0 };
        for (size, sent) in self.transfers(&source, &target, &parts, reporter, cancel).await? {
            match sent {
                Sent::Existed => copied.existed += 1,
                Sent::Mounted => copied.mounted += 1,
                Sent::Uploaded => {
                    copied.sent += 1;
                    copied.bytes += size;
                }
            }
        }
        copied.tag = finish(&source, &parts, target, cancel).await?;
        Ok(copied)
    }

    /// Brings all blobs into the target, several at once. When one fails, the others are told to stop and waited for,
    /// so that each ends its upload in the registry before the failure is returned.
    async fn transfers(
        &self,
        source: &Source,
        target: &Target,
        parts: &Parts,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<Vec<(u64, Sent)>, ImagesError> {
        let stop = Cancel::new();
        let stopping = &stop;
        // Owned descriptors: with borrowed ones the compiler cannot see that this future may move between threads.
        let mut transfers = stream::iter(parts.blobs.clone())
            .map(|blob| async move {
                let sent = transfer(source, target, &blob, reporter, stopping).await?;
                Ok::<_, ImagesError>((blob.size, sent))
            })
            .buffer_unordered(self.remote.options().parallel.max(1));
        let (mut done, mut failed) = (Vec::new(), None);
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
                Some(Ok(sent)) => done.push(sent),
                Some(Err(error)) => {
                    stop.cancel();
                    // What fails after that fails because it was stopped.
                    failed.get_or_insert(error);
                }
                None => break,
            }
        }
        failed.map_or(Ok(done), Err)
    }

    fn target(&self, target: &ImageRef, source: &Source) -> Result<Target, ImagesError> {
        Ok(match target {
            ImageRef::Local { name, tag } => {
                let layout = Layout::open_or_create(&self.store)?;
                let tag = tag.as_ref().or(source.tag.as_ref()).map_or("latest", String::as_str);
                let guard = layout.begin_write()?;
                Target::Layout { layout, tag: Some(format!("{name}:{tag}")), store: true, guard }
            }
            ImageRef::Layout { dir, tag } => {
                let layout = Layout::open_or_create(dir)?;
                let guard = layout.begin_write()?;
                Target::Layout { layout, tag: tag.clone(), store: false, guard }
            }
            ImageRef::Archive { file, tag } => {
                let work = work_dir(file)?;
                let layout = Layout::open_or_create(work.path())?;
                Target::Archive { file: file.clone(), tag: tag.clone(), layout, work }
            }
            ImageRef::Registry(registry) => {
                if let Some(wanted) = &registry.digest
                    && *wanted != source.root.digest
                {
                    return Err(ImagesError::TargetDigest {
                        wanted: wanted.clone(),
                        found: source.root.digest.clone(),
                    });
                }
                let reference = match (&registry.tag, &registry.digest) {
                    (Some(tag), _) => tag.clone(),
                    (None, Some(digest)) => digest.to_string(),
                    (None, None) => "latest".to_owned(),
                };
                Target::Registry { repository: Box::new(self.remote.repository(registry)), reference }
            }
        })
    }
}

/// A directory beside a file, on its file system, that goes away with its owner.
pub(super) fn work_dir(file: &Path) -> Result<tempfile::TempDir, ImagesError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".labwright-")
        .tempdir_in(parent)
        .map_err(|source| ImagesError::WorkDir { path: parent.to_owned(), source })
}

/// What a blob is called in progress events.
pub(super) fn task_name(blob: &Descriptor) -> String {
    let kind = if blob.media_type.contains("config") { "config" } else { "layer" };
    format!("{kind} {}", blob.digest.short())
}

/// Brings one blob into the target.
async fn transfer(
    source: &Source,
    target: &Target,
    blob: &Descriptor,
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<Sent, ImagesError> {
    let progress = Progress::new(reporter, &task_name(blob), blob.size);
    match target {
        Target::Layout { layout, .. } | Target::Archive { layout, .. } => {
            fetch(source, layout, blob, &progress, cancel).await
        }
        Target::Registry { repository, .. } => {
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

/// Writes the documents, children first, and the tag; returns the tag.
async fn finish(
    source: &Source,
    parts: &Parts,
    target: Target,
    cancel: &Cancel,
) -> Result<Option<String>, ImagesError> {
    match target {
        Target::Layout { layout, tag, store, guard } => {
            add_to_layout(&layout, parts, &source.root, tag.as_deref())?;
            // In a layout of one image, tools take the only entry: there, what refers to it is only found by its subject.
            if store {
                for (descriptor, _, document) in parts.documents.iter().filter(|part| part.2.subject().is_some()) {
                    layout.list(&document.as_referrer(descriptor))?;
                }
            }
            guard.close();
            Ok(tag)
        }
        Target::Archive { file, tag, layout, work } => {
            add_to_layout(&layout, parts, &source.root, tag.as_deref())?;
            let cancel = cancel.clone();
            blocking(move || {
                write_archive(&layout, &file, &cancel)?;
                work.close().map_err(ArchiveError::Io)
            })
            .await?;
            Ok(tag)
        }
        Target::Registry { repository, reference } => {
            for (descriptor, bytes, document) in &parts.documents {
                let name =
                    if descriptor.digest == source.root.digest { &reference } else { &descriptor.digest.to_string() };
                put(&repository, name, descriptor, bytes, document, cancel).await?;
            }
            Ok((!reference.contains(':')).then_some(reference))
        }
    }
}

fn add_to_layout(layout: &Layout, parts: &Parts, root: &Descriptor, tag: Option<&str>) -> Result<(), LayoutError> {
    for (descriptor, bytes, _) in &parts.documents {
        if !layout.has(descriptor) {
            layout.add_verified(descriptor, bytes)?;
        }
    }
    match tag {
        Some(tag) => layout.tag(tag, root),
        None => layout.list(root),
    }
}

async fn put(
    repository: &Repository,
    reference: &str,
    descriptor: &Descriptor,
    bytes: &Bytes,
    document: &Document,
    cancel: &Cancel,
) -> Result<(), ImagesError> {
    let Some(subject) = document.subject() else {
        if !repository.has_manifest(reference, &descriptor.digest, cancel).await? {
            repository.put_manifest(reference, &descriptor.media_type, bytes, cancel).await?;
        }
        return Ok(());
    };
    // Always stored again: only the answer tells whether the registry lists referrers.
    if !repository.put_manifest(reference, &descriptor.media_type, bytes, cancel).await? {
        repository.add_fallback(&subject.digest, &document.as_referrer(descriptor), cancel).await?;
    }
    Ok(())
}
