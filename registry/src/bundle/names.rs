use std::collections::HashMap;

use crate::tar_reader::Kind;

/// The longest name that every reader of tar archives understands without an extension, in bytes.
///
/// Source: POSIX, pax, "ustar Interchange Format": a name of 100 bytes and a prefix of 155.
const MAX_NAME: usize = 255;

/// A name that a member of a bundle must not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a plain path below a directory.
    #[error("it is not a path such as `base/vm.yaml`")]
    Path,
    /// A control character.
    #[error("it has a control character")]
    Control,
    /// Too long for a tar header.
    #[error("it is too long for a tar archive")]
    TooLong,
    /// Another member has the same name, is a file where this one needs a directory, or differs in case only, which
    /// some file systems cannot tell apart.
    #[error("another member has the same name")]
    Taken,
}

/// Names that were used; keys are in lower case.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, Kind>);

impl Names {
    /// Takes in the name of a file or directory, without a `/` at its end.
    pub(super) fn add(&mut self, name: &str, kind: Kind) -> Result<(), InvalidName> {
        if name.len() > MAX_NAME {
            return Err(InvalidName::TooLong);
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(InvalidName::Path);
        }
        if name.chars().any(char::is_control) {
            return Err(InvalidName::Control);
        }
        let key = name.to_lowercase();
        for (at, _) in key.match_indices('/') {
            if *self.0.entry(key[..at].to_owned()).or_insert(Kind::Directory) != Kind::Directory {
                return Err(InvalidName::Taken);
            }
        }
        match self.0.insert(key, kind) {
            None => Ok(()),
            // A directory may have been meant by a name below it before.
            Some(Kind::Directory) if kind == Kind::Directory => Ok(()),
            Some(_) => Err(InvalidName::Taken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_used_once() {
        use InvalidName::{Control, Path, Taken, TooLong};
        let long = "a/".repeat(127) + "bb";
        let cases: &[(&[&str], Option<InvalidName>)] = &[
            (&["a", "b/a", "b/b", "ä/ö"], None),
            (&["/a"], Some(Path)),
            (&["a/../b"], Some(Path)),
            (&["./a"], Some(Path)),
            (&["a//b"], Some(Path)),
            (&[""], Some(Path)),
            (&["a\nb"], Some(Control)),
            (&["a\u{9b}b"], Some(Control)),
            (&[&long], Some(TooLong)),
            (&["a", "a"], Some(Taken)),
            (&["README", "readme"], Some(Taken)),
            (&["a", "a/b"], Some(Taken)),
            (&["a/b/c", "A/B"], Some(Taken)),
        ];
        for (list, expected) in cases {
            let mut names = Names::default();
            let result = list.iter().try_for_each(|name| names.add(name, Kind::File));
            assert_eq!(result.err().as_ref(), expected.as_ref(), "{list:?}");
        }
        let mut names = Names::default();
        for (name, kind) in [("a", Kind::Directory), ("a/b", Kind::File), ("a", Kind::Directory)] {
            assert_eq!(names.add(name, kind), Ok(()));
        }
        assert_eq!(names.add("a/b", Kind::Directory), Err(Taken));
    }
}
