//! YAML that programs write and people read.
//!
//! A [`Map`] keeps its keys in the order in which they were put, because what a person expects first (`apiVersion`,
//! `kind`, `name`) is not first in the alphabet. [`write()`] makes the text: plain scalars where YAML 1.1 and YAML 1.2
//! readers agree on what they are, quotes elsewhere, block literals for texts of several lines.

mod scalar;
#[cfg(test)]
mod tests;
mod write;

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use write::write;

/// A value of YAML's core schema. There are no floats: nothing that we write has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Yaml {
    /// A truth.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Yaml>),
    /// A mapping.
    Map(Map),
}

/// A mapping whose keys stay in the order in which they were put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map(Vec<(String, Yaml)>);

impl Map {
    /// An empty mapping.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// With this key at the end, or with its value in place of the one that the key had.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Yaml>) -> Self {
        self.put(key, value);
        self
    }

    /// With this key, if there is a value for it.
    #[must_use]
    pub fn with_some(self, key: impl Into<String>, value: Option<impl Into<Yaml>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// With this key, unless the list or mapping is empty.
    #[must_use]
    pub fn with_filled(self, key: impl Into<String>, value: impl Into<Yaml>) -> Self {
        match value.into() {
            Yaml::List(list) if list.is_empty() => self,
            Yaml::Map(map) if map.is_empty() => self,
            value => self.with(key, value),
        }
    }

    /// Puts a key at the end, or its value in place of the one that the key had.
    pub fn put(&mut self, key: impl Into<String>, value: impl Into<Yaml>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        self.0.iter().find_map(|(known, value)| (known == key).then_some(value))
    }

    /// Keys and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Yaml)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, V: Into<Yaml>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        pairs.into_iter().fold(Self::new(), |map, (key, value)| map.with(key, value))
    }
}

impl Yaml {
    /// The value at a path of keys.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |value, key| match value {
            Self::Map(map) => map.get(key),
            _ => None,
        })
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<bool> for Yaml {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Yaml {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u16> for Yaml {
    fn from(value: u16) -> Self {
        Self::Int(value.into())
    }
}

impl From<u32> for Yaml {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<&str> for Yaml {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Yaml {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<String> for Yaml {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Map> for Yaml {
    fn from(value: Map) -> Self {
        Self::Map(value)
    }
}

impl<T: Into<Yaml>> From<Vec<T>> for Yaml {
    fn from(values: Vec<T>) -> Self {
        values.into_iter().collect()
    }
}

impl<T: Into<Yaml>, const N: usize> From<[T; N]> for Yaml {
    fn from(values: [T; N]) -> Self {
        values.into_iter().collect()
    }
}

impl<T: Into<Yaml>> FromIterator<T> for Yaml {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}

/// For JSON, as an API takes it.
impl Serialize for Yaml {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
