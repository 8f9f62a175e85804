//! Documents that go with an image: artifacts of one layer whose manifest refers to the image's.

use std::collections::BTreeMap;

use labwright_core::Digest;

use crate::document::{Descriptor, Manifest, to_bytes};
use crate::layout::{Layout, LayoutError};
use crate::media_type::{OCI_EMPTY, OCI_MANIFEST};

/// Stores a document of a kind (a media type) with the image manifest `subject`, and returns the artifact's manifest.
///
/// It is listed in `index.json` without a tag, stays as long as the image and is copied with it. The digests depend on
/// nothing but the arguments; what is there already stays as it is.
///
/// Source: image-spec, manifest.md, "Guidelines for Artifact Usage".
pub fn attach(layout: &Layout, subject: &Descriptor, kind: &str, bytes: &[u8]) -> Result<Descriptor, LayoutError> {
    let guard = layout.begin_write()?;
    let manifest = Manifest {
        annotations: BTreeMap::new(),
        artifact_type: Some(kind.to_owned()),
        config: layout.add_bytes(OCI_EMPTY, b"{}")?,
        layers: vec![layout.add_bytes(kind, bytes)?],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: Some(subject.bare()),
    };
    let mut descriptor = layout.add_bytes(OCI_MANIFEST, &to_bytes(&manifest))?;
    descriptor.artifact_type = Some(kind.to_owned());
    layout.list(&descriptor)?;
    guard.close();
    Ok(descriptor)
}

/// The kinds of all artifacts that refer to a manifest in a layout, sorted.
pub fn artifacts(layout: &Layout, subject: &Digest) -> Result<Vec<String>, LayoutError> {
    let found = layout.referrers_by_subject()?.remove(subject).unwrap_or_default();
    let mut kinds: Vec<_> = found.into_iter().filter_map(|one| one.artifact_type).collect();
    kinds.sort();
    Ok(kinds)
}
