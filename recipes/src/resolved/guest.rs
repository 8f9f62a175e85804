use labwright_core::{Digest, GuestPath};
use serde::{Serialize, Serializer};

use super::LocalPath;

/// An apt source beside the distribution's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AptSource {
    /// Names the file in `/etc/apt/sources.list.d`, without its extension.
    pub name: String,
    /// One line as in sources.list: `deb …` or `deb-src …`.
    pub line: String,
    /// The key that signs it; `None` where the line says `signed-by=` or `trusted=yes` itself.
    pub key: Option<AptKey>,
}

/// An OpenPGP public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AptKey {
    /// A file, armoured or binary.
    File(LocalPath),
    /// An armoured key in the recipe.
    Inline(String),
}

/// A Debian package to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Package {
    /// A name as apt takes it: `git`, `git:arm64`, `git=1:2.47.3-0+deb13u1`, `git/trixie-backports`.
    Named(String),
    /// A .deb file.
    File(LocalPath),
}

/// An account; the keys mean what they mean in cloud-config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name, as useradd takes it on Debian.
    pub name: String,
    /// The comment field.
    pub gecos: Option<String>,
    /// The user id; `None` takes the next free one.
    pub uid: Option<u32>,
    /// The home directory; `None` is `/home/NAME`.
    pub homedir: Option<GuestPath>,
    /// Whether no home directory is made.
    pub no_create_home: bool,
    /// The group to use instead of one of the user's own.
    pub primary_group: Option<String>,
    /// Further groups.
    pub groups: Vec<String>,
    /// The login shell; `None` takes the distribution's default.
    pub shell: Option<GuestPath>,
    /// Rules for sudo, without the user's name (`ALL=(ALL) NOPASSWD:ALL`).
    pub sudo: Vec<String>,
    /// Lines for `authorized_keys`.
    pub ssh_authorized_keys: Vec<String>,
    /// Whether the password is locked. No password is ever set in an image; `false` leaves the account without one
    /// that matches, for a session to set at boot.
    pub lock_passwd: bool,
    /// Whether it is a system account.
    pub system: bool,
}

/// A file or tree to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WriteFile {
    /// Where in the guest; ends with `/` exactly when the source is a tree.
    pub path: GuestPath,
    /// What to write.
    pub source: FileSource,
    /// Who owns it (everything in it, for a tree); `None` is root.
    pub owner: Option<Owner>,
    /// The permission bits; `None` is 0644 for [`FileSource::Inline`] and the source's own otherwise. Always `None` for
    /// a tree.
    pub mode: Option<u32>,
    /// Whether to write behind what is there; never for a tree.
    pub append: bool,
}

/// Who owns a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// A user of the guest.
    pub user: String,
    /// A group of the guest; `None` is the user's primary group.
    pub group: Option<String>,
}

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileSource {
    /// The bytes themselves; serialised as their SHA-256.
    Inline(#[serde(serialize_with = "digest_of")] Vec<u8>),
    /// A file or a tree on the machine that builds.
    From(LocalPath),
}

fn digest_of<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    Digest::sha256(bytes).serialize(serializer)
}
