//! A client of QEMU's machine protocol, as little of it as the storage daemon needs.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use labwright_core::Cancel;
use labwright_host::Running;
use serde_json::{Value, json};

use crate::chain::ChainError;

/// How long a command may take; all of ours change a graph in memory and write a few clusters.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest answer that is believed, in bytes.
const LONGEST: usize = 1 << 20;

const POLL: Duration = Duration::from_millis(50);

/// An open connection.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Qmp {
    /// Waits until the daemon listens, and greets it.
    pub(crate) fn connect(socket: &Path, daemon: &mut Running, cancel: &Cancel) -> Result<Self, ChainError> {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    daemon.check()?;
                    cancel.check()?;
                    if Instant::now() > end {
                        return Err(timeout("listen on its socket", daemon));
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(source) => return Err(ChainError::Socket { path: socket.to_owned(), source }),
            }
        };
        let failed = |source| ChainError::Socket { path: socket.to_owned(), source };
        stream.set_read_timeout(Some(POLL)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut qmp = Self { stream, received: Vec::new() };
        qmp.answer("greeting", daemon, cancel, |message| message.get("QMP").is_some())?;
        qmp.execute("qmp_capabilities", &json!({}), daemon, cancel)?;
        Ok(qmp)
    }

    /// Runs one command to its end.
    pub(crate) fn execute(
        &mut self,
        command: &'static str,
        arguments: &Value,
        daemon: &mut Running,
        cancel: &Cancel,
    ) -> Result<Value, ChainError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        if let Err(source) = self.stream.write_all(line.as_bytes()) {
            daemon.check()?;
            return Err(ChainError::Talk { command, source });
        }
        let is_answer = |message: &Value| message.get("return").is_some() || message.get("error").is_some();
        let mut answer = self.answer(command, daemon, cancel, is_answer)?;
        if let Some(error) = answer.get("error") {
            let text = |key| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(ChainError::Refused { command, class: text("class"), reason: text("desc") });
        }
        Ok(answer["return"].take())
    }

    /// The next message that is an answer; events are passed over.
    fn answer(
        &mut self,
        command: &'static str,
        daemon: &mut Running,
        cancel: &Cancel,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, ChainError> {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some(newline) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=newline).collect();
                let message: Value =
                    serde_json::from_slice(&line).map_err(|source| ChainError::Answer { command, source })?;
                if wanted(&message) {
                    return Ok(message);
                }
            }
            let mut buffer = [0; 4096];
            let problem = match self.stream.read(&mut buffer) {
                Ok(count @ 1..) if self.received.len() < LONGEST => {
                    self.received.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Ok(1..) => Some(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end")),
                Ok(0) => Some(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
                Err(error) => Some(error),
            };
            if let Some(source) = problem {
                // A closed connection comes a moment before the end of the process.
                thread::sleep(POLL);
                daemon.check()?;
                return Err(ChainError::Talk { command, source });
            }
            daemon.check()?;
            cancel.check()?;
            if Instant::now() > end {
                return Err(timeout(command, daemon));
            }
        }
    }
}

/// The error for a daemon that lives and does not do `what`.
pub(crate) fn timeout(what: &'static str, daemon: &Running) -> ChainError {
    ChainError::TimeOut { what, seconds: PATIENCE.as_secs(), stderr: daemon.stderr_text().trim().to_owned() }
}
