//! Copying an image from anywhere to anywhere, bytes and digests unchanged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use labwright_core::{Arch, Cancel, Event, ImageRef, Reporter};

use super::source::{Parts, Source, blocking};
use super::transfer::{Job, Sink};
use super::{Images, ImagesError};
use crate::annotations::{LAB_PART, REF_NAME};
use crate::archive::{ArchiveError, Outside, write_archive};
use crate::container_disk::choose;
use crate::document::{Descriptor, Document};
use crate::layout::{Layout, LayoutError, WriteGuard};
use crate::remote::{Repository, size_warnings};

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

impl Copied {
    /// A copy that has not begun.
    pub(super) fn new(image: Descriptor) -> Self {
        Self { image, tag: None, bytes: 0, sent: 0, existed: 0, mounted: 0 }
    }
}

/// Where an image is written to.
enum Target {
    Layout { layout: Layout, tag: Option<String>, store: bool, guard: WriteGuard },
    Archive { file: PathBuf, tag: Option<String>, layout: Layout, work: tempfile::TempDir },
    Registry { repository: Box<Repository>, reference: String },
}

impl Target {
    fn sink(&self) -> Sink {
        match self {
            Self::Layout { layout, .. } => Sink::Layout(layout.clone()),
            Self::Archive { layout, .. } => Sink::Archive(layout.clone()),
            Self::Registry { repository, .. } => Sink::Registry(repository.clone()),
        }
    }
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
        source.root.annotations.retain(|key, _| key != REF_NAME && key != LAB_PART);
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
        let mut copied = Copied::new(source.root.clone());
        let sink = target.sink();
        let jobs =
            parts.blobs.iter().map(|blob| Job { source: source.clone(), sink: sink.clone(), blob: blob.clone() });
        let outside = self.transfers(jobs.collect(), &mut copied, reporter, cancel).await?;
        copied.tag = finish(&source, &parts, target, outside, cancel).await?;
        Ok(copied)
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

/// Writes the documents, children first, and the tag; returns the tag.
async fn finish(
    source: &Source,
    parts: &Parts,
    target: Target,
    outside: Vec<Outside>,
    cancel: &Cancel,
) -> Result<Option<String>, ImagesError> {
    match target {
        Target::Layout { layout, tag, store, guard } => {
            add_documents(&layout, parts)?;
            tag_or_list(&layout, &source.root, tag.as_deref())?;
            // In a layout of one image, tools take the only entry: there, what refers to it is only found by its subject.
            if store {
                list_referrers(&layout, parts)?;
            }
            guard.close();
            Ok(tag)
        }
        Target::Archive { file, tag, layout, work } => {
            add_documents(&layout, parts)?;
            tag_or_list(&layout, &source.root, tag.as_deref())?;
            finish_archive(layout, work, file, outside, cancel).await?;
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

fn tag_or_list(layout: &Layout, root: &Descriptor, tag: Option<&str>) -> Result<(), LayoutError> {
    match tag {
        Some(tag) => layout.tag(tag, root),
        None => layout.list(root),
    }
}

/// Writes an archive from the layout beside it and from other places, and removes that layout.
pub(super) async fn finish_archive(
    layout: Layout,
    work: tempfile::TempDir,
    file: PathBuf,
    outside: Vec<Outside>,
    cancel: &Cancel,
) -> Result<(), ImagesError> {
    let cancel = cancel.clone();
    blocking(move || {
        write_archive(&layout, outside, &file, &cancel)?;
        work.close().map_err(ArchiveError::Io)
    })
    .await?;
    Ok(())
}

/// Stores indexes and manifests.
pub(super) fn add_documents(layout: &Layout, parts: &Parts) -> Result<(), LayoutError> {
    for (descriptor, bytes, _) in &parts.documents {
        if !layout.has(descriptor) {
            layout.add_verified(descriptor, bytes)?;
        }
    }
    Ok(())
}

/// Lists what refers to other documents, as the local store does.
pub(super) fn list_referrers(layout: &Layout, parts: &Parts) -> Result<(), LayoutError> {
    for (descriptor, _, document) in parts.documents.iter().filter(|part| part.2.subject().is_some()) {
        layout.list(&document.as_referrer(descriptor))?;
    }
    Ok(())
}

/// Stores a document under a tag or its digest, unless that is what it names already.
pub(super) async fn put(
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
