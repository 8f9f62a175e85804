//! What is common to the images that we make: one layer, a config with the facts, an index with an entry for each
//! architecture, and a tag.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use labwright_core::{Arch, Cancelled, Digest, ImageFacts, ImageForm};

use crate::annotations::{CREATED, FACTS, TITLE, VERSION};
use crate::document::{
    ContainerConfig, Descriptor, Document, ImageConfig, Index, LayerHistory, Manifest, Platform, RootFs, to_bytes,
};
use crate::layout::{Layout, LayoutError, find_tag, set_tag};
use crate::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::time::rfc3339;

/// An image in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The index: what the tag names.
    pub index: Descriptor,
    /// The manifest of this architecture.
    pub manifest: Descriptor,
    /// The image config.
    pub config: Descriptor,
    /// The layer.
    pub layer: Descriptor,
    /// The digest of the layer's tar, before gzip.
    pub diff_id: Digest,
    /// The tag in the layout: `NAME:VERSION`.
    pub tag: String,
}

/// An image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading what is packed failed; the cause names the path.
    #[error("what is packed cannot be read")]
    Read(#[source] io::Error),
    /// What is packed is no regular file.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The file became shorter or longer while it was read.
    #[error("`{path}` changed while it was packed")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Writing the layer failed.
    #[error("the layer cannot be written into `{dir}`")]
    Write {
        /// The layout.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What the tag names now is no index that could be extended.
    #[error("`{tag}` cannot be extended by another architecture")]
    Extend {
        /// The tag.
        tag: String,
        /// What is wrong with it.
        source: LayoutError,
    },
    /// The layout failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Makes an image of a layer, whose tar has the digest `diff_id`, and tags it `NAME:VERSION` of its facts; whoever calls it
/// has begun to write.
///
/// Where that tag names an index already, its entry for the same architecture is replaced and the others stay.
pub(crate) fn tag(
    layout: &Layout,
    facts: &ImageFacts,
    created: u64,
    (layer, diff_id): (Descriptor, Digest),
    container: ContainerConfig,
) -> Result<Packed, PackError> {
    let config = layout.add_bytes(OCI_CONFIG, &to_bytes(&image_config(facts, created, &diff_id, container)))?;
    let manifest_document = Manifest {
        annotations: annotations(facts, created),
        artifact_type: None,
        config: config.clone(),
        layers: vec![layer.clone()],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    let manifest = layout.add_bytes(OCI_MANIFEST, &to_bytes(&manifest_document))?;
    let tag = format!("{}:{}", facts.name, facts.version);
    // Two processes that pack two architectures at once must not lose one: read, extend and write under the lock.
    let index = layout.update_index(|table| {
        let old = find_tag(table, &tag).cloned();
        let index = extended_index(layout, &tag, old.as_ref(), &manifest, facts.arch)
            .map_err(|source| PackError::Extend { tag: tag.clone(), source })?;
        let descriptor = layout.add_bytes(OCI_INDEX, &to_bytes(&index))?;
        set_tag(table, &tag, &descriptor);
        Ok::<_, PackError>(descriptor)
    })??;
    Ok(Packed { index, manifest, config, layer, diff_id, tag })
}

/// The index under `old` with the manifest of one architecture added or replaced, in a fixed order.
fn extended_index(
    layout: &Layout,
    tag: &str,
    old: Option<&Descriptor>,
    manifest: &Descriptor,
    arch: Arch,
) -> Result<Index, LayoutError> {
    let platform = Platform::linux(arch);
    let mut entries = match old.map(|old| layout.document(old)).transpose()? {
        Some(Document::Index(index)) => index.manifests,
        Some(document) if document.is_lab() => {
            return Err(LayoutError::TagTaken { dir: layout.dir().to_owned(), tag: tag.to_owned(), by: "a lab" });
        }
        // A tag set by another tool can name a single manifest; the new image takes its place.
        Some(Document::Manifest(_)) | None => Vec::new(),
    };
    entries.retain(|entry| entry.platform.as_ref() != Some(&platform));
    entries.push(Descriptor { platform: Some(platform), ..manifest.clone() });
    entries.sort_by(|a, b| {
        let key = |entry: &Descriptor| entry.platform.as_ref().map(|platform| platform.architecture.clone());
        key(a).cmp(&key(b))
    });
    Ok(Index::new(entries))
}

fn annotations(facts: &ImageFacts, created: u64) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CREATED.to_owned(), rfc3339(created)),
        (TITLE.to_owned(), facts.title.as_ref().unwrap_or(&facts.name).clone()),
        (VERSION.to_owned(), facts.version.clone()),
    ])
}

fn image_config(facts: &ImageFacts, created: u64, diff_id: &Digest, container: ContainerConfig) -> ImageConfig {
    let mut labels = annotations(facts, created);
    let json = serde_json::to_string(facts).expect("facts have string keys and no failing parts");
    labels.insert(FACTS.to_owned(), json);
    ImageConfig {
        architecture: facts.arch.as_str().to_owned(),
        config: ContainerConfig { labels, ..container },
        created: Some(rfc3339(created)),
        // Tools that put layers on an image want to know of those that are there.
        history: match facts.form {
            ImageForm::ContainerDisk => Vec::new(),
            ImageForm::Container => vec![LayerHistory {
                created: Some(rfc3339(created)),
                created_by: "labwright build".to_owned(),
                other: BTreeMap::new(),
            }],
        },
        os: "linux".to_owned(),
        rootfs: RootFs { diff_ids: vec![diff_id.clone()], kind: "layers".to_owned() },
    }
}
