//! Finds and loads the recipe that a path names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_core::{Diagnostic, Diagnostics};
use labwright_recipes::resolved::Base;
use labwright_recipes::{Below, Feature, Loaded, load_on};

use super::documents::{self, HostFiles, RECIPE};
use crate::error::{CommandError, Kind};

/// A chain of backing files that is longer is slow to read, and likely a mistake.
const MAX_DEPTH: usize = 8;

/// The recipe file that `path` names: itself, or the one in it.
pub(super) fn find(path: &Path) -> Result<PathBuf, CommandError> {
    let file = if path.is_dir() { path.join(RECIPE) } else { path.to_owned() };
    if file.is_file() {
        return Ok(documents::tidy(&file));
    }
    if path.join(documents::LAB).is_file() {
        let text = format!("{} is a lab, and this is for recipes", path.display());
        return Err(CommandError::sentence(Kind::Input, text).hint(
            "name the directory of the recipe of one of its machines; `check`, `plan`, `build`, `push` and `render` take labs",
        ));
    }
    Err(documents::missing(if path.is_dir() {
        format!("there is no {RECIPE} in {}", path.display())
    } else {
        format!("there is no recipe at {}", path.display())
    }))
}

/// Loads the recipe that `path` names, with values for its variables, and all recipes that it starts from, the lowest
/// first; never none.
pub(super) fn load_chain(path: &Path, set: &[(String, String)]) -> Result<Vec<Loaded>, CommandError> {
    load_whole(path, set).map(|(recipes, _)| recipes)
}

/// The same, with what the disk of the last one offers.
pub(super) fn load_whole(path: &Path, set: &[(String, String)]) -> Result<(Vec<Loaded>, Below), CommandError> {
    chain(path, set, &mut Vec::new())
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
    let text = documents::read(&file)?;
    let overrides: BTreeMap<String, String> = set.iter().cloned().collect();
    Ok(load_on(&file.display().to_string(), &text, documents::dir(&file), &HostFiles, &overrides, below)?)
}
