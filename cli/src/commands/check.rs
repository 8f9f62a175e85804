use labwright_core::{Diagnostics, Severity};
use serde::Serialize;

use super::recipe_file;
use crate::args::{Check, Format};
use crate::commands::Context;
use crate::error::CommandError;

/// A mistake, for scripts. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mistake<'a> {
    severity: &'static str,
    message: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    label: &'a str,
    hints: &'a [String],
}

/// The answer of `check`.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    diagnostics: Vec<Mistake<'a>>,
}

/// Finds every mistake in a recipe.
pub(super) fn run(args: &Check, context: &Context<'_>) -> Result<(), CommandError> {
    let result = recipe_file::load_recipe(&args.path, &args.set);
    let found = match &result {
        Ok(loaded) => &loaded.warnings,
        Err(error) => match error.diagnostics() {
            Some(diagnostics) => diagnostics,
            None => return result.map(drop),
        },
    };
    if context.ui.format() == Format::Json {
        context.ui.result(&answer(found), String::new)?;
        return result.map(drop);
    }
    let loaded = result?;
    super::show_warnings(&loaded, context);
    context.ui.note(format!("{}: {} {} is fine", loaded.file.name, loaded.recipe.name, loaded.recipe.version));
    Ok(())
}

fn answer(found: &Diagnostics) -> Answer<'_> {
    let mistakes = found.0.iter().map(|diagnostic| {
        let (line, column) = diagnostic.file.line_column(diagnostic.span.start);
        let (end_line, end_column) = diagnostic.file.line_column(diagnostic.span.end.max(diagnostic.span.start));
        Mistake {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &diagnostic.message,
            file: &diagnostic.file.name,
            line,
            column,
            end_line,
            end_column,
            label: &diagnostic.label,
            hints: &diagnostic.hints,
        }
    });
    Answer { diagnostics: mistakes.collect() }
}
