//! The versions of packages in the lock files beside recipes.

use std::error::Error;
use std::path::PathBuf;

use labwright_base_images::{Lock, LockError, PackageLock};
use labwright_builder::{LockKeeper, LockState, Packages, Plan};
use labwright_core::{Arch, LockedPackage};
use labwright_recipes::Loaded;

use super::base::{LOCK_NAME, Pins, lock_of};
use crate::error::{CommandError, Kind};
use crate::ui::Ui;

/// So many changes of versions are named.
const NAMED: usize = 5;

/// The lock files of a chain of recipes.
pub(super) struct PackageLocks<'a> {
    /// Of each recipe, the lowest first: the lock file and the recipe's name.
    files: Vec<(PathBuf, String)>,
    arch: Arch,
    ui: &'a Ui,
}

impl<'a> PackageLocks<'a> {
    /// Gives the packages of a plan the versions that the lock files of its recipes have.
    pub(super) fn apply(recipes: &[Loaded], plan: &mut Plan, pins: Pins, ui: &'a Ui) -> Result<Self, CommandError> {
        let arch = plan.arch();
        let mut files = Vec::new();
        for (level, loaded) in recipes.iter().enumerate() {
            let (path, lock) = lock_of(loaded)?;
            let name = &loaded.recipe.name;
            if let Some(packages) = lock.packages(name, arch).filter(|_| pins != Pins::Update) {
                plan.use_lock(level, packages);
            }
            if pins == Pins::Locked
                && let Some(lack) = lack(plan.packages()[level], name, arch)
            {
                let hint = format!("build without --locked, and commit {LOCK_NAME}");
                return Err(CommandError::sentence(Kind::Lock, lack).hint(hint));
            }
            files.push((path, name.clone()));
        }
        Ok(Self { files, arch, ui })
    }

    /// Makes sure that what a build finds out can be written down, and writes what is known already.
    pub(super) fn prepare(&self, plan: &Plan) -> Result<(), CommandError> {
        for (level, packages) in plan.packages().into_iter().enumerate() {
            let (path, name) = &self.files[level];
            match packages.map(Packages::lock) {
                // It was installed here before, for another recipe or beside another lock file.
                Some(Some(lock)) if Lock::load(path)?.packages(name, self.arch) != Some(&lock) => {
                    self.write(level, &lock)?;
                }
                Some(None) => Lock::check_writable(path)?,
                Some(Some(_)) | None => {}
            }
        }
        Ok(())
    }

    fn write(&self, level: usize, lock: &PackageLock) -> Result<(), LockError> {
        let (path, name) = &self.files[level];
        let mut before = None;
        Lock::update(path, |file| {
            before = file.packages(name, self.arch).map(PackageLock::packages);
            file.set_packages(name, self.arch, lock.clone());
        })?;
        let said = match before {
            None => format!("{} packages of `{name}` are locked now", lock.packages().len()),
            Some(before) => match changes(&before, &lock.packages()) {
                Some(changes) => format!("what is locked for `{name}` changed: {changes}"),
                None => return Ok(()),
            },
        };
        self.ui.note(format!("{}: {said}", path.display()));
        Ok(())
    }
}

impl LockKeeper for PackageLocks<'_> {
    fn keep(&self, level: usize, lock: &PackageLock) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.write(level, lock)?)
    }
}

/// What a lock file lacks for packages that may only be installed as locked.
fn lack(packages: Option<&Packages>, name: &str, arch: Arch) -> Option<String> {
    match packages?.state() {
        LockState::Locked => None,
        LockState::Missing => Some(format!("{LOCK_NAME} has no versions of the packages of `{name}` for {arch}")),
        LockState::Outdated => Some(format!(
            "{LOCK_NAME} does not fit the recipe `{name}`: its packages or package sources changed since they were locked"
        )),
    }
}

/// How locked versions differ, for people; none if they do not.
fn changes(before: &[LockedPackage], now: &[LockedPackage]) -> Option<String> {
    let mut changes: Vec<String> = Vec::new();
    for package in now {
        match before.iter().find(|old| old.is_same(package)) {
            Some(old) if old == package => {}
            Some(old) if old.version() == package.version() => {
                changes.push(format!("another file of {}", package.name()))
            }
            Some(old) => changes.push(format!("{} {} (was {})", package.name(), package.version(), old.version())),
            None => changes.push(format!("+ {} {}", package.name(), package.version())),
        }
    }
    let gone = before.iter().filter(|old| !now.iter().any(|package| package.is_same(old)));
    changes.extend(gone.map(|old| format!("- {} {}", old.name(), old.version())));
    let more = changes.len().saturating_sub(NAMED);
    let named = changes[..changes.len() - more].join(", ");
    match (changes.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named),
        (false, more) => Some(format!("{named} and {more} more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_and_counted() {
        let package = |name: &str, version: &str| LockedPackage::new(name, "amd64", version, None).unwrap();
        let before = [package("a", "1"), package("b", "1"), package("c", "1")];
        assert_eq!(changes(&before, &before), None);
        assert_eq!(
            changes(&before, &[package("a", "1"), package("b", "2"), package("d", "1")]).as_deref(),
            Some("b 2 (was 1), + d 1, - c 1")
        );
        let many: Vec<_> = (0..7).map(|number| package(&format!("p{number}"), "1")).collect();
        assert_eq!(changes(&[], &many).as_deref(), Some("+ p0 1, + p1 1, + p2 1, + p3 1, + p4 1 and 2 more"));
    }
}
