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
