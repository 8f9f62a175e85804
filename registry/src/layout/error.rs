use std::io;
use std::path::PathBuf;

use labwright_core::{Cancelled, Digest};

use crate::document::InvalidDocument;

/// Something is wrong with an image layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Input or output failed; the cause names the path.
    #[error("the image layout cannot be used")]
    Io(#[from] io::Error),
    /// Writing failed.
    #[error("cannot write `{path}`")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory is no layout.
    #[error("`{dir}` is not an OCI image layout: it has no `oci-layout` file")]
    NoLayout {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has something else in it.
    #[error("`{dir}` is not an OCI image layout and not empty: it holds `{entry}`")]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// One thing that is in it.
        entry: String,
    },
    /// Another version of the format.
    #[error("`{dir}` is an OCI image layout of version {version}; only 1.0.0 is known")]
    Version {
        /// The directory.
        dir: PathBuf,
        /// The version in its `oci-layout` file.
        version: String,
    },
    /// A file is not the JSON that it should be.
    #[error("`{path}` is damaged")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A blob is not the document that it should be.
    #[error("`{path}` is not an image")]
    Document {
        /// The blob.
        path: PathBuf,
        /// What is wrong.
        source: InvalidDocument,
    },
    /// A file is larger than what is read.
    #[error("`{path}` has more than {limit} bytes")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// A document is larger than anyone has to read.
    #[error("the document {digest} has {size} bytes, more than the 4 MiB that are allowed")]
    DocumentTooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// No such tag.
    #[error("`{dir}` has no image `{tag}`{}", listed(tags))]
    NoTag {
        /// The layout.
        dir: PathBuf,
        /// What was asked for.
        tag: String,
        /// What there is.
        tags: Vec<String>,
    },
    /// No image at all.
    #[error("`{dir}` has no image")]
    Empty {
        /// The layout.
        dir: PathBuf,
    },
    /// Several images and no tag given.
    #[error("`{dir}` has several images: name one of them{}", listed(tags))]
    Ambiguous {
        /// The layout.
        dir: PathBuf,
        /// What there is.
        tags: Vec<String>,
    },
    /// A tag that an image, a lab or a part of a lab would get names something of another kind.
    #[error("`{tag}` in `{dir}` names {by} already: choose another name or version")]
    TagTaken {
        /// The layout.
        dir: PathBuf,
        /// The tag.
        tag: String,
        /// What it names: `an image`, `a lab` or `another lab`.
        by: &'static str,
    },
    /// Content that a document names is not there.
    #[error("`{dir}` lacks the blob {digest}")]
    NoBlob {
        /// The layout.
        dir: PathBuf,
        /// What is missing.
        digest: Digest,
        /// Why it could not be opened.
        source: io::Error,
    },
    /// Content has another length than its descriptor says.
    #[error("`{path}` has {found} bytes instead of {expected}")]
    WrongSize {
        /// Where the content is or came from.
        path: PathBuf,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Content has another digest than its descriptor says.
    #[error("`{path}` has the digest {found} instead of {expected}")]
    WrongDigest {
        /// Where the content is or came from.
        path: PathBuf,
        /// The digest that it should have.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// Others write into the layout, so nothing can be removed now.
    #[error("`{dir}` is being written into by another process")]
    Busy {
        /// The layout.
        dir: PathBuf,
    },
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// `: a, b and 7 more`, for the end of a message.
fn listed(tags: &[String]) -> String {
    const SHOWN: usize = 8;
    match tags.len() {
        0 => String::new(),
        count if count <= SHOWN => format!(" (there is {})", tags.join(", ")),
        count => format!(" (there is {} and {} more)", tags[..SHOWN].join(", "), count - SHOWN),
    }
}
