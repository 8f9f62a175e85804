//! Texts that are only whole within a session, because secrets stand in them.

use serde::{Serialize, Serializer};

/// A text in which secrets of the session may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(Vec<Part>);

/// A part of a [`Value`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What the author wrote.
    Text(String),
    /// The name of a secret whose value stands here.
    Secret(String),
}

impl Value {
    /// The parts in their order. Empty texts are dropped, texts beside each other joined.
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (_, Part::Text(text)) if text.is_empty() => {}
                (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
                (_, part) => joined.push(part),
            }
        }
        Self(joined)
    }

    /// A text without secrets.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new([Part::Text(text.into())])
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The names of the secrets in it.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The only secret, where the value is nothing else.
    pub fn as_secret(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Secret(name)] => Some(name),
            _ => None,
        }
    }

    /// The text, where no secret stands in it.
    pub fn as_plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The whole text with what `secret` gives for each name.
    pub fn render(&self, mut secret: impl FnMut(&str) -> String) -> String {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.clone(),
                Part::Secret(name) => secret(name),
            })
            .collect()
    }
}

/// As an author would write it.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.render(|name| format!("${{{{ secrets.{name} }}}}")))
    }
}
