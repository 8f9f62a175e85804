use fs_err as fs;

use super::{Layout, LayoutError};

/// Protects `index.json`; held for moments.
const INDEX_LOCK: &str = ".labwright-index.lock";

/// Held shared by whoever adds blobs that nothing names yet, alone by whoever removes blobs that nothing names.
const STORE_LOCK: &str = ".labwright-store.lock";

/// Says that blobs are being added: while it lives, nobody removes blobs that no document names yet.
#[derive(Debug)]
#[must_use = "the guard protects only while it lives"]
pub struct WriteGuard(fs::File);

impl WriteGuard {
    /// Ends the protection.
    pub fn close(self) {
        drop(self.0);
    }
}

impl Layout {
    fn lock_file(&self, name: &str) -> Result<fs::File, LayoutError> {
        // The files stay: removing a lock file while another waits for it would give two owners.
        Ok(fs::OpenOptions::new().create(true).truncate(false).write(true).open(self.dir().join(name))?)
    }

    /// Waits until the index is ours.
    pub(super) fn lock_index(&self) -> Result<fs::File, LayoutError> {
        let file = self.lock_file(INDEX_LOCK)?;
        file.file().lock()?;
        Ok(file)
    }

    /// Announces that blobs will be added and named later; take it before the first one, drop it after the tag.
    pub fn begin_write(&self) -> Result<WriteGuard, LayoutError> {
        let file = self.lock_file(STORE_LOCK)?;
        file.file().lock_shared()?;
        Ok(WriteGuard(file))
    }

    /// Makes sure that nobody adds blobs; fails at once if somebody does.
    pub(super) fn lock_for_removal(&self) -> Result<fs::File, LayoutError> {
        let file = self.lock_file(STORE_LOCK)?;
        match file.file().try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(LayoutError::Busy { dir: self.dir().to_owned() }),
            Err(std::fs::TryLockError::Error(source)) => Err(source.into()),
        }
    }
}
