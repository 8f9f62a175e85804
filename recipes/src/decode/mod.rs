//! From the written tree to the resolved recipe: decoders that collect mistakes instead of stopping at the first.

mod access;
mod base;
mod files;
mod packages;
mod paths;
mod recipe;
mod users;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use labwright_core::{Diagnostic, SourceFile, Span, did_you_mean};

use crate::below::Below;
use crate::load::{Feature, Files};
use crate::node::{Kind, Meaning, Node, Scalar, Style};
use crate::place;
use crate::rules::Wanted;
use crate::template::{FILTERS, MistakeKind, OPEN, Templates};

pub(crate) use recipe::{API_VERSION, KIND, recipe};

/// What the decoders of one recipe share.
pub(crate) struct Decoder<'a> {
    pub(crate) file: &'a Arc<SourceFile>,
    pub(crate) dir: &'a Path,
    pub(crate) files: &'a dyn Files,
    pub(crate) templates: Templates,
    pub(crate) used: Vec<String>,
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) features: Vec<(Feature, Span)>,
    /// What a base that is a recipe brings; none also where nobody has looked.
    pub(crate) below: Option<&'a Below>,
}

/// A text value after its expressions were evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) value: String,
    pub(crate) span: Span,
}

/// The entries of a mapping whose keys are all known.
pub(crate) struct Fields<'n> {
    entries: Vec<(&'static str, Span, &'n Node)>,
    /// Where to point when one is missing.
    head: Span,
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node)
    }

    pub(crate) fn key(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|(name, ..)| *name == key).map(|(_, span, _)| *span)
    }

    /// The entries in file order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, Span, &'n Node)> {
        self.entries.iter().copied()
    }
}

/// Keys that people know from elsewhere, with what a recipe has instead.
const ELSEWHERE: [(&str, &str); 22] = [
    ("<<", "YAML 1.2 has no merge keys; write the keys out, or use a whole value again with an anchor and an alias"),
    ("bootcmd", "a recipe runs nothing at boot; write a systemd unit with `write_files` and enable it in `runcmd`"),
    ("chpasswd", "no image has a known password; a lab gives each session its own"),
    ("content_from", "the key is `from`"),
    ("defer", "files are always written after packages and users"),
    ("expiredate", "do it in `runcmd`"),
    ("fqdn", "the key is `hostname`"),
    ("group", "the keys are `primary_group` and `groups`"),
    ("hashed_passwd", "no image has a known password; a lab gives each session its own"),
    ("home", "the key is `homedir`"),
    ("keyid", "give the key itself: `key: ./keys/NAME.asc`"),
    ("keyserver", "give the key itself: `key: ./keys/NAME.asc`"),
    ("mode", "the key is `permissions`"),
    ("package_upgrade", "a recipe does not upgrade its base; take a newer base instead"),
    ("passwd", "no image has a known password; a lab gives each session its own"),
    ("password", "no image has a known password; a lab gives each session its own"),
    ("plain_text_passwd", "no image has a known password; a lab gives each session its own"),
    ("power_state", "a build never boots the machine"),
    ("source", "a file comes from `content` or, beside the recipe, `from`"),
    ("ssh_import_id", "a build asks no one for keys; write them into `ssh_authorized_keys`"),
    ("ssh_pwauth", "do it with `write_files` below /etc/ssh/sshd_config.d/"),
    ("uname", "the key is `name`"),
];

impl Decoder<'_> {
    pub(crate) fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.file, span, message)
    }

    /// Records a mistake. An anchor's contents are decoded once for each alias; what is wrong there is said once.
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if !self.found.contains(&diagnostic) {
            self.found.push(diagnostic);
        }
    }

    pub(crate) fn feature(&mut self, feature: Feature, span: Span) {
        if !self.features.iter().any(|(known, _)| *known == feature) {
            self.features.push((feature, span));
        }
    }

    /// A mapping with no other keys than these; `what` names it in messages.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, what: &str, keys: &[&'static str]) -> Option<Fields<'n>> {
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
            let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == key.name).map(|(_, hint)| *hint);
            self.push(match (elsewhere, did_you_mean(&key.name, keys.iter().copied())) {
                (Some(hint), _) => diagnostic.hint(hint),
                (None, Some(meant)) => diagnostic.hint(format!("did you mean `{meant}`?")),
                (None, None) => diagnostic.hint(format!("known keys: {}", listed(keys))),
            });
        }
        Some(Fields { entries: known, head: node.head(&self.file.text) })
    }

    /// A key that must be there.
    pub(crate) fn required<'n>(&mut self, fields: &Fields<'n>, key: &'static str, what: &str) -> Option<&'n Node> {
        let node = fields.get(key);
        if node.is_none() {
            self.push(
                self.error(fields.head, format!("{what} has no `{key}`")).label(format!("`{key}` is missing here")),
            );
        }
        node
    }

    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
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

    /// A text, with its expressions evaluated.
    pub(crate) fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let scalar = self.plain_text(node, what)?;
        let value = self.evaluate(scalar, node.span)?;
        Some(Text { value, span: node.span })
    }

    /// A text that must not have expressions.
    pub(crate) fn fixed_text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let scalar = self.plain_text(node, what)?;
        if let Some(at) = scalar.value.find(OPEN) {
            let span = place::within(&self.file.text, node.span, scalar.style, &scalar.value, at..at + OPEN.len());
            self.push(
                self.error(span.unwrap_or(node.span), format!("{what} cannot have an expression"))
                    .hint("`${{ … }}` works in values, but not in what identifies a recipe or defines a variable"),
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
        if !scalar.value.contains(OPEN) {
            return Some(scalar.value.clone());
        }
        let mistakes = match self.templates.render(&scalar.value) {
            Ok((value, used)) => {
                self.used.extend(used);
                return Some(value);
            }
            Err(mistakes) => mistakes,
        };
        for mistake in mistakes {
            let exact = place::within(&self.file.text, span, scalar.style, &scalar.value, mistake.range);
            let place = exact.unwrap_or(span);
            let diagnostic = match mistake.kind {
                MistakeKind::Undefined(name) => {
                    let diagnostic = self.error(place, format!("undefined variable `{name}`"));
                    match did_you_mean(&name, self.templates.names()) {
                        Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
                        None => diagnostic.hint(
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
    pub(crate) fn checked(
        &mut self,
        node: &Node,
        what: &str,
        rule: impl FnOnce(&str) -> Result<(), Wanted>,
    ) -> Option<Text> {
        let text = self.text(node, what)?;
        self.follows(text, rule)
    }

    /// The text if it follows the rule.
    pub(crate) fn follows(&mut self, text: Text, rule: impl FnOnce(&str) -> Result<(), Wanted>) -> Option<Text> {
        match rule(&text.value) {
            Ok(()) => Some(text),
            Err(wanted) => {
                self.push(self.not(&text, wanted));
                None
            }
        }
    }

    /// A text that is read by a rule.
    pub(crate) fn read<T>(
        &mut self,
        node: &Node,
        what: &str,
        rule: impl FnOnce(&str) -> Result<T, Wanted>,
    ) -> Option<T> {
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
    pub(crate) fn not(&self, text: &Text, wanted: Wanted) -> Diagnostic {
        self.error(text.span, format!("`{}` is not {wanted}", shown(&text.value)))
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
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
    pub(crate) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
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
    pub(crate) fn integer(&mut self, node: &Node, what: &str, range: RangeInclusive<i64>) -> Option<i64> {
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

    /// Adds a name that must be unique; says where it was first when it is not.
    pub(crate) fn unique(&mut self, seen: &mut Vec<Text>, name: &Text, what: &str) {
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
fn expected(wanted: &str, node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(scalar) if scalar.meaning() == Meaning::Null => format!("{wanted}, and cannot be empty"),
        _ => format!("{wanted}, not {}", node.describe()),
    }
}

/// Words for people: `` `a`, `b` ``.
fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A value on one line and not too long.
fn shown(value: &str) -> String {
    let mut short: String = value.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().count() > 60 {
        short.push('…');
    }
    short
}
