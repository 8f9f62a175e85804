//! An OCI image layout in a tar file: `oci-archive:FILE`.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use labwright_core::{Cancel, Digest, Hasher};

use crate::document::{Descriptor, Document, Index, InvalidDocument, MAX_DOCUMENT, to_bytes};
use crate::layout::{INDEX, Layout, LayoutError, MARKER, copy, find_tag, is_part, note_referrer, tags_of};
use crate::tar_reader::{Kind, TarError, TarReader};

/// An OCI archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The tar file is broken, or made to do harm.
    #[error("`{path}` is not a usable archive")]
    Tar {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        source: TarError,
    },
    /// A part that is no regular file, or that is there twice.
    #[error("`{path}` is not an OCI archive: `{name}` in it is no regular file, or is there twice")]
    Part {
        /// The archive.
        path: PathBuf,
        /// The part.
        name: String,
    },
    /// A tar file without an image layout.
    #[error("`{path}` is not an OCI archive: it lacks a valid `{name}`")]
    Missing {
        /// The archive.
        path: PathBuf,
        /// The part.
        name: &'static str,
    },
    /// No such tag, or no tag given and several images.
    #[error("`{path}` has no image `{tag}` (there is {})", tags.join(", "))]
    NoTag {
        /// The archive.
        path: PathBuf,
        /// What was asked for; empty for the only image.
        tag: String,
        /// What there is.
        tags: Vec<String>,
    },
    /// Content that a document names is not there, or has another size.
    #[error("`{path}` lacks the blob {digest} of {size} bytes")]
    NoBlob {
        /// The archive.
        path: PathBuf,
        /// What is missing.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Content has another digest than its name says.
    #[error("the blob {expected} in `{path}` has the digest {found}")]
    WrongDigest {
        /// The archive.
        path: PathBuf,
        /// The digest in its name.
        expected: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// Content is not the index or manifest that it should be.
    #[error("{digest} in `{path}` is not an image")]
    Document {
        /// The archive.
        path: PathBuf,
        /// The content.
        digest: Digest,
        /// What is wrong.
        source: InvalidDocument,
    },
    /// Input or output failed; the cause names the path.
    #[error("the archive cannot be read or written")]
    Io(#[from] io::Error),
    /// What goes into the archive could not be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A tar file with an image layout in it, read in place: nothing is unpacked.
#[derive(Debug, Clone)]
pub struct Archive {
    path: PathBuf,
    index: Index,
    blobs: HashMap<Digest, (u64, u64)>,
}

impl Archive {
    /// Reads the archive's table of contents.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let path = path.into();
        let mut reader = TarReader::seeking(fs::File::open(&path)?);
        let tar = |source| ArchiveError::Tar { path: path.clone(), source };
        let (mut marker, mut index, mut blobs) = (None, None, HashMap::new());
        while let Some(entry) = reader.next_entry().map_err(tar)? {
            let digest = entry
                .name
                .strip_prefix("blobs/")
                .and_then(|name| name.split_once('/'))
                .and_then(|(algorithm, hex)| format!("{algorithm}:{hex}").parse::<Digest>().ok());
            let document = match entry.name.as_str() {
                name if name == MARKER.0 => Some(&mut marker),
                INDEX => Some(&mut index),
                _ if digest.is_some() => None,
                // Docker's `manifest.json` and directories are none of our business.
                _ => continue,
            };
            let part = || ArchiveError::Part { path: path.clone(), name: entry.name.clone() };
            if entry.kind != Kind::File {
                return Err(part());
            }
            if let Some(digest) = digest {
                if blobs.insert(digest, (entry.offset, entry.size)).is_some() {
                    return Err(part());
                }
            } else if let Some(slot) = document {
                if slot.is_some() || entry.size > MAX_DOCUMENT {
                    return Err(part());
                }
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                *slot = Some(bytes);
            }
        }
        if marker.is_none() {
            return Err(ArchiveError::Missing { path, name: MARKER.0 });
        }
        let index = index.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(index) = index else { return Err(ArchiveError::Missing { path, name: INDEX }) };
        Ok(Self { path, index, blobs })
    }

    /// The table of contents.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What a tag names; without one, the only image there is.
    pub fn resolve(&self, tag: Option<&str>) -> Result<Descriptor, ArchiveError> {
        let found = match (tag, self.index.manifests.as_slice()) {
            (Some(tag), _) => find_tag(&self.index, tag),
            (None, [only]) => Some(only),
            (None, all) => {
                // What belongs to a lab is listed beside it.
                let mut images = all.iter().filter(|entry| !is_part(entry));
                images.next().filter(|_| images.next().is_none())
            }
        };
        found.cloned().ok_or_else(|| ArchiveError::NoTag {
            path: self.path.clone(),
            tag: tag.unwrap_or_default().to_owned(),
            tags: tags_of(&self.index),
        })
    }

    /// What an index or manifest with this digest is, if it is there.
    pub fn find(&self, digest: &Digest) -> Result<Option<Descriptor>, ArchiveError> {
        let Some(&(_, size)) = self.blobs.get(digest) else { return Ok(None) };
        let mut descriptor = Descriptor::new("", digest.clone(), size);
        let bytes = self.read_document(&descriptor)?;
        let document = Document::parse("", &bytes).map_err(|source| ArchiveError::Document {
            path: self.path.clone(),
            digest: digest.clone(),
            source,
        })?;
        document.media_type().clone_into(&mut descriptor.media_type);
        Ok(Some(descriptor))
    }

    /// Where content is: the file, and where in it the bytes begin.
    pub(crate) fn locate(&self, descriptor: &Descriptor) -> Result<(&Path, u64), ArchiveError> {
        match self.blobs.get(&descriptor.digest) {
            Some(&(offset, size)) if size == descriptor.size => Ok((&self.path, offset)),
            _ => Err(ArchiveError::NoBlob {
                path: self.path.clone(),
                digest: descriptor.digest.clone(),
                size: descriptor.size,
            }),
        }
    }

    /// Opens content for reading; the bytes are not verified.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<impl Read + use<>, ArchiveError> {
        let (path, offset) = self.locate(descriptor)?;
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file.take(descriptor.size))
    }

    /// Reads and verifies an index, manifest or config.
    pub fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(
                LayoutError::DocumentTooLarge { digest: descriptor.digest.clone(), size: descriptor.size }.into()
            );
        }
        let mut bytes = Vec::new();
        self.open_blob(descriptor)?.read_to_end(&mut bytes)?;
        let mut hasher = Hasher::new(descriptor.digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found == descriptor.digest {
            Ok(bytes)
        } else {
            Err(ArchiveError::WrongDigest { path: self.path.clone(), expected: descriptor.digest.clone(), found })
        }
    }
}

impl Archive {
    /// All manifests with a `subject`, by its digest.
    pub(crate) fn referrers_by_subject(&self) -> Result<HashMap<Digest, Vec<Descriptor>>, ArchiveError> {
        let mut referrers = HashMap::new();
        for (digest, &(_, size)) in self.blobs.iter().filter(|(_, (_, size))| *size <= MAX_DOCUMENT) {
            let mut bytes = Vec::new();
            self.open_blob(&Descriptor::new("", digest.clone(), size))?.read_to_end(&mut bytes)?;
            note_referrer(&mut referrers, digest.clone(), &bytes);
        }
        for list in referrers.values_mut() {
            list.sort_by(|a: &Descriptor, b| a.digest.cmp(&b.digest));
        }
        Ok(referrers)
    }
}

/// A blob that goes into an archive from where it is.
pub(crate) struct Outside {
    /// The blob.
    pub(crate) blob: Descriptor,
    /// Opens it.
    pub(crate) open: Box<dyn FnOnce() -> Result<Box<dyn Read>, ArchiveError> + Send>,
    /// Is told the bytes so far.
    pub(crate) progress: Box<dyn Fn(u64) + Send>,
}

/// What a member of an archive is made of.
enum Member {
    Blob(PathBuf),
    Outside(Box<Outside>),
}

/// Writes a whole layout and blobs from elsewhere as an archive, replacing the file in one step. The same content gives
/// the same bytes, wherever it came from. Blobs from elsewhere are verified.
pub(crate) fn write_archive(
    layout: &Layout,
    outside: Vec<Outside>,
    path: &Path,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temp = tempfile::Builder::new().prefix(".labwright-").permissions(mode()).tempfile_in(parent)?;
    let mut tar = io::BufWriter::with_capacity(1 << 20, temp);
    add(&mut tar, MARKER.0, MARKER.1.len() as u64, &mut &*MARKER.1, |_| {}, cancel)?;
    let index = to_bytes(&layout.index()?);
    add(&mut tar, INDEX, index.len() as u64, &mut index.as_slice(), |_| {}, cancel)?;
    for (name, member) in members(layout, outside)? {
        match member {
            Member::Blob(path) => {
                let mut file = fs::File::open(path)?;
                let size = file.metadata()?.len();
                add(&mut tar, &name, size, &mut file, |_| {}, cancel)?;
            }
            Member::Outside(outside) => {
                let Outside { blob, open, progress } = *outside;
                let mut reader = Hashing { inner: open()?, hasher: Hasher::new(blob.digest.algorithm()) };
                add(&mut tar, &name, blob.size, &mut reader, progress, cancel)?;
                let found = reader.hasher.finish();
                if found != blob.digest {
                    let path = path.to_owned();
                    return Err(ArchiveError::WrongDigest { path, expected: blob.digest, found });
                }
            }
        }
    }
    tar.write_all(&[0; 1024])?;
    let temp = tar.into_inner().map_err(io::IntoInnerError::into_error)?;
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// All blobs by their names in the archive.
fn members(layout: &Layout, outside: Vec<Outside>) -> Result<BTreeMap<String, Member>, ArchiveError> {
    let mut members = BTreeMap::new();
    for algorithm in ["sha256", "sha512"] {
        let dir = layout.dir().join("blobs").join(algorithm);
        if dir.try_exists().unwrap_or(false) {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if format!("{algorithm}:{name}").parse::<Digest>().is_ok() {
                    members.insert(format!("blobs/{algorithm}/{name}"), Member::Blob(entry.path()));
                }
            }
        }
    }
    for one in outside {
        let name = format!("blobs/{}/{}", one.blob.digest.algorithm().as_str(), one.blob.digest.hex());
        members.entry(name).or_insert(Member::Outside(Box::new(one)));
    }
    Ok(members)
}

/// Adds one member; the content must have exactly `size` bytes.
fn add(
    tar: &mut impl Write,
    name: &str,
    size: u64,
    content: &mut dyn Read,
    progress: impl FnMut(u64),
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path(name)?;
    header.set_cksum();
    let mut content = content.take(size);
    tar.write_all(header.as_bytes())?;
    let done = copy(&mut content, tar, progress, cancel)?;
    if done < size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let padding = usize::try_from(done.next_multiple_of(512) - done).expect("less than 512");
    tar.write_all(&vec![0; padding])?;
    Ok(())
}

/// Hashes what is read.
struct Hashing {
    inner: Box<dyn Read>,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn mode() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
