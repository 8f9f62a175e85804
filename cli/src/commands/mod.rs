//! One file for each verb: what was typed, a function, nothing clever.

mod audit;
mod base;
mod build;
mod build_secrets;
mod check;
mod completions;
mod container;
mod copy;
mod disk_cache;
mod doctor;
mod documents;
mod gc;
mod image;
mod inspect;
mod lab_file;
mod lab_images;
mod machine_dir;
mod new;
mod package_locks;
mod plan;
mod published;
mod pull;
mod push;
mod recipe_file;
mod render;
mod run;
mod runner;
mod schema;
mod terminal;

use labwright_core::{Cancel, Diagnostics, Severity};
use tokio::runtime::Runtime;

use crate::args::Command;
use crate::error::CommandError;
use crate::settings::Settings;
use crate::ui::Ui;

/// What every command is given.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where to speak.
    pub ui: &'a Ui,
    /// Set when the user wants to stop.
    pub cancel: &'a Cancel,
    /// What the environment means.
    pub settings: &'a Settings,
    /// Where asynchronous work runs.
    pub runtime: &'a Runtime,
}

/// Calls the function of the verb.
pub fn dispatch(command: Command, context: &Context<'_>) -> Result<(), CommandError> {
    match command {
        Command::New(args) => new::run(&args, context),
        Command::Check(args) => check::run(&args, context),
        Command::Plan(args) => plan::run(&args, context),
        Command::Build(args) => build::run(&args, context),
        Command::Render(args) => render::run(&args, context),
        Command::Run(args) => run::run(&args, context),
        Command::Push(args) => push::run(&args, context),
        Command::Pull(args) => pull::run(&args, context),
        Command::Copy(args) => copy::run(&args, context),
        Command::Base(verb) => base::run(&verb, context),
        Command::Inspect(args) => inspect::run(&args, context),
        Command::Audit(args) => audit::run(&args, context),
        Command::Gc(args) => gc::run(&args, context),
        Command::Doctor(_) => doctor::run(context),
        Command::Schema(args) => schema::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
    }
}

/// Shows what works in a recipe or lab and is likely not meant.
fn show_warnings(warnings: &Diagnostics, context: &Context<'_>) {
    for warning in warnings.0.iter().filter(|found| found.severity == Severity::Warning) {
        context.ui.diagnostic(warning);
    }
}
