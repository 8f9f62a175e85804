use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use labwright_core::{ByteSize, Diagnostic, Event, Reporter};

use super::{Screen, error_text, printable};
use crate::error::CommandError;

/// How often a long transfer says where it is.
const EVERY: Duration = Duration::from_secs(10);

/// One line for each event, for logs and pipes.
pub(super) struct Plain {
    quiet: bool,
    color: bool,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    steps: HashMap<String, Instant>,
    transfers: HashMap<String, Instant>,
    /// Transfers that said that they are done; some say so twice.
    done: HashSet<String>,
}

impl Plain {
    pub(super) fn new(out: Box<dyn Write + Send>, quiet: bool, color: bool) -> Self {
        Self {
            quiet,
            color,
            state: Mutex::new(State { out, steps: HashMap::new(), transfers: HashMap::new(), done: HashSet::new() }),
        }
    }
}

impl State {
    fn line(&mut self, text: &str) {
        // A log that nobody reads any more must not end the work.
        drop(writeln!(self.out, "{text}"));
    }
}

/// A duration for people: tenths of a second below a minute.
pub(super) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{}.{} s", duration.as_secs(), duration.subsec_millis() / 100),
        secs => format!("{} min {:02} s", secs / 60, secs % 60),
    }
}

/// `412.0 MiB of 1.2 GiB`.
pub(super) fn amount(done: u64, total: Option<u64>) -> String {
    let done = ByteSize::from_bytes(done).human();
    total.map_or_else(|| done.clone(), |total| format!("{done} of {}", ByteSize::from_bytes(total).human()))
}

/// `packages: cached (1.2 s)`.
pub(super) fn finished(step: &str, outcome: &str, took: Duration) -> String {
    let colon = if outcome.is_empty() { "" } else { ": " };
    format!("{step}{colon}{outcome} ({})", seconds(took))
}

impl Reporter for Plain {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        match event {
            Event::Warning(text) => state.line(&format!("warning: {}", printable(&text))),
            _ if self.quiet => {}
            Event::Started { step } => {
                state.line(&format!("==> {step}"));
                state.steps.insert(step, Instant::now());
            }
            Event::Finished { step, outcome } => {
                let took = state.steps.remove(&step).map_or(Duration::ZERO, |begin| begin.elapsed());
                state.line(&format!("<== {}", finished(&step, &outcome, took)));
            }
            Event::Output { line } => state.line(&format!("    {}", printable(&line))),
            Event::Progress { task, done, total } => {
                let now = Instant::now();
                if total == Some(done) {
                    state.transfers.remove(&task);
                    if !state.done.insert(task.clone()) {
                        return;
                    }
                    state.line(&format!("    {}: {}", printable(&task), amount(done, None)));
                } else {
                    let last = state.transfers.entry(task.clone()).or_insert(now);
                    if last.elapsed() >= EVERY {
                        *last = now;
                        state.line(&format!("    {}: {}", printable(&task), amount(done, total)));
                    }
                }
            }
            Event::Note(text) => state.line(&printable(&text)),
        }
    }
}

impl Screen for Plain {
    fn error(&self, error: &CommandError) {
        let text = error_text(error, self.color);
        self.state.lock().expect("no holder of this lock panics").line(&text);
    }

    fn diagnostic(&self, diagnostic: &Diagnostic) {
        self.state.lock().expect("no holder of this lock panics").line(&diagnostic.render(self.color));
    }

    fn close(&self) {}
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A writer whose text can be read while it is being written.
    #[derive(Debug, Clone, Default)]
    pub(in crate::ui) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(in crate::ui) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    pub(in crate::ui) fn some_events() -> Vec<Event> {
        vec![
            Event::Started { step: "packages".to_owned() },
            Event::Output { line: "Unpacking \x1b[1mttyd\x1b[0m".to_owned() },
            Event::Progress { task: "disk".to_owned(), done: 1 << 20, total: Some(2 << 20) },
            Event::Progress { task: "disk".to_owned(), done: 2 << 20, total: Some(2 << 20) },
            Event::Finished { step: "packages".to_owned(), outcome: "12 packages".to_owned() },
            Event::Note("ready".to_owned()),
            Event::Warning("slow".to_owned()),
        ]
    }

    #[test]
    fn one_line_for_each_event() {
        let out = Shared::default();
        let plain = Plain::new(Box::new(out.clone()), false, false);
        for event in some_events() {
            plain.event(event);
        }
        assert_eq!(
            out.text(),
            "==> packages\n    Unpacking ttyd\n    disk: 2.0 MiB\n<== packages: 12 packages (0.0 s)\nready\nwarning: slow\n"
        );
    }

    #[test]
    fn quiet_keeps_warnings() {
        let out = Shared::default();
        let plain = Plain::new(Box::new(out.clone()), true, false);
        for event in some_events() {
            plain.event(event);
        }
        assert_eq!(out.text(), "warning: slow\n");
    }

    #[test]
    fn durations_for_people() {
        assert_eq!(seconds(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
