//! An OCI image layout on disk: the local store, and the target of `oci:DIR`.

mod blob;
mod error;
mod gc;
mod lock;

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use labwright_core::Digest;

pub(crate) use blob::copy;
pub use blob::{Adopt, BlobWriter};
pub use error::LayoutError;
pub use gc::Freed;
pub(crate) use gc::note_referrer;
pub use lock::WriteGuard;

use crate::annotations::{LAB_PART, REF_NAME};
use crate::document::{Descriptor, Document, Index, MAX_DOCUMENT, to_bytes};

/// The file that marks a layout, and its content.
pub(crate) const MARKER: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);

/// The table of contents.
pub(crate) const INDEX: &str = "index.json";

/// The most bytes of a layout's `index.json` that are read; it grows with the store.
const MAX_INDEX: u64 = 64 << 20;

/// An OCI image layout: blobs by digest and an `index.json` that names some of them.
///
/// Several processes may use one layout at a time. A blob appears under its digest only when all its bytes are on the
/// disk and verified; `index.json` is replaced in one step under a lock.
///
/// In the local store the name of an image (`org.opencontainers.image.ref.name`) is `NAME:TAG`, which skopeo and podman
/// read as `oci:DIR:NAME:TAG`.
///
/// Source: image-spec, image-layout.md.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Opens a layout, or makes an empty one where there is nothing or an empty directory.
    pub fn open_or_create(dir: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let layout = Self { dir: dir.into() };
        fs::create_dir_all(&layout.dir)?;
        if layout.dir.join(MARKER.0).try_exists().unwrap_or(false) {
            layout.check_marker()?;
        } else if let Some(stranger) = layout.stranger()? {
            return Err(LayoutError::NotEmpty { dir: layout.dir, entry: stranger });
        }
        fs::create_dir_all(layout.blobs())?;
        let lock = layout.lock_index()?;
        // The marker comes last: a directory that has it is complete.
        if !layout.dir.join(INDEX).try_exists().unwrap_or(false) {
            layout.replace(INDEX, &to_bytes(&Index::new(Vec::new())))?;
        }
        if !layout.dir.join(MARKER.0).try_exists().unwrap_or(false) {
            layout.replace(MARKER.0, MARKER.1)?;
        }
        drop(lock);
        Ok(layout)
    }

    /// Opens a layout that exists.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, LayoutError> {
        let layout = Self { dir: dir.into() };
        if !layout.dir.join(MARKER.0).try_exists().unwrap_or(false) {
            return Err(LayoutError::NoLayout { dir: layout.dir });
        }
        layout.check_marker()?;
        Ok(layout)
    }

    fn check_marker(&self) -> Result<(), LayoutError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        let path = self.dir.join(MARKER.0);
        let bytes = read_limited(&path, 4096)?;
        let marker: Marker = serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { path, source })?;
        if marker.image_layout_version == "1.0.0" {
            Ok(())
        } else {
            Err(LayoutError::Version { dir: self.dir.clone(), version: marker.image_layout_version })
        }
    }

    /// An entry of the directory that no layout has.
    fn stranger(&self) -> Result<Option<String>, LayoutError> {
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // What a first `open_or_create` that was cut off leaves behind is no reason to refuse.
            if !name.starts_with('.') && name != "blobs" && name != INDEX {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// Where the content with this digest is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// The table of contents as it is now.
    pub fn index(&self) -> Result<Index, LayoutError> {
        let path = self.dir.join(INDEX);
        let bytes = read_limited(&path, MAX_INDEX)?;
        serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { path, source })
    }

    /// Changes the table of contents in one step; no other process of ours changes it meanwhile.
    pub fn update_index<T>(&self, change: impl FnOnce(&mut Index) -> T) -> Result<T, LayoutError> {
        let lock = self.lock_index()?;
        let mut index = self.index()?;
        let before = index.clone();
        let result = change(&mut index);
        if index != before {
            self.replace(INDEX, &to_bytes(&index))?;
        }
        drop(lock);
        Ok(result)
    }

    /// Writes a file of the layout so that readers see either the old or the new one, also after a power cut.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut temp = tempfile::Builder::new()
            .prefix(".labwright-")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(&self.dir)
            .map_err(|source| LayoutError::Write { path: self.dir.clone(), source })?;
        let path = self.dir.join(name);
        let write = |source| LayoutError::Write { path: path.clone(), source };
        temp.write_all(bytes).map_err(write)?;
        temp.as_file().sync_all().map_err(write)?;
        temp.persist(&path).map_err(|error| write(error.error))?;
        sync_dir(&self.dir)
    }

    /// What a tag names.
    pub fn resolve(&self, tag: &str) -> Result<Descriptor, LayoutError> {
        let index = self.index()?;
        find_tag(&index, tag).cloned().ok_or_else(|| LayoutError::NoTag {
            dir: self.dir.clone(),
            tag: tag.to_owned(),
            tags: tags_of(&index),
        })
    }

    /// What `oci:DIR` without a tag names: the only image there is.
    pub fn resolve_only(&self) -> Result<Descriptor, LayoutError> {
        let index = self.index()?;
        let images: Vec<_> = match index.manifests.as_slice() {
            [only] => vec![only],
            // What refers to an image is listed beside it, and so is what belongs to a lab.
            all => all.iter().filter(|entry| !is_part(entry) && !self.is_bare_referrer(entry)).collect(),
        };
        match images.as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(LayoutError::Empty { dir: self.dir.clone() }),
            _ => Err(LayoutError::Ambiguous { dir: self.dir.clone(), tags: tags_of(&index) }),
        }
    }

    /// Whether an entry of the table of contents is there only because it refers to another one.
    fn is_bare_referrer(&self, entry: &Descriptor) -> bool {
        !entry.annotations.contains_key(REF_NAME)
            && self.document(entry).is_ok_and(|document| document.subject().is_some())
    }

    /// What `NAME` without a tag names in the local store: `NAME:TAG` with the newest version as its tag.
    ///
    /// Tags that are semantic versions are newer than others; the others are compared as text.
    pub fn resolve_newest(&self, name: &str) -> Result<(String, Descriptor), LayoutError> {
        let index = self.index()?;
        let newest = index
            .manifests
            .iter()
            // `1.0.0-rc.1.web` and `1.0.0-rc.1-imgpkg` would be newer versions than the lab `1.0.0-rc.1` itself.
            .filter(|entry| !is_part(entry))
            .filter_map(|entry| {
                let full = entry.annotations.get(REF_NAME)?;
                let (found, tag) = full.rsplit_once(':')?;
                (found == name).then(|| ((semver::Version::parse(tag).ok(), tag), full, entry))
            })
            .max_by(|a, b| a.0.cmp(&b.0));
        match newest {
            Some((_, full, entry)) => Ok((full.clone(), entry.clone())),
            None => Err(LayoutError::NoTag { dir: self.dir.clone(), tag: name.to_owned(), tags: tags_of(&index) }),
        }
    }

    /// All tags and what they name, sorted.
    pub fn tags(&self) -> Result<Vec<(String, Descriptor)>, LayoutError> {
        let mut tags: Vec<_> = self
            .index()?
            .manifests
            .into_iter()
            .filter_map(|entry| Some((entry.annotations.get(REF_NAME)?.clone(), entry)))
            .collect();
        tags.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(tags)
    }

    /// Lets a tag name something; what it named before stays as a blob until [`gc`](Self::gc).
    pub fn tag(&self, tag: &str, target: &Descriptor) -> Result<(), LayoutError> {
        self.update_index(|index| set_tag(index, tag, target))
    }

    /// Lists content without a tag, unless it is listed already. Without this, [`gc`](Self::gc) would take it.
    pub fn list(&self, target: &Descriptor) -> Result<(), LayoutError> {
        self.update_index(|index| {
            if !index.manifests.iter().any(|entry| entry.digest == target.digest) {
                index.manifests.push(target.clone());
            }
        })
    }

    /// Removes a tag, and with a lab's tag those of its parts; blobs stay until [`gc`](Self::gc). Returns whether it
    /// was there.
    pub fn remove_tag(&self, tag: &str) -> Result<bool, LayoutError> {
        self.update_index(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|entry| entry.annotations.get(REF_NAME).is_none_or(|name| name != tag));
            let found = index.manifests.len() != before;
            if found {
                index.manifests.retain(|entry| entry.annotations.get(LAB_PART).is_none_or(|lab| lab != tag));
            }
            found
        })
    }

    /// Whether the content is there, by digest and size; the bytes are not read.
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size)
    }

    /// Opens content for reading; the bytes are not verified.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<fs::File, LayoutError> {
        let file = fs::File::open(self.blob_path(&descriptor.digest)).map_err(|source| LayoutError::NoBlob {
            dir: self.dir.clone(),
            digest: descriptor.digest.clone(),
            source,
        })?;
        let found = file.metadata()?.len();
        if found == descriptor.size {
            Ok(file)
        } else {
            Err(LayoutError::WrongSize { path: file.into_path(), expected: descriptor.size, found })
        }
    }

    /// Reads and verifies an index, manifest or config.
    pub fn read_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(LayoutError::DocumentTooLarge { digest: descriptor.digest.clone(), size: descriptor.size });
        }
        let mut bytes = Vec::new();
        let file = self.open_blob(descriptor)?;
        let path = file.path().to_owned();
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
        let mut hasher = labwright_core::Hasher::new(descriptor.digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found == descriptor.digest {
            Ok(bytes)
        } else {
            Err(LayoutError::WrongDigest { path, expected: descriptor.digest.clone(), found })
        }
    }

    /// What an index or manifest with this digest is, if it is there.
    pub fn find(&self, digest: &Digest) -> Result<Option<Descriptor>, LayoutError> {
        let path = self.blob_path(digest);
        let Some(meta) = fs::metadata(&path).ok().filter(std::fs::Metadata::is_file) else { return Ok(None) };
        let mut descriptor = Descriptor::new("", digest.clone(), meta.len());
        let document = self.document(&descriptor)?;
        document.media_type().clone_into(&mut descriptor.media_type);
        Ok(Some(descriptor))
    }

    /// Reads, verifies and parses an index or manifest.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Document, LayoutError> {
        let bytes = self.read_document(descriptor)?;
        Document::parse(&descriptor.media_type, &bytes)
            .map_err(|source| LayoutError::Document { path: self.blob_path(&descriptor.digest), source })
    }
}

/// Whether an entry stands in the table of contents only because a lab consists of it.
pub(crate) fn is_part(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(LAB_PART)
}

/// The entry that a tag names.
pub(crate) fn find_tag<'a>(index: &'a Index, tag: &str) -> Option<&'a Descriptor> {
    index.manifests.iter().find(|entry| entry.annotations.get(REF_NAME).is_some_and(|name| name == tag))
}

/// All tags, sorted.
pub(crate) fn tags_of(index: &Index) -> Vec<String> {
    let mut tags: Vec<_> =
        index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME).cloned()).collect();
    tags.sort();
    tags
}

/// Replaces what a tag names.
pub(crate) fn set_tag(index: &mut Index, tag: &str, target: &Descriptor) {
    let mut entry = target.clone();
    entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    index.manifests.retain(|old| {
        let named = old.annotations.get(REF_NAME);
        // An entry without a tag for the same content says nothing more than the new one.
        named.is_some_and(|name| name != tag) || (named.is_none() && old.digest != target.digest)
    });
    index.manifests.push(entry);
    index.manifests.sort_by(|a, b| a.annotations.get(REF_NAME).cmp(&b.annotations.get(REF_NAME)));
}

/// Reads a file that must not be larger than `limit` bytes.
fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::FileTooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Makes names in a directory last.
fn sync_dir(dir: &Path) -> Result<(), LayoutError> {
    let open = || -> io::Result<()> { fs::File::open(dir)?.sync_all() };
    open().map_err(|source| LayoutError::Write { path: dir.to_owned(), source })
}
