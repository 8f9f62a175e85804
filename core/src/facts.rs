use serde::{Deserialize, Serialize};

use crate::{Arch, ByteSize, Digest};

/// What the builder knows about an image and a lab needs to know: the contract between building and deploying.
///
/// It is written into the labels of the OCI image config and read back from there, so a lab never sees a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageFacts {
    /// The recipe's name: a DNS label.
    pub name: String,
    /// The recipe's version: semver.
    pub version: String,
    /// The title for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the image is for.
    #[serde(default, skip_serializing_if = "ImageForm::is_disk")]
    pub form: ImageForm,
    /// The architecture of the disk.
    pub arch: Arch,
    /// The size of the disk that the guest sees, or that the tree of a container was made on.
    pub virtual_size: ByteSize,
    /// What the base was called in the recipe.
    pub base: String,
    /// The digest of the base disk's bytes.
    pub base_digest: Digest,
    /// The digest of the resolved recipe and of all files that it names.
    pub recipe_digest: Digest,
    /// The key of the build's last step: equal keys mean equal base, recipe, files and builder, so nothing to do.
    pub build_key: Digest,
    /// The version of Labwright that built the image.
    pub tool_version: String,
    /// The ways into the machine, in the recipe's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<AccessFact>,
    /// The port of the front door, if a terminal or desktop is behind one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub front_door: Option<u16>,
    /// Software installed from somewhere else than the base's own package sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_packages: Vec<PackageFact>,
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageForm {
    /// A containerDisk: a virtual machine boots from the disk in it.
    #[default]
    ContainerDisk,
    /// A container image: it runs as a container.
    Container,
}

impl ImageForm {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_disk(&self) -> bool {
        *self == Self::ContainerDisk
    }
}

/// One way into a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessFact {
    /// The name that labs use.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: AccessKind,
    /// The port in the guest: the front door's, or the service's own for `http`.
    pub port: u16,
    /// The path on that port, with a slash at both ends.
    pub path: String,
    /// The account that the learner works in, for terminals and desktops.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// The kinds of access that a recipe can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// A shell in the browser (ttyd).
    Terminal,
    /// A desktop in the browser (VNC and noVNC).
    Desktop,
    /// A web server of the machine's own.
    Http,
}

impl AccessKind {
    /// The word in a recipe.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Desktop => "desktop",
            Self::Http => "http",
        }
    }
}

/// A package or file that came from outside the base's own package sources, with the digest of what was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PackageFact {
    /// Name (`ttyd`).
    pub name: String,
    /// Version, or empty where none is known.
    pub version: String,
    /// The digest of the package file or binary.
    pub digest: Digest,
    /// Where it came from, for people.
    pub source: String,
}
