//! Finds and loads the recipe that a path names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use labwright_core::{Diagnostic, Diagnostics};
use labwright_recipes::resolved::Base;
use labwright_recipes::{Below, Feature, FileKind, Files, Loaded, load_on};

use crate::error::{CommandError, Kind};

/// What a recipe is called in its directory.
const FILE_NAME: &str = "recipe.yaml";
/// A recipe is written by hand; whatever is larger is another file.
const MAX_SIZE: u64 = 1 << 20;
/// A chain of backing files that is longer is slow to read, and likely a mistake.
const MAX_DEPTH: usize = 8;

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

/// Loads the recipe that `path` names, with values for its variables, and all recipes that it starts from, the lowest
/// first; never none.
pub(super) fn load_chain(path: &Path, set: &[(String, String)]) -> Result<Vec<Loaded>, CommandError> {
    chain(path, set, &mut Vec::new()).map(|(recipes, _)| recipes)
}

fn chain(
    path: &Path,
    set: &[(String, String)],
    above: &mut Vec<PathBuf>,
) -> Result<(Vec<Loaded>, Below), CommandError> {
    let upper = load_recipe(path, set)?;
    let Base::Recipe(local) = &upper.recipe.base else {
        let below = Below::new(&upper.recipe, None);
        return Ok((vec![upper], below));
    };
    let mistake = |text: String| {
        let place = upper.features.iter().find(|(feature, _)| *feature == Feature::BaseRecipe);
        let (_, span) = place.expect("a base that is a recipe is a feature");
        Diagnostic::error(&upper.file, *span, text)
    };
    let real = |path: &Path| {
        let file = find(path)?;
        fs_err::canonicalize(file).map_err(|source| CommandError::new(Kind::Input, source))
    };
    above.push(real(path)?);
    let next = real(&local.path)?;
    if above.contains(&next) {
        let text = "this recipe starts from itself: its base leads back to it".to_owned();
        return Err(Diagnostics(vec![mistake(text)]).into());
    }
    if above.len() >= MAX_DEPTH {
        return Err(Diagnostics(vec![mistake(format!("more than {MAX_DEPTH} recipes stand on one another"))]).into());
    }
    // Values are for the variables of the recipe that was named; those of the others have their defaults.
    let (mut recipes, below) = chain(&local.path, &[], above).map_err(|error| match error.diagnostics() {
        Some(found) => {
            let mut all = found.clone();
            all.0.push(mistake(format!("the base recipe `{}` has mistakes", local.written)));
            all.into()
        }
        None => error,
    })?;
    let upper = load_over(path, set, Some(&below))?;
    let below = Below::new(&upper.recipe, Some(&below));
    recipes.push(upper);
    Ok((recipes, below))
}

/// Loads the recipe that `path` names, with values for its variables.
pub(super) fn load_recipe(path: &Path, set: &[(String, String)]) -> Result<Loaded, CommandError> {
    load_over(path, set, None)
}

fn load_over(path: &Path, set: &[(String, String)], below: Option<&Below>) -> Result<Loaded, CommandError> {
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
    Ok(load_on(&file.display().to_string(), &text, dir, &HostFiles, &overrides, below)?)
}
