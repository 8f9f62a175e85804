//! Looks for what must not be in an image: identity that all its machines would share, residue, credentials.
//!
//! [`tree`] knows places: for every rule of [`crate::seal`] there is a finding, from the same table, and further ones
//! where sealing does not decide (passwords, proxies, boot settings). [`in_tree`] looks into every file for given
//! secrets and for private keys. Both only read, follow no symbolic link, and may be given any tree: the disk's own
//! root seen from inside, or a mounted stranger.
//!
//! | findings | decided by |
//! | --- | --- |
//! | `identity/…`, `residue/…`, `build/traces` | the seal's table, [`crate::seal::plan`], and the words that it writes |
//! | `build/policy-rc.d`, `build/resolver`, `boot/root-device` | `settings` |
//! | `credential/…`, `leak/proxy` | the table in `credentials`, and `settings` |
//! | `credential/private-key`, `secret/value` in any file | [`in_tree`] |

mod contents;
mod credentials;
mod identity;
mod settings;

use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

pub use contents::{InTree, Needles, PRIVATE_KEY, in_tree};

use crate::seal::{self, SealError};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It must not be in an image.
    Error,
    /// It is likely not meant to be there, or nobody wants it.
    Warning,
}

/// Something that should not be in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is, for programs (`identity/machine-id`); it never changes.
    pub id: String,
    /// Where: a path of the guest, or a place of the disk.
    pub path: String,
    /// What it is, for people: a lower-case fragment. It never has the value of a secret.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// A finding at a path below the root.
    pub(crate) fn at(path: &Path, severity: Severity, id: &str, what: impl Into<String>, remedy: &str) -> Self {
        Self {
            severity,
            id: id.to_owned(),
            path: Path::new("/").join(path).display().to_string(),
            what: what.into(),
            remedy: remedy.to_owned(),
        }
    }

    /// Whether a build that leaves this on its own sealed disk has failed. What a recipe puts there on purpose, such as a
    /// password for the lab, is for its author to judge.
    pub fn fails_build(&self) -> bool {
        match self.id.split('/').next() {
            // Sealing has just removed all of it.
            Some("residue") => true,
            Some("identity" | "build" | "boot" | "secret") => self.severity == Severity::Error,
            _ => false,
        }
    }
}

/// Looks at the places that are known, in the tree at `root`; sorted, errors first.
pub fn tree(root: &Path) -> Result<Vec<Finding>, SealError> {
    let mut findings = Vec::new();
    for planned in seal::plan(root)? {
        let kind = planned.kind;
        findings.push(Finding::at(&planned.path, kind.severity, kind.id, kind.name, kind.remedy));
    }
    identity::look(root, &mut findings)?;
    settings::look(root, &mut findings)?;
    credentials::look(root, &mut findings)?;
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// The most bytes of a file that is looked at as a whole.
const SMALL: u64 = 1 << 20;

/// The text of a small regular file, whatever is not UTF-8 replaced; none if there is no such file. No link is followed.
pub(crate) fn small_text(root: &Path, path: &Path) -> Result<Option<String>, SealError> {
    file_text(root, path, SMALL)
}

/// The text of a regular file of at most `most` bytes, otherwise as [`small_text`].
pub(crate) fn file_text(root: &Path, path: &Path, most: u64) -> Result<Option<String>, SealError> {
    let fail = |source| SealError::Look { path: Path::new("/").join(path), source };
    if !seal::look_at(root, path)?.is_some_and(|metadata| metadata.is_file() && metadata.len() <= most) {
        return Ok(None);
    }
    // A pipe that takes the file's place meanwhile does not make us wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(root.join(path), flags, Mode::empty()).map_err(|error| fail(io::Error::from(error)))?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(most).read_to_end(&mut bytes).map_err(fail)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests;
