//! What the tests of this crate share.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use labwright_core::Diagnostics;
use labwright_lab::{FileKind, Files, Loaded, Origin, load};

/// The real file system.
#[derive(Debug)]
pub(crate) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs_err::read(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match fs_err::metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(FileKind::File)),
            Ok(metadata) if metadata.is_dir() => Ok(Some(FileKind::Directory)),
            Ok(_) => Ok(Some(FileKind::Other)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The crate's directory.
pub(crate) fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of the lab that uses every key.
pub(crate) fn full() -> String {
    fs_err::read_to_string(here().join("tests/full/lab.yaml")).expect("the lab is there")
}

/// Loads a text beside the files of the full lab.
pub(crate) fn load_text(text: &str) -> Result<Loaded, Diagnostics> {
    load("lab.yaml", text, (&here().join("tests/full"), &Disk), &BTreeMap::new(), Origin::Source, &BTreeMap::new())
}
