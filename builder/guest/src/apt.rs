//! Packages, by the guest's own apt and dpkg.

use std::io::Write;
use std::path::Path;

use labwright_core::{LockedPackage, PackageFact};
use rustix::fs::{Gid, Uid};

use crate::error::{Doing, StepError};
use crate::files;
use crate::inventory::{self, Inventory, PER_REPORT};
use crate::locked::{self, Planned};
use crate::protocol::{AptFile, Fallback, LockRule, Locked, Message, Report, Request};
use crate::session::{Program, Session};
use crate::sources::{self, Source};
use crate::traces::{PIN_PREFERENCES, PIN_SOURCE};

const OS_RELEASE: &str = "/etc/os-release";
const ARCHIVES: &str = "/var/cache/apt/archives";
const FILES: &str = "/tmp/labwright-packages";

/// What is fixed for all calls: no terminal, no questions, no waiting for the disk, the image's configuration files kept
/// where a person changed them, and apt's own caches outside the image. Recommended packages come as the distribution
/// says, as with cloud-init.
const OPTIONS: &[&str] = &[
    "-o",
    "Dpkg::Use-Pty=0",
    "-o",
    "Dpkg::Options::=--force-unsafe-io",
    "-o",
    "Dpkg::Options::=--force-confdef",
    "-o",
    "Dpkg::Options::=--force-confold",
    "-o",
    "DPkg::Lock::Timeout=60",
    "-o",
    "Acquire::Retries=3",
    "-o",
    "Acquire::Languages=none",
    "-o",
    "APT::Update::Error-Mode=any",
    "-o",
    "Dir::Cache::pkgcache=/run/labwright/pkgcache.bin",
    "-o",
    "Dir::Cache::srcpkgcache=/run/labwright/srcpkgcache.bin",
];

/// apt in one step.
#[derive(Default)]
pub(crate) struct Apt {
    options: Vec<String>,
    network: bool,
    has_lists: bool,
    locked: Option<Locked>,
}

impl Apt {
    pub(crate) fn new(request: &Request) -> Self {
        let mut options: Vec<String> = OPTIONS.iter().map(|&option| option.to_owned()).collect();
        // The host locks a cache that steps share; apt's own lock would make them wait for each other's whole run.
        if request.binds.iter().any(|bind| bind.guest.as_str().trim_end_matches('/') == ARCHIVES) {
            options.extend(["-o", "Debug::NoLocking=1"].map(str::to_owned));
        }
        for (name, value) in &request.apt_options {
            options.extend(["-o".to_owned(), format!("{name}={value}")]);
        }
        Self { options, network: request.network, has_lists: false, locked: request.locked.clone() }
    }

    fn program(&self, program: &str) -> Program {
        Program::new(program).args(&self.options).env("DEBIAN_FRONTEND", "noninteractive")
    }

    fn get(&self) -> Program {
        self.program("apt-get").args(&["-q", "-y"])
    }

    pub(crate) fn update(&mut self, session: &mut Session) -> Result<(), StepError> {
        if fs_err::metadata("/usr/bin/apt-get").is_err() {
            return Err(StepError::Missing { path: "/usr/bin/apt-get".to_owned(), purpose: "install packages" });
        }
        session.run(&self.get().arg("update"))?;
        self.has_lists = true;
        Ok(())
    }

    fn need_lists(&mut self, session: &mut Session) -> Result<(), StepError> {
        if self.has_lists || !self.network { Ok(()) } else { self.update(session) }
    }

    pub(crate) fn install(
        &mut self,
        session: &mut Session,
        packages: &[String],
        given: &[AptFile],
        fallbacks: &[Fallback],
    ) -> Result<(), StepError> {
        let mut names = Vec::new();
        for package in packages {
            names.push(checked(package)?.to_owned());
        }
        files::directory(Path::new(FILES), 0o755, (Uid::ROOT, Gid::ROOT))?;
        for file in given {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~%-:".contains(&byte);
            if file.name.strip_suffix(".deb").is_none_or(str::is_empty)
                || !file.name.bytes().all(plain)
                || file.name.starts_with('.')
            {
                let rule = "a plain file name that ends in .deb";
                return Err(StepError::Invalid { what: "the package file", value: file.name.clone(), rule });
            }
            let path = format!("{FILES}/{}", file.name);
            let place = Path::new(&path);
            files::replace(place, 0o644, (Uid::ROOT, Gid::ROOT), &mut |out| session.receive(file.size, out, place))?;
            names.push(path);
        }
        let borrowed: &[Fallback] = if self.borrow(fallbacks)? { fallbacks } else { &[] };
        names.extend(fallbacks.iter().map(|fallback| fallback.package.clone()));
        if names.is_empty() {
            return Ok(());
        }
        let pinned = self.locked.as_ref().map_or(&[][..], |locked| &locked.packages);
        let pins = !pinned.is_empty() || !borrowed.is_empty();
        if pins {
            write_preferences(pinned, borrowed)?;
        }
        let result = self.install_named(session, &names, fallbacks, borrowed);
        files::remove(Path::new(FILES))?;
        // Source, pins and lists go again, whatever happens.
        if pins {
            let cleaned = clean_pins(borrowed);
            result.and(cleaned)
        } else {
            result
        }
    }

    fn install_named(
        &mut self,
        session: &mut Session,
        names: &[String],
        fallbacks: &[Fallback],
        borrowed: &[Fallback],
    ) -> Result<(), StepError> {
        self.need_lists(session)?;
        // Asked before anything is installed: apt would have to build its cache anew behind that.
        let elsewhere = self.elsewhere(session, fallbacks)?;
        let before = inventory::read(Path::new("/"))?;
        let planned = self.choose(session, names, borrowed, &before)?;
        let facts =
            elsewhere.iter().filter_map(|name| fact(name, &planned).transpose()).collect::<Result<Vec<_>, _>>()?;
        session.run(&self.get().arg("install").arg("--").args(names))?;
        let after = inventory::read(Path::new("/"))?;
        for PackageFact { name, version: expected, .. } in &facts {
            let found = after.packages.iter().find(|package| package.name == *name);
            let version = found.map_or_else(|| "nothing".to_owned(), |package| package.version.clone());
            if version != *expected {
                let expected = expected.clone();
                return Err(StepError::WrongVersion { package: name.clone(), version, expected });
            }
        }
        for fact in facts {
            session.say(&Message::Report(Report::Package(fact)))?;
        }
        for some in locked::came(&before, &after, planned).chunks(PER_REPORT) {
            session.say(&Message::Report(Report::Installed(some.to_vec())))?;
        }
        Ok(())
    }

    /// What apt would fetch and install, if that is right by what is locked.
    fn choose(
        &self,
        session: &mut Session,
        names: &[String],
        borrowed: &[Fallback],
        before: &Inventory,
    ) -> Result<Vec<Planned>, StepError> {
        let found = self.planned(session, names);
        let Some(Locked { packages, rule }) = self.locked.as_ref().filter(|locked| {
            // Without a single package it still means something that nothing else may come.
            locked.rule != LockRule::Prefer || !locked.packages.is_empty()
        }) else {
            return found;
        };
        match (rule, found) {
            (LockRule::Prefer, Err(StepError::Exit { .. })) => {
                let line = "the versions that were locked do not fit together; taking those that apt takes".to_owned();
                session.say(&Message::Output { line })?;
                write_preferences(&[], borrowed)?;
                self.planned(session, names)
            }
            (LockRule::Prefer, found) => found,
            (_, Err(error @ StepError::Exit { .. })) => {
                // The likely reason: of two packages that need each other's version, only one is still there.
                let names: Vec<&str> = packages.iter().map(LockedPackage::name).collect();
                let madison = self.program("apt-cache").arg("madison").arg("--").args(&names);
                let problems = locked::gone(packages, &session.capture(&madison)?, before);
                Err(if problems.is_empty() {
                    StepError::LockedConflict { source: Box::new(error) }
                } else {
                    StepError::NotAsLocked { problems }
                })
            }
            (_, Err(error)) => Err(error),
            (rule, Ok(planned)) => {
                let locked::Compared { problems, more } = locked::compare(packages, &planned, before);
                if !problems.is_empty() {
                    Err(StepError::NotAsLocked { problems })
                } else if *rule == LockRule::Only && !more.is_empty() {
                    Err(StepError::NotLocked { packages: more })
                } else {
                    Ok(planned)
                }
            }
        }
    }

    /// What apt would fetch and install, with the digests of its lists.
    fn planned(&self, session: &mut Session, names: &[String]) -> Result<Vec<Planned>, StepError> {
        // A package that lies in the cache of packages is not listed, so apt is shown another one.
        let nothing_kept = ["-o", "Dir::Cache::archives=/run/labwright/none", "-o", "Acquire::ForceHash=SHA256"];
        let list = self.get().args(&nothing_kept).args(&["install", "--print-uris", "--"]).args(names);
        let said = session.capture(&list)?;
        locked::parse_uris(&said, FILES.trim_start_matches('/')).map_err(|line| StepError::Uri { line })
    }

    /// Adds the suites that packages may come from if the image's own do not have them, pinned so that nothing else
    /// does. One update and one transaction then serve all packages of the step. Returns whether there are any.
    fn borrow(&mut self, fallbacks: &[Fallback]) -> Result<bool, StepError> {
        for Fallback { package, suite } in fallbacks {
            checked(package)?;
            checked(suite)?;
        }
        let (distribution, codename) = distribution()?;
        if fallbacks.is_empty() || distribution != "debian" || !self.network {
            return Ok(false);
        }
        let mirror = sources::mirror(&read_sources(), &codename).ok_or(StepError::NoMirror { codename })?;
        let mut stanzas = String::new();
        let mut suites: Vec<&str> = fallbacks.iter().map(|fallback| fallback.suite.as_str()).collect();
        suites.sort_unstable();
        suites.dedup();
        for suite in suites {
            stanzas.extend([&sources::stanza_for(&mirror, suite), "\n"]);
        }
        files::write_text(&format!("/{PIN_SOURCE}"), 0o644, &stanzas)?;
        self.has_lists = false;
        Ok(true)
    }

    fn policy(&self, session: &mut Session, package: &str) -> Result<String, StepError> {
        session.capture(&self.program("apt-cache").arg("policy").arg("--").arg(checked(package)?))
    }

    /// The names of those that will not come from the image's own suites.
    fn elsewhere(&self, session: &mut Session, fallbacks: &[Fallback]) -> Result<Vec<String>, StepError> {
        let mut names = Vec::new();
        for Fallback { package, suite } in fallbacks {
            let policy = self.policy(session, package)?;
            let Some(version) = candidate(&policy) else {
                let (distribution, _) = distribution()?;
                return Err(StepError::NoOtherSuite { package: package.clone(), distribution });
            };
            if comes_from(&policy, version, suite) {
                names.push(package.clone());
            }
        }
        Ok(names)
    }

    /// Does [`crate::protocol::Action::AptSource`].
    pub(crate) fn source(&mut self, name: &str, source: &str, key: Option<&[u8]>) -> Result<(), StepError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            let rule = "letters, digits, `.`, `_` and `-`";
            return Err(StepError::Invalid { what: "the source's name", value: name.to_owned(), rule });
        }
        let (_, codename) = distribution()?;
        let mut text = source.replace("$RELEASE", &codename);
        if text.contains("$MIRROR") {
            let mirror = sources::mirror(&read_sources(), &codename).ok_or(StepError::NoMirror { codename })?;
            text = text.replace("$MIRROR", &mirror.uri);
        }
        if let Some(key) = key {
            let ending = if key.starts_with(b"-----BEGIN") { "asc" } else { "gpg" };
            let path = format!("/etc/apt/keyrings/{name}.{ending}");
            let root = (Uid::ROOT, Gid::ROOT);
            files::replace(Path::new(&path), 0o644, root, &mut |file| file.write_all(key).doing("write", &path))?;
            text = sources::tie_to_key(&text.replace("$KEY_FILE", &path), &path);
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let ending = if sources::is_deb822(&text) { "sources" } else { "list" };
        self.has_lists = false;
        files::write_text(&format!("/etc/apt/sources.list.d/{name}.{ending}"), 0o644, &text)
    }
}

/// A package or suite that apt cannot take for an option.
fn checked(name: &str) -> Result<&str, StepError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:~=/_*^".contains(&byte);
    if name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(StepError::Invalid { what: "the package", value: name.to_owned(), rule: "a name of Debian's form" })
}

/// What is known about a package that comes from elsewhere; none if it is installed already.
fn fact(name: &str, planned: &[Planned]) -> Result<Option<PackageFact>, StepError> {
    let Some(Planned { package, uri }) = planned.iter().find(|planned| planned.package.name() == name) else {
        return Ok(None);
    };
    let no_digest = || StepError::NoPackageFact { package: name.to_owned(), what: "digest" };
    let digest = package.digest().cloned().ok_or_else(no_digest)?;
    Ok(Some(PackageFact { name: name.to_owned(), version: package.version().to_owned(), digest, source: uri.clone() }))
}

/// Has apt take locked versions, and packages from other suites. What stands first counts where both name a package.
fn write_preferences(locked: &[LockedPackage], borrowed: &[Fallback]) -> Result<(), StepError> {
    let text = format!("# {}\n{}{}", crate::seal::POLICY_MARK, locked::preferences(locked), preferences(borrowed));
    files::write_text(&format!("/{PIN_PREFERENCES}"), 0o644, &text)
}

/// Takes these packages from their suites where no other has them, and nothing else from there.
fn preferences(fallbacks: &[Fallback]) -> String {
    let mut text = String::new();
    for Fallback { package, suite } in fallbacks {
        for field in ["a", "n"] {
            // 500 is what the image's own suites have, and a package of no priority above 0 is not installed.
            text.extend([format!(
                "\nPackage: {package}\nPin: release {field}={suite}\nPin-Priority: 100\n\n\
                 Package: *\nPin: release {field}={suite}\nPin-Priority: -1\n"
            )]);
        }
    }
    text
}

fn clean_pins(fallbacks: &[Fallback]) -> Result<(), StepError> {
    files::remove(Path::new(&format!("/{PIN_SOURCE}")))?;
    files::remove(Path::new(&format!("/{PIN_PREFERENCES}")))?;
    let lists = "/var/lib/apt/lists";
    for entry in fs_err::read_dir(lists).doing("list", lists)? {
        let entry = entry.doing("list", lists)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if fallbacks.iter().any(|fallback| name.contains(&format!("_dists_{}_", fallback.suite))) {
            files::remove(&entry.path())?;
        }
    }
    for cache in ["pkgcache.bin", "srcpkgcache.bin"] {
        files::remove(&Path::new("/run/labwright").join(cache))?;
    }
    Ok(())
}

/// The version that apt would install, from what `apt-cache policy` says.
fn candidate(policy: &str) -> Option<&str> {
    policy.lines().find_map(|line| line.trim_start().strip_prefix("Candidate: ")).filter(|version| *version != "(none)")
}

/// Whether a version is in a suite, from what `apt-cache policy` says.
fn comes_from(policy: &str, version: &str, suite: &str) -> bool {
    let mut inside = false;
    for line in policy.lines().skip_while(|line| !line.contains("Version table:")).skip(1) {
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "***").collect();
        if line.starts_with("        ") {
            let in_suite = |word: &&str| word.split_once('/').is_some_and(|(name, _)| name == suite);
            if inside && words.iter().any(in_suite) {
                return true;
            }
        } else {
            inside = words.first() == Some(&version);
        }
    }
    false
}

/// The distribution's id and the code name of its release.
fn distribution() -> Result<(String, String), StepError> {
    let text = fs_err::read_to_string(OS_RELEASE).doing("read", OS_RELEASE)?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    Ok((field("ID"), field("VERSION_CODENAME")))
}

/// All sources of the guest; a file that cannot be read has none.
fn read_sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut paths = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(entries) = fs_err::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        more.sort();
        paths.extend(more);
    }
    for path in paths {
        let Ok(text) = fs_err::read_to_string(&path) else { continue };
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("list") => found.extend(sources::parse_list(&text)),
            Some("sources") => found.extend(sources::parse_deb822(&text)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "ttyd:\n  Installed: 1.7.7-1\n  Candidate: 1.7.7-1\n  Version table:\n *** 1.7.7-1 990\n        \
                          990 http://m.example/debian unstable/main amd64 Packages\n        100 /var/lib/dpkg/status\n     \
                          1.6.0-1 500\n        500 http://m.example/debian trixie/main amd64 Packages\n";

    #[test]
    fn policies_are_read() {
        assert_eq!(candidate(POLICY), Some("1.7.7-1"));
        assert_eq!(candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
        assert!(comes_from(POLICY, "1.7.7-1", "unstable"));
        assert!(!comes_from(POLICY, "1.7.7-1", "trixie"));
        assert!(!comes_from(POLICY, "1.6.0-1", "unstable"));
    }

    #[test]
    fn options_are_no_packages() {
        for bad in ["--yes", "", "a b", "-o=x", "a;b", "/etc/x.deb"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        for good in ["git", "libc6:amd64", "x=1:2.3~rc1-1+b2", "g++", "x/trixie-backports"] {
            assert_eq!(checked(good).unwrap(), good);
        }
    }
}
