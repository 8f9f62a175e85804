//! Looking into an image without its layers.

use std::collections::BTreeMap;

use labwright_core::{Arch, Cancel, Digest, ImageFacts, ImageRef};
use serde::Serialize;

use super::source::Source;
use super::{Images, ImagesError};
use crate::container_disk::{FactsError, choose, facts_of};
use crate::document::{Descriptor, Document, ImageConfig, Manifest};

/// What is known about an image without its layers; serialises to JSON for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The reference as given.
    pub image: String,
    /// The digest of what it names: an index or a manifest.
    pub digest: Digest,
    /// The media type of that.
    pub media_type: String,
    /// One image for each platform.
    pub platforms: Vec<PlatformInspection>,
}

/// What is known about the image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformInspection {
    /// The processor, as Go names it.
    pub architecture: String,
    /// The operating system, as Go names it.
    pub os: String,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// When it was made (RFC 3339), if it says so.
    pub created: Option<String>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// What Labwright knew when it built it; none for images of other makers.
    pub facts: Option<ImageFacts>,
    /// The layers, lowest first.
    pub layers: Vec<LayerInspection>,
    /// Bytes to transfer: all layers, the config and the manifest.
    pub size: u64,
    /// What refers to the manifest: lists of its contents, signatures and the like.
    pub referrers: Vec<ReferrerInspection>,
}

/// Something that refers to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerInspection {
    /// What kind of artifact it is, as a media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The size of its manifest in bytes.
    pub size: u64,
}

/// What is known about a layer without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInspection {
    /// The digest of the blob.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
    /// Bytes to transfer.
    pub size: u64,
}

impl Images {
    /// Reads the documents of an image, wherever it is, without its layers.
    pub async fn inspect(&self, image: &ImageRef, cancel: &Cancel) -> Result<Inspection, ImagesError> {
        let source = self.open(image, cancel).await?;
        let mut platforms = Vec::new();
        match source.document(&source.root, cancel).await?.1 {
            Document::Manifest(manifest) => platforms.push(platform(&source, &source.root, &manifest, cancel).await?),
            Document::Index(index) => {
                for entry in &index.manifests {
                    // Attestations stand in an index as images for the platform `unknown`.
                    if entry.platform.as_ref().is_some_and(|platform| platform.architecture == "unknown") {
                        continue;
                    }
                    match source.document(entry, cancel).await?.1 {
                        Document::Manifest(manifest) => {
                            platforms.push(platform(&source, entry, &manifest, cancel).await?);
                        }
                        Document::Index(_) => return Err(FactsError::NestedIndex.into()),
                    }
                }
            }
        }
        Ok(Inspection { image: source.name, digest: source.root.digest, media_type: source.root.media_type, platforms })
    }
}

impl Images {
    /// Reads a document of a kind (`application/vnd.cyclonedx+json`) that refers to an image; none if there is none.
    ///
    /// `arch` chooses from an index; without it, this machine's own is taken, else the first. Of several documents it is
    /// the one whose manifest has the lowest digest.
    pub async fn attached(
        &self,
        image: &ImageRef,
        arch: Option<Arch>,
        artifact_type: &str,
        cancel: &Cancel,
    ) -> Result<Option<Vec<u8>>, ImagesError> {
        let source = self.open(image, cancel).await?;
        let manifest = match source.document(&source.root, cancel).await?.1 {
            Document::Manifest(_) => source.root.clone(),
            Document::Index(index) => choose(&index.manifests, arch)?.clone(),
        };
        let referrers = source.referrers(&manifest.digest, cancel).await?;
        let wanted = referrers.into_iter().filter(|found| found.artifact_type.as_deref() == Some(artifact_type));
        let Some(found) = wanted.min_by(|a, b| a.digest.cmp(&b.digest)) else { return Ok(None) };
        let Document::Manifest(artifact) = source.document(&found, cancel).await?.1 else { return Ok(None) };
        match artifact.layers.first() {
            Some(layer) => Ok(Some(source.small_blob(layer, cancel).await?)),
            None => Ok(None),
        }
    }
}

/// Reads a config; that of an artifact which is no image has nothing to tell.
pub(super) async fn read_config(
    source: &Source,
    manifest: &Manifest,
    cancel: &Cancel,
) -> Result<ImageConfig, ImagesError> {
    let bytes = source.small_blob(&manifest.config, cancel).await?;
    Ok(serde_json::from_slice(&bytes).map_err(FactsError::Config)?)
}

/// The facts, if there are any that this version understands: a stranger's or a newer label must not be in the way.
pub(super) fn known_facts(config: &ImageConfig) -> Option<ImageFacts> {
    match facts_of(config) {
        Ok(facts) => Some(facts),
        Err(FactsError::NoFacts) => None,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the facts of the image cannot be read");
            None
        }
    }
}

async fn platform(
    source: &Source,
    descriptor: &Descriptor,
    manifest: &Manifest,
    cancel: &Cancel,
) -> Result<PlatformInspection, ImagesError> {
    let config = read_config(source, manifest, cancel).await?;
    let facts = known_facts(&config);
    let layers: Vec<_> = manifest
        .layers
        .iter()
        .map(|layer| LayerInspection {
            digest: layer.digest.clone(),
            media_type: layer.media_type.clone(),
            size: layer.size,
        })
        .collect();
    // Sizes are what a stranger wrote; their sum need not fit.
    let size = layers
        .iter()
        .fold(descriptor.size.saturating_add(manifest.config.size), |sum, layer| sum.saturating_add(layer.size));
    let referrers = source.listed_referrers(&descriptor.digest, cancel).await?;
    Ok(PlatformInspection {
        architecture: config.architecture,
        os: config.os,
        manifest: descriptor.digest.clone(),
        created: config.created,
        labels: config.config.labels,
        facts,
        layers,
        size,
        referrers,
    })
}

impl Source {
    /// What refers to a manifest, in a fixed order.
    pub(super) async fn listed_referrers(
        &self,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Vec<ReferrerInspection>, ImagesError> {
        let mut referrers: Vec<_> = self
            .referrers(digest, cancel)
            .await?
            .into_iter()
            .map(|found| ReferrerInspection {
                artifact_type: found.artifact_type,
                digest: found.digest,
                size: found.size,
            })
            .collect();
        // Registries list them in whatever order.
        referrers.sort_by(|a, b| (&a.artifact_type, &a.digest).cmp(&(&b.artifact_type, &b.digest)));
        Ok(referrers)
    }
}
