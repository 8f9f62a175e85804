//! The written document: a YAML document as a tree in which every node knows its place.

use labwright_core::Span;
use serde_json::{Map, Number, Value};

/// A node of a document.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// The text of a scalar with its quotes; from the first to the last byte of a collection.
    pub span: Span,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with values, in the order of the file; no key is there twice.
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping: always text.
#[derive(Debug, Clone)]
pub struct Key {
    /// The text.
    pub name: String,
    /// Where it was written.
    pub span: Span,
}

/// A scalar after YAML's own unescaping.
#[derive(Debug, Clone)]
pub struct Scalar {
    /// The text.
    pub value: String,
    /// How it was written.
    pub style: Style,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In `'`.
    SingleQuoted,
    /// In `"`.
    DoubleQuoted,
    /// Below `|`.
    Literal,
    /// Below `>`.
    Folded,
}

/// What a scalar means by the core schema of YAML 1.2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning {
    /// Nothing.
    Null,
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Another number; also one that 64 bits do not hold.
    Float(f64),
    /// Text.
    Text,
}

impl Scalar {
    /// What it means; only what was written without quotes is anything but text.
    pub fn meaning(&self) -> Meaning {
        if self.style != Style::Plain {
            return Meaning::Text;
        }
        match self.value.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
            "true" | "True" | "TRUE" => return Meaning::Boolean(true),
            "false" | "False" | "FALSE" => return Meaning::Boolean(false),
            ".nan" | ".NaN" | ".NAN" => return Meaning::Float(f64::NAN),
            _ => {}
        }
        let text = self.value.as_str();
        if let Some(digits) = text.strip_prefix("0o") {
            return i64::from_str_radix(digits, 8).map_or(Meaning::Text, Meaning::Integer);
        }
        if let Some(digits) = text.strip_prefix("0x") {
            return i64::from_str_radix(digits, 16).map_or(Meaning::Text, Meaning::Integer);
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
            return Meaning::Float(f64::INFINITY);
        }
        if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
            // A number that 64 bits do not hold is still a number.
            return text.parse().map_or(Meaning::Float(f64::INFINITY), Meaning::Integer);
        }
        let begins_like_one = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        let only_its_characters =
            unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+'));
        if begins_like_one && only_its_characters && unsigned.bytes().any(|byte| byte.is_ascii_digit()) {
            return text.parse().map_or(Meaning::Text, Meaning::Float);
        }
        Meaning::Text
    }
}

impl Node {
    /// The node for people: "a list", "the number 5".
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "empty".to_owned(),
                Meaning::Boolean(_) => format!("the truth value {}", scalar.value),
                Meaning::Integer(_) | Meaning::Float(_) => format!("the number {}", scalar.value),
                Meaning::Text => "text".to_owned(),
            },
        }
    }

    /// Where to point when something is missing in the node: a block mapping's first key, else the whole node.
    pub fn head(&self, text: &str) -> Span {
        match &self.kind {
            Kind::Mapping(entries) if !text[self.span.start..].starts_with('{') => {
                entries.first().map_or(self.span, |(key, _)| key.span)
            }
            _ => self.span,
        }
    }

    /// How deep the tree below is, in nodes on the longest way, this one included.
    pub fn depth(&self) -> usize {
        1 + match &self.kind {
            Kind::Scalar(_) => 0,
            Kind::Sequence(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Kind::Mapping(entries) => entries.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }

    /// The number of nodes and the bytes of their scalars, this one included.
    pub fn weight(&self) -> (usize, usize) {
        let add = |a: (usize, usize), b: (usize, usize)| (a.0 + b.0, a.1 + b.1);
        match &self.kind {
            Kind::Scalar(scalar) => (1, scalar.value.len()),
            Kind::Sequence(items) => items.iter().map(Self::weight).fold((1, 0), add),
            Kind::Mapping(entries) => {
                entries.iter().map(|(key, value)| add((1, key.name.len()), value.weight())).fold((1, 0), add)
            }
        }
    }

    /// The node as JSON by the core schema of YAML 1.2.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Sequence(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Mapping(entries) => Value::Object(
                entries.iter().map(|(key, value)| (key.name.clone(), value.to_json())).collect::<Map<_, _>>(),
            ),
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => Value::Null,
                Meaning::Boolean(value) => Value::Bool(value),
                Meaning::Integer(value) => Value::Number(value.into()),
                // JSON has no infinity; the greatest number fails the same checks.
                Meaning::Float(value) => {
                    Number::from_f64(value).or_else(|| Number::from_f64(f64::MAX)).map_or(Value::Null, Value::Number)
                }
                Meaning::Text => Value::String(scalar.value.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        let meaning = |value: &str, style| Scalar { value: value.to_owned(), style }.meaning();
        for (value, expected) in [
            ("~", Meaning::Null),
            ("True", Meaning::Boolean(true)),
            ("no", Meaning::Text),
            ("0644", Meaning::Integer(644)),
            ("0o644", Meaning::Integer(0o644)),
            ("-3", Meaning::Integer(-3)),
            ("1.10", Meaning::Float(1.1)),
            ("1e3", Meaning::Float(1000.0)),
            ("1.0.0", Meaning::Text),
            ("12:30", Meaning::Text),
            ("+", Meaning::Text),
            (".", Meaning::Text),
            ("99999999999999999999", Meaning::Float(f64::INFINITY)),
        ] {
            assert_eq!(meaning(value, Style::Plain), expected, "{value}");
        }
        assert_eq!(meaning("8080", Style::DoubleQuoted), Meaning::Text);
    }
}
