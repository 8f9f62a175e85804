//! Files beside the recipe, digests and addresses.

use std::path::PathBuf;

use labwright_core::{Digest, GuestPath};

use super::{Decoder, Text, shown};
use crate::load::FileKind;
use crate::node::Node;
use crate::resolved::LocalPath;

/// What a path in a recipe must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    File,
    FileOrDirectory,
}

impl Decoder<'_> {
    /// A path beside the recipe that exists, and what it names.
    pub(crate) fn local(&mut self, text: &Text, want: Want) -> Option<(LocalPath, FileKind)> {
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
                self.push(diagnostic.hint("paths are relative to the recipe's directory"));
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

    /// A file beside the recipe.
    pub(crate) fn local_file(&mut self, node: &Node, what: &str) -> Option<LocalPath> {
        let text = self.text(node, what)?;
        self.local(&text, Want::File).map(|(path, _)| path)
    }

    /// A digest.
    pub(crate) fn digest(&mut self, node: &Node, what: &str) -> Option<Digest> {
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
    pub(crate) fn guest_path(&mut self, text: &Text) -> Option<GuestPath> {
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
