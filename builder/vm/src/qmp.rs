use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::QmpError;

/// The longest line that is read from QEMU, in bytes.
const LINE_LIMIT: usize = 4 << 20;

/// How many events are kept until somebody asks for them; older ones are dropped.
const EVENT_LIMIT: usize = 256;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(30);

/// QEMU's control channel (QEMU Machine Protocol), past its handshake.
///
/// Source: QEMU documentation, "QMP Protocol Specification".
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    events: VecDeque<Value>,
    next_id: u64,
}

impl Qmp {
    /// Connects, reads the greeting and leaves the negotiation.
    pub fn connect(socket: &Path) -> Result<Self, QmpError> {
        let stream =
            UnixStream::connect(socket).map_err(|source| QmpError::Connect { path: socket.to_owned(), source })?;
        let mut qmp = Self { stream, buffer: Vec::new(), events: VecDeque::new(), next_id: 0 };
        let greeting = "greeting";
        // Anything before the greeting would be noise; there is nothing in it that we need.
        if qmp.line(greeting, Instant::now() + ANSWER, ANSWER)?.get("QMP").is_none() {
            return Err(QmpError::Closed { command: greeting.to_owned() });
        }
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returns; `Null` means no arguments.
    ///
    /// Events that come in between are kept for [`Self::next_event`].
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"execute": command, "id": id});
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let talk = |source| QmpError::Talk { command: command.to_owned(), source };
        self.stream.set_write_timeout(Some(ANSWER)).map_err(talk)?;
        self.stream.write_all(format!("{request}\n").as_bytes()).map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                QmpError::Closed { command: command.to_owned() }
            }
            _ => talk(source),
        })?;
        let end = Instant::now() + ANSWER;
        loop {
            let mut answer = self.line(command, end, ANSWER)?;
            if answer.get("event").is_some() {
                self.keep(answer);
            } else if answer.get("id") != Some(&json!(id)) {
                // The late answer to a command that timed out.
                tracing::debug!(%answer, "an answer that nobody waits for");
            } else if let Some(error) = answer.get("error") {
                let word = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    class: word("class"),
                    description: word("desc"),
                });
            } else {
                return Ok(answer["return"].take());
            }
        }
    }

    /// The next event that QEMU reported, `None` if there is none within `timeout`.
    pub fn next_event(&mut self, timeout: Duration) -> Result<Option<Value>, QmpError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let end = Instant::now() + timeout;
        loop {
            match self.line("event", end, timeout) {
                Ok(line) if line.get("event").is_some() => return Ok(Some(line)),
                Ok(_) => {}
                Err(QmpError::Timeout { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn keep(&mut self, event: Value) {
        if self.events.len() == EVENT_LIMIT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The next line, parsed.
    fn line(&mut self, command: &str, end: Instant, after: Duration) -> Result<Value, QmpError> {
        let command = || command.to_owned();
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                return serde_json::from_slice(&line).map_err(|source| QmpError::Json { command: command(), source });
            }
            searched = self.buffer.len();
            if searched > LINE_LIMIT {
                return Err(QmpError::TooLong { command: command(), limit: LINE_LIMIT });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Timeout { command: command(), after });
            }
            let talk = |source| QmpError::Talk { command: command(), source };
            self.stream.set_read_timeout(Some(left)).map_err(talk)?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(QmpError::Closed { command: command() }),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(QmpError::Closed { command: command() }),
                    _ => return Err(talk(error)),
                },
            }
        }
    }
}
