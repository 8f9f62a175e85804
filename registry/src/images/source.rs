//! Where an image is read from.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use labwright_core::{Cancel, Digest, ImageRef};
use tokio::sync::OnceCell;

use super::ImagesError;
use crate::annotations::REF_NAME;
use crate::archive::{Archive, ArchiveError};
use crate::document::{Descriptor, Document, MAX_MANIFESTS};
use crate::layout::{Layout, LayoutError};
use crate::media_type;
use crate::remote::{Body, Remote, Repository};

/// The most bytes of all documents of one image or lab together, because they are held in memory.
pub(super) const MAX_DOCUMENTS: usize = 32 << 20;

/// What refers to which manifest.
type Referrers = HashMap<Digest, Vec<Descriptor>>;

/// Something that holds an image.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Layout(Layout),
    Archive(Arc<Archive>),
    Registry(Repository),
}

/// An image that was found.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) place: Place,
    /// What the reference names.
    pub(super) root: Descriptor,
    /// The reference, for messages.
    pub(super) name: String,
    /// The tag by which it was found, without a name before it.
    pub(super) tag: Option<String>,
    /// What refers to what in this place, once somebody asked; places on this machine are read whole for that.
    referrers: Arc<OnceCell<Option<Referrers>>>,
}

/// All parts of an image.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Indexes and manifests; children before parents, referrers behind what they refer to.
    pub(super) documents: Vec<(Descriptor, Bytes, Document)>,
    /// Configs and layers, each once.
    pub(super) blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    /// The size of all documents.
    pub(super) bytes: usize,
}

enum Step {
    Enter(Descriptor),
    Leave(Box<(Descriptor, Bytes, Document)>),
}

impl Source {
    pub(super) async fn open(
        store: &Path,
        remote: &Remote,
        image: &ImageRef,
        cancel: &Cancel,
    ) -> Result<Self, ImagesError> {
        let name = image.to_string();
        let (place, root, tag) = match image {
            ImageRef::Local { name, tag: Some(tag) } => {
                let layout = Layout::open(store)?;
                let root = layout.resolve(&format!("{name}:{tag}"))?;
                (Place::Layout(layout), root, Some(tag.clone()))
            }
            ImageRef::Local { name, tag: None } => {
                let layout = Layout::open(store)?;
                let (full, root) = layout.resolve_newest(name)?;
                (Place::Layout(layout), root, full.rsplit_once(':').map(|(_, tag)| tag.to_owned()))
            }
            ImageRef::Layout { dir, tag } => {
                let layout = Layout::open(dir)?;
                let root = match tag {
                    Some(tag) => layout.resolve(tag)?,
                    None => layout.resolve_only()?,
                };
                (Place::Layout(layout), root, tag.clone())
            }
            ImageRef::Archive { file, tag } => {
                let file = file.clone();
                let archive = blocking(move || Archive::open(file)).await?;
                let root = archive.resolve(tag.as_deref())?;
                (Place::Archive(Arc::new(archive)), root, tag.clone())
            }
            ImageRef::Registry(registry) => {
                let repository = remote.repository(registry);
                let reference = registry.reference();
                let Some((root, _)) = repository.manifest(&reference, cancel).await? else {
                    return Err(ImagesError::NoImage {
                        registry: registry.host.clone(),
                        image: repository.full(&reference),
                    });
                };
                (Place::Registry(repository), root, registry.tag.clone())
            }
        };
        let tag = tag.or_else(|| root.annotations.get(REF_NAME).cloned());
        Ok(Self { place, root, name, tag, referrers: Arc::default() })
    }

    /// The same place with another root, if it is there.
    pub(super) async fn at(&self, digest: &Digest, cancel: &Cancel) -> Result<Option<Self>, ImagesError> {
        let root = match &self.place {
            Place::Layout(layout) => layout.find(digest)?,
            Place::Archive(archive) => archive.find(digest)?,
            Place::Registry(repository) => {
                repository.manifest(&digest.to_string(), cancel).await?.map(|(descriptor, _)| descriptor)
            }
        };
        Ok(root.map(|root| Self { root, tag: None, ..self.clone() }))
    }

    /// Another place under the same name.
    pub(super) fn with_place(&self, place: Place) -> Self {
        Self { place, referrers: Arc::default(), ..self.clone() }
    }

    /// All parts of the image with what refers to it; `None` where a layout or archive holds only some of them, as an
    /// index of which one architecture was fetched.
    pub(super) async fn whole(&self, cancel: &Cancel) -> Result<Option<Parts>, ImagesError> {
        let parts = match self.parts(true, cancel).await {
            Err(
                ImagesError::Layout(LayoutError::NoBlob { .. }) | ImagesError::Archive(ArchiveError::NoBlob { .. }),
            ) => return Ok(None),
            other => other?,
        };
        let whole = match &self.place {
            Place::Layout(layout) => parts.blobs.iter().all(|blob| layout.has(blob)),
            Place::Archive(archive) => parts.blobs.iter().all(|blob| archive.locate(blob).is_ok()),
            Place::Registry(_) => true,
        };
        Ok(whole.then_some(parts))
    }

    /// Reads and verifies an index or manifest.
    pub(super) async fn document(
        &self,
        descriptor: &Descriptor,
        cancel: &Cancel,
    ) -> Result<(Bytes, Document), ImagesError> {
        let bytes = match &self.place {
            Place::Layout(layout) => layout.read_document(descriptor)?.into(),
            Place::Archive(archive) => archive.read_document(descriptor)?.into(),
            Place::Registry(repository) => {
                let reference = descriptor.digest.to_string();
                match repository.manifest(&reference, cancel).await? {
                    Some((_, bytes)) => bytes,
                    None => {
                        return Err(ImagesError::NoImage {
                            registry: repository.registry().to_owned(),
                            image: repository.full(&reference),
                        });
                    }
                }
            }
        };
        let document = Document::parse(&descriptor.media_type, &bytes).map_err(|source| ImagesError::Document {
            place: self.name.clone(),
            digest: descriptor.digest.clone(),
            source,
        })?;
        Ok((bytes, document))
    }

    /// Reads and verifies a small blob, such as a config.
    pub(super) async fn small_blob(&self, descriptor: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, ImagesError> {
        Ok(match &self.place {
            Place::Layout(layout) => layout.read_document(descriptor)?,
            Place::Archive(archive) => archive.read_document(descriptor)?,
            Place::Registry(repository) => repository.small_blob(descriptor, cancel).await?.to_vec(),
        })
    }

    /// Where the bytes of a blob are read from for an upload.
    pub(super) fn body(&self, blob: &Descriptor) -> Result<Body, ImagesError> {
        Ok(match &self.place {
            Place::Layout(layout) => {
                let path = layout.open_blob(blob)?.path().to_owned();
                Body::File { path, start: 0 }
            }
            Place::Archive(archive) => {
                let (path, start) = archive.locate(blob)?;
                Body::File { path: path.to_owned(), start }
            }
            Place::Registry(repository) => Body::Remote(Box::new(repository.clone())),
        })
    }

    /// Finds all parts of the image, and of what refers to it.
    pub(super) async fn parts(&self, referrers: bool, cancel: &Cancel) -> Result<Parts, ImagesError> {
        let mut parts = Parts::default();
        self.collect(&self.root, &mut parts, cancel).await?;
        if referrers {
            let local = self.local_referrers().await?;
            let mut next = 0;
            // The list grows: a signature may have an attestation of its own.
            while let Some((descriptor, ..)) = parts.documents.get(next) {
                let digest = descriptor.digest.clone();
                let found = match (&self.place, local) {
                    (Place::Registry(repository), _) => repository.referrers(&digest, cancel).await?,
                    (_, Some(local)) => local.get(&digest).cloned().unwrap_or_default(),
                    (_, None) => Vec::new(),
                };
                for referrer in found {
                    self.collect(&referrer, &mut parts, cancel).await?;
                }
                next += 1;
            }
        }
        Ok(parts)
    }

    /// What refers to a manifest.
    pub(super) async fn referrers(&self, digest: &Digest, cancel: &Cancel) -> Result<Vec<Descriptor>, ImagesError> {
        let mut found = match (&self.place, self.local_referrers().await?) {
            (Place::Registry(repository), _) => repository.referrers(digest, cancel).await?,
            (_, local) => local.as_ref().and_then(|all| all.get(digest).cloned()).unwrap_or_default(),
        };
        // Not every registry, and not every list under a tag, says of what kind they are.
        for referrer in found.iter_mut().filter(|referrer| referrer.artifact_type.is_none()) {
            let (_, document) = self.document(referrer, cancel).await?;
            *referrer = document.as_referrer(referrer);
        }
        Ok(found)
    }

    async fn local_referrers(&self) -> Result<&Option<Referrers>, ImagesError> {
        self.referrers
            .get_or_try_init(|| async {
                Ok(match self.place.clone() {
                    Place::Layout(layout) => Some(blocking(move || layout.referrers_by_subject()).await?),
                    Place::Archive(archive) => Some(blocking(move || archive.referrers_by_subject()).await?),
                    Place::Registry(_) => None,
                })
            })
            .await
    }

    async fn collect(&self, root: &Descriptor, parts: &mut Parts, cancel: &Cancel) -> Result<(), ImagesError> {
        let mut stack = vec![Step::Enter(root.clone())];
        while let Some(step) = stack.pop() {
            let descriptor = match step {
                Step::Leave(done) => {
                    parts.documents.push(*done);
                    continue;
                }
                Step::Enter(descriptor) => descriptor,
            };
            cancel.check()?;
            if !parts.seen.insert(descriptor.digest.clone()) {
                continue;
            }
            let (bytes, document) = self.document(&descriptor, cancel).await?;
            parts.bytes += bytes.len();
            if parts.bytes > MAX_DOCUMENTS || parts.seen.len() > 8 * MAX_MANIFESTS {
                return Err(ImagesError::TooManyDocuments { place: self.name.clone() });
            }
            let is_index = matches!(document, Document::Index(_));
            let children: Vec<_> = document.children().cloned().collect();
            stack.push(Step::Leave(Box::new((descriptor, bytes, document))));
            for child in children {
                let kind = child.media_type.as_str();
                if is_index && (media_type::is_index(kind) || media_type::is_manifest(kind) || kind.is_empty()) {
                    stack.push(Step::Enter(child));
                } else if parts.seen.insert(child.digest.clone()) {
                    parts.blobs.push(child);
                }
            }
        }
        Ok(())
    }
}

/// Runs blocking work on a thread where it may block.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
