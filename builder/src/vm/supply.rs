//! Packages for the machine, fetched by the host's apt at native speed.
//!
//! The machine tells its sources, keys and installed packages; the host's apt fetches and verifies the lists and what it
//! would install; the packages are written without compression onto the scratch disk, which the machine then mounts. The
//! guest's own apt decides what is installed: what the host did not foresee is fetched in the machine as ever.
//!
//! The chain of trust: the lists are verified by the host's apt with the guest's keys; the digest that they name for a
//! package is verified here, on the file as it came, each time it is used. What the guest's apt sees are those lists with
//! other sizes for the packages that were written anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fs_err::File;
use labwright_core::{Arch, Cancel, Cancelled};
use labwright_guest::protocol::{Action, AptState, Request};
use labwright_host::{Invocation, Tool, ToolError};
use rustix::fs::FlockOperation;

use super::index::{self, Graph};
use super::{apt_root, repack};
use crate::chroot::wire::Source;

/// The largest package that is fetched, and the most of all together, in bytes.
const LARGEST: u64 = 2 << 30;
const LARGEST_TOGETHER: u64 = 8 << 30;

/// How many sets of sources have their lists kept.
const KEPT_LISTS: usize = 4;

/// How often a waiting build looks whether another is done with the cache.
const POLL: Duration = Duration::from_millis(100);

/// Why nothing is supplied.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    /// The host's apt said no.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The host's files; the source has the path.
    #[error("could not prepare packages")]
    File(#[from] io::Error),
    /// The guest has something that the host does not do for it.
    #[error("{0}")]
    Obstacle(String),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// A package that the host's apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    sha256: String,
}

/// What the host's apt needs to know.
#[derive(Debug)]
pub(crate) struct Supplier<'a> {
    /// The directory of fetched packages, which builds share.
    pub(crate) archives: &'a Path,
    /// A directory of this build, which must not exist.
    pub(crate) work: &'a Path,
    pub(crate) arch: Arch,
    /// How the host fetches.
    pub(crate) options: &'a [(String, String)],
    pub(crate) environment: &'a [(String, String)],
    pub(crate) cancel: &'a Cancel,
}

/// Whether the host has an apt that could fetch for a step.
pub(crate) fn is_possible(request: &Request) -> bool {
    let installs = |action: &Action| matches!(action, Action::AptInstall { .. } | Action::AptUpdate);
    request.network && request.actions.iter().any(installs) && Tool::AptGet.find().is_ok()
}

impl Supplier<'_> {
    /// Makes a directory with `archives`, `supplied/lists` and `supplied/index` for the scratch disk.
    pub(crate) fn supply(
        &self,
        state: Vec<AptState>,
        request: &Request,
        sources: &[Source],
    ) -> Result<PathBuf, SupplyError> {
        let root = self.work.join("apt");
        let files = apt_root::files(state);
        let told = apt_root::write(&files, &root, self.arch)?.map_err(SupplyError::Obstacle)?;
        let reads_all = apt_root::has_odd_solver(&files);
        drop(files);
        let cache = self.archives.parent().unwrap_or(self.archives);
        let _lock = self.lock(&cache.join("fetching"))?;
        let lists = kept_lists(&cache.join("lists"), &told)?;
        self.apt(&root, &lists, &["update"])?;
        let out = self.work.join("out");
        let (plain, index) = (out.join("supplied/lists"), out.join("supplied/index"));
        for dir in [&out.join("archives/partial"), &plain, &index] {
            fs_err::create_dir_all(dir)?;
        }
        let mut sizes = BTreeMap::new();
        let names = names(request, sources);
        if !names.is_empty() {
            let none = format!("Dir::Cache::archives={}", root.join("none").display());
            let mut args = vec!["-o", &none, "-o", "Acquire::ForceHash=SHA256", "--print-uris", "install", "--"];
            args.extend(names.iter().map(String::as_str));
            let wanted = wanted(&self.apt(&root, &lists, &args)?)?;
            let into = format!("Dir::Cache::archives={}", self.archives.display());
            let mut args = vec!["-o", &into, "--download-only", "install", "--"];
            args.extend(names.iter().map(String::as_str));
            self.apt(&root, &lists, &args)?;
            sizes = self.write_again(&wanted, &out.join("archives"))?;
        }
        let mut copies = Vec::new();
        for entry in fs_err::read_dir(&lists)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !path.is_file() || name == "lock" {
                continue;
            }
            if !apt_root::is_plain_name(name) {
                // Left out, its packages would be unknown in the machine, which gets no lists of its own then.
                return Err(SupplyError::Obstacle(format!("a package list is called `{}`", name.escape_default())));
            }
            fs_err::copy(&path, plain.join(name))?;
            copies.push(name.to_owned());
        }
        let is_index = |name: &&String| name.ends_with("_Packages");
        let graph = if reads_all { None } else { graph(copies.iter().filter(is_index), &plain, &root, &names)? };
        for name in &copies {
            let (from, to) = (plain.join(name), index.join(name));
            if is_index(&name) {
                index::write(&from, &to, graph.as_ref(), &sizes)?;
            } else {
                fs_err::hard_link(from, to)?;
            }
        }
        fs_err::remove_dir_all(&root)?;
        Ok(out)
    }

    fn apt(&self, root: &Path, lists: &Path, args: &[&str]) -> Result<String, ToolError> {
        let mut call = Invocation::new(Tool::AptGet).env("APT_CONFIG", root.join("apt.conf"));
        for (name, value) in self.environment {
            call = call.env(name, value);
        }
        call = call.args(["-q", "-y", "-o"]).arg(format!("Dir::State::lists={}", lists.display()));
        for (name, value) in self.options {
            call = call.arg("-o").arg(format!("{name}={value}"));
        }
        Ok(call.args(args).run(self.cancel)?.text())
    }

    /// One build at a time fetches into the cache.
    fn lock(&self, path: &Path) -> Result<File, SupplyError> {
        let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        loop {
            self.cancel.check()?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(POLL),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Writes the packages that are what the lists say, without compression, and returns their sizes by digest.
    fn write_again(&self, wanted: &[Wanted], into: &Path) -> Result<BTreeMap<String, u64>, SupplyError> {
        let next = AtomicUsize::new(0);
        let sizes = Mutex::new(BTreeMap::new());
        let work = || -> Result<(), SupplyError> {
            while let Some(package) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.cancel.check()?;
                let path = self.archives.join(&package.name);
                if repack::digest(&path)?.hex() != package.sha256 {
                    // apt goes by the size of a file that is there: it would be used for ever.
                    fs_err::remove_file(&path)?;
                    tracing::warn!(package = package.name, "a package in the cache is damaged; it is fetched anew");
                    continue;
                }
                let size = repack::uncompressed(&path, &into.join(&package.name))?;
                sizes.lock().expect("no holder of this lock panics").insert(package.sha256.clone(), size);
            }
            Ok(())
        };
        repack::on_all_processors(work)?;
        Ok(sizes.into_inner().expect("no holder of this lock panics"))
    }
}

/// What apt can choose from; none if that is everything.
fn graph<'a>(
    indexes: impl Iterator<Item = &'a String>,
    lists: &Path,
    root: &Path,
    names: &[String],
) -> io::Result<Option<Graph>> {
    let mut graph = Graph::default();
    for name in indexes {
        graph.add(&lists.join(name), false)?;
    }
    graph.add(&root.join("status"), true)?;
    if !names.iter().all(|name| graph.ask(name)) {
        return Ok(None);
    }
    graph.follow();
    Ok(Some(graph))
}

/// What is to be installed, as the host's apt takes it.
fn names(request: &Request, sources: &[Source]) -> Vec<String> {
    let mut names = Vec::new();
    for action in &request.actions {
        let Action::AptInstall { packages, fallbacks, .. } = action else { continue };
        names.extend(packages.iter().cloned());
        names.extend(fallbacks.iter().map(|fallback| fallback.package.clone()));
    }
    // Only package files have sources in this step. What they depend on is fetched too.
    let file = |source: &Source| match source {
        Source::File { path, .. } => Some(path.display().to_string()),
        Source::Inline(_) => None,
    };
    names.extend(sources.iter().filter_map(file).filter(|path| apt_root::ends(path, &["deb"])));
    names
}

/// What apt says it would fetch: `'URI' NAME SIZE SHA256:DIGEST` on each line.
fn wanted(said: &str) -> Result<Vec<Wanted>, SupplyError> {
    let mut found = Vec::new();
    let mut together = 0_u64;
    for line in said.lines() {
        let Some((uri, rest)) = line.strip_prefix('\'').and_then(|rest| rest.split_once("' ")) else { continue };
        let words: Vec<&str> = rest.split(' ').collect();
        let [name, size, digest] = words[..] else { continue };
        let web = uri.starts_with("http://") || uri.starts_with("https://");
        let (Ok(size), Some(sha256)) = (size.parse::<u64>(), digest.strip_prefix("SHA256:")) else { continue };
        if !web || !apt_root::ends(name, &["deb"]) || !apt_root::is_plain_name(name) {
            continue;
        }
        together = together.saturating_add(size);
        if size > LARGEST || together > LARGEST_TOGETHER {
            return Err(SupplyError::Obstacle("the packages are too large".to_owned()));
        }
        found.push(Wanted { name: name.to_owned(), sha256: sha256.to_owned() });
    }
    Ok(found)
}

/// The directory of the lists of these sources. The oldest others make room for a new one.
fn kept_lists(dir: &Path, told: &str) -> io::Result<PathBuf> {
    let own = dir.join(labwright_core::Digest::sha256(told.as_bytes()).hex());
    if !own.exists() {
        fs_err::create_dir_all(dir)?;
        let mut others = Vec::new();
        for entry in fs_err::read_dir(dir)? {
            let path = entry?.path();
            others.push((fs_err::metadata(&path)?.modified()?, path));
        }
        others.sort();
        let excess = others.len().saturating_sub(KEPT_LISTS - 1);
        for (_, path) in &others[..excess] {
            fs_err::remove_dir_all(path)?;
        }
    }
    fs_err::create_dir_all(own.join("partial"))?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_from_the_web_are_wanted() {
        let digest = "ab".repeat(32);
        let line = |uri: &str, name: &str| format!("'{uri}' {name} 12 SHA256:{digest}\n");
        let said = ["Reading package lists...\n".to_owned(), line("http://m.example/p/a_1.deb", "a_1%3a2_all.deb")]
            .concat()
            + &line("file:/etc/a.deb", "a.deb")
            + &line("http://m.example/a.deb", "../a.deb")
            + &line("http://m.example/a.deb", ".a.deb")
            + &line("http://m.example/a.deb", "a.txt")
            + "'http://m.example/b.deb' b.deb 12 MD5Sum:00\n";
        let expected = Wanted { name: "a_1%3a2_all.deb".to_owned(), sha256: digest };
        assert_eq!(wanted(&said).unwrap(), [expected]);
        let large = format!("'http://m.example/b.deb' b.deb {} SHA256:00\n", 3_u64 << 30);
        assert!(matches!(wanted(&large), Err(SupplyError::Obstacle(_))));
    }

    #[test]
    fn few_sets_of_lists_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = kept_lists(dir.path(), "0").unwrap();
        for other in 1..=KEPT_LISTS {
            std::thread::sleep(Duration::from_millis(20));
            kept_lists(dir.path(), &other.to_string()).unwrap();
        }
        assert!(!first.exists());
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), KEPT_LISTS);
    }
}
