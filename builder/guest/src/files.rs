//! Files in the guest. Everything runs below the guest's own root, so no link leads out of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};

use crate::error::{Doing, StepError};
use crate::protocol::{EntryKind, Owner, TreeEntry};
use crate::session::Session;

/// Makes a directory and its parents, which belong to root.
pub(crate) fn make_parents(path: &Path) -> Result<(), StepError> {
    match path.parent() {
        Some(parent) => fs_err::create_dir_all(parent).doing("make the directory", parent),
        None => Ok(()),
    }
}

/// Replaces a file as a whole. A link to a file is kept and its file replaced; a dangling link is replaced itself.
pub(crate) fn replace(
    path: &Path,
    mode: u32,
    owner: (Uid, Gid),
    fill: &mut dyn FnMut(&mut File) -> Result<(), StepError>,
) -> Result<(), StepError> {
    make_parents(path)?;
    let path = match fs_err::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error).doing("look at", path),
    };
    if fs_err::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
        return Err(StepError::IsDirectory { path });
    }
    let new = temporary(&path);
    let result = (|| {
        let mut written = create(&new)?;
        fill(&mut written)?;
        finish(&written, &new, mode, owner)?;
        fs_err::rename(&new, &path).doing("put in place", &path)
    })();
    if result.is_err() {
        drop(fs_err::remove_file(&new));
    }
    result
}

/// A text file of root's.
pub(crate) fn write_text(path: &str, mode: u32, text: &str) -> Result<(), StepError> {
    let root = (Uid::ROOT, Gid::ROOT);
    replace(Path::new(path), mode, root, &mut |file| file.write_all(text.as_bytes()).doing("write", path))
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Names may be as long as the file system allows already.
    let short: String = name.chars().take(40).collect();
    path.with_file_name(format!(".{short}.labwright-new"))
}

fn create(path: &Path) -> Result<File, StepError> {
    match fs_err::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing("remove", path),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).doing("make", path)?))
}

/// Owner first: changing it drops set-id bits.
fn finish(file: &File, path: &Path, mode: u32, (uid, gid): (Uid, Gid)) -> Result<(), StepError> {
    rustix::fs::fchown(file, Some(uid), Some(gid)).doing("change the owner of", path)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777)).doing("change the mode of", path)
}

/// Does [`crate::protocol::Action::WriteFile`].
pub(crate) fn write_file(
    session: &mut Session,
    path: &Path,
    mode: u32,
    owner: &Owner,
    append: bool,
    size: u64,
) -> Result<(), StepError> {
    let owner = crate::accounts::owner(owner)?;
    let existing = fs_err::metadata(path).ok();
    match existing {
        Some(metadata) if metadata.is_dir() => Err(StepError::IsDirectory { path: path.to_owned() }),
        Some(_) if append => {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).doing("open", path)?);
            session.receive(size, &mut file, path)?;
            finish(&file, path, mode, owner)
        }
        _ => replace(path, mode, owner, &mut |file| session.receive(size, file, path)),
    }
}

/// Does [`crate::protocol::Action::Tree`].
pub(crate) fn tree(
    session: &mut Session,
    destination: &Path,
    entries: &[TreeEntry],
    owner: &Owner,
) -> Result<(), StepError> {
    let numbers = crate::accounts::owner(owner)?;
    fs_err::create_dir_all(destination).doing("make the directory", destination)?;
    for entry in entries {
        let bad = |component: &str| matches!(component, "" | "." | "..") || component.contains('\0');
        if entry.path.split('/').any(bad) {
            let rule = "it lies below the destination";
            return Err(StepError::Invalid { what: "the path", value: entry.path.clone(), rule });
        }
        let path = destination.join(&entry.path);
        match &entry.kind {
            EntryKind::Directory => directory(&path, entry.mode, numbers)?,
            EntryKind::File { size } => {
                replace(&path, entry.mode, numbers, &mut |file| session.receive(*size, file, &path))?;
            }
            EntryKind::Symlink { target } => {
                make_parents(&path)?;
                remove(&path)?;
                rustix::fs::symlink(target, &path).doing("make the link", &path)?;
                let (uid, gid) = numbers;
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(rustix::fs::CWD, &path, Some(uid), Some(gid), flags)
                    .doing("change the owner of", &path)?;
            }
        }
    }
    Ok(())
}

/// Makes a directory, or gives one that exists this owner and mode.
pub(crate) fn directory(path: &Path, mode: u32, owner: (Uid, Gid)) -> Result<(), StepError> {
    fs_err::create_dir_all(path).doing("make the directory", path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = File::from(rustix::fs::open(path, flags, Mode::empty()).doing("open", path)?);
    finish(&dir, path, mode, owner)
}

/// Removes whatever is there; a link is removed, not what it leads to.
pub(crate) fn remove(path: &Path) -> Result<(), StepError> {
    let result = match fs_err::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(error).doing("remove", path)
        }
        _ => Ok(()),
    }
}
