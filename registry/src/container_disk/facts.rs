use labwright_core::{Arch, ImageFacts};

use crate::annotations::FACTS;
use crate::document::{Descriptor, Document, ImageConfig};
use crate::layout::{Layout, LayoutError};

/// The facts about an image cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The image does not exist for this architecture.
    #[error("the image is not there for {wanted} (there is {})", found.join(", "))]
    NoArch {
        /// What was asked for.
        wanted: Arch,
        /// What there is.
        found: Vec<String>,
    },
    /// The index lists no image.
    #[error("the index lists no image")]
    EmptyIndex,
    /// An index lists an index.
    #[error("the index lists another index in place of an image")]
    NestedIndex,
    /// The config is not JSON, or not the fields of an image config.
    #[error("the image config is not valid")]
    Config(#[source] serde_json::Error),
    /// The image was not built by Labwright.
    #[error("the image has no label `{FACTS}`: Labwright did not build it")]
    NoFacts,
    /// The label is not what this version writes.
    #[error("the label `{FACTS}` cannot be read")]
    Label(#[source] serde_json::Error),
    /// The layout failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Reads back what [`pack`](super::pack) knew about an image in a layout.
///
/// `image` is the descriptor of an index or of a manifest. Of an index with several architectures, `arch` chooses;
/// without it, this machine's own is taken, else the first.
pub fn facts(layout: &Layout, image: &Descriptor, arch: Option<Arch>) -> Result<ImageFacts, FactsError> {
    facts_of(&image_config(layout, image, arch)?)
}

/// Reads the config of an image in a layout; `arch` chooses as in [`facts`].
pub fn image_config(layout: &Layout, image: &Descriptor, arch: Option<Arch>) -> Result<ImageConfig, FactsError> {
    let Document::Manifest(manifest) = layout.document(&manifest(layout, image, arch)?)? else {
        return Err(FactsError::NestedIndex);
    };
    let bytes = layout.read_document(&manifest.config)?;
    serde_json::from_slice(&bytes).map_err(FactsError::Config)
}

/// The manifest of an image in a layout; `arch` chooses as in [`facts`].
pub fn manifest(layout: &Layout, image: &Descriptor, arch: Option<Arch>) -> Result<Descriptor, FactsError> {
    match layout.document(image)? {
        Document::Manifest(_) => Ok(image.clone()),
        Document::Index(index) => Ok(choose(&index.manifests, arch)?.bare()),
    }
}

/// The facts in the labels of an image config.
pub(crate) fn facts_of(config: &ImageConfig) -> Result<ImageFacts, FactsError> {
    let label = config.config.labels.get(FACTS).ok_or(FactsError::NoFacts)?;
    serde_json::from_str(label).map_err(FactsError::Label)
}

/// The entry of an index for an architecture.
pub(crate) fn choose(entries: &[Descriptor], arch: Option<Arch>) -> Result<&Descriptor, FactsError> {
    let name = |entry: &Descriptor| entry.platform.as_ref().map_or("", |platform| &platform.architecture).to_owned();
    // Attestations stand in an index as images for the platform `unknown`.
    let images: Vec<_> = entries.iter().filter(|entry| name(entry) != "unknown").collect();
    let of = |arch: Arch| images.iter().find(|entry| name(entry) == arch.as_str()).copied();
    match arch {
        Some(wanted) => of(wanted)
            .ok_or_else(|| FactsError::NoArch { wanted, found: images.iter().map(|entry| name(entry)).collect() }),
        None => Arch::host().and_then(of).or_else(|| images.first().copied()).ok_or(FactsError::EmptyIndex),
    }
}
