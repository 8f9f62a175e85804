//! The command line: the only part of Labwright that talks to a person.
//!
//! Arguments go three steps: [`args`] is what was typed, [`settings`] is what it means together with the
//! environment, [`commands`] does it, one file per verb, by calling the library crates. [`ui`] shows the events that the
//! libraries emit; stdout is data, stderr is talk. Every name of an environment variable is in [`env`], every exit
//! code in [`error`].
//!
//! This crate never knows how something is done: no disk layout, no protocol, no recipe rule is here.
//!
//! ```
//! use clap::Parser;
//!
//! let typed = labwright::args::Cli::try_parse_from(["labwright", "check", "recipe.yaml"]).unwrap();
//! assert!(matches!(typed.command, labwright::args::Command::Check(_)));
//! ```

pub mod args;
pub mod commands;
pub mod env;
pub mod error;
pub mod settings;
mod signals;
pub mod ui;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser;
use labwright_core::Cancel;

use crate::args::Cli;
use crate::commands::Context;
use crate::error::{CommandError, Kind};
use crate::settings::Settings;
use crate::ui::{Motion, Ui};

/// Runs the program on the process's arguments and returns its exit code.
pub fn main() -> ExitCode {
    // A build starts this program anew as its worker, in namespaces of its own; nobody types that.
    if let Some(code) = labwright_builder::run_worker_if_asked() {
        return ExitCode::from(code);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap decides between stdout (help, version) and stderr; a closed pipe is nobody's mistake.
            drop(error.print());
            return if error.use_stderr() { Kind::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    ui::say_panics_plainly();
    // A display that moves would draw over the shell that may come.
    let shell = matches!(&cli.command, args::Command::Build(build) if build.on_error == args::OnError::Shell);
    let motion = if shell { Motion::Never } else { Motion::OnTerminals };
    let ui = Ui::new(&cli.global, motion, &env::Env::read());
    let cancel = Cancel::new();
    let code = match std::panic::catch_unwind(AssertUnwindSafe(|| start(cli, &ui, &cancel))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let error = if cancel.is_cancelled() { error.stopped() } else { error };
            ui.error(&error);
            error.kind.into()
        }
        // The hook has said what happened.
        Err(_) => Kind::Bug.into(),
    };
    ui.close();
    code
}

fn start(cli: Cli, ui: &Ui, cancel: &Cancel) -> Result<(), CommandError> {
    // Two TLS providers in one program make rustls panic at the first connection unless one is chosen before.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was chosen before");
    }
    let settings = Settings::resolve(&env::Env::read())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|source| {
            CommandError::new(Kind::Host, source).context("could not start the input and output threads")
        })?;
    signals::watch(&runtime, cancel)?;
    let context = Context { ui, cancel, settings: &settings, runtime: &runtime };
    let result = commands::dispatch(cli.command, &context);
    // A name look-up that hangs in the system's resolver must not keep the program alive.
    runtime.shutdown_background();
    result
}
