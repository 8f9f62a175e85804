//! `${{ … }}` inside one scalar: minijinja with nothing but the document's variables and a few filters.

use std::collections::BTreeMap;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, filters};

/// What begins an expression. Nothing else in a scalar is special.
pub const OPEN: &str = "${{";

/// The filters that an expression may use.
pub(crate) const FILTERS: [&str; 7] = ["capitalize", "int", "lower", "replace", "title", "trim", "upper"];

/// Words of the expression language, which no variable may be called.
pub(crate) const KEYWORDS: [&str; 12] =
    ["and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "self", "loop"];

/// Steps of one scalar's expressions; an honest one needs a few dozen.
const FUEL: u64 = 10_000;
/// The longest text that one scalar may become, in bytes.
const MAX_RENDERED: usize = 1 << 20;

/// The expressions of one document.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    variables: BTreeMap<String, String>,
}

/// A mistake in an expression.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Bytes of the scalar's value.
    pub(crate) range: Range<usize>,
    pub(crate) kind: MistakeKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MistakeKind {
    /// No variable has this name.
    Undefined(String),
    /// No filter has this name.
    Filter(String),
    /// What minijinja said.
    Other(String),
}

impl Templates {
    /// Expressions that may use these variables.
    pub fn new(variables: BTreeMap<String, String>) -> Self {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        environment.set_syntax(syntax());
        environment.set_formatter(format);
        environment.add_filter("capitalize", filters::capitalize);
        environment.add_filter("int", filters::int);
        environment.add_filter("lower", filters::lower);
        environment.add_filter("replace", replace);
        environment.add_filter("title", filters::title);
        environment.add_filter("trim", filters::trim);
        environment.add_filter("upper", filters::upper);
        Self { environment, variables }
    }

    /// The names of the variables.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// The text with its expressions evaluated, and the variables that they used; or all mistakes that can be told
    /// apart.
    pub(crate) fn render(&self, text: &str) -> Result<(String, Vec<String>), Vec<Mistake>> {
        let other = |error: &Error| {
            let range = error.range().map_or(0..text.len(), |range| shrink(text, range));
            Mistake { range, kind: MistakeKind::Other(explain(error)) }
        };
        let template = match self.environment.template_from_str(text) {
            Ok(template) => template,
            Err(error) => return Err(vec![other(&error)]),
        };
        let undeclared = template.undeclared_variables(false);
        let mut mistakes = Vec::new();
        let mut used = Vec::new();
        for (range, word, is_filter) in words(text) {
            if is_filter {
                if !FILTERS.contains(&word) {
                    mistakes.push(Mistake { range, kind: MistakeKind::Filter(word.to_owned()) });
                }
            } else if self.variables.contains_key(word) {
                used.push(word.to_owned());
            } else if undeclared.contains(word) {
                mistakes.push(Mistake { range, kind: MistakeKind::Undefined(word.to_owned()) });
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        match template.render(&self.variables) {
            Ok(rendered) if rendered.len() <= MAX_RENDERED => Ok((rendered, used)),
            Ok(rendered) => Err(vec![Mistake {
                range: 0..text.len(),
                kind: MistakeKind::Other(format!("{} bytes are too much for one value", rendered.len())),
            }]),
            Err(error) => Err(vec![other(&error)]),
        }
    }
}

/// Only `${{` and `}}`. The rest cannot be switched off, so it gets delimiters that no text file has: characters that
/// Unicode will never assign.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .variable_delimiters(OPEN, "}}")
        .block_delimiters("\u{ffff}\u{fffe}b", "b\u{fffe}\u{ffff}")
        .comment_delimiters("\u{ffff}\u{fffe}c", "c\u{fffe}\u{ffff}")
        .build()
        .expect("three different delimiters are valid")
}

/// Only text, numbers and truth values become text: a list in a scalar is a mistake, and can be huge.
fn format(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => {
            write!(out, "{value}").map_err(|_| Error::new(ErrorKind::WriteFailure, "the value cannot be written"))
        }
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        other => Err(Error::new(ErrorKind::InvalidOperation, format!("a {other} cannot stand in a text"))),
    }
}

/// minijinja's own `replace` with a bound on what it allocates.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands owned arguments to filters")]
fn replace(text: String, from: String, to: String) -> Result<String, Error> {
    let hits = if from.is_empty() { text.chars().count() + 1 } else { text.matches(&from).count() };
    if hits.saturating_mul(to.len()) > MAX_RENDERED {
        return Err(Error::new(ErrorKind::InvalidOperation, "the replaced text is too large"));
    }
    Ok(text.replace(&from, &to))
}

/// minijinja's message without its "in template:line", which says nothing to who reads a document.
fn explain(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => "the expression takes too long".to_owned(),
        ErrorKind::SyntaxError if !detail.is_empty() => format!("not a valid expression: {detail}"),
        _ if !detail.is_empty() => detail.to_owned(),
        kind => kind.to_string(),
    }
}

/// A range without white space at its ends, inside the text and at character boundaries.
fn shrink(text: &str, range: Range<usize>) -> Range<usize> {
    let Some(part) = text.get(range.clone()) else { return 0..text.len() };
    let start = range.start + (part.len() - part.trim_start().len());
    let end = range.start + part.trim_end().len();
    if start < end {
        return start..end;
    }
    // Nothing is there, as at the end of the text: point at the last character before it.
    let before = text[..range.start].trim_end();
    let width = before.chars().next_back().map_or(0, char::len_utf8);
    before.len() - width..before.len()
}

/// The names in the expressions of a text, with their places: variables and filters (`true`), no attributes, no
/// keywords, nothing in quotes.
fn words(text: &str) -> Vec<(Range<usize>, &str, bool)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find(OPEN) {
        at += open + OPEN.len();
        let mut depth = 0_usize;
        let mut before = ' ';
        while let Some(c) = text[at..].chars().next() {
            let rest = &text[at..];
            if depth == 0 && rest.starts_with("}}") {
                at += 2;
                break;
            }
            match c {
                '\'' | '"' => at += quoted(rest, c),
                _ if c.is_alphabetic() || c == '_' => {
                    let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                    let word = &rest[..length];
                    if before != '.' && !KEYWORDS.contains(&word.to_lowercase().as_str()) {
                        found.push((at..at + length, word, before == '|'));
                    }
                    at += length;
                }
                _ if c.is_ascii_digit() => {
                    at += rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                }
                _ => {
                    match c {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    at += c.len_utf8();
                }
            }
            if !c.is_whitespace() {
                before = c;
            }
        }
    }
    found
}

/// The expressions of a text: their ranges with the delimiters, and what stands between those, trimmed. One that does
/// not end is left out.
pub(crate) fn expressions(text: &str) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find(OPEN).map(|open| at + open) {
        at = open + OPEN.len();
        let inner = at;
        while let Some(c) = text[at..].chars().next() {
            if text[at..].starts_with("}}") {
                found.push((open..at + 2, text[inner..at].trim()));
                at += 2;
                break;
            }
            at += if matches!(c, '\'' | '"') { quoted(&text[at..], c) } else { c.len_utf8() };
        }
    }
    found
}

/// The length of a string literal with its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        Templates::new(BTreeMap::from([
            ("user".to_owned(), "student".to_owned()),
            ("port".to_owned(), "80".to_owned()),
        ]))
    }

    fn mistake(text: &str) -> (String, MistakeKind) {
        let mistake = templates().render(text).expect_err(text).remove(0);
        (text[mistake.range].to_owned(), mistake.kind)
    }

    #[test]
    fn only_the_dollar_form_is_special() {
        for text in ["$x ${x} {{ x }} {% if x %} {# x #}", "## template: jinja\n{{ v1.local_hostname }}\n", "a\n\n"] {
            assert_eq!(templates().render(text), Ok((text.to_owned(), vec![])));
        }
        for (text, expected) in [
            ("${{ user }}", "student"),
            ("/home/${{ user }}/${{ user | upper }}\n", "/home/student/STUDENT\n"),
            ("${{ port | int + 1 }}", "81"),
            ("${{ 'a' if user == 'x' else 'b' }}", "b"),
            ("${{ '${{ ' }}x }}", "${{ x }}"),
            ("<${{ \"<&>\" }}>", "<<&>>"),
            ("${{ user | replace('u', '') }}", "stdent"),
        ] {
            assert_eq!(templates().render(text).expect(text).0, expected, "{text}");
        }
    }

    #[test]
    fn points_at_the_word() {
        let undefined = |name: &str| (name.to_owned(), MistakeKind::Undefined(name.to_owned()));
        assert_eq!(mistake("☃ ${{ usr }}"), undefined("usr"));
        assert_eq!(mistake("${{ 'usr' ~ user ~ usr.name }}"), undefined("usr"));
        assert_eq!(mistake("${{ user | uper }}"), ("uper".to_owned(), MistakeKind::Filter("uper".to_owned())));
        assert_eq!(mistake("${{ user + 1 }}").0, "user + 1");
        assert_eq!(mistake("a ${{ user").0, "user");
        assert_eq!(mistake("${{ [user] }}").1, MistakeKind::Other("a sequence cannot stand in a text".to_owned()));
        let both = templates().render("${{ a }} ${{ b }} ${{ a }}").expect_err("undefined");
        assert_eq!(both.len(), 3);
    }

    #[test]
    fn finds_the_expressions() {
        let text = "a ${{ x }}b${{ '}}' }}${{y}} ${{ open";
        let found: Vec<_> = expressions(text).into_iter().map(|(range, inner)| (&text[range], inner)).collect();
        assert_eq!(found, [("${{ x }}", "x"), ("${{ '}}' }}", "'}}'"), ("${{y}}", "y")]);
    }

    #[test]
    fn expressions_are_bounded() {
        for text in [
            "${{ 'x' * 100000000 }}",
            "${{ ('x' * 1000000) | replace('x', 'x' * 1000000) }}",
            "${{ 'x' * 2000000 }}",
            "${{ ['x' * 1000000] * 100000 }}",
        ] {
            templates().render(text).expect_err(text);
        }
    }
}
