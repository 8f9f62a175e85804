use serde::{Serialize, Serializer};

/// How a secret's value is made for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSpec(Vec<SecretPart>);

/// A part of a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPart {
    /// The same in every session.
    Fixed(String),
    /// Made anew.
    Random(Random),
}

/// Random characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random {
    /// Which.
    pub kind: RandomKind,
    /// How many.
    pub length: u16,
}

/// Kinds of random characters. All of them pass unharmed through YAML, shells, URLs and HTTP Basic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RandomKind {
    /// Letters and digits, without those that look alike (`0O1lI`): for people to type.
    Password,
    /// `0-9a-f`.
    Hex,
    /// `0-9`.
    Digits,
    /// `a-z`.
    Letters,
}

impl RandomKind {
    /// The functions in a text's expressions, with what they make.
    pub const FUNCTIONS: [(&'static str, Self); 4] =
        [("password", Self::Password), ("hex", Self::Hex), ("digits", Self::Digits), ("letters", Self::Letters)];

    /// What it takes characters from.
    pub const fn alphabet(self) -> &'static str {
        match self {
            Self::Password => "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789",
            Self::Hex => "0123456789abcdef",
            Self::Digits => "0123456789",
            Self::Letters => "abcdefghijklmnopqrstuvwxyz",
        }
    }

    /// The name of its function.
    pub fn as_str(self) -> &'static str {
        Self::FUNCTIONS.into_iter().find(|(_, known)| *known == self).map_or("password", |(word, _)| word)
    }
}

impl SecretSpec {
    /// The parts in their order.
    pub fn new(parts: Vec<SecretPart>) -> Self {
        Self(parts)
    }

    /// A password.
    pub fn password(length: u16) -> Self {
        Self(vec![SecretPart::Random(Random { kind: RandomKind::Password, length })])
    }

    /// The parts.
    pub fn parts(&self) -> &[SecretPart] {
        &self.0
    }

    /// The number of characters of a value.
    pub fn length(&self) -> usize {
        self.0
            .iter()
            .map(|part| match part {
                SecretPart::Fixed(text) => text.len(),
                SecretPart::Random(random) => usize::from(random.length),
            })
            .sum()
    }

    /// A value for one session. `below(n)` gives a random number smaller than `n`, every one as likely, from a source
    /// that nobody can predict.
    pub fn make(&self, mut below: impl FnMut(usize) -> usize) -> String {
        let mut value = String::new();
        for part in &self.0 {
            match part {
                SecretPart::Fixed(text) => value.push_str(text),
                SecretPart::Random(random) => {
                    let alphabet = random.kind.alphabet().as_bytes();
                    value.extend((0..random.length).map(|_| char::from(alphabet[below(alphabet.len())])));
                }
            }
        }
        value
    }
}

/// As an author would write it in a text.
impl Serialize for SecretSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self
            .0
            .iter()
            .map(|part| match part {
                SecretPart::Fixed(text) => text.clone(),
                SecretPart::Random(Random { kind, length }) => format!("${{{{ {}({length}) }}}}", kind.as_str()),
            })
            .collect();
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_what_its_parts_say() {
        let spec = SecretSpec::new(vec![
            SecretPart::Fixed("FLAG{".to_owned()),
            SecretPart::Random(Random { kind: RandomKind::Hex, length: 4 }),
            SecretPart::Fixed("}".to_owned()),
        ]);
        let mut next = 14;
        let value = spec.make(|n| {
            next += 1;
            next % n
        });
        assert_eq!((value.as_str(), spec.length()), ("FLAG{f012}", 10));
        assert_eq!(serde_json::to_value(&spec).unwrap(), "FLAG{${{ hex(4) }}}");
    }

    #[test]
    fn no_alphabet_needs_care() {
        for (_, kind) in RandomKind::FUNCTIONS {
            assert!(kind.alphabet().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}
