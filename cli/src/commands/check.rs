use labwright_core::Diagnostics;
use serde::Serialize;

use super::documents::{self, Document};
use super::{base, lab_file, recipe_file};
use crate::args::{Check, Format};
use crate::commands::Context;
use crate::error::CommandError;
use crate::ui::Mistake;

/// The answer of `check`.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    diagnostics: Vec<Mistake<'a>>,
}

/// A document without mistakes.
struct Fine {
    warnings: Diagnostics,
    /// What it is, for people.
    name: String,
}

/// Finds every mistake in a recipe, or in a lab and its recipes.
pub(super) fn run(args: &Check, context: &Context<'_>) -> Result<(), CommandError> {
    let result = documents::find(&args.path).and_then(|document| match document {
        Document::Recipe => recipe(args),
        Document::Lab(file) => {
            let lab = lab_file::load_lab(&file, &args.set)?;
            let name = format!("{}: {} {} is fine", file.display(), lab.loaded.lab.name, lab.loaded.lab.version);
            Ok(Fine { warnings: lab.warnings, name })
        }
    });
    let found = match &result {
        Ok(fine) => &fine.warnings,
        Err(error) => match error.diagnostics() {
            Some(diagnostics) => diagnostics,
            None => return result.map(drop),
        },
    };
    if context.ui.format() == Format::Json {
        let answer = Answer { diagnostics: found.0.iter().map(Mistake::from).collect() };
        context.ui.result(&answer, String::new)?;
        return result.map(drop);
    }
    let fine = result?;
    super::show_warnings(&fine.warnings, context);
    context.ui.note(fine.name);
    Ok(())
}

fn recipe(args: &Check) -> Result<Fine, CommandError> {
    let mut recipes = recipe_file::load_chain(&args.path, &args.set)?;
    // The names of the catalogue are no matter of the recipe's grammar.
    if let Some(mistake) = base::unknown_name(&recipes[0]) {
        return Err(Diagnostics(vec![mistake]).into());
    }
    let loaded = recipes.pop().expect("a chain has a recipe");
    let name = format!("{}: {} {} is fine", loaded.file.name, loaded.recipe.name, loaded.recipe.version);
    Ok(Fine { warnings: loaded.warnings, name })
}
