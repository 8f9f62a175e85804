use std::io;
use std::path::PathBuf;

use labwright_core::{Cancelled, Digest};

use super::extract::ExtractError;
use super::lab::LabError;
use crate::archive::ArchiveError;
use crate::container_disk::FactsError;
use crate::document::InvalidDocument;
use crate::layout::LayoutError;
use crate::remote::RemoteError;

/// Something with an image, wherever it is, did not work.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// There is no such image in the registry.
    #[error("{registry} has no image `{image}`: check the name and the tag")]
    NoImage {
        /// Host and port.
        registry: String,
        /// Repository and tag or digest.
        image: String,
    },
    /// A document is no image.
    #[error("{digest} in `{place}` is not an image")]
    Document {
        /// The image as the user named it.
        place: String,
        /// The document.
        digest: Digest,
        /// What is wrong.
        source: InvalidDocument,
    },
    /// More, or deeper nested, documents than any image needs.
    #[error("`{place}` consists of more documents than an image may have")]
    TooManyDocuments {
        /// The image as the user named it.
        place: String,
    },
    /// The target names another digest than what would be stored there.
    #[error("the target names {wanted}, but the image has the digest {found}: name a tag instead")]
    TargetDigest {
        /// The digest in the target.
        wanted: Digest,
        /// The image's digest.
        found: Digest,
    },
    /// Source and target cannot be worked with.
    #[error("`{path}` cannot be used as a place to work in")]
    WorkDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The layout failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The registry failed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The image has not what is needed.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// There is no disk that could be taken out.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// Something with a lab bundle did not work.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
