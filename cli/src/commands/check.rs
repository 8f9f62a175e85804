use labwright_core::Diagnostics;
use serde::Serialize;

use super::{base, recipe_file};
use crate::args::{Check, Format};
use crate::commands::Context;
use crate::error::CommandError;
use crate::ui::Mistake;

/// The answer of `check`.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    diagnostics: Vec<Mistake<'a>>,
}

/// Finds every mistake in a recipe.
pub(super) fn run(args: &Check, context: &Context<'_>) -> Result<(), CommandError> {
    let result = recipe_file::load_chain(&args.path, &args.set).and_then(|mut recipes| {
        // The names of the catalogue are no matter of the recipe's grammar.
        match base::unknown_name(&recipes[0]) {
            Some(mistake) => Err(Diagnostics(vec![mistake]).into()),
            None => Ok(recipes.pop().expect("a chain has a recipe")),
        }
    });
    let found = match &result {
        Ok(loaded) => &loaded.warnings,
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
    let loaded = result?;
    super::show_warnings(&loaded, context);
    context.ui.note(format!("{}: {} {} is fine", loaded.file.name, loaded.recipe.name, loaded.recipe.version));
    Ok(())
}
