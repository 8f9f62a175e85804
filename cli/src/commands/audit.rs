//! Looks for what must not be in an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_builder::{Builder, DiskFormat, Finding, FinishedDisk, Severity};
use labwright_core::{Arch, ByteSize, ImageRef, InvalidImageRef};
use labwright_disk::inspect::{Format, Limits, inspect};
use serde::Serialize;

use super::{build_secrets, disk_cache, image, runner};
use crate::args::Audit;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// How many places of one kind of finding are shown to people.
const SHOWN: usize = 10;

/// The answer of `audit`. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    /// What was looked at, as it was named.
    image: &'a str,
    errors: usize,
    warnings: usize,
    findings: &'a [Finding],
}

/// Looks at a disk or at that of an image.
pub(super) fn run(args: &Audit, context: &Context<'_>) -> Result<(), CommandError> {
    let secrets = build_secrets::any(&args.secret)?;
    let path = disk(args, context)?;
    let info = inspect(&path, &Limits::default())?;
    let format = match info.format {
        Format::Qcow2 => DiskFormat::Qcow2,
        Format::Raw => DiskFormat::Raw,
    };
    let disk = FinishedDisk { path, format, size: ByteSize::from_bytes(info.virtual_size) };
    let builder = Builder::new(&context.settings.home, "/proc/self/exe")?;
    let arch = Arch::host().unwrap_or(Arch::Amd64);
    let runner = runner::choose(args.runner, context.settings.kernel(args.appliance_kernel.as_deref()), arch, context)?;
    let audit = |runner: &_| builder.audit(&disk, runner, &secrets, context.ui.reporter(), context.cancel);
    let findings = match audit(&runner) {
        Ok(findings) => findings,
        Err(error) => {
            let kernel = context.settings.kernel(args.appliance_kernel.as_deref());
            let instead = |reason| runner::instead(args.runner, reason, kernel, arch, context);
            audit(&error.needs_machine().map(instead).transpose()?.flatten().ok_or(error)?)?
        }
    };

    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let answer = Answer { image: &args.image, errors, warnings, findings: &findings };
    context.ui.result(&answer, || text(&findings))?;
    let summary = format!("{errors} errors and {warnings} warnings");
    if errors > 0 || args.strict && warnings > 0 {
        return Err(CommandError::sentence(Kind::Finding, format!("the audit of `{}` found {summary}", args.image)));
    }
    context.ui.note(if warnings > 0 { summary } else { "nothing was found".to_owned() });
    Ok(())
}

/// The disk to look at: a file of this name, else the disk of an image.
fn disk(args: &Audit, context: &Context<'_>) -> Result<PathBuf, CommandError> {
    let path = Path::new(&args.image);
    if path.is_file() {
        return Ok(path.to_owned());
    }
    let reference: ImageRef = args.image.parse().map_err(|error: InvalidImageRef| {
        CommandError::new(Kind::Usage, error).hint(format!("there is no file {} either", path.display()))
    })?;
    let images = image::images(context, &args.registries, std::slice::from_ref(&reference))?;
    let found = image::find(&reference, &images, context)?;
    disk_cache::get(&found, &images, context)
}

/// Findings for people: by kind, each with its remedy, the worst first.
fn text(findings: &[Finding]) -> String {
    let mut kinds: BTreeMap<(Severity, &str, &str), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        kinds.entry((finding.severity, &finding.id, &finding.remedy)).or_default().push(finding);
    }
    let mut lines = Vec::new();
    for ((severity, id, remedy), findings) in kinds {
        let word = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        lines.push(format!("{word}: {id}"));
        for finding in findings.iter().take(SHOWN) {
            lines.push(crate::ui::printable(&format!("  {}: {}", finding.path, finding.what)));
        }
        if findings.len() > SHOWN {
            lines.push(format!("  and {} more", findings.len() - SHOWN));
        }
        lines.push(format!("  -> {remedy}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_and_a_name_commands_no_terminal() {
        let finding = |severity, id: &str, path: &str| Finding {
            severity,
            id: id.to_owned(),
            path: path.to_owned(),
            what: "logs".to_owned(),
            remedy: "remove it".to_owned(),
        };
        let mut findings: Vec<Finding> =
            (0..12).map(|at| finding(Severity::Warning, "residue/logs", &format!("/var/log/{at}"))).collect();
        findings.push(finding(Severity::Error, "identity/machine-id", "/etc/\x1b[2Jx"));
        let text = text(&findings);
        assert!(
            text.starts_with("error: identity/machine-id\n  /etc/x: logs\n  -> remove it\nwarning: residue/logs\n")
        );
        assert!(text.ends_with("  /var/log/9: logs\n  and 2 more\n  -> remove it"), "{text}");
    }
}
