//! Secrets of a build: values that never print, and what finds them again where they must not be.

mod find;
mod forms;
mod mask;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use find::{Finder, Hit};
pub use mask::Mask;

/// The fewest bytes of a secret, white space at its end not counted: what is shorter is found by chance in any disk.
pub const MIN_SECRET: usize = 8;

/// The most bytes of a secret.
pub const MAX_SECRET: usize = 64 << 10;

/// A secret value. Its memory is overwritten when it is dropped, it prints as `Secret(..)`, and it can be serialized
/// only where a field says so ([`secret_text`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// A secret under the name by which a recipe knows it. It is serialized as [`secret_text`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSecret {
    /// The name: also that of its file below `/run/secrets`.
    pub name: String,
    /// The value.
    #[serde(with = "secret_text")]
    pub value: Secret,
}

/// Bytes that cannot be a secret. It tells nothing of them but their number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Too short to be told from other data.
    #[error("{bytes} bytes are too few for a secret: so little is found by chance in any disk ({MIN_SECRET} at least)")]
    TooShort {
        /// How many there are, without white space at the end.
        bytes: usize,
    },
    /// Too long.
    #[error("{bytes} bytes are too many for a secret ({MAX_SECRET} at most)")]
    TooLong {
        /// How many there are.
        bytes: usize,
    },
}

impl Secret {
    /// A secret of these bytes, which are kept as they are.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidSecret> {
        let secret = Self(Zeroizing::new(bytes));
        let (bytes, essential) = (secret.0.len(), secret.essence().len());
        if essential < MIN_SECRET {
            return Err(InvalidSecret::TooShort { bytes: essential });
        }
        if bytes > MAX_SECRET {
            return Err(InvalidSecret::TooLong { bytes });
        }
        Ok(secret)
    }

    /// The value itself.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The value without the end of line that files have and their readers drop.
    fn essence(&self) -> &[u8] {
        self.0.trim_ascii_end()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Serializes a [`Secret`] as base64: for the pipes between Labwright's own processes, and for nothing that is stored.
pub mod secret_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::{Engine, STANDARD, Secret, Zeroizing};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(secret.expose())))
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The errors of the decoder tell of the bytes that they met.
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| de::Error::custom("a secret that is not base64"))?;
        Secret::new(bytes).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new(b"hunter2hunter2\n".to_vec()).unwrap();
        let named = NamedSecret { name: "token".to_owned(), value: secret.clone() };
        assert_eq!(format!("{secret:?} {named:?}"), r#"Secret(..) NamedSecret { name: "token", value: Secret(..) }"#);
        assert_eq!(secret.expose(), b"hunter2hunter2\n");
    }

    #[test]
    fn values_that_cannot_be_found_again_are_refused() {
        assert_eq!(Secret::new(b"1234567\n\n".to_vec()), Err(InvalidSecret::TooShort { bytes: 7 }));
        assert_eq!(Secret::new(vec![b'x'; MAX_SECRET + 1]), Err(InvalidSecret::TooLong { bytes: MAX_SECRET + 1 }));
        let text = Secret::new(b"abc".to_vec()).unwrap_err().to_string();
        assert!(!text.contains("abc"), "{text}");
    }
}
