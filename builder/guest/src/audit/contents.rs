use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use labwright_core::{Finder, Hit, Mask, NamedSecret, Secret};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// How much of a file is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// The name under which private keys are found; no secret has a name with a space.
pub const PRIVATE_KEY: &str = "private key";

/// How private keys in PEM and OpenPGP begin and end.
const KEY_MARKS: [&str; 2] = ["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"];

/// So many bytes before a mark, and so many behind it, tell whether there is a key.
const KEY_BEFORE: usize = 32;
const KEY_BEHIND: usize = 1024;

/// What is looked for in bytes: secrets whose values are known, and private keys.
#[derive(Debug)]
pub struct Needles {
    finder: Finder,
    mask: Mask,
}

impl Needles {
    /// These secrets, and nothing else.
    pub fn secrets(secrets: &[NamedSecret]) -> Self {
        let mask = Mask::new(secrets.iter().map(|secret| &secret.value));
        Self { finder: Finder::new(secrets), mask }
    }

    /// These secrets, and whatever is a private key.
    pub fn secrets_and_keys(secrets: &[NamedSecret]) -> Self {
        let mut all = secrets.to_vec();
        for mark in KEY_MARKS {
            let value = Secret::new(mark.as_bytes().to_vec()).expect("the mark has the length of a secret");
            all.push(NamedSecret { name: PRIVATE_KEY.to_owned(), value });
        }
        Self { finder: Finder::new(&all), ..Self::secrets(secrets) }
    }

    /// How many bytes two pieces of a stream have to share so that nothing is missed between them.
    pub fn overlap(&self) -> usize {
        self.finder.overlap().max(KEY_BEFORE + KEY_BEHIND + 64)
    }

    /// What is in a piece of data.
    pub fn find(&self, data: &[u8]) -> Vec<Hit<'_>> {
        let mut hits = self.finder.find(data);
        hits.retain(|hit| hit.name != PRIVATE_KEY || hit.encoding == "as it is" && is_key(data, hit.at));
        hits
    }
}

/// Whether the mark at this place is the beginning of a key and not just the words, as in programs that write keys.
fn is_key(data: &[u8], mark: usize) -> bool {
    /// A line of base64 in the shortest key, of 32 bytes with what says so (RFC 8410).
    const LINE: usize = 60;
    let before = &data[mark.saturating_sub(KEY_BEFORE)..mark];
    let begins = before.windows(11).rposition(|window| window == b"-----BEGIN ").is_some();
    let behind = &data[mark..data.len().min(mark + KEY_BEHIND)];
    let mut run = 0;
    begins
        && behind.iter().skip(15).any(|byte| {
            run = if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=') { run + 1 } else { 0 };
            run >= LINE
        })
}

/// Something that a tree of files holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InTree {
    /// The secret's name, or [`PRIVATE_KEY`].
    pub name: String,
    /// How it is written (`in base64`).
    pub encoding: String,
    /// The file, as the guest calls it; where its name holds a secret, that is left out.
    pub path: PathBuf,
    /// Where in the file it begins; none if it is in the name or in what a symbolic link says.
    pub at: Option<u64>,
}

/// Finds needles in the contents and names of the files at `root`. No link is followed.
pub fn in_tree(root: &Path, needles: &Needles) -> io::Result<Vec<InTree>> {
    let mut found = Vec::new();
    Search { needles }.directory(root, Path::new("/"), &mut found)?;
    Ok(found)
}

struct Search<'a> {
    needles: &'a Needles,
}

impl Search<'_> {
    fn directory(&self, full: &Path, path: &Path, found: &mut Vec<InTree>) -> io::Result<()> {
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

    fn text(&self, text: &[u8], path: &Path, found: &mut Vec<InTree>) {
        for hit in self.needles.find(text) {
            found.push(self.told(hit.name, hit.encoding, path, None));
        }
    }

    fn file(&self, full: &Path, path: &Path, found: &mut Vec<InTree>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::open(full, flags, Mode::empty())?);
        let overlap = self.needles.overlap();
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
            for hit in self.needles.find(&buffer[..filled]) {
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

    fn told(&self, name: &str, encoding: &str, path: &Path, at: Option<u64>) -> InTree {
        let path = PathBuf::from(self.needles.mask.text(&path.to_string_lossy()));
        InTree { name: name.to_owned(), encoding: encoding.to_owned(), path, at }
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
        let found: Vec<(String, String, Option<u64>)> = in_tree(root, &Needles::secrets(&secrets))
            .unwrap()
            .into_iter()
            .map(|found| (format!("{} {}", found.name, found.path.display()), found.encoding, found.at))
            .collect();
        assert_eq!(
            found,
            [
                ("token /opt/b64".to_owned(), "in base64".to_owned(), Some(0)),
                ("token /opt/***".to_owned(), "as it is".to_owned(), None),
                ("token /opt/***/big".to_owned(), "as it is".to_owned(), Some(PIECE as u64 - 5)),
                ("token /opt/link".to_owned(), "as it is".to_owned(), None),
            ]
        );
    }

    #[test]
    fn keys_are_told_from_the_words_of_programs() {
        let line = "MC4CAQAwBQYDK2VwBCIEIJVtvSBKQoOfUAxRTPEVSmXAVnBPoRePaL8G0SrkwuEN";
        let needles = Needles::secrets_and_keys(&[]);
        for (text, expected) in [
            (format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n"), 1),
            (format!("{{\"key\": \"-----BEGIN RSA PRIVATE KEY-----\\n{line}"), 1),
            (format!("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,00\n\n{line}\n"), 1),
            (format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{line}\n"), 1),
            (format!("-----BEGIN PUBLIC KEY-----\n{line}\n"), 0),
            (format!("PRIVATE KEY-----\n{line}\n"), 0),
            ("-----BEGIN RSA PRIVATE KEY-----\0-----BEGIN EC PRIVATE KEY-----\0%s\n".to_owned(), 0),
            ("grep -q -- '-----BEGIN PRIVATE KEY-----' \"$1\"\n".to_owned(), 0),
        ] {
            assert_eq!(needles.find(text.as_bytes()).len(), expected, "{text}");
        }
    }
}
