//! Loads a lab with the recipes that it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_core::{Diagnostic, Diagnostics, Severity, Span};
use labwright_lab::{ImageOffer, Loaded, Origin, load, recipes_in};
use labwright_recipes::Below;

use super::documents::{self, HostFiles};
use super::{base, recipe_file};
use crate::error::CommandError;

/// A lab without mistakes, and its recipes without mistakes.
#[derive(Debug)]
pub(super) struct LabFile {
    /// The lab.
    pub(super) loaded: Loaded,
    /// Its file.
    pub(super) file: PathBuf,
    /// The secrets that its recipes name.
    pub(super) build_secrets: Vec<String>,
    /// What works in the lab or its recipes and is likely not meant.
    pub(super) warnings: Diagnostics,
}

/// Loads the lab in `file` and all recipes that it names, and checks each against the other. The error has all mistakes of
/// all files, unless one could not be read at all.
pub(super) fn load_lab(file: &Path, set: &[(String, String)]) -> Result<LabFile, CommandError> {
    let text = documents::read(file)?;
    let (name, dir) = (file.display().to_string(), documents::dir(file));
    let overrides: BTreeMap<String, String> = set.iter().cloned().collect();
    let mut found = Vec::new();
    let mut offers = BTreeMap::new();
    let mut build_secrets = Vec::new();
    let mut named: BTreeMap<String, PathBuf> = BTreeMap::new();
    for written in recipes_in(&name, &text) {
        // Collecting the components drops every `.`, which nobody wants to read.
        let path: PathBuf = dir.join(&written).components().collect();
        // That it is missing is said where the lab names it.
        if recipe_file::find(&path).is_err() {
            continue;
        }
        match recipe_file::load_whole(&path, &[]) {
            Ok((recipes, below)) => {
                found.extend(recipes.iter().flat_map(|recipe| recipe.warnings.0.iter().cloned()));
                // The names of the catalogue are no matter of the recipe's grammar.
                found.extend(base::unknown_name(&recipes[0]));
                build_secrets.extend(recipes.iter().flat_map(|recipe| recipe.recipe.build_secrets.iter().cloned()));
                let upper = recipes.last().expect("a chain has a recipe");
                found.extend(same_name(upper, &path, &mut named));
                offers.insert(written, offer(&below));
            }
            Err(error) => match error.diagnostics() {
                Some(mistakes) => found.extend(mistakes.0.iter().cloned()),
                None => return Err(error),
            },
        }
    }
    let lab = load(&name, &text, (dir, &HostFiles), &overrides, Origin::Source, &offers);
    let of_lab = match &lab {
        Ok(loaded) => &loaded.warnings,
        Err(mistakes) => mistakes,
    };
    // The lab's come first: it is what was named.
    found.splice(0..0, of_lab.0.iter().cloned());
    let has_errors = found.iter().any(|one| one.severity == Severity::Error);
    match lab {
        Ok(loaded) if !has_errors => {
            Ok(LabFile { loaded, file: file.to_owned(), build_secrets, warnings: Diagnostics(found) })
        }
        _ => Err(Diagnostics(found).into()),
    }
}

/// Two recipes of one lab under one name and version would take the image from each other with every build.
fn same_name(
    upper: &labwright_recipes::Loaded,
    path: &Path,
    named: &mut BTreeMap<String, PathBuf>,
) -> Option<Diagnostic> {
    let image = format!("{}:{}", upper.recipe.name, upper.recipe.version);
    let real = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let first = named.insert(image.clone(), real.clone()).filter(|first| *first != real)?;
    let place = upper
        .file
        .text
        .find(&upper.recipe.name)
        .map_or(Span::default(), |at| Span::new(at, at + upper.recipe.name.len()));
    let message = format!("{} makes the image {image} as well", first.display());
    Some(Diagnostic::error(&upper.file, place, message).hint("give each recipe of a lab a name of its own"))
}

/// What a recipe's disk will offer.
fn offer(below: &Below) -> ImageOffer {
    ImageOffer { form: below.form(), access: below.access().to_vec(), virtual_size: below.disk_size() }
}
