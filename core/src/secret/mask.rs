use std::fmt;

use zeroize::Zeroizing;

use super::forms;
use super::{MIN_SECRET, Secret};

/// So many bytes in a row from any form of a secret are hidden: enough to tell nothing, and so few that a secret is
/// still known where a program cuts it into lines.
const RUN: usize = 12;

/// What stands in the place of a secret.
const HIDDEN: &[u8] = b"***";

/// Hides secrets in text: each run of at least twelve bytes that is part of one, as it is or encoded; of a shorter
/// secret, the whole.
#[derive(Clone, Default)]
pub struct Mask {
    /// For each length that occurs, the runs as numbers, sorted.
    runs: Vec<(usize, Zeroizing<Vec<u128>>)>,
    /// A bit for each hash that a run has: most places of a text are judged by it alone.
    filter: Vec<u64>,
}

impl Mask {
    /// Hides these.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut mask = Self::default();
        for form in secrets.into_iter().flat_map(forms::of) {
            // Text is looked at line by line.
            for piece in form.bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
                if piece.len() >= MIN_SECRET {
                    for run in piece.windows(RUN.min(piece.len())) {
                        mask.add(run);
                    }
                }
            }
        }
        for (_, runs) in &mut mask.runs {
            runs.sort_unstable();
            runs.dedup();
        }
        mask
    }

    fn add(&mut self, run: &[u8]) {
        let number = number(run);
        match self.runs.iter_mut().find(|(length, _)| *length == run.len()) {
            Some((_, runs)) => runs.push(number),
            None => self.runs.push((run.len(), Zeroizing::new(vec![number]))),
        }
        self.filter.resize(FILTER_BITS / 64, 0);
        let bit = hash(number);
        self.filter[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Marks the bytes of a line that have to be hidden. `covered` has a mark for each byte; marks are only added.
    pub fn cover(&self, line: &[u8], covered: &mut [bool]) {
        for (length, runs) in &self.runs {
            for (at, window) in line.windows(*length).enumerate() {
                let number = number(window);
                let bit = hash(number);
                if self.filter[bit / 64] & (1 << (bit % 64)) != 0 && runs.binary_search(&number).is_ok() {
                    covered[at..at + length].fill(true);
                }
            }
        }
    }

    /// A line in which what is marked is replaced.
    pub fn hide(line: &[u8], covered: &[bool]) -> Vec<u8> {
        let mut text = Vec::with_capacity(line.len());
        let mut hidden = false;
        for (byte, covered) in line.iter().zip(covered) {
            if !covered {
                text.push(*byte);
            } else if !hidden {
                text.extend(HIDDEN);
            }
            hidden = *covered;
        }
        text
    }

    /// Text without the secrets.
    pub fn text(&self, text: &str) -> String {
        if self.is_empty() {
            return text.to_owned();
        }
        let mut covered = vec![false; text.len()];
        self.cover(text.as_bytes(), &mut covered);
        String::from_utf8_lossy(&Self::hide(text.as_bytes(), &covered)).into_owned()
    }

    /// The fewest bytes at a cut that have to be seen together with what follows.
    pub const OVERLAP: usize = RUN - 1;
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask(..)")
    }
}

const FILTER_BITS: usize = 1 << 16;

fn number(run: &[u8]) -> u128 {
    run.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn hash(number: u128) -> usize {
    // Fibonacci hashing: the highest bits are the best mixed.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    usize::try_from(mixed >> 112).expect("sixteen bits are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(value: &str) -> Mask {
        Mask::new(&[Secret::new(value.as_bytes().to_vec()).unwrap()])
    }

    #[test]
    fn secrets_are_hidden_in_every_form() {
        let mask = mask("correct horse/battery staple\n");
        for (line, expected) in [
            ("+ curl -H 'Bearer correct horse/battery staple' x", "+ curl -H 'Bearer ***' x"),
            ("Y29ycmVjdCBob3JzZS9iYXR0ZXJ5IHN0YXBsZQo=", "***Qo="),
            ("GNvcnJlY3QgaG9yc2UvYmF0dGVyeSBzdGFwbGUK", "G***K"),
            ("636f727265637420686f7273652f62617474657279", "***"),
            ("?t=correct%20horse%2Fbattery%20staple&u", "?t=***&u"),
            ("a piece: horse/battery", "a piece:***"),
            ("correct hosts are fine", "correct hosts are fine"),
            ("", ""),
        ] {
            let hidden = mask.text(line);
            if line.starts_with('Y') || line.starts_with('G') {
                // The characters at the edges hold bits of their neighbours.
                assert!(hidden.len() < 9 && hidden.contains("***"), "{hidden}");
            } else {
                assert_eq!(hidden, expected);
            }
        }
    }

    #[test]
    fn lines_of_a_secret_are_hidden_alone_and_short_ones_only_whole() {
        let long = mask("user\nfirst-line-of-it\nsecond-line-of-it");
        assert_eq!(long.text("second-line-of-it, user"), "***, user");
        let short = mask("12345678");
        assert_eq!(short.text("x12345678y 1234567"), "x***y 1234567");
        assert!(Mask::new([]).is_empty() && !short.is_empty());
    }
}
