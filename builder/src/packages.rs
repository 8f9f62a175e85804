//! The packages that a step installs: what was asked for, and in which versions.

use std::collections::BTreeMap;

use labwright_base_images::PackageLock;
use labwright_core::{Digest, LockedPackage};
use labwright_guest::protocol::{Action, LockRule, Locked};

use crate::chroot::wire::Source;
use crate::inputs::Input;
use crate::sources::Inputs;

/// What the inputs are called that are versions.
const VERSION_OF: &str = "version of ";

/// What is known about the packages of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packages {
    request: Digest,
    known: Known,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// In these versions the request is installed.
    Locked(Vec<LockedPackage>),
    /// The request was never installed; another one was, in these versions.
    Outdated(Vec<LockedPackage>),
    /// Nothing was ever installed.
    Open,
}

/// Whether the versions of a recipe's packages are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockState {
    /// They are.
    Locked,
    /// They are those of another list of packages or of other package sources.
    Outdated,
    /// They are not.
    Missing,
}

impl Packages {
    /// The packages of a step with these inputs; none if it installs nothing.
    pub(crate) fn of(inputs: &Inputs) -> Option<Self> {
        let installs = |action: &Action| matches!(action, Action::AptInstall { .. });
        let request = request(inputs);
        inputs.actions.iter().any(installs).then_some(Self { request, known: Known::Open })
    }

    /// Whether the versions are known.
    pub fn state(&self) -> LockState {
        match self.known {
            Known::Locked(_) => LockState::Locked,
            Known::Outdated(_) => LockState::Outdated,
            Known::Open => LockState::Missing,
        }
    }

    /// What belongs into the lock file; none while the versions are not known.
    pub fn lock(&self) -> Option<PackageLock> {
        match &self.known {
            Known::Locked(packages) => Some(PackageLock::new(self.request.clone(), packages.iter().cloned())),
            Known::Outdated(_) | Known::Open => None,
        }
    }

    /// Takes the versions of a lock file for what they are.
    pub(crate) fn use_lock(&mut self, lock: &PackageLock) {
        let packages = lock.packages();
        self.known = if *lock.request() == self.request { Known::Locked(packages) } else { Known::Outdated(packages) };
    }

    /// Takes over what was installed. What was locked stays so: on another base some of it may have been there already.
    pub(crate) fn installed(&mut self, came: Vec<LockedPackage>) {
        let mut packages = came;
        if let Known::Locked(before) = &self.known {
            let old = before.iter().filter(|old| !packages.iter().any(|new| new.is_same(old)));
            packages.extend(old.cloned().collect::<Vec<_>>());
        }
        packages.sort();
        self.known = Known::Locked(packages);
    }

    /// What it adds to the text of the step's key.
    pub(crate) fn describe(&self) -> String {
        let (word, packages) = match &self.known {
            Known::Locked(packages) => ("locked", &packages[..]),
            Known::Outdated(packages) => ("like", &packages[..]),
            Known::Open => ("open", &[][..]),
        };
        let mut text = format!("\n{word}");
        for package in packages {
            let (package, version) = package.to_entry();
            text.extend(["\n", &package, " ", &version]);
        }
        text
    }

    /// The versions as inputs of the step.
    pub(crate) fn inputs(&self) -> Vec<Input> {
        let Known::Locked(packages) = &self.known else { return Vec::new() };
        let entries = packages.iter().map(LockedPackage::to_entry);
        entries.map(|(package, version)| Input::new(format!("{VERSION_OF}{package}"), version.as_bytes())).collect()
    }

    /// What the guest is told. With `frozen`, nothing may be installed that is not locked.
    pub(crate) fn order(&self, frozen: Frozen) -> Option<Locked> {
        match &self.known {
            Known::Locked(packages) => {
                let rule = if frozen == Frozen::Yes { LockRule::Only } else { LockRule::Keep };
                Some(Locked { packages: packages.clone(), rule })
            }
            Known::Outdated(packages) => Some(Locked { packages: packages.clone(), rule: LockRule::Prefer }),
            Known::Open => None,
        }
    }
}

/// Whether what is locked may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Frozen {
    /// It may.
    #[default]
    No,
    /// It may not.
    Yes,
}

/// Whether an input is the version of a package.
pub(crate) fn is_input(input: &Input) -> bool {
    input.name.starts_with(VERSION_OF)
}

/// A digest of what is asked for: sources, names, files. The order and our own way of asking do not count.
fn request(inputs: &Inputs) -> Digest {
    let mut lines: BTreeMap<String, String> = BTreeMap::new();
    let mut files = inputs.sources.iter().map(|source| match source {
        Source::Inline(bytes) => Digest::sha256(bytes),
        Source::File { digest, .. } => digest.clone(),
    });
    for action in &inputs.actions {
        match action {
            Action::AptSource { name, source, key } => {
                let key = key.as_ref().map_or_else(String::new, |key| Digest::sha256(key).to_string());
                lines.insert(format!("source {name}"), format!("{} {key}", Digest::sha256(source.as_bytes())));
            }
            Action::AptInstall { packages, files: given, fallbacks } => {
                lines.extend(packages.iter().map(|package| (format!("package {package}"), String::new())));
                for file in given {
                    let digest = files.next().map_or_else(String::new, |digest| digest.to_string());
                    lines.insert(format!("file {}", file.name), digest);
                }
                let other = |suite: &str| format!("else from {suite}");
                lines.extend(fallbacks.iter().map(|one| (format!("package {}", one.package), other(&one.suite))));
            }
            _ => {}
        }
    }
    let text: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    Digest::sha256(text.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(packages: &[&str]) -> Packages {
        let packages = packages.iter().map(|&name| name.to_owned()).collect();
        let install = Action::AptInstall { packages, files: Vec::new(), fallbacks: Vec::new() };
        Packages::of(&Inputs::of(vec![install])).unwrap()
    }

    fn package(name: &str, version: &str) -> LockedPackage {
        LockedPackage::new(name, "amd64", version, None).unwrap()
    }

    #[test]
    fn a_lock_is_for_what_was_asked_for_in_whatever_order() {
        let mut first = asked(&["git", "vim"]);
        assert_eq!((first.state(), first.order(Frozen::No)), (LockState::Missing, None));
        first.installed(vec![package("vim", "1"), package("git", "1"), package("git-man", "1"), package("less", "1")]);
        let lock = first.lock().unwrap();
        let key = first.describe();
        let rule = |packages: &Packages, frozen| packages.order(frozen).map(|order| order.rule);

        let mut same = asked(&["vim", "git", "vim"]);
        same.use_lock(&lock);
        assert_eq!((same.state(), &same.lock()), (LockState::Locked, &Some(lock.clone())));
        assert_eq!(same.describe(), key, "the next build finds the layer of the first");
        assert_eq!(rule(&same, Frozen::No), Some(LockRule::Keep));
        assert_eq!(rule(&same, Frozen::Yes), Some(LockRule::Only));
        // Another base lacks one more package, and has one already.
        same.installed(vec![package("less", "1"), package("pager", "1")]);
        let names: Vec<_> = same.lock().unwrap().packages().iter().map(|one| one.name().to_owned()).collect();
        assert_eq!(names, ["git", "git-man", "less", "pager", "vim"]);

        let mut other = asked(&["vim"]);
        other.use_lock(&lock);
        assert_eq!((other.state(), other.lock()), (LockState::Outdated, None));
        assert_eq!(rule(&other, Frozen::Yes), Some(LockRule::Prefer));
        // What nobody asks for any more goes.
        other.installed(vec![package("vim", "1")]);
        assert_eq!(other.lock().unwrap().packages(), [package("vim", "1")]);
    }

    #[test]
    fn a_step_that_installs_nothing_has_nothing_to_lock() {
        assert_eq!(Packages::of(&Inputs::of(vec![Action::AptUpdate])), None);
    }
}
