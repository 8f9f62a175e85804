//! Finds and reads the recipe or lab that a path names.

use std::io;
use std::path::{Path, PathBuf};

use labwright_recipes::{FileKind, Files};

use crate::error::{CommandError, Kind};

/// What a lab is called in its directory.
pub(super) const LAB: &str = "lab.yaml";
/// What a recipe is called in its directory.
pub(super) const RECIPE: &str = "recipe.yaml";
/// A document is written by hand; whatever is larger is another file.
const MAX_SIZE: u64 = 1 << 20;

/// The host's files, for the checks of a document.
#[derive(Debug)]
pub(super) struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs_err::read(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match fs_err::metadata(path) {
            Ok(data) if data.is_file() => Ok(Some(FileKind::File)),
            Ok(data) if data.is_dir() => Ok(Some(FileKind::Directory)),
            Ok(_) => Ok(Some(FileKind::Other)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A document that a path names.
#[derive(Debug)]
pub(super) enum Document {
    /// A recipe, which is found by the path as well.
    Recipe,
    /// A lab's file.
    Lab(PathBuf),
}

/// The recipe or lab that `path` names: itself, or the one in it, a lab before a recipe.
pub(super) fn find(path: &Path) -> Result<Document, CommandError> {
    if path.is_dir() {
        let lab = path.join(LAB);
        if lab.is_file() {
            return Ok(Document::Lab(tidy(&lab)));
        }
        if path.join(RECIPE).is_file() {
            return Ok(Document::Recipe);
        }
        return Err(missing(format!("there is neither a {LAB} nor a {RECIPE} in {}", path.display())));
    }
    if !path.is_file() {
        return Err(missing(format!("there is no recipe or lab at {}", path.display())));
    }
    let text = read(path)?;
    let is_lab = labwright_lab::is_lab(&path.display().to_string(), &text);
    Ok(if is_lab { Document::Lab(tidy(path)) } else { Document::Recipe })
}

/// `./recipe.yaml` of the default path reads better without the dot.
pub(super) fn tidy(file: &Path) -> PathBuf {
    file.strip_prefix(".").map_or_else(|_| file.to_owned(), Path::to_owned)
}

/// Nothing is where the user pointed.
pub(super) fn missing(text: String) -> CommandError {
    CommandError::sentence(Kind::Input, text)
        .hint("give a recipe or a lab, or a directory with one; `labwright new NAME` makes one")
}

/// The text of a document.
pub(super) fn read(file: &Path) -> Result<String, CommandError> {
    let fail = |source: io::Error| CommandError::new(Kind::Input, source);
    let size = fs_err::metadata(file).map_err(fail)?.len();
    if size > MAX_SIZE {
        let text = format!("{} is too large for a recipe or lab ({size} bytes)", file.display());
        return Err(CommandError::sentence(Kind::Input, text));
    }
    String::from_utf8(fs_err::read(file).map_err(fail)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CommandError::sentence(Kind::Input, format!("{} is not UTF-8 text (byte {at})", file.display()))
    })
}

/// The directory that a document's paths are relative to.
pub(super) fn dir(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
