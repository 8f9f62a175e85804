use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use labwright_core::{Finder, Mask, NamedSecret};
use rustix::fs::{Mode, OFlags};

/// How much of a file is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// A secret that a tree of files holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInTree {
    /// The secret's name.
    pub name: String,
    /// How it is written (`in base64`).
    pub encoding: &'static str,
    /// The file, as the guest calls it; where its name holds the secret, that is left out.
    pub path: PathBuf,
    /// Where in the file it begins; none if it is in the name or in what a symbolic link says.
    pub at: Option<u64>,
}

/// Finds secrets in the contents and names of the files at `root`.
pub fn secrets_in_tree(root: &Path, secrets: &[NamedSecret]) -> io::Result<Vec<SecretInTree>> {
    let search = Search { finder: Finder::new(secrets), mask: Mask::new(secrets.iter().map(|secret| &secret.value)) };
    let mut found = Vec::new();
    search.directory(root, Path::new("/"), &mut found)?;
    Ok(found)
}

struct Search {
    finder: Finder,
    mask: Mask,
}

impl Search {
    fn directory(&self, full: &Path, path: &Path, found: &mut Vec<SecretInTree>) -> io::Result<()> {
        let mut entries = fs_err::read_dir(full)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs_err::DirEntry::file_name);
        for entry in entries {
            let (full, path) = (entry.path(), path.join(entry.file_name()));
            self.text(entry.file_name().as_bytes(), &path, found);
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.directory(&full, &path, found)?;
            } else if kind.is_symlink() {
                self.text(fs_err::read_link(&full)?.as_os_str().as_bytes(), &path, found);
            } else if kind.is_file() {
                self.file(&full, &path, found)?;
            }
        }
        Ok(())
    }

    fn text(&self, text: &[u8], path: &Path, found: &mut Vec<SecretInTree>) {
        for hit in self.finder.find(text) {
            found.push(self.told(hit.name, hit.encoding, path, None));
        }
    }

    fn file(&self, full: &Path, path: &Path, found: &mut Vec<SecretInTree>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::open(full, flags, Mode::empty())?);
        let overlap = self.finder.overlap();
        let mut buffer = vec![0; overlap + PIECE];
        let (mut kept, mut end, mut behind) = (0, 0, 0);
        loop {
            let count = match file.read(&mut buffer[kept..]) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let filled = kept + count;
            end += count as u64;
            let begin = end - filled as u64;
            for hit in self.finder.find(&buffer[..filled]) {
                let at = begin + hit.at as u64;
                // What lies in the overlap is found twice.
                if at >= behind {
                    found.push(self.told(hit.name, hit.encoding, path, Some(at)));
                    behind = at + 1;
                }
            }
            kept = overlap.min(filled);
            buffer.copy_within(filled - kept..filled, 0);
        }
    }

    fn told(&self, name: &str, encoding: &'static str, path: &Path, at: Option<u64>) -> SecretInTree {
        let path = PathBuf::from(self.mask.text(&path.to_string_lossy()));
        SecretInTree { name: name.to_owned(), encoding, path, at }
    }
}

#[cfg(test)]
mod tests {
    use labwright_core::Secret;

    use super::*;

    #[test]
    fn secrets_are_found_in_files_names_and_links() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let secrets = [
            NamedSecret { name: "token".to_owned(), value: Secret::new(b"correct-horse-battery\n".to_vec()).unwrap() },
            NamedSecret { name: "other".to_owned(), value: Secret::new(b"nowhere-to-be-seen".to_vec()).unwrap() },
        ];
        fs_err::create_dir_all(root.join("opt/correct-horse-battery")).unwrap();
        // Across the border of two pieces.
        let mut big = vec![b'.'; PIECE - 5];
        big.extend(b"correct-horse-battery");
        big.resize(3 * PIECE, b'.');
        fs_err::write(root.join("opt/correct-horse-battery/big"), &big).unwrap();
        fs_err::write(root.join("opt/b64"), "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5Cg==").unwrap();
        fs_err::write(root.join("opt/clean"), "correct-horse").unwrap();
        std::os::unix::fs::symlink("/x/correct-horse-battery", root.join("opt/link")).unwrap();
        std::os::unix::fs::symlink("/", root.join("opt/root")).unwrap();
        let found: Vec<(String, &str, Option<u64>)> = secrets_in_tree(root, &secrets)
            .unwrap()
            .into_iter()
            .map(|found| (format!("{} {}", found.name, found.path.display()), found.encoding, found.at))
            .collect();
        assert_eq!(
            found,
            [
                ("token /opt/b64".to_owned(), "in base64", Some(0)),
                ("token /opt/***".to_owned(), "as it is", None),
                ("token /opt/***/big".to_owned(), "as it is", Some(PIECE as u64 - 5)),
                ("token /opt/link".to_owned(), "as it is", None),
            ]
        );
    }
}
