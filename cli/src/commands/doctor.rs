//! What this host can and cannot do, and what to install.

mod probe;
mod report;

use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Looks at the host and reports; fails if images cannot be built or run here.
pub(super) fn run(context: &Context<'_>) -> Result<(), CommandError> {
    let report = report::Report::new(&probe::look(context)?);
    context.ui.result(&report, || report.text())?;
    let impossible: Vec<&str> =
        report.jobs.iter().filter(|job| job.main && !job.possible).map(|job| job.name).collect();
    if impossible.is_empty() {
        return Ok(());
    }
    let mut error = CommandError::sentence(Kind::Host, format!("this host cannot {}", impossible.join(" and cannot ")));
    if !report.install.is_empty() {
        error = error.hint(format!("apt-get install {}", report.install.join(" ")));
    }
    Err(error)
}
