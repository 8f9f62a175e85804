use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::NamedSecret;
use super::forms::{self, Form};

/// The length of the pieces of a form by which it is found.
const ANCHOR: usize = 8;

/// The most anchors of one form; a long one is found by any of them.
const ANCHORS: usize = 64;

/// A longer form counts as found if so many of its bytes, and at least half of them, are there.
const ENOUGH: usize = 64;

/// So much white space in a row may interrupt a form: line ends of wrapped base64, indentation.
const GAP: usize = 8;

/// Finds secrets in bytes: as they are, in base64, hexadecimal, URLs and JSON, also wrapped into lines.
pub struct Finder {
    names: Vec<String>,
    forms: Vec<(usize, Form)>,
    /// Where the anchor with this number is: form and place in it.
    anchors: HashMap<u64, Vec<(usize, usize)>>,
    /// How far the search may go on when two bytes end the window (Wu and Manber, 1994).
    shifts: Vec<u8>,
}

/// Where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit<'a> {
    /// The secret's name.
    pub name: &'a str,
    /// How it is written there (`in base64`).
    pub encoding: &'static str,
    /// Where it begins in the bytes that were searched.
    pub at: usize,
}

impl Finder {
    /// Finds these.
    pub fn new(secrets: &[NamedSecret]) -> Self {
        let mut finder = Self {
            names: secrets.iter().map(|secret| secret.name.clone()).collect(),
            forms: Vec::new(),
            anchors: HashMap::new(),
            shifts: vec![u8::try_from(ANCHOR - 1).expect("an anchor is short"); 1 << 16],
        };
        for (owner, secret) in secrets.iter().enumerate() {
            for form in forms::of_parts(&secret.value) {
                finder.add(owner, form);
            }
        }
        finder
    }

    fn add(&mut self, owner: usize, form: Form) {
        let index = self.forms.len();
        let last = form.bytes.len() - ANCHOR;
        let stride = ANCHOR.max(form.bytes.len() / ANCHORS);
        for at in (0..=last).step_by(stride).chain([last]) {
            let anchor = &form.bytes[at..at + ANCHOR];
            let places = self.anchors.entry(number(anchor)).or_default();
            if !places.contains(&(index, at)) {
                places.push((index, at));
            }
            for (end, pair) in anchor.windows(2).enumerate() {
                let shift = u8::try_from(ANCHOR - 2 - end).expect("an anchor is short");
                let slot = &mut self.shifts[usize::from(u16::from_le_bytes([pair[0], pair[1]]))];
                *slot = shift.min(*slot);
            }
        }
        self.forms.push((owner, form));
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// How many bytes two pieces of a stream have to share so that nothing is missed between them.
    pub fn overlap(&self) -> usize {
        let longest = self.forms.iter().map(|(_, form)| form.bytes.len()).max().unwrap_or(0);
        // White space may be between all of them; a line end each 16 bytes is more than wrapped text has.
        longest * 2
    }

    /// Where secrets are in a piece of data; each place once.
    pub fn find(&self, data: &[u8]) -> Vec<Hit<'_>> {
        let mut hits = BTreeMap::new();
        let mut end = ANCHOR;
        while let Some(pair) = data.get(end - 2..end) {
            let shift = self.shifts[usize::from(u16::from_le_bytes([pair[0], pair[1]]))];
            if shift > 0 {
                end += usize::from(shift);
                continue;
            }
            let from = end - ANCHOR;
            for &(index, at) in self.anchors.get(&number(&data[from..end])).into_iter().flatten() {
                let (owner, form) = &self.forms[index];
                if let Some(begin) = confirm(data, from, &form.bytes, at) {
                    hits.entry((begin, *owner)).or_insert(form.encoding);
                }
            }
            end += 1;
        }
        hits.into_iter().map(|((at, owner), encoding)| Hit { name: &self.names[owner], encoding, at }).collect()
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").field("names", &self.names).finish_non_exhaustive()
    }
}

fn number(anchor: &[u8]) -> u64 {
    anchor.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Whether enough of the form is around its anchor; returns where it begins.
fn confirm(data: &[u8], from: usize, form: &[u8], at: usize) -> Option<usize> {
    let behind = run(data[from..].iter(), form[at..].iter()).0;
    let (before, length) = run(data[..from].iter().rev(), form[..at].iter().rev());
    let needed = form.len().min(ENOUGH.max(form.len() / 2));
    (before + behind >= needed).then(|| from - length)
}

/// How many bytes of a form follow each other in the data, and how many bytes of the data that takes.
fn run<'a>(data: impl Iterator<Item = &'a u8>, form: impl Iterator<Item = &'a u8>) -> (usize, usize) {
    let mut form = form.peekable();
    let (mut matched, mut length, mut gap) = (0, 0, 0);
    for (count, byte) in data.enumerate() {
        match form.peek() {
            Some(wanted) if *wanted == byte => {
                form.next();
                (matched, length, gap) = (matched + 1, count + 1, 0);
            }
            Some(_) if byte.is_ascii_whitespace() && gap < GAP => gap += 1,
            _ => break,
        }
    }
    (matched, length)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::Secret;

    fn named(name: &str, value: &[u8]) -> NamedSecret {
        NamedSecret { name: name.to_owned(), value: Secret::new(value.to_vec()).unwrap() }
    }

    /// Bytes without any pattern (SplitMix64).
    fn noise(mut state: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bytes.extend(((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)).to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn forms_are_found_anywhere_in_noise() {
        let value = b"hunter2/hunter3";
        let finder = Finder::new(&[named("other", b"something else"), named("token", value)]);
        for at in 0..40 {
            for (encoding, form) in [
                ("as it is", value.to_vec()),
                ("in hexadecimal", b"68756e746572322f68756e74657233".to_vec()),
                ("URL-encoded", b"hunter2%2Fhunter3".to_vec()),
                ("in base64", STANDARD.encode(value).into_bytes()),
            ] {
                let mut data = noise(7, 4000);
                data.splice(at..at, form);
                assert_eq!(finder.find(&data), [Hit { name: "token", encoding, at }], "{encoding} at {at}");
            }
        }
        assert_eq!(finder.find(&noise(3, 1 << 20)), []);
        assert_eq!(finder.find(b"hunter2/hunter"), [], "not all of it");
        assert_eq!(finder.find(b""), []);
    }

    #[test]
    fn wrapped_base64_is_found_wherever_it_is_cut() {
        // Without line ends, which would make parts of it count alone.
        let value: Vec<u8> = noise(1, 40).into_iter().map(|byte| byte | 0x80).collect();
        let finder = Finder::new(&[named("key", &value)]);
        for before in 0..80 {
            let text = STANDARD.encode([&noise(2, before)[..], &value, &noise(4, 99)].concat());
            let lines: Vec<&str> = text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let hits = finder.find(lines.join("\n  ").as_bytes()).len();
            assert_eq!(hits, 1, "{before}");
        }
    }

    #[test]
    fn long_secrets_are_found_in_half_and_not_by_what_all_keys_share() {
        let armour = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\nQyNTUxOQAAACB";
        let body = STANDARD.encode(noise(9, 300));
        let key = [&armour[..], body.as_bytes()].concat();
        let finder = Finder::new(&[named("key", &key)]);
        assert_eq!(finder.find(&[&armour[..], STANDARD.encode(noise(8, 300)).as_bytes()].concat()), []);
        assert_eq!(finder.find(&key[..key.len() * 2 / 3]).len(), 1);
        assert_eq!(finder.find(&[b"x", &key[..]].concat())[0].at, 1);
    }
}
