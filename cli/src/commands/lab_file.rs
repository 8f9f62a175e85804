//! Loads a lab with the recipes that it names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_core::{Diagnostics, Severity};
use labwright_lab::resolved::ImageSource;
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
    let lab = match load(&name, &text, (dir, &HostFiles), &overrides, Origin::Source) {
        Ok(loaded) => {
            found.extend(loaded.warnings.0.iter().cloned());
            Some(loaded)
        }
        Err(mistakes) => {
            found.extend(mistakes.0);
            None
        }
    };
    let mut offers = BTreeMap::new();
    for written in recipes_in(&name, &text) {
        let path = dir.join(&written);
        // That it is missing was said where the lab names it.
        if recipe_file::find(&path).is_err() {
            continue;
        }
        match recipe_file::load_whole(&path, &[]) {
            Ok((recipes, below)) => {
                found.extend(recipes.iter().flat_map(|recipe| recipe.warnings.0.iter().cloned()));
                // The names of the catalogue are no matter of the recipe's grammar.
                found.extend(base::unknown_name(&recipes[0]));
                offers.insert(written, offer(&below));
            }
            Err(error) => match error.diagnostics() {
                Some(mistakes) => found.extend(mistakes.0.iter().cloned()),
                None => return Err(error),
            },
        }
    }
    if let Some(loaded) = &lab {
        found.extend(loaded.check_images(&by_machine(loaded, &offers)).0);
    }
    let has_errors = found.iter().any(|one| one.severity == Severity::Error);
    match lab {
        Some(loaded) if !has_errors => {
            Ok(LabFile { loaded, file: file.to_owned(), warnings: Diagnostics(found) })
        }
        _ => Err(Diagnostics(found).into()),
    }
}

/// What a recipe's disk will offer.
fn offer(below: &Below) -> ImageOffer {
    ImageOffer { access: below.access().to_vec(), virtual_size: below.disk_size() }
}

/// The offers by machine; an image that is no recipe is known once the lab is built.
fn by_machine(loaded: &Loaded, offers: &BTreeMap<String, ImageOffer>) -> BTreeMap<String, Option<ImageOffer>> {
    let of_machine = |source: &ImageSource| match source {
        ImageSource::Recipe(path) => offers.get(&path.written).cloned(),
        ImageSource::Reference(_) => None,
    };
    let machines = loaded.lab.machines.iter();
    machines.filter_map(|machine| Some((machine.name.clone(), Some(of_machine(&machine.image)?)))).collect()
}
