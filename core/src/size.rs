use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written with a binary unit as Kubernetes writes it (`512Mi`, `8Gi`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

const UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

impl ByteSize {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// For people: one decimal place and the largest unit that leaves a figure of at least one (`1.4 GiB`).
    pub fn human(self) -> String {
        for (unit, factor) in UNITS {
            if self.0 >= factor {
                let tenths = u128::from(self.0) * 10 / u128::from(factor);
                return format!("{}.{} {unit}B", tenths / 10, tenths % 10);
            }
        }
        format!("{} B", self.0)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// The text is not a size with a binary unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidByteSize {
    /// A decimal unit or one that nobody knows.
    #[error("`{0}` is not a binary unit (Ki, Mi, Gi or Ti)")]
    Unit(String),
    /// No number in front of the unit.
    #[error("a size is a whole number and a binary unit, such as 8Gi")]
    Number,
    /// No unit behind the number.
    #[error("a size needs a binary unit (Ki, Mi, Gi or Ti)")]
    NoUnit,
    /// More than 64 bits hold.
    #[error("the size is too large")]
    TooLarge,
}

impl FromStr for ByteSize {
    type Err = InvalidByteSize;

    fn from_str(text: &str) -> Result<Self, InvalidByteSize> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(InvalidByteSize::Number);
        }
        if unit.is_empty() {
            return Err(InvalidByteSize::NoUnit);
        }
        let (_, factor) = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| InvalidByteSize::Unit(unit.trim().to_owned()))?;
        let number: u64 = number.parse().map_err(|_| InvalidByteSize::TooLarge)?;
        number.checked_mul(factor).map(Self).ok_or(InvalidByteSize::TooLarge)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = InvalidByteSize;

    fn try_from(text: String) -> Result<Self, InvalidByteSize> {
        // What `Display` writes must be read again, and it writes odd sizes as plain bytes.
        if let Ok(bytes) = text.parse() {
            return Ok(Self(bytes));
        }
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_binary_units() {
        for (text, bytes) in [("8Gi", 8 << 30), ("512Mi", 512 << 20), ("1Ki", 1024)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        }
        assert_eq!(ByteSize::from_bytes(1500 << 20).human(), "1.4 GiB");
    }

    #[test]
    fn refuses_other_units() {
        assert_eq!("8GB".parse::<ByteSize>(), Err(InvalidByteSize::Unit("GB".to_owned())));
        assert_eq!("8".parse::<ByteSize>(), Err(InvalidByteSize::NoUnit));
        assert_eq!("Gi".parse::<ByteSize>(), Err(InvalidByteSize::Number));
        assert_eq!("99999999999Gi".parse::<ByteSize>(), Err(InvalidByteSize::TooLarge));
    }
}
