//! The step cache: one qcow2 overlay per step, found by the key of its inputs.
//!
//! ```text
//! layers/KEY.qcow2   the overlay
//! layers/KEY.json    what it is: its own random id, its parent's id, size and digest
//! layers/KEY.lock    held by whoever builds this key
//! layers/KEY.locked  of a step whose packages were in no lock file: in which versions they were installed
//! ```
//!
//! A key addresses inputs, but an overlay only fits its parent's exact bytes. So each layer has an id of its own and
//! records its parent's, and counts as present only if the present parent has that id.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use labwright_base_images::PackageLock;
use labwright_core::{Algorithm, ByteSize, Cancel, Cancelled, Digest, Hasher};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// The cache's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    dir: PathBuf,
}

/// A finished layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Layer {
    /// Its key.
    pub(crate) key: Key,
    /// The step that made it, for people.
    pub(crate) step: String,
    /// Drawn at random when the layer was made.
    pub(crate) id: String,
    /// The id of the layer below, or the digest of the base.
    pub(crate) parent: String,
    /// The size of the file.
    pub(crate) size: u64,
    /// The digest of the file.
    pub(crate) digest: Digest,
    /// What the step reported, for later steps and the image's facts.
    #[serde(default)]
    pub(crate) reports: Vec<serde_json::Value>,
}

/// An overlay that a step has finished and that is no layer yet.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The step's key.
    pub(crate) key: Key,
    /// The step's name.
    pub(crate) step: &'static str,
    /// The id that the layer will have; see [`random_id`].
    pub(crate) id: String,
    /// The id of the layer below, or the digest of the base.
    pub(crate) parent: String,
    /// The overlay.
    pub(crate) file: PathBuf,
    /// What the step reported.
    pub(crate) reports: Vec<serde_json::Value>,
}

/// What there is for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// A layer that fits.
    Here(Layer),
    /// Nothing.
    Absent,
    /// Something that is not what was stored.
    Damaged,
    /// A layer that stands on another one.
    OtherParent,
}

/// Why the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The file system said no.
    #[error("could not use the layer cache")]
    Io(#[from] io::Error),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The lock on one key. Freed when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub(crate) struct KeyLock(#[expect(dead_code, reason = "held for its lock, never read")] File);

/// What `gc` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Things removed.
    pub removed: usize,
    /// Bytes that they took.
    pub freed: u64,
    /// Bytes that the rest takes.
    pub kept: u64,
}

impl Layers {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs_err::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// The cache in a directory that need not exist, for looking only.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(file_name(key))
    }

    fn record_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// The layer of a key, if it is there and fits on `parent`.
    pub(crate) fn find(&self, key: &Key, parent: &str) -> io::Result<Option<Layer>> {
        match self.look(key, parent)? {
            Look::Here(layer) => Ok(Some(layer)),
            Look::Absent | Look::Damaged | Look::OtherParent => Ok(None),
        }
    }

    /// The layer of a key, or why there is none. Looks at lengths, not at contents.
    pub(crate) fn look(&self, key: &Key, parent: &str) -> io::Result<Look> {
        let text = match fs_err::read(self.record_path(key)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Absent),
            Err(error) => return Err(error),
        };
        // A record that cannot be read is one of another version or a damaged one: not a hit either way.
        let Ok(layer) = serde_json::from_slice::<Layer>(&text) else { return Ok(Look::Damaged) };
        let size = match fs_err::metadata(self.path(key)) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Absent),
            Err(error) => return Err(error),
        };
        Ok(if layer.key != *key || layer.size != size {
            Look::Damaged
        } else if layer.parent == parent {
            Look::Here(layer)
        } else {
            Look::OtherParent
        })
    }

    /// The layers of the longest prefix of `keys` that is present, bottom first.
    pub(crate) fn longest_prefix(&self, keys: &[Key], base: &str) -> io::Result<Vec<Layer>> {
        let mut found: Vec<Layer> = Vec::new();
        for key in keys {
            let parent = found.last().map_or(base, |layer| layer.id.as_str());
            match self.find(key, parent)? {
                Some(layer) => found.push(layer),
                None => break,
            }
        }
        Ok(found)
    }

    /// Whether the file still has the bytes that were stored. Reads all of it.
    pub(crate) fn verify(&self, layer: &Layer, cancel: &Cancel) -> Result<bool, LayerError> {
        Ok(hash_file(&self.path(&layer.key), cancel)? == layer.digest)
    }

    /// Marks a layer as used now, for `gc`.
    pub(crate) fn touch(&self, layer: &Layer) -> io::Result<()> {
        let file = fs_err::OpenOptions::new().write(true).open(self.record_path(&layer.key))?;
        file.file().set_modified(SystemTime::now())
    }

    /// Takes a finished overlay in as the layer of its key. The caller holds the key's lock.
    ///
    /// The data is on disk before the record is, and the record before this returns: a crash leaves a file without a
    /// record, which is no layer. A child may be stored before its parent: it is no hit until the parent is there.
    pub(crate) fn store(&self, finished: Finished, cancel: &Cancel) -> Result<Layer, LayerError> {
        let Finished { key, step, id, parent, file, reports } = finished;
        let digest = hash_file(&file, cancel)?;
        let opened = fs_err::File::open(&file)?;
        opened.sync_all()?;
        let size = opened.metadata()?.len();
        drop(opened);
        let layer = Layer { key, step: step.to_owned(), id, parent, size, digest, reports };
        let key = &layer.key;
        // An older record must never vouch for the new file.
        remove_if_there(&self.record_path(key))?;
        fs_err::rename(&file, self.path(key))?;
        let mut record = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer_pretty(&mut record, &layer).map_err(io::Error::from)?;
        record.as_file().sync_all()?;
        record.persist(self.record_path(key)).map_err(|error| error.error)?;
        sync_dir(&self.dir)?;
        Ok(layer)
    }

    /// Notes that the step with this key, whose packages were in no lock file, led to the layer `to`.
    pub(crate) fn note_locked(&self, key: &Key, to: &Key, lock: &PackageLock) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer_pretty(&mut file, &(to, lock)).map_err(io::Error::from)?;
        file.persist(self.locked_path(key)).map_err(|error| error.error)?;
        Ok(())
    }

    /// In which versions the packages of the step with this key were installed, if the layer is still there.
    pub(crate) fn noted_lock(&self, key: &Key) -> io::Result<Option<PackageLock>> {
        let text = match fs_err::read(self.locked_path(key)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // One that cannot be read counts as none: then the packages are chosen anew.
        let Ok((to, lock)) = serde_json::from_slice::<(Key, PackageLock)>(&text) else { return Ok(None) };
        Ok(self.record_path(&to).exists().then_some(lock))
    }

    fn locked_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.locked"))
    }

    /// Forgets a layer.
    pub(crate) fn remove(&self, key: &Key) -> io::Result<()> {
        remove_if_there(&self.record_path(key))?;
        remove_if_there(&self.path(key))
    }

    /// Waits until nobody else builds this key. `waiting` is called once if somebody does.
    pub(crate) fn lock(&self, key: &Key, cancel: &Cancel, waiting: impl FnOnce()) -> Result<KeyLock, LayerError> {
        let path = self.dir.join(format!("{key}.lock"));
        let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?.into_parts().0;
        let mut waiting = Some(waiting);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(KeyLock(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    cancel.check()?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(errno) => return Err(LayerError::Io(errno.into())),
            }
        }
    }

    /// Says that layers are in use for as long as the lock lives: `gc` waits for nobody and goes away then.
    pub(crate) fn hold(&self) -> io::Result<KeyLock> {
        let file = self.use_lock()?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        Ok(KeyLock(file))
    }

    /// The lock under which layers may be removed; none while a build runs.
    pub(crate) fn hold_alone(&self) -> io::Result<Option<KeyLock>> {
        let file = self.use_lock()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(KeyLock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn use_lock(&self) -> io::Result<File> {
        let path = self.dir.join("in-use.lock");
        Ok(fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?.into_parts().0)
    }

    /// Removes layers that were not used for `age`, and then, least recently used first, until at most `size` bytes
    /// are left. A layer goes only after all layers on top of it. The caller has made sure with [`Self::hold_alone`]
    /// that no build is running.
    pub(crate) fn collect(&self, age: Option<Duration>, size: Option<ByteSize>) -> io::Result<Collected> {
        let mut layers = Vec::new();
        let mut collected = Collected::default();
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {
                    let used = fs_err::metadata(&path)?.modified()?;
                    match serde_json::from_slice::<Layer>(&fs_err::read(&path)?) {
                        Ok(layer) => layers.push((used, layer)),
                        Err(_) => remove_if_there(&path)?,
                    }
                }
                Some("locked") => {
                    let noted = serde_json::from_slice::<(Key, PackageLock)>(&fs_err::read(&path)?);
                    if noted.map_or(true, |(to, _)| !self.record_path(&to).exists()) {
                        remove_if_there(&path)?;
                    }
                }
                // A file without a record is what a crash left, or is about to get its record.
                Some("qcow2") if !self.dir.join(format!("{stem}.json")).exists() && is_old(&path)? => {
                    collected.removed += 1;
                    collected.freed += fs_err::metadata(&path)?.len();
                    remove_if_there(&path)?;
                }
                _ => {}
            }
        }
        layers.sort_by_key(|(used, _)| *used);
        let mut total: u64 = layers.iter().map(|(_, layer)| layer.size).sum();
        loop {
            let leaf = layers.iter().position(|(used, layer)| {
                let too_old = age.is_some_and(|age| used.elapsed().is_ok_and(|since| since >= age));
                let too_much = size.is_some_and(|size| total > size.bytes());
                (too_old || too_much) && !layers.iter().any(|(_, other)| other.parent == layer.id)
            });
            let Some(at) = leaf else { break };
            let (_, layer) = layers.remove(at);
            self.remove(&layer.key)?;
            total -= layer.size;
            collected.removed += 1;
            collected.freed += layer.size;
        }
        collected.kept = total;
        Ok(collected)
    }

    /// All layers whose record can be read.
    pub(crate) fn all(&self) -> io::Result<Vec<Layer>> {
        let mut layers = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Ok(layer) = serde_json::from_slice(&fs_err::read(&path)?)
            {
                layers.push(layer);
            }
        }
        Ok(layers)
    }
}

/// The name of a layer's file, by which its children record it as their backing file.
pub(crate) fn file_name(key: &Key) -> String {
    format!("{key}.qcow2")
}

fn is_old(path: &Path) -> io::Result<bool> {
    Ok(fs_err::metadata(path)?.modified()?.elapsed().is_ok_and(|age| age > Duration::from_hours(1)))
}

/// A new layer's id.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs_err::File::open(dir)?.sync_all()
}

/// The SHA-256 of a file's bytes.
pub(crate) fn hash_file(path: &Path, cancel: &Cancel) -> Result<Digest, LayerError> {
    use std::io::Read;
    let mut file = fs_err::File::open(path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: &str) -> Key {
        Key::first(&Digest::sha256(seed.as_bytes()))
    }

    fn add(layers: &Layers, seed: &str, parent: &str, bytes: usize) -> Layer {
        let file = layers.dir.join("new");
        fs_err::write(&file, vec![7; bytes]).unwrap();
        let (id, parent) = (random_id(), parent.to_owned());
        let finished = Finished { key: key(seed), step: "packages", id, parent, file, reports: Vec::new() };
        layers.store(finished, &Cancel::new()).unwrap()
    }

    fn cache() -> (tempfile::TempDir, Layers) {
        let dir = tempfile::tempdir().unwrap();
        let layers = Layers::open(dir.path().join("layers")).unwrap();
        (dir, layers)
    }

    #[test]
    fn a_child_is_a_hit_only_on_the_very_parent_it_was_made_on() {
        let (_dir, layers) = cache();
        let keys = [key("a"), key("b")];
        let a = add(&layers, "a", "base", 10);
        let b = add(&layers, "b", &a.id, 10);
        assert_eq!(layers.longest_prefix(&keys, "base").unwrap(), [a.clone(), b]);
        assert_eq!(layers.longest_prefix(&keys, "other base").unwrap(), []);

        let again = add(&layers, "a", "base", 10);
        assert_ne!(again.id, a.id);
        assert_eq!(layers.longest_prefix(&keys, "base").unwrap(), [again]);
    }

    #[test]
    fn damage_is_found() {
        let (_dir, layers) = cache();
        let a = add(&layers, "a", "base", 10);
        assert!(layers.verify(&a, &Cancel::new()).unwrap());
        fs_err::write(layers.path(&a.key), b"7777777776").unwrap();
        assert!(!layers.verify(&a, &Cancel::new()).unwrap());
        fs_err::write(layers.path(&a.key), b"777").unwrap();
        assert_eq!(layers.find(&a.key, "base").unwrap(), None);
        fs_err::write(layers.record_path(&a.key), b"{").unwrap();
        assert_eq!(layers.find(&a.key, "base").unwrap(), None);
    }

    #[test]
    fn gc_takes_leaves_first_and_stops_at_the_size() {
        let (_dir, layers) = cache();
        let a = add(&layers, "a", "base", 10);
        let b = add(&layers, "b", &a.id, 10);
        let _c = add(&layers, "c", &b.id, 10);
        let collected = layers.collect(None, Some(ByteSize::from_bytes(20))).unwrap();
        assert_eq!(collected, Collected { removed: 1, freed: 10, kept: 20 });
        assert_eq!(layers.longest_prefix(&[key("a"), key("b"), key("c")], "base").unwrap(), [a, b]);
        assert_eq!(layers.collect(Some(Duration::from_hours(1)), None).unwrap().removed, 0);
        assert_eq!(layers.collect(Some(Duration::ZERO), None).unwrap().removed, 2);
    }

    #[test]
    fn only_one_builds_a_key() {
        let (_dir, layers) = cache();
        let cancel = Cancel::new();
        let held = layers.lock(&key("a"), &cancel, || panic!("nobody holds it")).unwrap();
        let mut told = false;
        let stop = cancel.clone();
        assert!(matches!(
            layers.lock(&key("a"), &cancel, || {
                told = true;
                stop.cancel();
            }),
            Err(LayerError::Cancelled(_))
        ));
        assert!(told);
        drop(held);
        layers.lock(&key("a"), &Cancel::new(), || panic!("nobody holds it")).unwrap();
    }
}
