//! Looking into lab bundles, wherever they are.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use labwright_core::{Cancel, Digest, Hasher, ImageRef, InvalidImageRef};

use super::inspect::{LayerInspection, ReferrerInspection};
use super::source::{Place, Source, blocking};
use super::{Images, ImagesError};
use crate::annotations::{LAB_CHART, LAB_IMGPKG};
use crate::bundle::{ChartRef, MAX_LAYER, UnpackError, unpack};
use crate::document::{Descriptor, Document, Manifest};
use crate::media_type::{LAB, LAB_CONFIG, LAB_FAMILY, OCI_LAYER_GZIP};

/// What is known about a lab bundle without its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabInspection {
    /// The reference as given.
    pub reference: String,
    /// The digest of the bundle's manifest.
    pub digest: Digest,
    /// The config's bytes, verified: what the lab says of itself and its images.
    pub config: Vec<u8>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The layer with the files.
    pub layer: LayerInspection,
    /// The digest of the manifest for imgpkg, if the bundle names one.
    pub imgpkg: Option<Digest>,
    /// The Helm chart, if the bundle names one.
    pub chart: Option<ChartRef>,
    /// What refers to the bundle: signatures and the like.
    pub referrers: Vec<ReferrerInspection>,
}

/// Something with a lab bundle did not work.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// It is something else.
    #[error("`{place}` is not a lab bundle")]
    NotALab {
        /// The reference as given.
        place: String,
    },
    /// It was made by another version.
    #[error("`{place}` is a lab bundle of the kind `{found}`; this version knows only `{LAB}`")]
    Version {
        /// The reference as given.
        place: String,
        /// Its artifact type.
        found: String,
    },
    /// Its manifest is not as it should be.
    #[error("the lab bundle `{place}` is broken: {problem}")]
    Broken {
        /// The reference as given.
        place: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Its layer cannot be used.
    #[error("the files of the lab bundle `{place}` cannot be used")]
    Files {
        /// The reference as given.
        place: String,
        /// What is wrong.
        source: UnpackError,
    },
    /// Its layer cannot be read.
    #[error("the files of the lab bundle `{place}` cannot be read")]
    Read {
        /// The reference as given.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// Its layer has other bytes than the manifest promises.
    #[error("the layer {expected} of the lab bundle `{place}` has the digest {found}")]
    WrongDigest {
        /// The reference as given.
        place: String,
        /// The digest in the manifest.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// The bundle that was looked into before is no longer there.
    #[error("`{place}` no longer has the lab bundle {digest}")]
    Gone {
        /// The reference as given.
        place: String,
        /// The bundle's digest.
        digest: Digest,
    },
    /// A tag or a repository for a part of the lab cannot be made from the target's name.
    #[error("the lab needs `{name}` in the target, and that cannot be")]
    Name {
        /// What cannot be.
        name: String,
        /// Why not.
        source: InvalidImageRef,
    },
    /// A tag in the registry names something of another kind.
    #[error("`{name}` names {by} already: choose another tag for the lab")]
    TagTaken {
        /// The registry, repository and tag.
        name: String,
        /// What it names: `an image` or `another lab`.
        by: &'static str,
    },
    /// Two parts would get the same tag.
    #[error("two parts of the lab would get the tag `{tag}`")]
    SameTag {
        /// The tag.
        tag: String,
    },
    /// An image that the lab needs is nowhere.
    #[error("the image {digest} of the machine `{machine}` is neither beside the lab `{place}` nor at `{reference}`")]
    NoImage {
        /// The machine.
        machine: String,
        /// The image's digest.
        digest: Digest,
        /// The lab as given.
        place: String,
        /// Where the lab says that the image is.
        reference: String,
        /// Why it could not be had from there, unless there is just another image.
        source: Option<Box<ImagesError>>,
    },
}

impl Images {
    /// What a reference names, if it is a lab bundle; `None` if it is something else, such as an image.
    ///
    /// Reads the manifest and the config, and no layer.
    pub async fn inspect_lab(&self, lab: &ImageRef, cancel: &Cancel) -> Result<Option<LabInspection>, ImagesError> {
        let source = self.open(lab, cancel).await?;
        let (_, document) = source.document(&source.root, cancel).await?;
        if !document.is_lab() {
            return Ok(None);
        }
        let manifest = lab_manifest(&source, document)?;
        let layer = &manifest.layers[0];
        let layer =
            LayerInspection { digest: layer.digest.clone(), media_type: layer.media_type.clone(), size: layer.size };
        let (imgpkg, chart) = named_parts(&source, &manifest)?;
        let config = source.small_blob(&manifest.config, cancel).await?;
        let referrers = source.listed_referrers(&source.root.digest, cancel).await?;
        Ok(Some(LabInspection {
            reference: source.name,
            digest: source.root.digest,
            config,
            annotations: manifest.annotations,
            layer,
            imgpkg,
            chart,
            referrers,
        }))
    }

    /// The files of a lab bundle that anyone may have made, by their paths; nothing is written.
    ///
    /// The layer is verified against its digest and read whole, within the bounds of [`bundle::unpack`](unpack).
    pub async fn lab_files(&self, lab: &ImageRef, cancel: &Cancel) -> Result<BTreeMap<String, Vec<u8>>, ImagesError> {
        let source = self.open(lab, cancel).await?;
        let (_, document) = source.document(&source.root, cancel).await?;
        let manifest = lab_manifest(&source, document)?;
        let layer = &manifest.layers[0];
        let files = |source_error| LabError::Files { place: source.name.clone(), source: source_error };
        if layer.size > MAX_LAYER {
            return Err(files(UnpackError::LayerTooLarge(layer.size)).into());
        }
        let bytes = layer_bytes(&source, layer, cancel).await?;
        Ok(blocking(move || unpack(&bytes)).await.map_err(files)?)
    }
}

/// The manifest of a lab bundle, after a look at all that it must have.
pub(super) fn lab_manifest(source: &Source, document: Document) -> Result<Manifest, LabError> {
    let place = || source.name.clone();
    if !document.is_lab() {
        return Err(LabError::NotALab { place: place() });
    }
    let Document::Manifest(manifest) = document else { return Err(LabError::NotALab { place: place() }) };
    let found = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
    if found != LAB && found.starts_with(LAB_FAMILY) {
        return Err(LabError::Version { place: place(), found: found.clone() });
    }
    let problem = if manifest.artifact_type.as_deref() != Some(LAB) {
        "its artifact type is wrong"
    } else if manifest.config.media_type != LAB_CONFIG {
        "its config has another media type"
    } else if !matches!(manifest.layers.as_slice(), [only] if only.media_type == OCI_LAYER_GZIP) {
        "it has not exactly one gzip-compressed layer"
    } else {
        return Ok(manifest);
    };
    Err(LabError::Broken { place: place(), problem })
}

/// The manifest for imgpkg and the chart that a bundle's manifest names.
pub(super) fn named_parts(
    source: &Source,
    manifest: &Manifest,
) -> Result<(Option<Digest>, Option<ChartRef>), LabError> {
    let broken = |problem| LabError::Broken { place: source.name.clone(), problem };
    let imgpkg = manifest.annotations.get(LAB_IMGPKG).map(|text| text.parse());
    let chart = manifest.annotations.get(LAB_CHART).map(|text| ChartRef::parse(text));
    Ok((
        imgpkg.transpose().map_err(|_| broken("its manifest for imgpkg is not named by a digest"))?,
        match chart {
            None => None,
            Some(chart) => Some(chart.ok_or_else(|| broken("its chart is not named as NAME:TAG@DIGEST"))?),
        },
    ))
}

/// Reads and verifies a layer whose size was looked at.
async fn layer_bytes(source: &Source, layer: &Descriptor, cancel: &Cancel) -> Result<Vec<u8>, ImagesError> {
    let mut bytes = Vec::new();
    let read = |source_error| LabError::Read { place: source.name.clone(), source: source_error };
    match &source.place {
        Place::Layout(layout) => layout.open_blob(layer)?.take(layer.size).read_to_end(&mut bytes).map_err(read)?,
        Place::Archive(archive) => archive.open_blob(layer)?.read_to_end(&mut bytes).map_err(read)?,
        Place::Registry(repository) => return Ok(repository.blob_in_memory(layer, cancel).await?.to_vec()),
    };
    let mut hasher = Hasher::new(layer.digest.algorithm());
    hasher.update(&bytes);
    let found = hasher.finish();
    if found == layer.digest {
        Ok(bytes)
    } else {
        Err(LabError::WrongDigest { place: source.name.clone(), expected: layer.digest.clone(), found }.into())
    }
}
