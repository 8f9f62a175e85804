//! From a range in a scalar's value to the range in the file that it came from.

use std::ops::Range;

use labwright_core::Span;

use crate::node::Style;

/// What YAML folds, indents and ends lines with. What is between two of these is the same in value and source.
const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Where `range` of `value` stands in the file, exactly; `None` when the scalar's escapes leave no exact answer.
///
/// YAML changes nothing but white space (folding, indentation, line ends) and escapes. So the n-th character of the
/// value that is no white space is the n-th of the source, in every style without escapes.
pub(crate) fn within(source: &str, span: Span, style: Style, value: &str, range: Range<usize>) -> Option<Span> {
    let raw = source.get(span.start..span.end)?;
    let (raw, shift) = match style {
        Style::SingleQuoted => (raw.strip_prefix('\'')?.strip_suffix('\'')?, 1),
        Style::DoubleQuoted => (raw.strip_prefix('"')?.strip_suffix('"')?, 1),
        Style::Plain | Style::Literal | Style::Folded => (raw, 0),
    };
    if style == Style::DoubleQuoted && raw.contains('\\') {
        return None;
    }
    let mut written = raw.char_indices().filter(|(_, c)| !is_blank(*c));
    let mut start = None;
    let mut end = None;
    for (at, c) in value.char_indices().filter(|(_, c)| !is_blank(*c)) {
        if at >= range.end {
            break;
        }
        let (found, same) = written.next()?;
        if same != c {
            return None;
        }
        if style == Style::SingleQuoted && c == '\'' {
            // A quote is written twice.
            written.next();
        }
        if at >= range.start {
            start.get_or_insert(found);
            end = Some(found + c.len_utf8());
        }
    }
    let origin = span.start + shift;
    Some(Span::new(origin + start?, origin + end?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_word_in_every_style_without_escapes() {
        for (source, style, value) in [
            ("☃ ${{ usr }}", Style::Plain, "☃ ${{ usr }}"),
            ("a\n   b usr", Style::Plain, "a b usr"),
            ("'it''s ''usr'''", Style::SingleQuoted, "it's 'usr'"),
            ("\"☃ usr\"", Style::DoubleQuoted, "☃ usr"),
            ("one\r\n    two ☃\r\n\r\n  usr\r\n", Style::Literal, "one\n  two ☃\n\nusr\n"),
            ("f\n  g\n\n  usr\n", Style::Folded, "f g\nusr\n"),
        ] {
            let at = value.find("usr").unwrap();
            let span = within(source, Span::new(0, source.len()), style, value, at..at + 3).expect(source);
            assert_eq!(&source[span.start..span.end], "usr", "{source:?}");
        }
    }

    #[test]
    fn escapes_have_no_exact_answer() {
        let source = "\"\\tusr\"";
        assert_eq!(within(source, Span::new(0, source.len()), Style::DoubleQuoted, "\tusr", 1..4), None);
    }
}
