//! SIGINT and SIGTERM: the first asks the work to stop and clean up, the second ends the program at once.

use labwright_core::Cancel;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{CommandError, Kind};

/// The exit code of a program that a signal stopped (128 + SIGINT), as shells count.
const STOPPED: i32 = 130;

/// Sets `cancel` at the first signal; ends the process at the second.
pub(crate) fn watch(runtime: &Runtime, cancel: &Cancel) -> Result<(), CommandError> {
    let fail = |source| CommandError::new(Kind::Bug, source).context("could not listen for signals");
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    drop(entered);
    let cancel = cancel.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if cancel.is_cancelled() {
                end_at_once();
            }
            cancel.cancel();
        }
    });
    Ok(())
}

#[expect(clippy::exit, reason = "the user asked twice; what the build holds is released by its namespace's end")]
fn end_at_once() -> ! {
    std::process::exit(STOPPED)
}
