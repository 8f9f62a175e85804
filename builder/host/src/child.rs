use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::ToolError;
use crate::invocation::POLL;

/// A tool that runs until it is stopped. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stderr: Arc<Mutex<Vec<u8>>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command, line: String) -> Result<Self, ToolError> {
        set_death_signal(command);
        // What the terminal says (Ctrl-C, its end) is for the program that started it, which may live on or has to clean
        // up first.
        command.process_group(0);
        let mut child = command.spawn().map_err(|source| ToolError::Start { command: line.clone(), source })?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut pipe) = child.stderr.take() {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    let mut kept = kept.lock().expect("no holder of this lock panics");
                    kept.extend_from_slice(&buffer[..count]);
                    let excess = kept.len().saturating_sub(4096);
                    kept.drain(..excess);
                }
            });
        }
        Ok(Self { child, command: line, stderr })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs; an error that says how it ended if not.
    pub fn check(&mut self) -> Result<(), ToolError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                // The reader may still be behind the last words.
                thread::sleep(POLL);
                Err(ToolError::Failed { command: self.command.clone(), status, stderr: self.stderr_text() })
            }
            Err(source) => Err(ToolError::Talk { command: self.command.clone(), source }),
        }
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus, ToolError> {
        self.child.wait().map_err(|source| ToolError::Talk { command: self.command.clone(), source })
    }

    /// The end of what it said on stderr.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().expect("no holder of this lock panics")).into_owned()
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) -> Result<(), ToolError> {
        self.end().map_err(|source| ToolError::Talk { command: self.command.clone(), source })
    }

    fn end(&mut self) -> std::io::Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(command = self.command, %error, "could not end a tool");
        }
    }
}

/// Makes the kernel kill the process when the thread that starts it ends.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec; the closure makes one system call")]
pub(crate) fn set_death_signal(command: &mut Command) {
    // SAFETY: the closure allocates nothing and calls prctl(2), which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
}
