//! The log of one build: everything that happened, in full, while the screen shows a window of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use labwright_core::{Event, Mask, Reporter};

/// How many lines of guest output an error repeats.
const TAIL: usize = 15;

/// How many bytes of a log are kept: a guest that prints without end must not fill the host's disk.
const LONGEST: u64 = 256 << 20;

/// How many logs of one recipe are kept.
const KEPT: usize = 20;

/// A reporter that writes everything into a file before it hands it on.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    path: PathBuf,
    inner: &'a dyn Reporter,
    /// What the guest program has hidden already, and whatever says it elsewhere.
    mask: Mask,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    room: u64,
    tail: VecDeque<String>,
}

impl State {
    /// Adds a line, if there is room for it; the last one that is kept says that it is.
    fn write(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        if self.room == 0 {
            return Ok(());
        }
        if length > self.room {
            self.room = 0;
            return writeln!(self.file, "labwright: this log is full, and what follows is not kept");
        }
        self.room -= length;
        writeln!(self.file, "{line}")
    }
}

impl<'a> Log<'a> {
    /// Starts a log in `dir`, where the oldest logs make room for it. What `mask` hides is neither kept nor handed on.
    pub(crate) fn create(dir: &Path, inner: &'a dyn Reporter, mask: Mask) -> io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        make_room(dir)?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let file =
            tempfile::Builder::new().prefix(&format!("{seconds}-")).suffix(".log").rand_bytes(4).tempfile_in(dir)?;
        let (file, path) = file.keep().map_err(|error| error.error)?;
        Ok(Self { path, inner, mask, state: Mutex::new(State { file, room: LONGEST, tail: VecDeque::new() }) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines that programs in the guest printed since the last step began.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.state.lock().expect("no holder of this lock panics").tail.iter().cloned().collect()
    }
}

impl Reporter for Log<'_> {
    fn event(&self, event: Event) {
        let event = match event {
            Event::Output { line } => Event::Output { line: self.mask.text(&line) },
            Event::Note(text) => Event::Note(self.mask.text(&text)),
            Event::Warning(text) => Event::Warning(self.mask.text(&text)),
            event => event,
        };
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let line = match &event {
            Event::Started { step } => {
                state.tail.clear();
                Some(format!("== {step}"))
            }
            Event::Finished { step, outcome } => Some(format!("== {step}: done {outcome}")),
            Event::Output { line } => {
                if state.tail.len() == TAIL {
                    state.tail.pop_front();
                }
                state.tail.push_back(line.clone());
                Some(line.clone())
            }
            Event::Note(text) => Some(format!("note: {text}")),
            Event::Warning(text) => Some(format!("warning: {text}")),
            Event::Progress { .. } => None,
        };
        if let Some(line) = line
            && let Err(error) = state.write(&line)
        {
            tracing::warn!(path = %self.path.display(), %error, "could not write the build log");
        }
        drop(state);
        self.inner.event(event);
    }
}

fn make_room(dir: &Path) -> io::Result<()> {
    let mut logs: Vec<PathBuf> = fs_err::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    // The names begin with the second in which they were made.
    logs.sort();
    let excess = logs.len().saturating_sub(KEPT - 1);
    for path in &logs[..excess] {
        fs_err::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use labwright_core::Quiet;

    use super::*;

    #[test]
    fn keeps_everything_and_remembers_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(dir.path(), &Quiet, Mask::default()).unwrap();
        log.event(Event::Started { step: "packages".to_owned() });
        for number in 0..30 {
            log.event(Event::Output { line: format!("line {number}") });
        }
        log.event(Event::Finished { step: "packages".to_owned(), outcome: String::new() });
        let text = fs_err::read_to_string(log.path()).unwrap();
        assert!(text.starts_with("== packages\nline 0\n"), "{text}");
        assert_eq!(log.tail().len(), TAIL);
        assert_eq!(log.tail().last().unwrap(), "line 29");
    }

    #[test]
    fn a_log_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(dir.path(), &Quiet, Mask::default()).unwrap();
        log.state.lock().unwrap().room = 20;
        for number in 0..9 {
            log.event(Event::Output { line: format!("line {number}") });
        }
        let text = fs_err::read_to_string(log.path()).unwrap();
        assert_eq!(text, "line 0\nline 1\nlabwright: this log is full, and what follows is not kept\n");
        assert_eq!(log.tail().last().unwrap(), "line 8");
    }

    #[test]
    fn old_logs_make_room() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT + 5 {
            fs_err::write(dir.path().join(format!("{number:02}-old.log")), "").unwrap();
        }
        Log::create(dir.path(), &Quiet, Mask::default()).unwrap();
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), KEPT);
        assert!(!dir.path().join("00-old.log").exists());
    }
}
