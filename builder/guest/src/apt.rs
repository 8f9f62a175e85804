//! Packages, by the guest's own apt and dpkg.

use std::io::Write;
use std::path::Path;

use labwright_core::{Digest, PackageFact};
use rustix::fs::{Gid, Uid};

use crate::error::{Doing, StepError};
use crate::files;
use crate::protocol::{AptFile, AptState, Fallback, Message, Report, Request, SUPPLIED};
use crate::session::{Program, Session};
use crate::sources::{self, Source};
use crate::traces::{PIN_PREFERENCES, PIN_SOURCE};

const OS_RELEASE: &str = "/etc/os-release";
const ARCHIVES: &str = "/var/cache/apt/archives";
const FILES: &str = "/tmp/labwright-packages";
const LISTS: &str = "/var/lib/apt/lists";

/// What apt's choice of packages depends on: files, and directories of files.
const STATE: [&str; 13] = [
    "/etc/apt/apt.conf",
    "/etc/apt/apt.conf.d",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/preferences",
    "/etc/apt/preferences.d",
    "/etc/apt/trusted.gpg",
    "/etc/apt/trusted.gpg.d",
    "/etc/apt/keyrings",
    "/usr/share/keyrings",
    "/var/lib/apt/extended_states",
    "/var/lib/dpkg/arch",
    "/var/lib/dpkg/status",
];

/// How much of a file one report has, in bytes. As JSON it is up to four times as long.
const PIECE: usize = 128 << 10;

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
];

/// Where the programs are told which apt itself starts, and that would otherwise read all lists again: debconf's
/// apt-extracttemplates spent 30 s of an emulated installation on that.
const CONFIGURATION: &str = "/run/labwright/apt.conf";

/// apt in one step.
#[derive(Default)]
pub(crate) struct Apt {
    options: Vec<String>,
    network: bool,
    has_lists: bool,
    supplied: bool,
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
        Self { options, network: request.network, has_lists: false, supplied: request.supplied }
    }

    fn program(&self, program: &str) -> Program {
        let program = Program::new(program).args(&self.options).env("DEBIAN_FRONTEND", "noninteractive");
        program.env("APT_CONFIG", CONFIGURATION)
    }

    /// Says where apt's lists are and where its caches may be.
    fn configure(&self) -> Result<(), StepError> {
        let mut text = "Dir::Cache::pkgcache \"/run/labwright/pkgcache.bin\";\n\
                        Dir::Cache::srcpkgcache \"/run/labwright/srcpkgcache.bin\";\n"
            .to_owned();
        if self.supplied {
            text.extend(["Dir::State::lists \"", SUPPLIED, "/index\";\n"]);
        }
        files::write_text(CONFIGURATION, 0o644, &text)
    }

    fn get(&self) -> Program {
        self.program("apt-get").args(&["-q", "-y"])
    }

    pub(crate) fn update(&mut self, session: &mut Session) -> Result<(), StepError> {
        if fs_err::metadata("/usr/bin/apt-get").is_err() {
            return Err(StepError::Missing { path: "/usr/bin/apt-get".to_owned(), purpose: "install packages" });
        }
        self.configure()?;
        if self.supplied {
            take_lists(Path::new(SUPPLIED).join("lists").as_path())?;
        } else {
            session.run(&self.get().arg("update"))?;
        }
        self.has_lists = true;
        Ok(())
    }

    /// Tells what apt's choice of packages depends on.
    pub(crate) fn survey(&self, session: &mut Session, fallbacks: &[Fallback]) -> Result<(), StepError> {
        let borrowed = self.borrow(fallbacks)?;
        let result = STATE.iter().try_for_each(|path| tell(session, Path::new(path)));
        if borrowed { result.and(clean_pins(fallbacks)) } else { result }
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
        let borrowed = self.borrow(fallbacks)?;
        self.has_lists &= !borrowed;
        names.extend(fallbacks.iter().map(|fallback| fallback.package.clone()));
        if names.is_empty() {
            return Ok(());
        }
        let result = self.install_named(session, &names, fallbacks);
        files::remove(Path::new(FILES))?;
        // Source, pin and lists go again, whatever happens.
        if borrowed {
            let cleaned = clean_pins(fallbacks);
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
    ) -> Result<(), StepError> {
        self.configure()?;
        self.need_lists(session)?;
        // Asked before anything is installed: apt would have to build its cache anew behind that.
        let mut facts = Vec::new();
        for fallback in fallbacks {
            facts.extend(self.borrowed_fact(session, fallback)?);
        }
        session.run(&self.get().arg("install").arg("--").args(names))?;
        for fact in facts {
            let query = Program::new("dpkg-query").args(&["-W", "-f=${Version}", "--", &fact.name]);
            let version = session.capture(&query)?.trim().to_owned();
            if version != fact.version {
                return Err(StepError::WrongVersion { package: fact.name, version, expected: fact.version });
            }
            session.say(&Message::Report(Report::Package(fact)))?;
        }
        Ok(())
    }

    /// Adds the suites that packages may come from if the image's own do not have them, pinned so that nothing else
    /// does. One update and one transaction then serve all packages of the step. Returns whether there are any.
    fn borrow(&self, fallbacks: &[Fallback]) -> Result<bool, StepError> {
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
        files::write_text(&format!("/{PIN_PREFERENCES}"), 0o644, &preferences(fallbacks))?;
        Ok(true)
    }

    fn policy(&self, session: &mut Session, package: &str) -> Result<String, StepError> {
        session.capture(&self.program("apt-cache").arg("policy").arg("--").arg(checked(package)?))
    }

    /// What is known about a package that will not come from the image's own suites.
    fn borrowed_fact(&self, session: &mut Session, fallback: &Fallback) -> Result<Option<PackageFact>, StepError> {
        let Fallback { package, suite } = fallback;
        let policy = self.policy(session, package)?;
        let Some(version) = candidate(&policy) else {
            let (distribution, _) = distribution()?;
            return Err(StepError::NoOtherSuite { package: package.clone(), distribution });
        };
        if !comes_from(&policy, version, suite) {
            return Ok(None);
        }
        let version = version.to_owned();
        let exact = format!("{package}={version}");
        let shown = session.capture(&self.program("apt-cache").arg("show").arg("--").arg(&exact))?;
        let no = |what| StepError::NoPackageFact { package: package.to_owned(), what };
        let hex = shown.lines().find_map(|line| line.strip_prefix("SHA256: ")).ok_or_else(|| no("digest"))?;
        let digest: Digest = format!("sha256:{}", hex.trim()).parse().map_err(|_| no("digest"))?;
        let uris = session.capture(&self.get().args(&["--print-uris", "download"]).arg(&exact))?;
        let source = uris
            .lines()
            .find_map(|line| line.strip_prefix('\'')?.split_once('\''))
            .map(|(uri, _)| uri.to_owned())
            .ok_or_else(|| no("address"))?;
        Ok(Some(PackageFact { name: package.to_owned(), version, digest, source }))
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

/// Tells the host what is in a file, or in the files of a directory; nothing where there is none.
fn tell(session: &mut Session, path: &Path) -> Result<(), StepError> {
    let Ok(metadata) = fs_err::metadata(path) else { return Ok(()) };
    if metadata.is_dir() {
        let mut files = Vec::new();
        for entry in fs_err::read_dir(path).doing("list", path)? {
            let file = entry.doing("list", path)?.path();
            // A link that leads nowhere is what a package has left.
            if fs_err::metadata(&file).is_ok_and(|metadata| metadata.is_file()) {
                files.push(file);
            }
        }
        files.sort();
        return files.iter().try_for_each(|file| tell(session, file));
    }
    let Some(name) = path.to_str() else { return Ok(()) };
    let bytes = fs_err::read(path).doing("read", path)?;
    for piece in bytes.chunks(PIECE) {
        let state = AptState { path: name.to_owned(), piece: piece.to_vec() };
        session.say(&Message::Report(Report::AptState(state)))?;
    }
    Ok(())
}

/// Makes the image's package lists the supplied ones, as an update leaves them.
fn take_lists(supplied: &Path) -> Result<(), StepError> {
    files::directory(Path::new(LISTS), 0o755, (Uid::ROOT, Gid::ROOT))?;
    for entry in fs_err::read_dir(LISTS).doing("list", LISTS)? {
        let path = entry.doing("list", LISTS)?.path();
        if fs_err::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            files::remove(&path)?;
        }
    }
    for entry in fs_err::read_dir(supplied).doing("list", supplied)? {
        let entry = entry.doing("list", supplied)?;
        let path = Path::new(LISTS).join(entry.file_name());
        let mut from = fs_err::File::open(entry.path()).doing("open", entry.path())?;
        files::replace(&path, 0o644, (Uid::ROOT, Gid::ROOT), &mut |to| {
            std::io::copy(&mut from, to).doing("write", &path).map(drop)
        })?;
    }
    Ok(())
}

/// A package or suite that apt cannot take for an option.
fn checked(name: &str) -> Result<&str, StepError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:~=/_*^".contains(&byte);
    if name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(plain) {
        return Ok(name);
    }
    Err(StepError::Invalid { what: "the package", value: name.to_owned(), rule: "a name of Debian's form" })
}

/// Takes these packages from their suites where no other has them, and nothing else from there.
fn preferences(fallbacks: &[Fallback]) -> String {
    let mut text = format!("# {}\n", crate::seal::POLICY_MARK);
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
    for entry in fs_err::read_dir(LISTS).doing("list", LISTS)? {
        let entry = entry.doing("list", LISTS)?;
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
