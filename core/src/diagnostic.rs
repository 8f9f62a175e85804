use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A text file that a person wrote, with the name by which the person knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as given, for messages.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl SourceFile {
    /// A source file, shared by all diagnostics about it.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.floor(offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The largest character boundary not behind `offset`.
    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// A range of bytes in a [`SourceFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// First byte behind.
    pub end: usize,
}

impl Span {
    /// The bytes from `start` up to, not including, `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing can be built from this.
    Error,
    /// It works, and is likely not what was meant.
    Warning,
}

/// One mistake in a file, with its place and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: a lower-case fragment without a final period.
    pub message: String,
    /// The file it is in.
    pub file: Arc<SourceFile>,
    /// Where in the file.
    pub span: Span,
    /// Said beside the pointer; may be empty.
    pub label: String,
    /// What to do about it.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(file: &Arc<SourceFile>, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            file: Arc::clone(file),
            span,
            label: String::new(),
            hints: Vec::new(),
        }
    }

    /// A warning at a place.
    pub fn warning(file: &Arc<SourceFile>, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, span, message) }
    }

    /// Adds what stands beside the pointer.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds a line that says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The diagnostic as a person sees it: message, place, source line, pointer and hints, without a final line end.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let start = self.file.floor(self.span.start);
        let end = self.file.floor(self.span.end.max(start));
        let (level, kind) = match self.severity {
            Severity::Error => (Level::ERROR, AnnotationKind::Primary),
            Severity::Warning => (Level::WARNING, AnnotationKind::Primary),
        };
        let snippet = Snippet::source(&self.file.text)
            .path(&self.file.name)
            .annotation(kind.span(start..end).label(self.label.as_str()));
        let mut group = level.primary_title(self.message.as_str()).element(snippet);
        for hint in &self.hints {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

/// All mistakes of one run, in file order; an error type of its own so that it can be returned whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Sorts by file name and place, errors and warnings together.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| (&a.file.name, a.span, &a.message).cmp(&(&b.file.name, b.span, &b.message)));
    }

    /// All diagnostics as a person sees them, an empty line between two.
    pub fn render(&self, color: bool) -> String {
        self.0.iter().map(|diagnostic| diagnostic.render(color)).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_word_behind_wide_characters() {
        let file = SourceFile::new("recipe.yaml", "# ☃☃☃\npakages: [git]\n");
        let start = file.text.find("pakages").unwrap();
        let diagnostic = Diagnostic::error(&file, Span::new(start, start + 7), "unknown key `pakages`")
            .label("not a key of a recipe")
            .hint("did you mean `packages`?");
        assert_eq!(file.line_column(start), (2, 1));
        assert_eq!(
            diagnostic.render(false),
            "\
error: unknown key `pakages`
 --> recipe.yaml:2:1
  |
2 | pakages: [git]
  | ^^^^^^^ not a key of a recipe
  |
  = help: did you mean `packages`?"
        );
    }

    #[test]
    fn a_span_outside_or_inside_a_character_does_not_panic() {
        let file = SourceFile::new("recipe.yaml", "☃");
        for span in [Span::new(1, 2), Span::new(0, 99), Span::new(99, 120), Span::new(3, 3)] {
            assert!(Diagnostic::error(&file, span, "wrong").render(false).contains("recipe.yaml"));
        }
    }
}
