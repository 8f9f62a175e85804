use std::path::PathBuf;

use clap::{Args, ValueEnum};
use labwright_builder::StepKind;

use super::Registries;

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = "Example: labwright new web-shell && labwright build web-shell")]
pub struct New {
    /// Name of the recipe and of the directory to make: lower-case letters, digits and dashes
    pub name: String,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Example: labwright check recipes/library/debian-terminal")]
pub struct Check {
    /// A recipe, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Gives a variable of the recipe another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// Arguments of `build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright build recipes/library/debian-terminal
  labwright build -o disk.qcow2 --set user=alice web-shell/recipe.yaml

The image goes into the local store under the recipe's name and version. Building needs root:
see `labwright doctor`.")]
pub struct Build {
    /// A recipe, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Writes the disk to this file as well
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Gives a variable of the recipe another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Runs this step and all behind it anew, whatever is cached
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub from: Option<StepKind>,
    /// Runs every step anew, whatever is cached; the results are cached again
    #[arg(long, conflicts_with = "from")]
    pub no_cache: bool,
    /// What to do when a step fails: `shell` opens a shell in the disk as the step left it (on a terminal only)
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_error: OnError,
    /// Builds and packs although the store has the image already
    #[arg(long)]
    pub force: bool,
    /// Fails if labwright.lock has nothing for the base, or something else than is there now
    #[arg(long, conflicts_with = "update")]
    pub locked: bool,
    /// Takes today's base and writes it into labwright.lock
    #[arg(long)]
    pub update: bool,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// What to do when a step fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// End
    #[default]
    Fail,
    /// Open a shell in the failing state, then end
    Shell,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: labwright plan recipes/library/debian-terminal

Nothing is downloaded, made or written. Cached layers are believed by their length; a build checks their contents.")]
pub struct Plan {
    /// A recipe, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Gives a variable of the recipe another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Fails if labwright.lock has nothing for the base
    #[arg(long)]
    pub locked: bool,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Example: labwright schema recipe > recipe.schema.json")]
pub struct Schema {
    /// What the schema describes
    #[arg(value_enum)]
    pub kind: SchemaKind,
}

/// The kinds of file that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// A recipe
    Recipe,
}

/// Splits `NAME=VALUE`; the value may hold further equals signs.
fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// The step that is called so.
fn step(text: &str) -> Result<StepKind, String> {
    StepKind::ALL.into_iter().find(|step| step.as_str() == text).ok_or_else(|| {
        let names: Vec<&str> = StepKind::ALL.into_iter().map(StepKind::as_str).collect();
        format!("the steps are {}", names.join(", "))
    })
}
