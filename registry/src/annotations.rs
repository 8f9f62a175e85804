//! Names of annotations and labels: those of the OCI image specification and our own.

/// The tag of an image in a layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// When the image was made (RFC 3339).
pub const CREATED: &str = "org.opencontainers.image.created";
/// The title for people.
pub const TITLE: &str = "org.opencontainers.image.title";
/// The version of the packaged software.
pub const VERSION: &str = "org.opencontainers.image.version";
/// The name space of our own labels and annotations; every one of them begins with this.
pub const NAMESPACE: &str = "dev.labwright";
/// The label that holds [`labwright_core::ImageFacts`] as JSON.
pub const FACTS: &str = "dev.labwright.facts";
/// On the manifest of a lab bundle: the digest of its other manifest, for imgpkg.
pub const LAB_IMGPKG: &str = "dev.labwright.lab.imgpkg";
/// On the manifest of a lab bundle: its Helm chart as `NAME:TAG@DIGEST`.
pub const LAB_CHART: &str = "dev.labwright.lab.chart";
/// In a layout's `index.json` only: the tag of the lab to which an entry belongs.
pub const LAB_PART: &str = "dev.labwright.lab.part";
/// The label by which imgpkg knows its bundles.
///
/// Source: imgpkg, pkg/imgpkg/bundle/bundle.go.
pub const IMGPKG_BUNDLE: &str = "dev.carvel.imgpkg.bundle";
