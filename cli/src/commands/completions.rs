use clap::CommandFactory;

use crate::args::{Cli, Completions};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Prints a completion script.
pub(super) fn run(args: &Completions, context: &Context<'_>) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "labwright", &mut script);
    let script = String::from_utf8(script).map_err(|source| CommandError::new(Kind::Bug, source))?;
    context.ui.data(&script)
}
