//! The text form of LVM2's metadata: sections, numbers, texts and lists.

use std::ops::Range;

/// How deep sections may lie in each other; LVM2's own come to 4.
const DEEPEST: usize = 8;

/// More than a section of a group that a person made has.
const MOST: usize = 4096;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Self>),
}

/// A value with its name, and where in the text it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) span: Range<usize>,
}

/// What stands between two braces, in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    pub(super) entries: Vec<(String, Entry)>,
    pub(super) sections: Vec<(String, Self)>,
    /// Where the brace that ends it stands.
    pub(super) end: usize,
}

impl Section {
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|(other, _)| other == name).map(|(_, entry)| entry)
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        self.sections.iter().find(|(other, _)| other == name).map(|(_, section)| section)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.entry(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match &self.entry(name)?.value {
            Value::Number(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Option<&[Value]> {
        match &self.entry(name)?.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The texts of a list.
    pub(super) fn words(&self, name: &str) -> Option<Vec<&str>> {
        let text = |value: &'_ Value| matches!(value, Value::Text(_));
        let list = self.list(name)?;
        list.iter().all(text).then(|| {
            list.iter()
                .filter_map(|value| match value {
                    Value::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect()
        })
    }
}

/// Reads a text; none if it is not one of this form.
pub(super) fn parse(text: &str) -> Option<Section> {
    let mut parser = Parser { text, at: 0 };
    let section = parser.section(0)?;
    (parser.at == text.len()).then_some(section)
}

/// The text with some of its places replaced.
pub(super) fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for (span, new) in edits {
        text.replace_range(span, &new);
    }
    text
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Skips white space and comments.
    fn blank(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'#' {
                self.at += self.text.as_bytes()[self.at..].iter().take_while(|byte| **byte != b'\n').count();
            } else if byte.is_ascii_whitespace() {
                self.at += 1;
            } else {
                break;
            }
        }
    }

    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut section = Section::default();
        loop {
            self.blank();
            section.end = self.at;
            match self.peek() {
                None if depth == 0 => return Some(section),
                Some(b'}') if depth > 0 => return Some(section),
                _ => {}
            }
            let name = self.name()?;
            let new = section.entry(&name).is_none() && section.section(&name).is_none();
            if !new || depth == DEEPEST || section.entries.len() + section.sections.len() == MOST {
                return None;
            }
            self.blank();
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    let inner = self.section(depth + 1)?;
                    self.take(b'}')?;
                    section.sections.push((name, inner));
                }
                b'=' => {
                    self.at += 1;
                    self.blank();
                    let start = self.at;
                    let value = self.value(true)?;
                    section.entries.push((name, Entry { value, span: start..self.at }));
                }
                _ => return None,
            }
        }
    }

    fn name(&mut self) -> Option<String> {
        let allowed = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(*byte);
        let length = self.text.as_bytes()[self.at..].iter().take_while(allowed).count();
        let name = &self.text[self.at..self.at + length];
        self.at += length;
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn value(&mut self, lists: bool) -> Option<Value> {
        match self.peek()? {
            b'"' => self.quoted().map(Value::Text),
            b'[' if lists => self.list().map(Value::List),
            b'-' | b'0'..=b'9' => {
                let sign = usize::from(self.peek() == Some(b'-'));
                let digits = self.text.as_bytes()[self.at + sign..].iter().take_while(|byte| byte.is_ascii_digit());
                let end = self.at + sign + digits.count();
                let number = self.text[self.at..end].parse().ok()?;
                self.at = end;
                Some(Value::Number(number))
            }
            _ => None,
        }
    }

    fn quoted(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut bytes = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(bytes).ok(),
                b'\\' => {
                    bytes.push(self.peek()?);
                    self.at += 1;
                }
                byte => bytes.push(byte),
            }
        }
    }

    fn list(&mut self) -> Option<Vec<Value>> {
        self.take(b'[')?;
        let mut list = Vec::new();
        loop {
            self.blank();
            if self.take(b']').is_some() {
                return Some(list);
            }
            list.push(self.value(false)?);
            self.blank();
            if self.peek()? != b']' {
                self.take(b',')?;
            }
        }
    }
}
