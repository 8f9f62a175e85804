use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use labwright_core::{Diagnostic, Event, Reporter};

use super::plain::finished;
use super::{Screen, error_text, printable};
use crate::error::CommandError;

/// How many lines of guest output are shown while a step runs.
const WINDOW: usize = 6;

/// A display that moves: the running step with its time, a window on the guest's output, bars for transfers.
pub(super) struct Fancy {
    color: bool,
    bars: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: Vec<(String, Instant, ProgressBar)>,
    transfers: HashMap<String, ProgressBar>,
    window: Option<ProgressBar>,
    lines: VecDeque<String>,
}

impl Fancy {
    pub(super) fn new(color: bool) -> Self {
        Self::with_target(color, ProgressDrawTarget::stderr_with_hz(10))
    }

    fn with_target(color: bool, target: ProgressDrawTarget) -> Self {
        Self { color, bars: MultiProgress::with_draw_target(target), state: Mutex::default() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line that stays, above what moves.
    fn say(&self, text: &str) {
        // A terminal that went away must not end the work.
        drop(self.bars.println(text));
    }

    fn start(&self, state: &mut State, step: String) {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.set_message(step.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        state.steps.push((step, Instant::now(), bar));
        // The window stays below the steps.
        self.take_down_window(state);
    }

    fn finish(&self, state: &mut State, step: &str, outcome: &str) {
        self.take_down_window(state);
        let took = match state.steps.iter().rposition(|(name, ..)| name == step) {
            Some(at) => {
                let (_, begin, bar) = state.steps.remove(at);
                bar.finish_and_clear();
                self.bars.remove(&bar);
                begin.elapsed()
            }
            None => Duration::ZERO,
        };
        self.say(&format!("{} {}", self.paint("32", "✓"), finished(step, &printable(outcome), took)));
    }

    fn output(&self, state: &mut State, line: &str) {
        let width = rustix::termios::tcgetwinsize(rustix::stdio::stderr()).map_or(80, |size| usize::from(size.ws_col));
        // A line that wraps would leave its rest on the screen for good.
        state.lines.push_back(printable(line).replace('\t', "    ").chars().take(width.saturating_sub(6)).collect());
        if state.lines.len() > WINDOW {
            state.lines.pop_front();
        }
        let window = state.window.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(style("{msg}"));
            bar
        });
        let text: Vec<String> = state.lines.iter().map(|line| self.paint("2", &format!("  │ {line}"))).collect();
        window.set_message(text.join("\n"));
    }

    fn take_down_window(&self, state: &mut State) {
        state.lines.clear();
        if let Some(window) = state.window.take() {
            window.finish_and_clear();
            self.bars.remove(&window);
        }
    }

    fn progress(&self, state: &mut State, task: &str, done: u64, total: Option<u64>) {
        let bar = state.transfers.entry(task.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::no_length());
            bar.set_message(printable(task));
            bar
        });
        if let Some(total) = total
            && bar.length() != Some(total)
        {
            bar.set_length(total);
            bar.set_style(style("  {msg} [{bar:24}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"));
        } else if total.is_none() {
            bar.set_style(style("  {msg} {bytes} {binary_bytes_per_sec}"));
        }
        bar.set_position(done);
        if total == Some(done)
            && let Some(bar) = state.transfers.remove(task)
        {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are valid")
}

impl Reporter for Fancy {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        match event {
            Event::Started { step } => self.start(&mut state, step),
            Event::Finished { step, outcome } => self.finish(&mut state, &step, &outcome),
            Event::Output { line } => self.output(&mut state, &line),
            Event::Progress { task, done, total } => self.progress(&mut state, &task, done, total),
            Event::Note(text) => self.say(&printable(&text)),
            Event::Warning(text) => self.say(&format!("{}: {}", self.paint("1;33", "warning"), printable(&text))),
        }
    }
}

impl Screen for Fancy {
    fn error(&self, error: &CommandError) {
        self.close();
        let text = error_text(error, self.color);
        self.bars.suspend(|| {
            use std::io::Write;
            drop(writeln!(std::io::stderr(), "{text}"));
        });
    }

    fn diagnostic(&self, diagnostic: &Diagnostic) {
        self.say(&diagnostic.render(self.color));
    }

    fn close(&self) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        self.take_down_window(&mut state);
        for (_, _, bar) in state.steps.drain(..) {
            bar.finish_and_clear();
        }
        for (_, bar) in state.transfers.drain() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::super::plain::tests::some_events;
    use super::*;

    #[test]
    fn shows_a_window_while_a_step_runs_and_one_line_afterwards() {
        let term = InMemoryTerm::new(20, 60);
        let fancy = Fancy::with_target(false, ProgressDrawTarget::term_like(Box::new(term.clone())));
        fancy.event(Event::Started { step: "packages".to_owned() });
        for number in 0..9 {
            fancy.event(Event::Output { line: format!("line {number}") });
        }
        let screen = term.contents();
        assert!(screen.contains("packages"), "{screen}");
        assert!(screen.ends_with("  │ line 7\n  │ line 8"), "{screen}");
        assert!(!screen.contains("line 2"), "{screen}");
        fancy.event(Event::Finished { step: "packages".to_owned(), outcome: String::new() });
        assert_eq!(term.contents(), "✓ packages (0.0 s)");
        for event in some_events() {
            fancy.event(event);
        }
        fancy.close();
        assert_eq!(term.contents(), "✓ packages (0.0 s)\n✓ packages: 12 packages (0.0 s)\nready\nwarning: slow");
    }
}
