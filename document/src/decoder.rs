//! From the written tree to plain values: decoders that collect mistakes instead of stopping at the first.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use labwright_core::{ByteSize, Diagnostic, SourceFile, Span, did_you_mean};

use crate::files::Files;
use crate::node::{Kind, Meaning, Node, Scalar, Style};
use crate::place;
use crate::rules;
use crate::template::{FILTERS, MistakeKind, OPEN, Templates, expressions};

/// What a text should have been, to follow "… is not": `a DNS label (…)`.
pub type Wanted = &'static str;

/// Words for people that depend on what the document is.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// What a person calls the document: `recipe`.
    pub noun: &'static str,
    /// Its `kind`.
    pub kind: &'static str,
    /// Keys that people know from elsewhere, with what this kind of document has instead.
    pub elsewhere: &'static [(&'static str, &'static str)],
    /// Why a text that says what the document is has no expressions.
    pub fixed: &'static str,
    /// Names that only mean something in some places, with what to do elsewhere.
    pub elsewhere_names: &'static [(&'static str, &'static str)],
}

/// What the decoders of one document share. `C` is what the kind of document needs besides.
#[expect(missing_debug_implementations, reason = "the files of a caller need not be printable")]
pub struct Decoder<'a, C> {
    /// The document's text.
    pub file: &'a Arc<SourceFile>,
    /// The directory that paths in it are relative to.
    pub dir: &'a Path,
    /// The files there.
    pub files: &'a dyn Files,
    /// Evaluates expressions.
    pub templates: Templates,
    /// The variables that were used so far.
    pub used: Vec<String>,
    /// The mistakes and warnings so far.
    pub found: Vec<Diagnostic>,
    /// Words for people.
    pub words: Words,
    /// What the kind of document needs besides.
    pub context: C,
}

/// A text value after its expressions were evaluated.
#[derive(Debug, Clone)]
pub struct Text {
    /// What it is.
    pub value: String,
    /// Where it was written.
    pub span: Span,
}

/// A part of a text in which some expressions are not for the templates.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Text with its expressions evaluated.
    Text(String),
    /// What stands in an expression that the caller knows.
    Own(Text),
}

/// The entries of a mapping whose keys are all known.
#[derive(Debug)]
pub struct Fields<'n> {
    entries: Vec<(&'static str, Span, &'n Node)>,
    /// Where to point when one is missing.
    head: Span,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node)
    }

    /// The place of a key.
    pub fn key(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(name, ..)| *name == key).map(|(_, span, _)| *span)
    }

    /// The entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Span, &'n Node)> {
        self.entries.iter().copied()
    }
}

impl<'a, C> Decoder<'a, C> {
    /// A decoder that knows no variables yet. `found` has what the parser said.
    pub fn new(
        file: &'a Arc<SourceFile>,
        (dir, files): (&'a Path, &'a dyn Files),
        found: Vec<Diagnostic>,
        words: Words,
        context: C,
    ) -> Self {
        Self { file, dir, files, templates: Templates::new(BTreeMap::new()), used: Vec::new(), found, words, context }
    }

    /// A mistake at a place of the document.
    pub fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.file, span, message)
    }

    /// Records a mistake. An anchor's contents are decoded once for each alias; what is wrong there is said once.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    /// A mapping with no other keys than these; `what` names it in messages.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, keys: &[&'static str]) -> Option<Fields<'n>> {
        let Kind::Mapping(entries) = &node.kind else {
            let message = expected(&format!("{what} is a mapping"), node);
            self.push(self.error(node.span, message).hint(format!("its keys: {}", listed(keys))));
            return None;
        };
        let mut known = Vec::new();
        for (key, value) in entries {
            if let Some(name) = keys.iter().find(|name| **name == key.name) {
                known.push((*name, key.span, value));
                continue;
            }
            let diagnostic =
                self.error(key.span, format!("unknown key `{}`", key.name)).label(format!("not a key of {what}"));
            let elsewhere = self.words.elsewhere.iter().find(|(name, _)| *name == key.name).map(|(_, hint)| *hint);
            self.push(match (elsewhere, did_you_mean(&key.name, keys.iter().copied())) {
                (Some(hint), _) => diagnostic.hint(hint),
                (None, Some(meant)) => diagnostic.hint(format!("did you mean `{meant}`?")),
                (None, None) => diagnostic.hint(format!("known keys: {}", listed(keys))),
            });
        }
        Some(Fields { entries: known, head: node.head(&self.file.text) })
    }

    /// A key that must be there.
    pub fn required<'n>(&mut self, fields: &Fields<'n>, key: &'static str, what: &str) -> Option<&'n Node> {
        let node = fields.get(key);
        if node.is_none() {
            self.push(
                self.error(fields.head, format!("{what} has no `{key}`")).label(format!("`{key}` is missing here")),
            );
        }
        node
    }

    /// The items of a list; `what` names it in messages.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        if let Kind::Sequence(items) = &node.kind {
            return Some(items);
        }
        let message = expected(&format!("{what} is a list"), node);
        let diagnostic = self.error(node.span, message);
        self.push(match &node.kind {
            Kind::Scalar(scalar) if scalar.meaning() != Meaning::Null => diagnostic.hint("put it in brackets: `[ … ]`"),
            _ => diagnostic.hint("write `[]` for an empty list, or leave the key out"),
        });
        None
    }

    /// Environment variables by name; `read` makes a value, and gets what to call it. Mistakes are told and left out.
    pub fn env<T>(
        &mut self,
        node: &Node,
        mut read: impl FnMut(&mut Self, &Node, &str) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Kind::Mapping(entries) = &node.kind else {
            let message = expected("`env` is a mapping from names to texts", node);
            self.push(self.error(node.span, message).hint("write `env: {NAME: VALUE}`"));
            return BTreeMap::new();
        };
        let mut found = BTreeMap::new();
        for (key, node) in entries {
            let name = self.follows(Text { value: key.name.clone(), span: key.span }, rules::env_name);
            let value = read(self, node, &format!("`{}`", shown(&key.name)));
            if let (Some(name), Some(value)) = (name, value) {
                found.insert(name.value, value);
            }
        }
        found
    }

    /// A list of texts; what is none is told and left out.
    pub fn words(&mut self, node: &Node, what: &str) -> Vec<String> {
        let items = self.list(node, what).unwrap_or_default();
        items.iter().filter_map(|item| self.text(item, "a word of it")).map(|text| text.value).collect()
    }

    /// A text, with its expressions evaluated.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let scalar = self.plain_text(node, what)?;
        let value = self.evaluate(scalar, node.span)?;
        Some(Text { value, span: node.span })
    }

    /// A text whose expressions are evaluated, apart from those that are the caller's `own`: these are given as they
    /// stand, in their place.
    pub fn pieces(&mut self, node: &Node, what: &str, own: impl Fn(&str) -> bool) -> Option<Vec<Piece>> {
        let scalar = self.plain_text(node, what)?;
        let (mut pieces, mut complete, mut from) = (Vec::new(), true, 0);
        let mut text = |decoder: &mut Self, pieces: &mut Vec<Piece>, range| match decoder
            .evaluate_part(scalar, node.span, range)
        {
            Some(value) => pieces.push(Piece::Text(value)),
            None => complete = false,
        };
        for (range, inner) in expressions(&scalar.value) {
            if own(inner) {
                text(self, &mut pieces, from..range.start);
                from = range.end;
                let exact = place::within(&self.file.text, node.span, scalar.style, &scalar.value, range);
                pieces.push(Piece::Own(Text { value: inner.to_owned(), span: exact.unwrap_or(node.span) }));
            }
        }
        text(self, &mut pieces, from..scalar.value.len());
        complete.then_some(pieces)
    }

    /// A size in binary units, within limits.
    pub fn size(&mut self, node: &Node, what: &str, limits: RangeInclusive<ByteSize>) -> Option<ByteSize> {
        let text = self.text(node, what)?;
        match text.value.parse::<ByteSize>() {
            Ok(size) if limits.contains(&size) => Some(size),
            Ok(size) => {
                let diagnostic = self.error(text.span, format!("{what} cannot be {size}"));
                self.push(diagnostic.hint(format!("from {} to {}", limits.start(), limits.end())));
                None
            }
            Err(error) => {
                let diagnostic = self.error(text.span, format!("`{}` is not a size", shown(&text.value)));
                let diagnostic = diagnostic.hint(error.to_string());
                let digits = text.value.trim_end_matches(|c: char| !c.is_ascii_digit());
                let meant = text.value.chars().find_map(|c| match c.to_ascii_uppercase() {
                    unit @ ('M' | 'G' | 'T') => Some(unit),
                    _ => None,
                });
                self.push(match meant {
                    Some(unit) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                        diagnostic.hint(format!("did you mean `{digits}{unit}i`?"))
                    }
                    _ => diagnostic,
                });
                None
            }
        }
    }

    /// A text that must not have expressions.
    pub fn fixed_text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let scalar = self.plain_text(node, what)?;
        if let Some(at) = scalar.value.find(OPEN) {
            let span = place::within(&self.file.text, node.span, scalar.style, &scalar.value, at..at + OPEN.len());
            self.push(
                self.error(span.unwrap_or(node.span), format!("{what} cannot have an expression"))
                    .hint(self.words.fixed),
            );
            return None;
        }
        Some(Text { value: scalar.value.clone(), span: node.span })
    }

    fn plain_text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n Scalar> {
        let diagnostic = match &node.kind {
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Text => return Some(scalar),
                Meaning::Null => self
                    .error(node.span, expected(&format!("{what} is text"), node))
                    .hint("give a value, or leave the key out"),
                _ => self
                    .error(node.span, expected(&format!("{what} is text"), node))
                    .hint(format!("write it in quotes: \"{}\"", scalar.value)),
            },
            _ => self.error(node.span, expected(&format!("{what} is text"), node)),
        };
        self.push(diagnostic);
        None
    }

    /// Evaluates the expressions of a scalar; mistakes point at the exact word where the scalar's style allows it.
    fn evaluate(&mut self, scalar: &Scalar, span: Span) -> Option<String> {
        self.evaluate_part(scalar, span, 0..scalar.value.len())
    }

    fn evaluate_part(&mut self, scalar: &Scalar, span: Span, part: Range<usize>) -> Option<String> {
        let text = &scalar.value[part.clone()];
        if !text.contains(OPEN) {
            return Some(text.to_owned());
        }
        let mistakes = match self.templates.render(text) {
            Ok((value, used)) => {
                self.used.extend(used);
                return Some(value);
            }
            Err(mistakes) => mistakes,
        };
        for mistake in mistakes {
            let range = mistake.range.start + part.start..mistake.range.end + part.start;
            let exact = place::within(&self.file.text, span, scalar.style, &scalar.value, range);
            let place = exact.unwrap_or(span);
            let diagnostic = match mistake.kind {
                MistakeKind::Undefined(name) => {
                    let diagnostic = self.error(place, format!("undefined variable `{name}`"));
                    let elsewhere = self.words.elsewhere_names.iter().find(|(known, _)| *known == name);
                    match (elsewhere, did_you_mean(&name, self.templates.names())) {
                        (Some((_, hint)), _) => diagnostic.hint(*hint),
                        (None, Some(meant)) => diagnostic.hint(format!("did you mean `{meant}`?")),
                        (None, None) => diagnostic.hint(
                            "declare it below `variables`; for a `${{` that is meant as it is, write `${{ '${{' }}`",
                        ),
                    }
                }
                MistakeKind::Filter(name) => {
                    let diagnostic = self.error(place, format!("unknown filter `{name}`"));
                    match did_you_mean(&name, FILTERS) {
                        Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
                        None => diagnostic.hint(format!("known filters: {}", listed(&FILTERS))),
                    }
                }
                MistakeKind::Other(message) => self.error(place, message).label("in this expression"),
            };
            self.push(diagnostic);
        }
        None
    }

    /// A text that follows a rule.
    pub fn checked(&mut self, node: &Node, what: &str, rule: impl FnOnce(&str) -> Result<(), Wanted>) -> Option<Text> {
        let text = self.text(node, what)?;
        self.follows(text, rule)
    }

    /// The text if it follows the rule.
    pub fn follows(&mut self, text: Text, rule: impl FnOnce(&str) -> Result<(), Wanted>) -> Option<Text> {
        match rule(&text.value) {
            Ok(()) => Some(text),
            Err(wanted) => {
                self.push(self.not(&text, wanted));
                None
            }
        }
    }

    /// A text that is read by a rule.
    pub fn read<T>(&mut self, node: &Node, what: &str, rule: impl FnOnce(&str) -> Result<T, Wanted>) -> Option<T> {
        let text = self.text(node, what)?;
        match rule(&text.value) {
            Ok(value) => Some(value),
            Err(wanted) => {
                self.push(self.not(&text, wanted));
                None
            }
        }
    }

    /// `text` is not what was `wanted`.
    pub fn not(&self, text: &Text, wanted: Wanted) -> Diagnostic {
        self.error(text.span, format!("`{}` is not {wanted}", shown(&text.value)))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let diagnostic = self.error(text.span, format!("`{}` is not known as {what}", shown(&text.value)));
        self.push(match did_you_mean(&text.value, words.iter().copied()) {
            Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
            None => diagnostic.hint(format!("one of {}", listed(&words))),
        });
        None
    }

    /// `true` or `false`, also as the result of an expression.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        if let Kind::Scalar(scalar) = &node.kind {
            if let Meaning::Boolean(value) = scalar.meaning() {
                return Some(value);
            }
            if scalar.value.contains(OPEN) {
                let value = self.evaluate(scalar, node.span)?;
                if let Meaning::Boolean(value) = (Scalar { value, style: Style::Plain }).meaning() {
                    return Some(value);
                }
            } else {
                let diagnostic = self.error(node.span, expected(&format!("{what} is true or false"), node));
                self.push(match scalar.value.to_lowercase().as_str() {
                    "yes" | "on" | "y" | "1" | "true" => diagnostic.hint("write `true`"),
                    "no" | "off" | "n" | "0" | "false" => diagnostic.hint("write `false`"),
                    _ => diagnostic,
                });
                return None;
            }
        }
        self.push(self.error(node.span, expected(&format!("{what} is true or false"), node)));
        None
    }

    /// A whole number in a range, also as the result of an expression.
    pub fn integer(&mut self, node: &Node, what: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let mut meaning = None;
        if let Kind::Scalar(scalar) = &node.kind {
            meaning = Some(scalar.meaning());
            if scalar.value.contains(OPEN) {
                let value = self.evaluate(scalar, node.span)?;
                meaning = Some(Scalar { value: value.trim().to_owned(), style: Style::Plain }.meaning());
            }
        }
        let limits = format!("from {} to {}", range.start(), range.end());
        match meaning {
            Some(Meaning::Integer(value)) if range.contains(&value) => return Some(value),
            Some(Meaning::Integer(value)) => {
                self.push(self.error(node.span, format!("{what} is a number {limits}, not {value}")));
            }
            _ => {
                let diagnostic = self.error(node.span, expected(&format!("{what} is a number {limits}"), node));
                let unquoted = match &node.kind {
                    Kind::Scalar(scalar) if scalar.value.parse::<i64>().is_ok() => Some(scalar.value.clone()),
                    _ => None,
                };
                self.push(match unquoted {
                    Some(number) => diagnostic.hint(format!("write it without quotes: {number}")),
                    None => diagnostic,
                });
            }
        }
        None
    }

    /// Adds a value that must be given once; says where it was first when it is not, and returns `None` then.
    pub fn once<T: PartialEq + fmt::Display>(
        &mut self,
        seen: &mut Vec<(T, Span)>,
        value: T,
        span: Span,
        what: &str,
    ) -> Option<()> {
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == value) {
            let (line, column) = self.file.line_column(first.start);
            let diagnostic = self.error(span, format!("{what} {value} is given twice"));
            self.push(diagnostic.label(format!("first given at line {line}, column {column}")));
            return None;
        }
        seen.push((value, span));
        Some(())
    }

    /// Adds a name that must be unique; says where it was first when it is not.
    pub fn unique(&mut self, seen: &mut Vec<Text>, name: &Text, what: &str) {
        if let Some(first) = seen.iter().find(|first| first.value == name.value) {
            let (line, column) = self.file.line_column(first.span.start);
            let message = format!("{what} `{}` is given twice", shown(&name.value));
            self.push(self.error(name.span, message).label(format!("first given at line {line}, column {column}")));
        } else {
            seen.push(name.clone());
        }
    }
}

/// What something is, and what stands there instead: "`packages` is a list, not text".
pub fn expected(wanted: &str, node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(scalar) if scalar.meaning() == Meaning::Null => format!("{wanted}, and cannot be empty"),
        _ => format!("{wanted}, not {}", node.describe()),
    }
}

/// Words for people: `` `a`, `b` ``.
pub fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A value on one line and not too long.
pub fn shown(value: &str) -> String {
    let mut short: String = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().count() > 60 {
        short.push('…');
    }
    short
}
