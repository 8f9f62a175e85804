use std::collections::BTreeMap;

use labwright_core::{Arch, Digest, ImageRef};
use serde::Serialize;

use super::LocalPath;

/// What a disk starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// A name from the catalogue of base images (`debian-13`).
    Catalogue(String),
    /// Disk images elsewhere: one for each architecture of the recipe.
    Url(BTreeMap<Arch, Remote>),
    /// A disk image beside the recipe.
    File {
        /// A qcow2 or raw image, possibly compressed.
        path: LocalPath,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// The disk in a containerDisk.
    Image(ImageRef),
    /// The sealed disk of another recipe: a path to its recipe.yaml or to the directory that holds one.
    Recipe(LocalPath),
    /// Made from a distribution's own packages.
    Bootstrap {
        /// Whose packages.
        distribution: Distribution,
        /// Which release (`trixie`).
        suite: String,
        /// How much of it.
        #[serde(skip_serializing_if = "Variant::is_cloud")]
        variant: Variant,
    },
}

impl Base {
    /// Whether a machine can boot from it, as far as the recipe tells.
    pub fn boots(&self) -> bool {
        !matches!(self, Self::Bootstrap { variant: Variant::Minimal, .. })
    }
}

/// A file elsewhere, with the digest that it must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remote {
    /// An `https` or `http` address.
    pub url: String,
    /// The digest of the bytes.
    pub digest: Digest,
}

/// A distribution that disks can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Debian.
    Debian,
}

/// How much of a distribution is bootstrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// A system that boots and takes cloud-init's configuration, as the vendor's cloud images: the default.
    #[default]
    Cloud,
    /// The smallest that has a package manager, without a kernel: for containers.
    Minimal,
}

impl Variant {
    /// All variants.
    pub const ALL: [Self; 2] = [Self::Cloud, Self::Minimal];

    /// The word in a recipe.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Minimal => "minimal",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_cloud(&self) -> bool {
        *self == Self::Cloud
    }
}

impl Distribution {
    /// The word in a recipe.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
        }
    }

    /// The releases that can be bootstrapped, oldest first.
    pub const fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &["bookworm", "trixie", "forky", "sid"],
        }
    }
}
