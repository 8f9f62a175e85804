//! A tool and all that it starts, which end together.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal};

/// Ends the processes of a tool's group that are still there, when it is dropped and when this process dies.
///
/// A death signal reaches the tool alone, and PID namespaces need rights that an ordinary user may lack. So a process
/// of the group waits for the end of a pipe that nobody writes to: not even SIGKILL of this process leaves it open.
#[derive(Debug)]
pub(crate) struct Family {
    watched: File,
}

impl Family {
    /// Has the process that `command` starts lead a group of its own, with a guard in it.
    pub(crate) fn prepare(command: &mut Command) -> io::Result<Self> {
        let (end, watched) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        command.process_group(0);
        post_guard(command, end, watched.as_raw_fd());
        Ok(Self { watched: File::from(watched) })
    }

    /// Ends all of them, the tool included.
    pub(crate) fn end(self, tool: &Child) {
        // At once: the guard may have to wait for a processor, and whoever asks goes on to remove files.
        if let Ok(leader) = i32::try_from(tool.id())
            && let Some(leader) = Pid::from_raw(leader)
            && let Err(error) = rustix::process::kill_process_group(leader, Signal::KILL)
        {
            // The guard does the same in a moment.
            tracing::debug!(%error, "could not end a process group");
        }
        drop(self.watched);
    }
}

/// Starts the guard between fork and exec, as nobody's child: a tool that waits for all its children must not wait for it.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec; the closure makes system calls only")]
fn post_guard(command: &mut Command, end: OwnedFd, watched: RawFd) {
    // SAFETY: the closure and what it calls allocate nothing and make async-signal-safe calls only.
    unsafe {
        command.pre_exec(move || match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => match libc::fork() {
                0 => guard(end.as_raw_fd(), watched),
                _ => libc::_exit(0),
            },
            middle => {
                while libc::waitpid(middle, std::ptr::null_mut(), 0) == -1 {
                    if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                        break;
                    }
                }
                Ok(())
            }
        });
    }
}

/// Waits for the end of the pipe, and then ends its own process group.
#[expect(unsafe_code, reason = "between fork and exec there are system calls only")]
fn guard(end: RawFd, watched: RawFd) -> ! {
    // SAFETY: the calls are async-signal-safe; the buffer is one byte, which is what may be read into it.
    unsafe {
        // Its own copy of the other end would keep the pipe open; the tool's output must end with the tool, and locks with
        // their owner. Kernels before 5.9 cannot close the rest at once.
        for descriptor in [watched, 1, 2] {
            libc::close(descriptor);
        }
        libc::dup2(end, 0);
        libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0_u32);
        let mut byte = 0_u8;
        loop {
            match libc::read(0, (&raw mut byte).cast(), 1) {
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                _ => break,
            }
        }
        libc::kill(0, libc::SIGKILL);
        libc::_exit(0)
    }
}
