//! The screen: stdout for data, stderr for talk.
//!
//! Three reporters show the same events: [`fancy`] on a terminal, [`plain`] elsewhere, [`json`] for scripts.

mod fancy;
mod json;
mod mistake;
mod plain;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use labwright_core::{Diagnostic, Diagnostics, Event, Reporter};
use serde::Serialize;

use crate::args::{Format, Global};
use crate::env::Env;
use crate::error::{CommandError, Kind};

pub use mistake::Mistake;

/// A reporter of this module: it also shows how a command failed.
trait Screen: Reporter {
    /// Shows the failure.
    fn error(&self, error: &CommandError);

    /// Shows a warning that has a place.
    fn diagnostic(&self, diagnostic: &Diagnostic);

    /// Takes down what moves on the screen.
    fn close(&self);
}

/// Whether the display may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// Where it can.
    OnTerminals,
    /// Not at all: something else will use the terminal.
    Never,
}

/// What commands speak through.
#[derive(Debug)]
pub struct Ui {
    format: Format,
    screen: Arc<dyn Screen>,
}

impl std::fmt::Debug for dyn Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

impl Ui {
    /// Chooses the reporter by flags, environment and whether stderr is a terminal; starts the developers' log.
    pub fn new(global: &Global, motion: Motion, env: &Env) -> Self {
        let terminal = io::stderr().is_terminal();
        let color = terminal && !env.no_color && !env.dumb_terminal;
        start_log(global.verbose, env, color);
        let moving = terminal
            && motion == Motion::OnTerminals
            && !env.ci
            && !env.dumb_terminal
            && !global.quiet
            && global.verbose == 0;
        let screen: Arc<dyn Screen> = match global.format {
            Format::Json => Arc::new(json::Json::new(Box::new(io::stderr()))),
            Format::Text if moving => Arc::new(fancy::Fancy::new(color)),
            Format::Text => Arc::new(plain::Plain::new(Box::new(io::stderr()), global.quiet, color)),
        };
        Self { format: global.format, screen }
    }

    /// Who takes the events of libraries.
    pub fn reporter(&self) -> &dyn Reporter {
        &*self.screen
    }

    /// The same, for work that outlives the borrow.
    pub fn shared_reporter(&self) -> Arc<dyn Reporter> {
        Arc::clone(&self.screen) as Arc<dyn Reporter>
    }

    /// How results look.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Says something good to know.
    pub fn note(&self, text: impl Into<String>) {
        self.screen.event(Event::Note(text.into()));
    }

    /// Says something that is likely not what the user wants.
    pub fn warning(&self, text: impl Into<String>) {
        self.screen.event(Event::Warning(text.into()));
    }

    /// Shows something in a file that is likely not what the user wants.
    pub fn diagnostic(&self, diagnostic: &Diagnostic) {
        self.screen.diagnostic(diagnostic);
    }

    /// Writes a result to stdout: `text` for people, `data` for scripts, each with a line end.
    pub fn result(&self, data: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), CommandError> {
        match self.format {
            Format::Json => {
                let json = serde_json::to_string_pretty(data).map_err(|source| CommandError::new(Kind::Bug, source))?;
                self.data(&json)
            }
            Format::Text => self.data(&text()),
        }
    }

    /// Writes text to stdout as it is, with a line end if it has none; nothing for no text.
    pub fn data(&self, text: &str) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()).map_err(
            |source| {
                let kind = if source.kind() == io::ErrorKind::BrokenPipe { Kind::BrokenPipe } else { Kind::Host };
                CommandError::new(kind, source).context("could not write to stdout")
            },
        )
    }

    /// Shows how the command failed.
    pub fn error(&self, error: &CommandError) {
        if error.kind != Kind::BrokenPipe {
            self.screen.error(error);
        }
    }

    /// Takes down what moves on the screen.
    pub fn close(&self) {
        self.screen.close();
    }
}

/// Replaces Rust's report of a panic with a sentence that a user can act on.
pub fn say_panics_plainly() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
        drop(writeln!(
            io::stderr(),
            "error: Labwright has a bug: {what}{place}\nhint: please report this line and the command, with the version: {}",
            env!("CARGO_PKG_VERSION")
        ));
    }));
}

/// A failure as text: the mistakes of a file as they are, else the error, its causes and the hints, each on a line.
fn error_text(error: &CommandError, color: bool) -> String {
    let (red, cyan, reset) = if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    let mut lines = Vec::new();
    if let Some(diagnostics) = error.diagnostics() {
        lines.push(diagnostics.render(color));
        lines.push(format!("\n{red}error{reset}: {}", count(diagnostics)));
    } else {
        for (index, text) in error.chain().iter().enumerate() {
            let text = printable(text);
            lines.push(if index == 0 { format!("{red}error{reset}: {text}") } else { format!("  cause: {text}") });
        }
    }
    lines.extend(error.hints.iter().map(|hint| format!("{cyan}hint{reset}: {hint}")));
    lines.join("\n")
}

/// `2 mistakes found`.
fn count(diagnostics: &Diagnostics) -> String {
    match diagnostics.0.len() {
        1 => "1 mistake found".to_owned(),
        count => format!("{count} mistakes found"),
    }
}

/// Text that came from elsewhere, without what would command the terminal: escape sequences and control characters.
pub(crate) fn printable(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => skip_sequence(&mut chars),
            '\t' | '\n' => result.push(char),
            char if char.is_control() => {}
            char => result.push(char),
        }
    }
    result
}

/// Skips the rest of an escape sequence: CSI to its final byte, OSC to BEL or ST, else one character.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            chars.find(|char| ('@'..='~').contains(char));
        }
        Some(']') => while chars.next().is_some_and(|char| char != '\x07' && char != '\x1b') {},
        _ => {}
    }
}

/// Writes developers' messages to stderr.
fn start_log(verbose: u8, env: &Env, color: bool) {
    let default = match verbose {
        0 => "warn",
        1 => "info,labwright=debug",
        _ => "trace",
    };
    let filter = match (&env.rust_log, verbose) {
        (Some(filter), _) => filter.as_str(),
        (None, _) => default,
    };
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color).finish();
    // A test that starts two programs in one process keeps the first log.
    drop(tracing::subscriber::set_global_default(subscriber));
}

#[cfg(test)]
mod tests {
    use labwright_core::{SourceFile, Span};

    use super::*;

    #[test]
    fn a_guest_cannot_command_the_terminal() {
        assert_eq!(printable("a\x1b[31mred\x1b[0m \x1b]0;title\x07b\x08\r\u{9b}c\td"), "ared bc\td");
        assert_eq!(printable("\x1b["), "");
        assert_eq!(printable("\x1b"), "");
    }

    #[test]
    fn errors_have_one_line_for_each_cause_and_hint() {
        let error =
            CommandError::sentence(Kind::Host, "no space").context("could not write").hint("run `labwright gc`");
        assert_eq!(error_text(&error, false), "error: could not write\n  cause: no space\nhint: run `labwright gc`");
        assert!(error_text(&error, true).starts_with("\x1b[1;31merror\x1b[0m: could"));
    }

    #[test]
    fn mistakes_in_a_file_are_shown_as_they_are() {
        let file = SourceFile::new("r.yaml", "kind: X\n");
        let diagnostics = Diagnostics(vec![Diagnostic::error(&file, Span::new(6, 7), "unknown kind")]);
        assert_eq!(
            error_text(&diagnostics.into(), false),
            "error: unknown kind\n --> r.yaml:1:7\n  |\n1 | kind: X\n  |       ^\n\nerror: 1 mistake found"
        );
    }
}
