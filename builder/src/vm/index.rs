//! The package lists that the guest's apt chooses from, cut to what a choice can reach: reading the seventy thousand
//! packages of a distribution takes an emulated apt longer than unpacking what it chose.
//!
//! A package is kept if a chain of dependencies and recommendations, of any version and with all alternatives and
//! providers, leads to it from what is installed, essential or asked for. apt installs nothing else, whatever it prefers, as
//! long as it is not told to follow suggestions.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use fs_err::File;

/// The fields that apt follows.
const FOLLOWED: [&[u8]; 3] = [b"Depends: ", b"Pre-Depends: ", b"Recommends: "];

/// Which packages are reached from which.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    numbers: HashMap<Vec<u8>, u32>,
    next: Vec<Vec<u32>>,
    reached: Vec<bool>,
}

impl Graph {
    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.next.len()).expect("there are fewer names than bytes in the lists");
        self.numbers.insert(name.to_vec(), number);
        self.next.push(Vec::new());
        self.reached.push(false);
        number
    }

    /// Takes in what a list, or the record of what is installed, says of its packages. With `all`, they are reached.
    pub(crate) fn add(&mut self, list: &Path, all: bool) -> io::Result<()> {
        stanzas(list, &mut |stanza| {
            let Some(name) = field(stanza, b"Package: ") else { return Ok(()) };
            let number = self.number(name);
            for line in stanza.split(|byte| *byte == b'\n') {
                if let Some(provided) = line.strip_prefix(b"Provides: ") {
                    for name in names(provided) {
                        let provided = self.number(name);
                        self.next[provided as usize].push(number);
                    }
                } else if let Some(value) = FOLLOWED.iter().find_map(|field| line.strip_prefix(*field)) {
                    for name in names(value) {
                        let needed = self.number(name);
                        self.next[number as usize].push(needed);
                    }
                } else if all || matches!(line, b"Essential: yes" | b"Protected: yes" | b"Important: yes") {
                    self.reached[number as usize] = true;
                }
            }
            Ok(())
        })
    }

    /// Reaches what is asked for (`git`, `git=1:2`, `libc6:i386`, `git/unstable`). `false` if that is no plain name: apt
    /// then looks for it among all packages.
    pub(crate) fn ask(&mut self, wish: &str) -> bool {
        let name = wish.split(['=', '/', ':']).next().unwrap_or_default();
        match self.numbers.get(name.as_bytes()) {
            Some(number) => {
                self.reached[*number as usize] = true;
                true
            }
            None => false,
        }
    }

    /// Follows the chains to their ends.
    pub(crate) fn follow(&mut self) {
        let mut pending: Vec<u32> = (0..).zip(&self.reached).filter(|(_, is)| **is).map(|(number, _)| number).collect();
        while let Some(number) = pending.pop() {
            for next in std::mem::take(&mut self.next[number as usize]) {
                if !std::mem::replace(&mut self.reached[next as usize], true) {
                    pending.push(next);
                }
            }
        }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.numbers.get(name).is_some_and(|number| self.reached[*number as usize])
    }
}

/// The names in a list of dependencies: `a (>= 1) | b:any, c`.
fn names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| b",|".contains(byte)).filter_map(|one| {
        let one = one.trim_ascii();
        let end = one.iter().position(|byte| b" (:[<".contains(byte)).unwrap_or(one.len());
        (end > 0).then(|| &one[..end])
    })
}

fn field<'a>(stanza: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    stanza.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

/// Calls `visit` with each stanza of a file, the empty line at its end included.
fn stanzas(path: &Path, visit: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
    let mut stanza = Vec::new();
    loop {
        let before = stanza.len();
        let count = reader.read_until(b'\n', &mut stanza)?;
        if count == 0 || &stanza[before..] == b"\n" {
            visit(&stanza)?;
            stanza.clear();
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Writes a list anew: only what is in `graph`, if there is one, and with other sizes for the packages with these digests.
pub(crate) fn write(from: &Path, to: &Path, graph: Option<&Graph>, sizes: &BTreeMap<String, u64>) -> io::Result<()> {
    let reached =
        |stanza: &[u8]| graph.is_none_or(|graph| field(stanza, b"Package: ").is_some_and(|name| graph.has(name)));
    rewrite(from, to, &reached, sizes)
}

/// Writes a list anew: only the packages with these digests, with other sizes.
pub(crate) fn write_only(from: &Path, to: &Path, sizes: &BTreeMap<String, u64>) -> io::Result<()> {
    rewrite(from, to, &|stanza| digest(stanza).is_some_and(|digest| sizes.contains_key(digest)), sizes)
}

fn digest(stanza: &[u8]) -> Option<&str> {
    field(stanza, b"SHA256: ").and_then(|digest| str::from_utf8(digest).ok())
}

fn rewrite(from: &Path, to: &Path, is_kept: &dyn Fn(&[u8]) -> bool, sizes: &BTreeMap<String, u64>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 18, File::create(to)?);
    stanzas(from, &mut |stanza| {
        if !is_kept(stanza) {
            return Ok(());
        }
        let Some(size) = digest(stanza).and_then(|digest| sizes.get(digest)) else { return writer.write_all(stanza) };
        for line in stanza.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b"Size: ") {
                writeln!(writer, "Size: {size}")?;
            } else {
                writer.write_all(line)?;
            }
        }
        Ok(())
    })?;
    writer.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reached_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (list, status, to) = (dir.path().join("list"), dir.path().join("status"), dir.path().join("to"));
        let package = |name: &str, rest: &str| format!("Package: {name}\n{rest}Size: 1\nSHA256: {name}\n\n");
        let kept = [
            package("wish", "Depends: alternative | other:any (>= 2),virtual\nSuggests: suggested\n"),
            package("alternative", ""),
            package("other", "Recommends: recommended\n"),
            package("provider", "Provides: virtual (= 1), else\nPre-Depends: deep\n"),
            package("recommended", "Depends: wish\n"),
            package("deep", ""),
            package("installed", "Depends: newer\n"),
            package("newer", ""),
            package("base", "Essential: yes\n"),
        ];
        let cut = [package("suggested", ""), package("unrelated", "Depends: wish\n"), package("else", "")];
        fs_err::write(&list, [kept.concat(), cut.concat()].concat()).unwrap();
        fs_err::write(&status, "Package: installed\nVersion: 1\n").unwrap();
        let mut graph = Graph::default();
        graph.add(&list, false).unwrap();
        graph.add(&status, true).unwrap();
        assert!(graph.ask("wish=1") && graph.ask("wish/unstable") && !graph.ask("wis*") && !graph.ask("desktop^"));
        graph.follow();
        let sizes = [("wish".to_owned(), 100)].into();
        write(&list, &to, Some(&graph), &sizes).unwrap();
        let expected = kept.concat().replacen("Size: 1\n", "Size: 100\n", 1);
        assert_eq!(fs_err::read_to_string(&to).unwrap(), expected);
        write(&list, &to, None, &BTreeMap::new()).unwrap();
        assert_eq!(fs_err::read(&to).unwrap(), fs_err::read(&list).unwrap());
    }
}
