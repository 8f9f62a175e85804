use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use labwright_core::{Algorithm, Digest};

use super::blob::TEMP_PREFIX;
use super::{INDEX, Layout, LayoutError};
use crate::document::{Descriptor, Document, MAX_DOCUMENT, to_bytes};
use crate::media_type;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Removed files.
    pub blobs: u64,
    /// Their sizes in bytes, together.
    pub bytes: u64,
}

impl Layout {
    /// Removes blobs that no tag or listed image reaches, and what broken-off writes left behind.
    ///
    /// Referrers (manifests whose `subject` is reached) are kept with what they refer to. Files younger than `grace`
    /// stay in any case, because other tools write into layouts without our lock.
    ///
    /// # Errors
    ///
    /// [`LayoutError::Busy`] while another process of ours adds blobs. A damaged document is an error and removes
    /// nothing: what it names cannot be known.
    pub fn gc(&self, grace: Duration) -> Result<Freed, LayoutError> {
        let alone = self.lock_for_removal()?;
        let index = self.lock_index()?;
        let kept = self.reachable()?;
        self.forget_referrers(&kept)?;
        let mut freed = Freed::default();
        let now = SystemTime::now();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.dir.join("blobs").join(algorithm.as_str());
            if !dir.try_exists().unwrap_or(false) {
                continue;
            }
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let meta = entry.metadata()?;
                let digest = format!("{}:{name}", algorithm.as_str()).parse::<Digest>();
                let ours = digest.is_ok() || name.starts_with(TEMP_PREFIX);
                // A file from the future counts as young.
                let young = !meta.modified().is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age >= grace));
                if ours && meta.is_file() && !young && !digest.is_ok_and(|digest| kept.contains(&digest)) {
                    fs::remove_file(entry.path())?;
                    freed.blobs += 1;
                    freed.bytes += meta.len();
                }
            }
        }
        drop(index);
        drop(alone);
        Ok(freed)
    }

    /// Everything that the index reaches, including referrers.
    fn reachable(&self) -> Result<HashSet<Digest>, LayoutError> {
        let referrers = self.referrers_by_subject()?;
        let mut kept = HashSet::new();
        // What refers to a removed image goes with it, though it is listed.
        let mut open = self.index()?.manifests;
        open.retain(|entry| !self.is_bare_referrer(entry));
        while let Some(descriptor) = open.pop() {
            if !kept.insert(descriptor.digest.clone()) {
                continue;
            }
            if let Some(referring) = referrers.get(&descriptor.digest) {
                open.extend(referring.iter().cloned());
            }
            if !media_type::is_index(&descriptor.media_type) && !media_type::is_manifest(&descriptor.media_type) {
                continue;
            }
            // A listed image may lack parts: an index of which only one architecture was fetched is usual.
            if self.has(&descriptor) {
                open.extend(self.document(&descriptor)?.children().cloned());
            }
        }
        Ok(kept)
    }

    /// Takes referrers of what is gone out of the table of contents. The caller holds its lock.
    fn forget_referrers(&self, kept: &HashSet<Digest>) -> Result<(), LayoutError> {
        let mut index = self.index()?;
        let before = index.manifests.len();
        index.manifests.retain(|entry| kept.contains(&entry.digest) || !self.is_bare_referrer(entry));
        if index.manifests.len() == before { Ok(()) } else { self.replace(INDEX, &to_bytes(&index)) }
    }

    /// All manifests with a `subject`, by its digest. They need not be listed anywhere.
    pub(crate) fn referrers_by_subject(&self) -> Result<HashMap<Digest, Vec<Descriptor>>, LayoutError> {
        let mut referrers: HashMap<Digest, Vec<Descriptor>> = HashMap::new();
        for entry in fs::read_dir(self.blobs())? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else { continue };
            let size = entry.metadata()?.len();
            if size > MAX_DOCUMENT {
                continue;
            }
            note_referrer(&mut referrers, digest, &fs::read(entry.path())?);
        }
        for list in referrers.values_mut() {
            list.sort_by(|a, b| a.digest.cmp(&b.digest));
        }
        Ok(referrers)
    }
}

/// Notes a blob that is a document with a `subject`.
pub(crate) fn note_referrer(referrers: &mut HashMap<Digest, Vec<Descriptor>>, digest: Digest, bytes: &[u8]) {
    // Layers can be this small too; a document begins with a brace.
    if bytes.first() != Some(&b'{') {
        return;
    }
    if let Ok(document) = Document::parse("", bytes)
        && let Some(subject) = document.subject()
    {
        let media_type = match &document {
            Document::Index(_) => media_type::OCI_INDEX,
            Document::Manifest(_) => media_type::OCI_MANIFEST,
        };
        let own = Descriptor::new(media_type, digest, bytes.len() as u64);
        referrers.entry(subject.digest.clone()).or_default().push(document.as_referrer(&own));
    }
}
