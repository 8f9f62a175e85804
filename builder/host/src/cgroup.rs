use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the names of our control groups begin.
const PREFIX: &str = "labwright-";

/// A control group that bounds how many processes and threads there may be in it. Removed when closed or dropped.
#[derive(Debug)]
pub struct ProcessLimit {
    dir: PathBuf,
    entrance: File,
    open: bool,
    /// Locked, so that other builds leave the group alone while nothing is in it.
    _in_use: File,
}

impl ProcessLimit {
    /// Makes a group for at most `most` processes and threads, named after `id`.
    ///
    /// Returns none where the host gives us no groups: without root, in most containers, and where no controller for
    /// processes is to be had. A developer's message tells why.
    pub fn new(most: u32, id: &str) -> Option<Self> {
        let own = fs_err::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let parents = parents(&own, &mounts);
        for parent in &parents {
            sweep(parent);
            match Self::make(&parent.join(format!("{PREFIX}{id}")), most) {
                Ok(limit) => return Some(limit),
                Err(error) => tracing::debug!(%error, "no limit for processes in this control group"),
            }
        }
        tracing::debug!(
            ?parents,
            "the host gives no control group: a fork bomb in a build is bounded by its time limit"
        );
        None
    }

    fn make(dir: &Path, most: u32) -> io::Result<Self> {
        fs_err::create_dir(dir)?;
        let fill = || {
            let in_use = fs_err::File::open(dir)?.into_parts().0;
            rustix::fs::flock(&in_use, FlockOperation::NonBlockingLockExclusive)?;
            fs_err::write(dir.join("pids.max"), most.to_string())?;
            let entrance = fs_err::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?.into_parts().0;
            Ok((entrance, in_use))
        };
        match fill() {
            Ok((entrance, in_use)) => Ok(Self { dir: dir.to_owned(), entrance, open: true, _in_use: in_use }),
            Err(error) => {
                drop(fs_err::remove_dir(dir));
                Err(error)
            }
        }
    }

    /// A process that writes `0` here is in the group from then on, with all that it starts.
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    /// Removes the group, as soon as what was in it has ended.
    pub fn close(mut self) -> io::Result<()> {
        self.open = false;
        self.remove()
    }

    fn remove(&self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match fs_err::remove_dir(&self.dir) {
                // Processes that were killed may still be on their way.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(crate::invocation::POLL);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => return result,
            }
        }
    }
}

impl Drop for ProcessLimit {
    fn drop(&mut self) {
        if self.open
            && let Err(error) = self.remove()
        {
            tracing::warn!(%error, "could not remove a control group; the next build will");
        }
    }
}

/// Removes the groups of builds that were killed; those in use do not go.
fn sweep(parent: &Path) {
    for entry in fs_err::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        if let Ok(dir) = fs_err::File::open(entry.path())
            && rustix::fs::flock(dir.file(), FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            drop(fs_err::remove_dir(entry.path()));
        }
    }
}

/// The groups in which ours may be made, the best first: our own group of version 1's `pids` hierarchy; in version 2,
/// where a group with processes cannot share its controllers, the top of the hierarchy, then our own.
///
/// Source: cgroups(7); Linux, Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint".
fn parents(own: &str, mounts: &str) -> Vec<PathBuf> {
    let group = |wanted: fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let (before, behind) = line.split_once(" - ")?;
            let mut fields = behind.split(' ');
            let (kind, options) = (fields.next()?, fields.nth(1)?);
            wanted(kind, options).then(|| PathBuf::from(before.split(' ').nth(4).unwrap_or_default()))
        })
    };
    let has_pids = |list: &str| list.split(',').any(|name| name == "pids");
    let mut found = Vec::new();
    if let (Some(mount), Some(path)) = (
        mounted(&|kind, options| kind == "cgroup" && has_pids(options)),
        group(|controllers| controllers.split(',').any(|name| name == "pids")),
    ) {
        found.push(mount.join(path));
    }
    if let (Some(mount), Some(path)) = (mounted(&|kind, _| kind == "cgroup2"), group(str::is_empty)) {
        found.push(mount.clone());
        if !path.is_empty() {
            found.push(mount.join(path));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let mounts = "30 20 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 20 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let paths = |own: &str, mounts: &str| {
            parents(own, mounts).into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("9:pids:/a\n1:cpu:/\n0::/\n", mounts),
            ["/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/unified/"].map(|path| path.trim_end_matches('/'))
        );
        let modern = "26 20 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            paths("0::/user.slice/session-1.scope\n", modern),
            ["/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/session-1.scope"]
        );
        assert_eq!(paths("", ""), Vec::<String>::new());
    }
}
