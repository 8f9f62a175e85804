//! The resolved recipe: plain values, no templates, no places, nothing left to default.
//!
//! Everything is [`Serialize`] so that step keys can be made from the parts. What must not change a key is left out
//! of the serialised form: where the recipe's directory happens to be ([`LocalPath`]), and the bulk of inline files
//! (their SHA-256 stands for them).

mod access;
mod base;
mod guest;

use std::collections::BTreeMap;
use std::time::Duration;

use labwright_core::{Arch, ByteSize, GuestPath, ImageForm};
pub use labwright_document::LocalPath;
use serde::Serialize;

pub use access::{Access, AccessSpec, Geometry, Ttyd};
pub use base::{Base, Distribution, Remote, Variant};
pub use guest::{AptKey, AptSource, FileSource, Owner, Package, User, WriteFile};

/// The port on which a machine's front door listens: the web server in front of its terminals and desktops.
pub const FRONT_DOOR_PORT: u16 = 7681;

/// A whole recipe, ready to be planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipe {
    /// A DNS label of at most 32 characters.
    pub name: String,
    /// A semantic version without build metadata; the OCI tag.
    pub version: String,
    /// The title for people.
    pub title: Option<String>,
    /// What to build for: not empty, each at most once, in the recipe's order.
    pub architectures: Vec<Arch>,
    /// What the disk starts from.
    pub base: Base,
    /// The size that the guest sees; `None` keeps the base's.
    pub disk_size: Option<ByteSize>,
    /// Further apt sources, in the recipe's order; names are unique.
    pub apt_sources: Vec<AptSource>,
    /// Whether the package lists are fetched even where nothing is installed.
    pub package_update: bool,
    /// What to install, in the recipe's order.
    pub packages: Vec<Package>,
    /// The accounts to make, in the recipe's order; names are unique.
    pub users: Vec<User>,
    /// The files to write, in the recipe's order.
    pub files: Vec<WriteFile>,
    /// The commands to run, in the recipe's order.
    pub run: Vec<Command>,
    /// The host name in the image; a session may give another at boot.
    pub hostname: Option<String>,
    /// A name of the time zone database (`Europe/Berlin`).
    pub timezone: Option<String>,
    /// A locale name (`de_DE.UTF-8`).
    pub locale: Option<String>,
    /// Names of secrets that are mounted at `/run/secrets/NAME` while commands run, and never stored.
    pub build_secrets: Vec<String>,
    /// The ways into the machine, in the recipe's order; names are unique.
    pub access: Vec<Access>,
    /// What must hold before a machine counts as ready, in the recipe's order; names are unique.
    pub checks: Vec<Check>,
    /// What is made of the finished disk.
    pub output: Output,
    /// How long a section's step may take. No part of what a step makes: leave it out of step keys.
    pub timeouts: Timeouts,
}

/// Something that runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A script that runs under `sh -e`.
    Shell(String),
    /// A program and its arguments, executed as they are; never empty.
    Exec(Vec<String>),
}

/// A part of the readiness contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What people read.
    pub name: String,
    /// Succeeds when the check holds.
    pub run: Command,
    /// How long one run may take; `None` leaves it to who runs it.
    pub timeout: Option<Duration>,
}

/// What is made of the finished disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// A containerDisk: the image of a virtual machine.
    Disk {
        /// How the clusters of the qcow2 are compressed.
        compression: Compression,
    },
    /// A container image, whose only layer is the disk's tree.
    Container(Container),
}

impl Output {
    /// What the image is for.
    pub const fn form(&self) -> ImageForm {
        match self {
            Self::Disk { .. } => ImageForm::ContainerDisk,
            Self::Container(_) => ImageForm::Container,
        }
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::Disk { compression: Compression::default() }
    }
}

/// How a container of an image runs where whoever runs it says nothing else.
///
/// Source: OCI image-spec, config.md; `command` and `args` are called as in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The image's entrypoint.
    pub command: Vec<String>,
    /// The arguments behind it.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// A user of the recipe or a number, with an optional `:GROUP`; `None` is root.
    pub user: Option<String>,
    /// Where it starts; `None` is `/`.
    pub working_dir: Option<GuestPath>,
}

/// How the clusters of the qcow2 are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard: the default.
    #[default]
    Zstd,
    /// Deflate, for readers older than QEMU 5.1.
    Zlib,
    /// Not at all.
    None,
}

impl Compression {
    /// The word in a recipe.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Zlib => "zlib",
            Self::None => "none",
        }
    }
}

/// How long the step of a section may take; `None` leaves it to the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Timeouts {
    /// apt sources and packages.
    pub packages: Option<Duration>,
    /// Accounts.
    pub users: Option<Duration>,
    /// Files.
    pub files: Option<Duration>,
    /// Access.
    pub access: Option<Duration>,
    /// All commands of `runcmd` together.
    pub runcmd: Option<Duration>,
}
