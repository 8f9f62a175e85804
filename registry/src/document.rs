//! The JSON documents of an image: descriptors, indexes, manifests and configs.
//!
//! Fields are declared in the order of their JSON names and maps are sorted, so what we write does not depend on
//! how `serde_json` was built. Unknown fields are kept where a document is read, changed and written again.

use std::collections::BTreeMap;

use labwright_core::{Arch, Digest};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::media_type;

/// The most bytes of a manifest, index or config that anyone has to read: 4 MiB.
///
/// Source: distribution-spec, "Pushing Manifests"; containers/image reads no more either.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most layers that an image may have here; container engines stop at 127.
pub const MAX_LAYERS: usize = 512;

/// The most manifests that an index in a registry may list here.
pub const MAX_MANIFESTS: usize = 1024;

/// A reference to content: what it is, its digest and its size in bytes.
///
/// Source: image-spec, descriptor.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Free-form notes.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact a manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Digest of the content.
    pub digest: Digest,
    /// Media type of the content.
    #[serde(default)]
    pub media_type: String,
    /// What an image runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Length of the content in bytes.
    pub size: u64,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor without notes.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            annotations: BTreeMap::new(),
            artifact_type: None,
            digest,
            media_type: media_type.into(),
            platform: None,
            size,
            other: BTreeMap::new(),
        }
    }

    /// Describes bytes in memory.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// The same content without annotations: what a tag names, apart from where it is listed.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self::new(self.media_type.clone(), self.digest.clone(), self.size)
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The processor, as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, as Go names it.
    #[serde(default)]
    pub os: String,
    /// Variant, features and the like.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Platform {
    /// Linux on one of our architectures.
    pub fn linux(arch: Arch) -> Self {
        Self { architecture: arch.as_str().to_owned(), os: "linux".to_owned(), other: BTreeMap::new() }
    }
}

/// A list of manifests: one image for several platforms, the referrers of an image, or a layout's table of contents.
///
/// Source: image-spec, image-index.md; Docker's manifest list has the same fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Free-form notes.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// The media type; old documents lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Always 2.
    pub schema_version: u32,
    /// The object that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Index {
    /// An OCI index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            annotations: BTreeMap::new(),
            manifests,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            schema_version: 2,
            subject: None,
            other: BTreeMap::new(),
        }
    }
}

/// One image or artifact: its config and layers.
///
/// Source: image-spec, manifest.md; Docker's schema 2 has the same fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Free-form notes.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact it is, unless it is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// The media type; old documents lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Always 2.
    pub schema_version: u32,
    /// The object that this one refers to (a signature's image).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
}

/// The parts of an image config that we read and write.
///
/// Source: image-spec, config.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The processor, as Go names it.
    #[serde(default)]
    pub architecture: String,
    /// How a container of this image runs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// When the image was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How each layer came to be, lowest first.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<LayerHistory>,
    /// The operating system, as Go names it.
    #[serde(default)]
    pub os: String,
    /// The uncompressed layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How a layer came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerHistory {
    /// When (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(default, deserialize_with = "null_is_default")]
    pub created_by: String,
    /// What else there is, such as that there is no layer.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How a container of an image runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// The arguments of the program.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// The program that is started.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Environment variables, as `NAME=VALUE`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Ports that the program serves, as `PORT/tcp`; each has an empty object.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// Notes that every tool shows.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who runs it: a name or number of a user, with an optional `:GROUP`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Where it starts.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

/// The digests of the uncompressed layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// One per layer, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// Any document that lists others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are few of them, and most are manifests")]
pub enum Document {
    /// A list of manifests.
    Index(Index),
    /// One image or artifact.
    Manifest(Manifest),
}

/// The bytes are not an index or manifest that can be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDocument {
    /// Not JSON, or not the fields that the media type promises.
    #[error("the document is not a valid image index or manifest")]
    Json(#[source] serde_json::Error),
    /// A media type that is neither an index nor a manifest.
    #[error("`{0}` is not the media type of an image index or manifest")]
    MediaType(String),
    /// More than anyone has to read.
    #[error("the document has {size} bytes; at most {MAX_DOCUMENT} are read")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// More layers than an image may have.
    #[error("the image has {0} layers; at most {MAX_LAYERS} are allowed")]
    TooManyLayers(usize),
    /// More manifests than an index may list.
    #[error("the index lists {0} manifests; at most {MAX_MANIFESTS} are allowed")]
    TooManyManifests(usize),
    /// Another version of the format.
    #[error("schema version {0} of image manifests is not supported (2 is)")]
    SchemaVersion(u32),
}

impl Document {
    /// Reads an index or manifest; the descriptor's or the response's media type decides, then the document's own.
    pub fn parse(declared: &str, bytes: &[u8]) -> Result<Self, InvalidDocument> {
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(InvalidDocument::TooLarge { size: bytes.len() as u64 });
        }
        let declared = declared.split(';').next().unwrap_or_default().trim();
        let own;
        let kind = if media_type::is_index(declared) || media_type::is_manifest(declared) {
            declared
        } else {
            own = Probe::parse(bytes)?;
            // OCI documents need not say what they are.
            own.media_type.as_deref().unwrap_or(match (&own.manifests, &own.layers) {
                (Some(_), None) => media_type::OCI_INDEX,
                (None, Some(_)) => media_type::OCI_MANIFEST,
                _ => declared,
            })
        };
        if media_type::is_index(kind) {
            let index: Index = serde_json::from_slice(bytes).map_err(InvalidDocument::Json)?;
            if index.schema_version != 2 {
                return Err(InvalidDocument::SchemaVersion(index.schema_version));
            }
            if index.manifests.len() > MAX_MANIFESTS {
                return Err(InvalidDocument::TooManyManifests(index.manifests.len()));
            }
            Ok(Self::Index(index))
        } else if media_type::is_manifest(kind) {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(InvalidDocument::Json)?;
            if manifest.schema_version != 2 {
                return Err(InvalidDocument::SchemaVersion(manifest.schema_version));
            }
            if manifest.layers.len() > MAX_LAYERS {
                return Err(InvalidDocument::TooManyLayers(manifest.layers.len()));
            }
            Ok(Self::Manifest(manifest))
        } else {
            Err(InvalidDocument::MediaType(kind.to_owned()))
        }
    }

    /// What it says it is; OCI's own type where it says nothing.
    pub fn media_type(&self) -> &str {
        let (own, default) = match self {
            Self::Index(index) => (&index.media_type, media_type::OCI_INDEX),
            Self::Manifest(manifest) => (&manifest.media_type, media_type::OCI_MANIFEST),
        };
        own.as_deref().unwrap_or(default)
    }

    /// Whether it is the manifest of a lab bundle, of whatever version.
    pub fn is_lab(&self) -> bool {
        let Self::Manifest(manifest) = self else { return false };
        let kind = manifest.artifact_type.as_ref().unwrap_or(&manifest.config.media_type);
        kind.starts_with(media_type::LAB_FAMILY) || manifest.config.media_type == media_type::LAB_CONFIG
    }

    /// The object that this one refers to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Index(index) => index.subject.as_ref(),
            Self::Manifest(manifest) => manifest.subject.as_ref(),
        }
    }

    /// How this document, described by `own`, stands in a list of referrers.
    ///
    /// Source: distribution-spec, "Pushing Manifests with Subject".
    pub fn as_referrer(&self, own: &Descriptor) -> Descriptor {
        let mut entry = own.bare();
        match self {
            Self::Index(index) => entry.annotations.clone_from(&index.annotations),
            Self::Manifest(manifest) => {
                // The config's media type stands in for a missing artifact type.
                entry.artifact_type =
                    manifest.artifact_type.clone().or_else(|| Some(manifest.config.media_type.clone()));
                entry.annotations.clone_from(&manifest.annotations);
            }
        }
        entry
    }

    /// What it is made of: manifests of an index; config and layers of a manifest.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, rest) = match self {
            Self::Index(index) => (None, &index.manifests),
            Self::Manifest(manifest) => (Some(&manifest.config), &manifest.layers),
        };
        config.into_iter().chain(rest)
    }
}

/// What tells an index from a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Probe {
    fn parse(bytes: &[u8]) -> Result<Self, InvalidDocument> {
        serde_json::from_slice(bytes).map_err(InvalidDocument::Json)
    }
}

/// A document as bytes, for writing.
pub(crate) fn to_bytes(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("these documents have string keys and no failing parts")
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
