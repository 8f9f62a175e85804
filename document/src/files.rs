//! The files beside a document, as the caller lets its reader see them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use labwright_core::{Digest, GuestPath};
use serde::{Serialize, Serializer};

use crate::decoder::{Decoder, Text, shown};
use crate::node::Node;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Something else: a device, a pipe, a socket.
    Other,
}

/// The files that a document names, as the caller lets this crate see them.
pub trait Files {
    /// The contents of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What a path names, after symbolic links; `None` when there is nothing.
    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>>;
}

/// A file or directory on the machine that builds, named in a document.
///
/// It may lie outside the document's directory (`../shared/motd`, `/opt/keys/vendor.asc`); who publishes a document
/// publishes what it names. Serialised, it is only what the author wrote, so that a step key does not depend on
/// where the document was checked out; what is in the file must go into the key apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPath {
    /// As the author wrote it.
    pub written: String,
    /// Joined to the document's directory.
    pub path: PathBuf,
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for LocalPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

/// What a path in a document must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A file.
    File,
    /// A file or a directory.
    FileOrDirectory,
}

impl<C> Decoder<'_, C> {
    /// A path beside the document that exists, and what it names.
    pub fn local(&mut self, text: &Text, want: Want) -> Option<(LocalPath, FileKind)> {
        if text.value.is_empty() {
            self.push(self.error(text.span, "a path cannot be empty"));
            return None;
        }
        // Collecting the components drops every `.`; `..` stays, because what it means is up to the file system.
        let path: PathBuf = self.dir.join(&text.value).components().collect();
        let name = shown(&text.value);
        let kind = match self.files.kind(&path) {
            Ok(Some(kind)) => kind,
            Ok(None) => {
                let diagnostic = self.error(text.span, format!("`{name}` does not exist"));
                self.push(diagnostic.hint(format!("paths are relative to the {}'s directory", self.words.noun)));
                return None;
            }
            Err(error) => {
                self.push(self.error(text.span, format!("`{name}` cannot be looked at: {error}")));
                return None;
            }
        };
        match (kind, want) {
            (FileKind::File, _) | (FileKind::Directory, Want::FileOrDirectory) => {
                Some((LocalPath { written: text.value.clone(), path }, kind))
            }
            (FileKind::Directory, Want::File) => {
                self.push(self.error(text.span, format!("`{name}` is a directory, not a file")));
                None
            }
            (FileKind::Other, _) => {
                self.push(self.error(text.span, format!("`{name}` is neither a file nor a directory")));
                None
            }
        }
    }

    /// A file beside the document.
    pub fn local_file(&mut self, node: &Node, what: &str) -> Option<LocalPath> {
        let text = self.text(node, what)?;
        self.local(&text, Want::File).map(|(path, _)| path)
    }

    /// A digest.
    pub fn digest(&mut self, node: &Node, what: &str) -> Option<Digest> {
        let text = self.text(node, what)?;
        match text.value.parse() {
            Ok(digest) => Some(digest),
            Err(error) => {
                let diagnostic = self.error(text.span, format!("`{}` is not a digest", shown(&text.value)));
                self.push(diagnostic.hint(error.to_string()));
                None
            }
        }
    }

    /// A path in the guest.
    pub fn guest_path(&mut self, text: &Text) -> Option<GuestPath> {
        match text.value.parse() {
            Ok(path) => Some(path),
            Err(error) => {
                let diagnostic = self.error(text.span, format!("`{}` is not a path in the guest", shown(&text.value)));
                self.push(diagnostic.hint(error.to_string()));
                None
            }
        }
    }
}
