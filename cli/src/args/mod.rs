//! What was typed. No behaviour: [`crate::commands`] gives it a meaning.

mod host;
mod image;
mod lab;
mod recipe;
mod remote;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use host::{Completions, Doctor};
pub use image::{Audit, Gc, Run};
pub use lab::{Cluster, Dns, Render, RouteKind, ServiceChoice, WithSecrets};
pub use recipe::{
    Build, Check, New, OnError, Plan, RunnerChoice, Schema, SchemaKind, SecretFrom, SecretSource, Template,
};
pub use remote::{Base, BasePull, BaseRefresh, Copy, Inspect, Pull, Push, Registries};

/// Turns a text file into a lab that opens in a browser.
#[derive(Debug, Parser)]
#[command(
    name = "labwright",
    version,
    about,
    max_term_width = 100,
    propagate_version = true,
    after_help = "Example: labwright build recipes/library/debian-terminal && labwright run debian-terminal",
    after_long_help = AFTER
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = concat!(
    "Example: labwright build recipes/library/debian-terminal && labwright run debian-terminal\n\n",
    "Exit codes:\n",
    "  0    success\n",
    "  1    the recipe or lab is wrong\n",
    "  2    the command line is wrong\n",
    "  3    the host lacks something (see `labwright doctor`)\n",
    "  4    a registry or another remote refused\n",
    "  5    a build step failed\n",
    "  6    an audit found what must not be in an image\n",
    "  7    labwright.lock does not fit: what it has is gone, or --locked and it would have to change\n",
    "  70   a bug in Labwright\n",
    "  130  stopped by a signal\n\n",
    "Environment:\n",
    "  LABWRIGHT_HOME              keeps images and caches there (else the XDG directories)\n",
    "  LABWRIGHT_APPLIANCE_KERNEL  is used where --appliance-kernel names no file\n",
    "  SOURCE_DATE_EPOCH           the time of creation that images carry (else 1970)\n",
    "  REGISTRY_AUTH_FILE          registry credentials (else where podman and docker keep them)\n",
    "  NO_COLOR, CI                no colours; no progress display\n",
    "  RUST_LOG                    messages for developers, in tracing's syntax",
);

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// How results and events look: text for people, JSON for scripts (results on stdout, events on stderr, one a line)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Say only warnings and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more for developers; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// How results and events look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For scripts
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a lab, or a recipe, that builds as it stands
    New(New),
    /// Find every mistake in a recipe, or in a lab and its recipes
    Check(Check),
    /// Say what a build would do and why, and change nothing
    Plan(Plan),
    /// Build the disk of a recipe, or of each machine of a lab, and pack it as an image
    Build(Build),
    /// Write the Kubernetes manifests of a lab
    Render(Render),
    /// Boot an image under QEMU and print the address of its front door
    Run(Run),
    /// Copy an image from the local store to a registry, an OCI layout or an archive
    Push(Push),
    /// Bring an image from a registry, a layout or an archive into the local store
    Pull(Pull),
    /// Copy an image between registries, layouts, archives and the local store
    Copy(Copy),
    /// Show what is in an image
    Inspect(Inspect),
    /// Look for identities, residue, credentials and secrets in an image or a disk
    Audit(Audit),
    /// List, fetch and update the disks that builds start from
    #[command(subcommand)]
    Base(Base),
    /// Remove what nothing needs any more, and what killed runs left behind
    Gc(Gc),
    /// Say what this host can and cannot do, and what to install
    Doctor(Doctor),
    /// Print a JSON Schema
    Schema(Schema),
    /// Print a completion script for a shell
    Completions(Completions),
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_has_the_exit_codes_as_the_errors_define_them() {
        assert!(AFTER.contains(crate::error::EXIT_CODES));
    }

    /// The reference page is what `--help` says, so it cannot go stale: this test writes what it should be beside it.
    #[test]
    fn the_reference_page_is_the_help() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut page = String::from("# Command-line reference\n\nWritten by `labwright --help`; a test compares.\n");
        let mut section = |name: &str, command: &mut clap::Command| {
            write!(page, "\n## {name}\n\n```text\n{}\n```\n", command.render_long_help().to_string().trim_end())
                .expect("a string takes everything");
        };
        section("labwright", &mut command);
        let shown = |command: &clap::Command| -> Vec<clap::Command> {
            let subs = command.get_subcommands().cloned();
            subs.filter(|sub| sub.get_name() != "help" && !sub.is_hide_set()).collect()
        };
        for sub in shown(&command) {
            section(&format!("labwright {}", sub.get_name()), &mut sub.clone().term_width(100));
            for verb in shown(&sub) {
                let name = format!("labwright {} {}", sub.get_name(), verb.get_name());
                section(&name, &mut verb.clone().term_width(100));
            }
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
        let page: String = page.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n");
        if fs_err::read_to_string(&path).unwrap_or_default() != page {
            let new = path.with_extension("md.new");
            fs_err::write(&new, page).unwrap();
            panic!("docs/reference/cli.md is not what --help says; look at cli.md.new and rename it");
        }
    }
}
