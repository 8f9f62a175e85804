//! Files of the image that others stand in for while a step runs.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Doing, StepError};
use crate::seal::POLICY_MARK;

/// The resolv.conf of a step.
pub(crate) fn resolv_conf(lines: &[String]) -> String {
    let mut text = format!("# {POLICY_MARK}\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Keeps invoke-rc.d and deb-systemd-invoke from starting services.
pub(crate) fn policy() -> String {
    format!("#!/bin/sh\n# {POLICY_MARK}\nexit 101\n")
}

/// A file that stands at the place of another one, which waits beside it and comes back: the same inode or link.
#[derive(Debug)]
pub(crate) struct StandIn {
    path: PathBuf,
    saved: PathBuf,
    /// Open, so that its inode number is not given to another file meanwhile.
    ours: std::fs::File,
    closed: bool,
}

impl StandIn {
    /// Puts a file with this text and these permission bits at `path`. What a killed step left is put back first.
    pub(crate) fn put(path: &str, text: &str, mode: u32) -> Result<Self, StepError> {
        let path = PathBuf::from(path);
        let saved = saved(&path);
        if exists(&saved)? {
            fs_err::rename(&saved, &path).doing("put back", &path)?;
        } else if is_marked(&path) {
            fs_err::remove_file(&path).doing("remove", &path)?;
        }
        if exists(&path)? {
            fs_err::rename(&path, &saved).doing("set aside", &path)?;
        }
        match create(&path, text, mode) {
            Ok(ours) => Ok(Self { path, saved, ours, closed: false }),
            Err(error) => {
                if exists(&saved)? {
                    fs_err::rename(&saved, &path).doing("put back", &path)?;
                }
                Err(error)
            }
        }
    }

    /// Puts the image's own file back; but what a package put there meanwhile stays.
    pub(crate) fn close(mut self) -> Result<(), StepError> {
        self.closed = true;
        self.put_back()
    }

    fn put_back(&self) -> Result<(), StepError> {
        let (path, saved) = (&self.path, &self.saved);
        let ours = self.ours.metadata().doing("look at", path)?;
        let ours = (ours.dev(), ours.ino());
        let found = match fs_err::symlink_metadata(path) {
            Ok(metadata) => Some((metadata.dev(), metadata.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).doing("look at", path),
        };
        match found {
            Some(found) if found != ours => {
                if exists(saved)? {
                    fs_err::remove_file(saved).doing("remove", saved)?;
                }
            }
            found => {
                if exists(saved)? {
                    fs_err::rename(saved, path).doing("put back", path)?;
                } else if found.is_some() {
                    fs_err::remove_file(path).doing("remove", path)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if !self.closed {
            // Only on the way out of another error, which is the one to tell.
            drop(self.put_back());
        }
    }
}

/// Where the image's own file waits.
pub(crate) fn saved(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.with_file_name(format!(".labwright-{name}"))
}

fn exists(path: &Path) -> Result<bool, StepError> {
    match fs_err::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).doing("look at", path),
    }
}

fn is_marked(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() < 1 << 16)
        && fs_err::read_to_string(path).is_ok_and(|text| text.contains(POLICY_MARK))
}

/// Makes a new file and returns a hold on it.
fn create(path: &Path, text: &str, mode: u32) -> Result<std::fs::File, StepError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    let mut file = std::fs::File::from(rustix::fs::open(path, flags, mode).doing("make", path)?);
    file.write_all(text.as_bytes()).doing("write", path)?;
    rustix::fs::fchmod(&file, mode).doing("write", path)?;
    // Not the descriptor that may write: nobody can run a file that someone has open for that.
    let kept = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(std::fs::File::from(rustix::fs::open(path, kept, Mode::empty()).doing("look at", path)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_there_comes_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("resolv.conf");
        let text = path.to_str().unwrap();
        // Nothing, also after a killed step.
        std::mem::forget(StandIn::put(text, &resolv_conf(&[]), 0o644).unwrap());
        StandIn::put(text, &resolv_conf(&[]), 0o644).unwrap().close().unwrap();
        assert!(names(temp.path()).is_empty());
        // A dangling link, also where the guard is dropped and after a killed step.
        symlink("../nowhere", &path).unwrap();
        let inode = fs_err::symlink_metadata(&path).unwrap().ino();
        std::mem::forget(StandIn::put(text, &resolv_conf(&[]), 0o644).unwrap());
        let stand_in = StandIn::put(text, &resolv_conf(&["nameserver 192.0.2.1".to_owned()]), 0o644).unwrap();
        assert_eq!(
            fs_err::read_to_string(&path).unwrap(),
            "# labwright: only while a step runs\nnameserver 192.0.2.1\n"
        );
        drop(stand_in);
        assert_eq!(fs_err::read_link(&path).unwrap(), Path::new("../nowhere"));
        assert_eq!(fs_err::symlink_metadata(&path).unwrap().ino(), inode);
        assert_eq!(names(temp.path()), ["resolv.conf"]);
    }

    #[test]
    fn what_a_package_puts_there_stays() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("resolv.conf");
        fs_err::write(&path, "old").unwrap();
        let stand_in = StandIn::put(path.to_str().unwrap(), "ours", 0o644).unwrap();
        fs_err::remove_file(&path).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", &path).unwrap();
        stand_in.close().unwrap();
        assert!(fs_err::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(names(temp.path()), ["resolv.conf"]);
    }
}
