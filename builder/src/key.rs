//! Keys of steps: a digest of everything that a step's result depends on.

use std::fmt;

use labwright_core::{Algorithm, Digest, Hasher};
use serde::{Deserialize, Serialize};

/// The key of a step: 64 hexadecimal digits.
///
/// ```text
/// key = SHA-256(parent's key, kind and version of the step, its inputs)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// The key that stands for a base disk: the parent of the first step's.
    pub(crate) fn first(base: &Digest) -> Self {
        Self::hash(&["base", &base.to_string()])
    }

    /// The key of a step on top of `self`. `inputs` names every input in a fixed order.
    pub(crate) fn next(&self, kind: &str, version: u32, inputs: &str) -> Self {
        Self::hash(&[&self.0, kind, &version.to_string(), inputs])
    }

    fn hash(parts: &[&str]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for part in parts {
            // With the lengths in front, no two lists of parts give the same bytes.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finish().hex().to_owned())
    }

    /// The key as a digest, for places that store digests.
    pub fn digest(&self) -> Digest {
        format!("sha256:{}", self.0).parse().expect("a key is the hexadecimal form of a SHA-256")
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12.min(self.0.len())]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let base = Key::first(&Digest::sha256(b"base"));
        let key = base.next("files", 1, "ab");
        assert_ne!(key, Key::first(&Digest::sha256(b"other")).next("files", 1, "ab"));
        assert_ne!(key, base.next("file", 1, "sab"));
        assert_ne!(key, base.next("files", 2, "ab"));
        assert_ne!(key, base.next("files", 1, "a"));
        assert_eq!(key, base.next("files", 1, "ab"));
    }
}
