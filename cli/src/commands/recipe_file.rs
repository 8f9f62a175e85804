//! Finds and loads the recipe that a path names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use labwright_recipes::{FileKind, Files, Loaded, load};

use crate::error::{CommandError, Kind};

/// What a recipe is called in its directory.
const FILE_NAME: &str = "recipe.yaml";
/// A recipe is written by hand; whatever is larger is another file.
const MAX_SIZE: u64 = 1 << 20;

/// The host's files, for the checks of a recipe.
#[derive(Debug)]
struct HostFiles;

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

/// The recipe file that `path` names: itself, or the one in it.
pub(super) fn find(path: &Path) -> Result<PathBuf, CommandError> {
    let not_there = |text: String| {
        CommandError::sentence(Kind::Input, text)
            .hint("give a recipe, or a directory with a recipe.yaml; `labwright new NAME` makes one")
    };
    let file = if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() };
    if file.is_file() {
        // `./recipe.yaml` of the default path reads better without the dot.
        return Ok(file.strip_prefix(".").map(Path::to_owned).unwrap_or(file));
    }
    Err(not_there(if path.is_dir() {
        format!("there is no {FILE_NAME} in {}", path.display())
    } else {
        format!("there is no recipe at {}", path.display())
    }))
}

/// Loads the recipe that `path` names, with values for its variables.
pub(super) fn load_recipe(path: &Path, set: &[(String, String)]) -> Result<Loaded, CommandError> {
    let file = find(path)?;
    let fail = |source: io::Error| CommandError::new(Kind::Input, source);
    let size = fs_err::metadata(&file).map_err(fail)?.len();
    if size > MAX_SIZE {
        return Err(CommandError::sentence(
            Kind::Input,
            format!("{} is too large for a recipe ({size} bytes)", file.display()),
        ));
    }
    let bytes = fs_err::read(&file).map_err(fail)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CommandError::sentence(Kind::Input, format!("{} is not UTF-8 text (byte {at})", file.display()))
    })?;
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let overrides: BTreeMap<String, String> = set.iter().cloned().collect();
    Ok(load(&file.display().to_string(), &text, dir, &HostFiles, &overrides)?)
}
