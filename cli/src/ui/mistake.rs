use labwright_core::{Diagnostic, Severity};
use serde::Serialize;

/// A mistake in a file, for scripts. Lines and columns count from 1; fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mistake<'a> {
    severity: &'static str,
    message: &'a str,
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    label: &'a str,
    hints: &'a [String],
}

impl<'a> From<&'a Diagnostic> for Mistake<'a> {
    fn from(diagnostic: &'a Diagnostic) -> Self {
        let (line, column) = diagnostic.file.line_column(diagnostic.span.start);
        let (end_line, end_column) = diagnostic.file.line_column(diagnostic.span.end.max(diagnostic.span.start));
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &diagnostic.message,
            file: &diagnostic.file.name,
            line,
            column,
            end_line,
            end_column,
            label: &diagnostic.label,
            hints: &diagnostic.hints,
        }
    }
}
