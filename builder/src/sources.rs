//! The files that a recipe names: read while planning for their digests, sent to the guest while building.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use labwright_core::{Cancel, Digest};
use labwright_guest::protocol::{Action, EntryKind, TreeEntry};
use labwright_recipes::resolved::LocalPath;

use crate::chroot::wire::Source;
use crate::layers::{LayerError, hash_file};

/// A file that the recipe names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system said no.
    #[error("could not read `{written}`")]
    Read {
        /// The path in the recipe.
        written: String,
        /// The reason, with the whole path.
        source: io::Error,
    },
    /// Devices, pipes and sockets cannot be in an image.
    #[error("`{}` is neither a file nor a directory nor a symbolic link", path.display())]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// The protocol carries names as text.
    #[error("the name `{}` is not UTF-8", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The file is another one than the recipe says.
    #[error("`{written}` has the digest {found}, and the recipe says {expected}")]
    Digest {
        /// The path in the recipe.
        written: String,
        /// The file's digest.
        found: Digest,
        /// The recipe's digest.
        expected: Digest,
    },
}

/// The actions of a step and the files that they send, in the actions' order.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) actions: Vec<Action>,
    pub(crate) sources: Vec<Source>,
    /// The names of the secrets that the actions may read.
    pub(crate) secrets: Vec<String>,
}

impl Inputs {
    /// Actions that send no files.
    pub(crate) fn of(actions: Vec<Action>) -> Self {
        Self { actions, ..Self::default() }
    }

    /// Everything that the step's result depends on, as text for its key: the actions, and the files' digests instead
    /// of their bytes and of where they lie. Of secrets, their names: a new token must not rebuild what it fetched.
    pub(crate) fn describe(&self) -> String {
        let digests: Vec<Digest> = self
            .sources
            .iter()
            .map(|source| match source {
                Source::Inline(bytes) => Digest::sha256(bytes),
                Source::File { digest, .. } => digest.clone(),
            })
            .collect();
        let text = if self.secrets.is_empty() {
            serde_json::to_string(&(&self.actions, digests))
        } else {
            serde_json::to_string(&(&self.actions, digests, &self.secrets))
        };
        text.expect("actions have no maps with odd keys")
    }
}

/// A tree of files beside a recipe.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) entries: Vec<TreeEntry>,
    pub(crate) sources: Vec<Source>,
}

/// The bytes of a small file.
pub(crate) fn read(path: &LocalPath) -> Result<Vec<u8>, SourceError> {
    fs_err::read(&path.path).map_err(|source| SourceError::Read { written: path.written.clone(), source })
}

/// A file to send, and its size.
pub(crate) fn file(path: &LocalPath) -> Result<(Source, u64), SourceError> {
    digested(&path.path).map_err(|source| SourceError::Read { written: path.written.clone(), source })
}

/// A file to send that must have the digest that the recipe gives.
pub(crate) fn file_with_digest(path: &LocalPath, expected: &Digest) -> Result<(Source, u64), SourceError> {
    let wrong = |source| SourceError::Read { written: path.written.clone(), source };
    let mut hasher = labwright_core::Hasher::new(expected.algorithm());
    io::copy(&mut fs_err::File::open(&path.path).map_err(wrong)?, &mut hasher).map_err(wrong)?;
    let found = hasher.finish();
    if found != *expected {
        return Err(SourceError::Digest { written: path.written.clone(), found, expected: expected.clone() });
    }
    file(path)
}

/// The permission bits that a file of the host gives to its copy in the guest: its own, without write permission for
/// others, which depends on the umask under which the recipe was checked out.
pub(crate) fn mode(path: &Path) -> Result<u32, SourceError> {
    let metadata =
        fs_err::metadata(path).map_err(|source| SourceError::Read { written: path.display().to_string(), source })?;
    Ok(metadata.permissions().mode() & 0o755)
}

/// Everything below a directory, sorted by name, parents before children. `mode` is for the files in it.
pub(crate) fn tree(root: &LocalPath, mode: Option<u32>) -> Result<Tree, SourceError> {
    let mut tree = Tree::default();
    let read = |source| SourceError::Read { written: root.written.clone(), source };
    let mut pending = vec![(root.path.clone(), String::new())];
    while let Some((dir, prefix)) = pending.pop() {
        let mut children = Vec::new();
        for entry in fs_err::read_dir(&dir).map_err(read)? {
            children.push(entry.map_err(read)?.path());
        }
        children.sort();
        for path in children {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| SourceError::Name { path: path.clone() })?;
            let relative = format!("{prefix}{name}");
            let metadata = fs_err::symlink_metadata(&path).map_err(read)?;
            let own = metadata.permissions().mode() & 0o755;
            if metadata.is_symlink() {
                let target = fs_err::read_link(&path).map_err(read)?;
                let target = target.to_str().ok_or_else(|| SourceError::Name { path: path.clone() })?.to_owned();
                tree.entries.push(TreeEntry { path: relative, kind: EntryKind::Symlink { target }, mode: 0o777 });
            } else if metadata.is_dir() {
                tree.entries.push(TreeEntry { path: relative.clone(), kind: EntryKind::Directory, mode: own });
                pending.push((path, format!("{relative}/")));
            } else if metadata.is_file() {
                let (source, size) = digested(&path).map_err(read)?;
                let kind = EntryKind::File { size };
                tree.entries.push(TreeEntry { path: relative, kind, mode: mode.unwrap_or(own) });
                tree.sources.push(source);
            } else {
                return Err(SourceError::Special { path });
            }
        }
    }
    Ok(tree)
}

fn digested(path: &Path) -> io::Result<(Source, u64)> {
    let size = fs_err::metadata(path)?.len();
    let digest = hash_file(path, &Cancel::new()).map_err(|error| match error {
        LayerError::Io(error) => error,
        LayerError::Cancelled(cancelled) => io::Error::new(io::ErrorKind::Interrupted, cancelled),
    })?;
    // The worker opens it from another working directory.
    Ok((Source::File { path: std::path::absolute(path)?, digest }, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &Path) -> LocalPath {
        LocalPath { written: "files".to_owned(), path: path.to_owned() }
    }

    #[test]
    fn a_tree_is_listed_the_same_way_wherever_it_lies() {
        let describe = |dir: &Path, write_bits: u32| {
            fs_err::create_dir_all(dir.join("b/c")).unwrap();
            fs_err::write(dir.join("b/z"), "z").unwrap();
            fs_err::write(dir.join("a"), "a").unwrap();
            fs_err::set_permissions(dir.join("a"), std::fs::Permissions::from_mode(0o640 | write_bits)).unwrap();
            std::os::unix::fs::symlink("../a", dir.join("b/link")).unwrap();
            let tree = tree(&local(dir), None).unwrap();
            let names: Vec<_> = tree.entries.iter().map(|entry| (entry.path.clone(), entry.mode)).collect();
            let inputs = Inputs { sources: tree.sources, ..Inputs::default() };
            (names, inputs.describe())
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let listed = describe(one.path(), 0);
        let paths: Vec<_> = listed.0.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["a", "b", "b/c", "b/link", "b/z"]);
        assert_eq!(listed.0[0].1, 0o640);
        assert_eq!(listed, describe(two.path(), 0o022));
    }

    #[test]
    fn a_file_of_another_digest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttyd");
        fs_err::write(&path, "ttyd").unwrap();
        assert!(file_with_digest(&local(&path), &Digest::sha256(b"ttyd")).is_ok());
        let error = file_with_digest(&local(&path), &Digest::sha256(b"other")).unwrap_err();
        assert!(matches!(error, SourceError::Digest { .. }), "{error}");
    }
}
