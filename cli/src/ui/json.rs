use std::io::Write;
use std::sync::Mutex;

use labwright_core::{Diagnostic, Event, Reporter};
use serde::Serialize;

use super::{Mistake, Screen, count};
use crate::error::CommandError;

/// One JSON object a line on stderr, for scripts. The results of a command are on stdout.
pub(super) struct Json(Mutex<Box<dyn Write + Send>>);

/// A line. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Started {
        step: &'a str,
    },
    Finished {
        step: &'a str,
        outcome: &'a str,
    },
    Output {
        line: &'a str,
    },
    Progress {
        task: &'a str,
        done: u64,
        total: Option<u64>,
    },
    Note {
        text: &'a str,
    },
    Warning {
        text: &'a str,
    },
    #[serde(rename_all = "camelCase")]
    Error {
        message: &'a str,
        causes: &'a [String],
        hints: &'a [String],
        #[serde(skip_serializing_if = "Vec::is_empty")]
        diagnostics: Vec<Mistake<'a>>,
        exit_code: u8,
    },
}

impl Json {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self(Mutex::new(out))
    }

    fn line(&self, line: &Line<'_>) {
        let text = serde_json::to_string(line).expect("text and numbers have a JSON form");
        // A log that nobody reads any more must not end the work.
        drop(writeln!(self.0.lock().expect("no holder of this lock panics"), "{text}"));
    }
}

impl Reporter for Json {
    fn event(&self, event: Event) {
        self.line(&match &event {
            Event::Started { step } => Line::Started { step },
            Event::Finished { step, outcome } => Line::Finished { step, outcome },
            Event::Output { line } => Line::Output { line },
            Event::Progress { task, done, total } => Line::Progress { task, done: *done, total: *total },
            Event::Note(text) => Line::Note { text },
            Event::Warning(text) => Line::Warning { text },
        });
    }
}

impl Screen for Json {
    fn error(&self, error: &CommandError) {
        let (message, causes, mistakes) = if let Some(diagnostics) = error.diagnostics() {
            (count(diagnostics), Vec::new(), diagnostics.0.iter().map(Mistake::from).collect())
        } else {
            let mut chain = error.chain();
            let causes = chain.split_off(chain.len().min(1));
            (chain.pop().unwrap_or_default(), causes, Vec::new())
        };
        self.line(&Line::Error {
            message: &message,
            causes: &causes,
            hints: &error.hints,
            diagnostics: mistakes,
            exit_code: error.kind.code(),
        });
    }

    fn diagnostic(&self, diagnostic: &Diagnostic) {
        self.line(&Line::Warning { text: &diagnostic.render(false) });
    }

    fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::super::plain::tests::{Shared, some_events};
    use super::*;
    use crate::error::Kind;

    #[test]
    fn one_object_for_each_event_and_failure() {
        let out = Shared::default();
        let json = Json::new(Box::new(out.clone()));
        for event in some_events() {
            json.event(event);
        }
        json.error(&CommandError::sentence(Kind::Host, "no space").context("could not write").hint("run gc"));
        assert_eq!(
            out.text(),
            r#"{"event":"started","step":"packages"}
{"event":"output","line":"Unpacking \u001b[1mttyd\u001b[0m"}
{"event":"progress","task":"disk","done":1048576,"total":2097152}
{"event":"progress","task":"disk","done":2097152,"total":2097152}
{"event":"finished","step":"packages","outcome":"12 packages"}
{"event":"note","text":"ready"}
{"event":"warning","text":"slow"}
{"event":"error","message":"could not write","causes":["no space"],"hints":["run gc"],"exitCode":3}
"#
        );
    }
}
