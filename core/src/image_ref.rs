use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Where an image or artifact is.
///
/// The prefixes are those of skopeo and podman. Nothing is guessed: a registry reference names its registry, so
/// `debian` is an image in the local store and never something on a public hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// `NAME[:TAG]`: an image in the local store.
    Local {
        /// Repository-like name (`debian-terminal`).
        name: String,
        /// Tag; none means the newest version.
        tag: Option<String>,
    },
    /// `[docker://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.
    Registry(Registry),
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Layout {
        /// The layout's directory.
        dir: PathBuf,
        /// Tag (`org.opencontainers.image.ref.name`).
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar file.
    Archive {
        /// The tar file.
        file: PathBuf,
        /// Tag (`org.opencontainers.image.ref.name`).
        tag: Option<String>,
    },
}

/// A reference into a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registry {
    /// Host and port (`registry.example:5000`).
    pub host: String,
    /// Repository (`labs/base`).
    pub repository: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest; wins over the tag.
    pub digest: Option<Digest>,
}

impl Registry {
    /// What a manifest is asked for by: the digest, else the tag, else `latest`.
    pub fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = match self {
            Self::Local { name, tag } => {
                f.write_str(name)?;
                tag
            }
            Self::Registry(registry) => return registry.fmt(f),
            Self::Layout { dir, tag } => {
                write!(f, "oci:{}", dir.display())?;
                tag
            }
            Self::Archive { file, tag } => {
                write!(f, "oci-archive:{}", file.display())?;
                tag
            }
        };
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

/// The text is not a reference to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImageRef {
    /// Nothing there.
    #[error("a reference is not empty")]
    Empty,
    /// A tag with characters that tags do not have.
    #[error("`{0}` is not a tag (letters, digits, `_`, `.` and `-`, at most 128, not beginning with `.` or `-`)")]
    Tag(String),
    /// A repository or name with characters that they do not have.
    #[error("`{0}` is not a repository name (lower-case letters and digits, separated by `.`, `_`, `-` or `/`)")]
    Repository(String),
    /// A host that is no host.
    #[error("`{0}` is not a registry host; write HOST/REPOSITORY, with a dot or a port in the host, or `localhost`")]
    Host(String),
    /// A digest that is no digest.
    #[error("the digest is wrong: {0}")]
    Digest(crate::InvalidDigest),
    /// A transport that nobody knows.
    #[error("`{0}:` is not a transport; known are oci:, oci-archive: and docker://")]
    Transport(String),
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
}

/// Whether the text is `[a-z0-9]+` with the separators of distribution-spec between such runs.
fn is_repository(text: &str) -> bool {
    text.len() <= 255
        && text.split('/').all(|component| {
            let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            component.bytes().next().is_some_and(edge)
                && component.bytes().last().is_some_and(edge)
                && component.bytes().all(|byte| edge(byte) || matches!(byte, b'.' | b'_' | b'-'))
        })
}

/// Splits `PATH[:TAG]` where the path may hold colons and the tag may not hold slashes.
fn split_path_tag(text: &str) -> Result<(PathBuf, Option<String>), InvalidImageRef> {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    };
    if path.is_empty() {
        return Err(InvalidImageRef::Empty);
    }
    match tag {
        Some(tag) if !is_tag(tag) => Err(InvalidImageRef::Tag(tag.to_owned())),
        tag => Ok((PathBuf::from(path), tag.map(str::to_owned))),
    }
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(text: &str) -> Result<Self, InvalidImageRef> {
        if text.is_empty() {
            return Err(InvalidImageRef::Empty);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = split_path_tag(rest)?;
            return Ok(Self::Layout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = split_path_tag(rest)?;
            return Ok(Self::Archive { file, tag });
        }
        let (text, explicit) = match text.strip_prefix("docker://") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(InvalidImageRef::Transport(scheme.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(InvalidImageRef::Digest)?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(InvalidImageRef::Tag(tag.to_owned()));
        }
        let tag = tag.map(str::to_owned);
        match name.split_once('/') {
            None if explicit || digest.is_some() => Err(InvalidImageRef::Host(name.to_owned())),
            None if is_repository(name) => Ok(Self::Local { name: name.to_owned(), tag }),
            None => Err(InvalidImageRef::Repository(name.to_owned())),
            Some((host, repository)) => {
                let is_host = (host == "localhost" || host.contains(['.', ':']))
                    && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
                if !is_host {
                    return Err(InvalidImageRef::Host(host.to_owned()));
                }
                if !is_repository(repository) {
                    return Err(InvalidImageRef::Repository(repository.to_owned()));
                }
                Ok(Self::Registry(Registry { host: host.to_owned(), repository: repository.to_owned(), tag, digest }))
            }
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = InvalidImageRef;

    fn try_from(text: String) -> Result<Self, InvalidImageRef> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_kind() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for text in [
            "debian-terminal",
            "debian-terminal:1.0.0",
            "localhost:5000/labs/base:1",
            "registry.example/base",
            &format!("registry.example/labs/base@{digest}"),
            &format!("registry.example/labs/base:1@{digest}"),
            "oci:out",
            "oci:/tmp/a:b/out:1.0",
            "oci-archive:out.tar:1.0",
        ] {
            assert_eq!(text.parse::<ImageRef>().expect(text).to_string(), text);
        }
        assert_eq!("docker://localhost/a".parse::<ImageRef>().unwrap().to_string(), "localhost/a");
    }

    #[test]
    fn refuses_the_rest() {
        for (text, part) in [
            ("", "empty"),
            ("library/debian", "registry host"),
            ("registry.example/Base", "repository name"),
            ("a:b:c!", "tag"),
            ("registry.example/a@sha256:00", "digest"),
            ("s3://a/b", "transport"),
            ("oci::tag", "empty"),
        ] {
            let error = text.parse::<ImageRef>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
