use crate::args::{Schema, SchemaKind};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Prints a JSON Schema.
pub(super) fn run(args: &Schema, context: &Context<'_>) -> Result<(), CommandError> {
    let schema = match args.kind {
        SchemaKind::Recipe => labwright_recipes::schema(),
        SchemaKind::Lab => labwright_lab::schema(),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(|source| CommandError::new(Kind::Bug, source))?;
    context.ui.data(&text)
}
