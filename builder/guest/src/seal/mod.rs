//! Removes from a root file system what must not be in an image: identity, logs, caches, histories, our own traces.
//!
//! What goes is decided by [`plan`] from names and contents alone and done by [`seal`]; neither follows a symbolic
//! link, so a hostile tree cannot lead them elsewhere.
//!
//! The known pitfalls of image builders, and where each is dealt with:
//!
//! | pitfall | here |
//! | --- | --- |
//! | `resolv.conf` is a dangling link | `stand_in`: replaced by rename and put back, the same inode or link; `put_back` after a kill |
//! | services start while packages are installed | `stand_in`: policy-rc.d 101; `session`: `SYSTEMD_OFFLINE`; `space`: a PID namespace |
//! | policy-rc.d, resolv.conf, grub-probe, pins left behind | `own_traces`, by our mark; another tool's is an audit's warning |
//! | machine-id, that of D-Bus too | `machine_id`: `uninitialized` from systemd 247 on, else empty |
//! | machine ids in boot loader entries | `boot_entries` |
//! | SSH host keys, also dropbear's, and nothing that makes new ones | the table; `host_keys` adds a unit where cloud-init does not |
//! | cloud-init's state and what it generated | the table; `written_by_cloud_init` by content |
//! | random seeds, `credential.secret` | the table |
//! | leases, DUIDs, interface names, iSCSI names, enrolments | the table; `iscsi` |
//! | package lists and caches | the table; while building, `space` and the runner put memory or the cache there |
//! | logs, mail, crashes, histories, backups of account files, temporary files | the table |
//! | proxies, credentials, passwords, a root named by a device | [`crate::audit`]: a recipe may want them, so they are told |
//! | deleted files | the runner drops free blocks behind this step |
//! | a first boot that makes caches again | `up_to_date` |

mod identity;
mod rules;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rules::{Deed, RULES};
use serde::{Deserialize, Serialize};

pub use rules::Kind;

pub(crate) use identity::{BOOT_ENTRIES, KEYGEN_UNIT, POLICY_MARK, has_cloud_init, machine_id_of_entry};

/// What sealing removed, by kind of residue; kinds of which there was nothing are not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// The kinds, in the order of their names.
    pub removed: Vec<Removed>,
}

/// What was removed of one kind of residue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The kind (`logs`).
    pub kind: String,
    /// How many files and directories.
    pub entries: u64,
    /// How many bytes the files had.
    pub bytes: u64,
}

/// Why a tree could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A directory or file could not be looked at.
    #[error("could not look at {}", path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Something could not be removed or emptied.
    #[error("could not remove {} from the image", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file that a sealed image needs could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What is to happen to one path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planned {
    /// Relative to the root.
    pub path: PathBuf,
    /// The kind of residue.
    pub kind: &'static Kind,
    /// Whether the file stays, empty; otherwise it goes, with everything below it.
    pub keep_empty: bool,
}

/// Decides what has to go from the tree at `root`; sorted, each path once.
pub fn plan(root: &Path) -> Result<Vec<Planned>, SealError> {
    let mut planned = BTreeMap::new();
    let mut add = |path: PathBuf, kind, keep_empty| {
        planned.entry(path).or_insert((kind, keep_empty));
    };
    for rule in RULES {
        for path in expand(root, rule.pattern)? {
            match rule.deed {
                Deed::Remove => add(path, rule.kind, false),
                Deed::Contents => {
                    for (name, _) in list(root, &path)? {
                        add(path.join(name), rule.kind, false);
                    }
                }
                Deed::Files => {
                    for file in files_below(root, &path)? {
                        add(file.path, rule.kind, file.keep_empty);
                    }
                }
            }
        }
    }
    for path in identity::written_by_cloud_init(root)? {
        add(path, &rules::CLOUD, false);
    }
    for path in identity::own_traces(root)? {
        add(path, &rules::TRACES, false);
    }
    Ok(planned.into_iter().map(|(path, (kind, keep_empty))| Planned { path, kind, keep_empty }).collect())
}

/// Seals the tree at `root`: does what [`plan`] says and makes sure that a clone gets an identity of its own.
pub fn seal(root: &Path) -> Result<SealReport, SealError> {
    identity::put_back(root)?;
    let mut kinds: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for Planned { path, kind, keep_empty } in plan(root)? {
        let full = root.join(&path);
        let remove = |source| SealError::Remove { path: Path::new("/").join(&path), source };
        let (entries, bytes) = size(root, &path)?;
        if keep_empty {
            empty(&full).map_err(remove)?;
        } else {
            remove_tree(&full).map_err(remove)?;
        }
        let sum = kinds.entry(kind.name).or_default();
        *sum = (sum.0 + entries, sum.1 + bytes);
    }
    identity::renew(root)?;
    let removed =
        kinds.into_iter().map(|(kind, (entries, bytes))| Removed { kind: kind.to_owned(), entries, bytes }).collect();
    Ok(SealReport { removed })
}

struct Found {
    path: PathBuf,
    keep_empty: bool,
}

/// All regular files below a directory. Those that belong to a service stay, empty: it may be unable to make them anew.
fn files_below(root: &Path, dir: &Path) -> Result<Vec<Found>, SealError> {
    const LOGIN_RECORDS: [&str; 5] = ["wtmp", "btmp", "lastlog", "faillog", "tallylog"];
    let mut found = Vec::new();
    for (name, metadata) in list(root, dir)? {
        let path = dir.join(&name);
        if metadata.is_dir() {
            found.extend(files_below(root, &path)?);
        } else if metadata.is_file() {
            let keep_empty = metadata.uid() != 0 || name.to_str().is_some_and(|name| LOGIN_RECORDS.contains(&name));
            if !keep_empty || metadata.len() > 0 {
                found.push(Found { path, keep_empty });
            }
        }
    }
    Ok(found)
}

/// The entries of a directory; none where there is no such directory. Symbolic links are not followed.
fn list(root: &Path, dir: &Path) -> Result<Vec<(std::ffi::OsString, std::fs::Metadata)>, SealError> {
    let full = root.join(dir);
    let look = |source| SealError::Look { path: Path::new("/").join(dir), source };
    if !look_at(root, dir)?.is_some_and(|metadata| metadata.is_dir()) {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for entry in fs_err::read_dir(full).map_err(look)? {
        let entry = entry.map_err(look)?;
        entries.push((entry.file_name(), entry.metadata().map_err(look)?));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

pub(crate) fn look_at(root: &Path, path: &Path) -> Result<Option<std::fs::Metadata>, SealError> {
    let full = if path.as_os_str().is_empty() { root.join(".") } else { root.join(path) };
    match fs_err::symlink_metadata(full) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(SealError::Look { path: Path::new("/").join(path), source }),
    }
}

/// The paths that match a pattern, whose components may hold `*`. Every component but the last is a real directory.
pub(crate) fn expand(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, SealError> {
    let mut paths = vec![PathBuf::new()];
    let components: Vec<&str> = pattern.split('/').collect();
    for (index, component) in components.iter().enumerate() {
        let last = index + 1 == components.len();
        let mut next = Vec::new();
        for path in paths {
            if component.contains('*') {
                for (name, metadata) in list(root, &path)? {
                    if name.to_str().is_some_and(|name| rules::matches(component, name)) && (last || metadata.is_dir())
                    {
                        next.push(path.join(name));
                    }
                }
            } else {
                let path = path.join(component);
                if look_at(root, &path)?.is_some_and(|metadata| last || metadata.is_dir()) {
                    next.push(path);
                }
            }
        }
        paths = next;
    }
    Ok(paths)
}

/// Entries and bytes at and below a path.
fn size(root: &Path, path: &Path) -> Result<(u64, u64), SealError> {
    let Some(metadata) = look_at(root, path)? else { return Ok((0, 0)) };
    let mut sum = (1, if metadata.is_file() { metadata.len() } else { 0 });
    if metadata.is_dir() {
        for (name, _) in list(root, path)? {
            let (entries, bytes) = size(root, &path.join(name))?;
            sum = (sum.0 + entries, sum.1 + bytes);
        }
    }
    Ok(sum)
}

fn empty(path: &Path) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())?;
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs_err::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
