use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rustix::thread::UnshareFlags;

use crate::{ProcessLimit, ToolError};

/// A program of ours that is talked to over its stdin and stdout. Dropping it ends it.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    command: String,
    kill: bool,
}

impl Peer {
    /// Starts `program` in new mount, PID, IPC and UTS namespaces, to do privileged work there.
    ///
    /// Everything that it mounts, attaches or starts ends with it: when its first process ends, the kernel kills all
    /// the others, and with the last of them go the mounts and the loop devices. The first process must end when its
    /// stdin closes; then not even SIGKILL of the parent leaves anything behind. (A death signal would not do: it
    /// follows the thread that started the process, and threads come and go.)
    ///
    /// A process cannot enter a PID namespace itself, only its children do: the program is expected to call
    /// [`become_first_process`] at once.
    pub fn worker(program: &Path, args: &[&str]) -> Result<Self, ToolError> {
        Self::start(program, args, detach, false)
    }

    /// Starts `program` as an ordinary child. It dies with the thread that starts it.
    pub fn child(program: &Path, args: &[&str]) -> Result<Self, ToolError> {
        Self::start(program, args, crate::child::set_death_signal, true)
    }

    /// As [`Peer::child`], with all that it starts in a limited group from its first moment on.
    pub fn limited_child(program: &Path, args: &[&str], limit: &ProcessLimit) -> Result<Self, ToolError> {
        let prepare = |command: &mut Command| {
            crate::child::set_death_signal(command);
            enter(command, limit);
        };
        Self::start(program, args, prepare, true)
    }

    fn start(program: &Path, args: &[&str], prepare: impl FnOnce(&mut Command), kill: bool) -> Result<Self, ToolError> {
        let line = format!("{} {}", program.display(), args.join(" "));
        #[expect(clippy::disallowed_methods, reason = "this crate starts the processes of the host")]
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        crate::hidden::apply(&mut command);
        prepare(&mut command);
        let mut child = command.spawn().map_err(|source| ToolError::Start { command: line.clone(), source })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { child, stdin, stdout, command: line, kill })
    }

    /// The pipes to and from the program; they can be taken once.
    pub fn pipes(&mut self) -> Option<(ChildStdin, BufReader<ChildStdout>)> {
        Some((self.stdin.take()?, self.stdout.take()?))
    }

    /// Waits for the program's end. Close its stdin first, or it may never end.
    pub fn wait(&mut self) -> Result<ExitStatus, ToolError> {
        self.child.wait().map_err(|source| ToolError::Talk { command: self.command.clone(), source })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if self.kill {
            // It may have ended before.
            drop(self.child.kill());
        }
        // Waiting makes sure that its mounts are gone before anyone goes on.
        if let Err(error) = self.wait() {
            tracing::error!(command = self.command, %error, "could not wait for a program");
        }
    }
}

/// Gives the command new namespaces and takes it out of the terminal's process group.
///
/// Ctrl-C reaches the whole foreground group; the worker must not die of it before the parent has asked it to.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec; the closure makes system calls only")]
fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    // SAFETY: the closure allocates nothing and calls unshare(2), which is async-signal-safe; the child shares no
    // memory, file table or the like with anyone that the call could pull away from under it.
    unsafe {
        command.pre_exec(|| {
            let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
            rustix::thread::unshare_unsafe(flags)?;
            Ok(())
        });
    }
}

/// Has the program enter the group before it begins.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec; the closure makes one system call")]
fn enter(command: &mut Command, limit: &ProcessLimit) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let entrance = limit.entrance().as_raw_fd();
    // SAFETY: the closure allocates nothing and calls write(2), which is async-signal-safe. The descriptor is open while
    // the program is started, as `limit` is borrowed until then.
    unsafe {
        command.pre_exec(move || {
            rustix::io::write(std::os::fd::BorrowedFd::borrow_raw(entrance), b"0")?;
            Ok(())
        });
    }
}

/// Makes a child of this process, which was started by [`Peer::worker`], the first process of the new PID namespace.
///
/// Returns none in that child, and in the parent, once the child has ended, its exit code. `inner` is the argument
/// that tells the child what it is.
pub fn become_first_process(inner: &str) -> Result<Option<u8>, ToolError> {
    if rustix::process::getpid().is_init() {
        return Ok(None);
    }
    let line = format!("/proc/self/exe {inner}");
    #[expect(clippy::disallowed_methods, reason = "this crate starts the processes of the host")]
    let mut command = Command::new("/proc/self/exe");
    command.arg(inner);
    crate::hidden::apply(&mut command);
    crate::child::set_death_signal(&mut command);
    let status = command.status().map_err(|source| ToolError::Start { command: line, source })?;
    Ok(Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
