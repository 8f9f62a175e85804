//! The whole tree as a tar archive, in the form of a layer of a container image.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::error::{Doing, StepError};

/// Directories whose contents come from whatever runs the tree.
const EMPTY: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];

/// What is left out altogether: a place for a file system's checker.
const LOST: &str = "lost+found";

/// The extended attributes that are kept: capabilities of programs, and what programs note for themselves. Others belong to
/// the security policy or the file system of one machine.
const ATTRIBUTES: [&str; 2] = ["security.capability", "user."];

/// Where a file has its access control list.
const ACCESS_LIST: &str = "system.posix_acl_access";

/// How the name of a file begins that says what a layer removes. Source: OCI image-spec, layer.md, "Whiteouts".
const WHITEOUT: &[u8] = b".wh.";

/// How many bytes of a link's target a header holds, and the record of a PAX header that holds more. Source: POSIX, pax.
const LINK_FIELD: usize = 100;
const LINK_KEY: &str = "linkpath";

/// How a record of a PAX header is called that has an extended attribute. Source: star(5), used by OCI's tools.
const ATTRIBUTE_KEY: &str = "SCHILY.xattr.";

/// Writes everything below `root`, in the order of the names, with owners, modes, times in whole seconds, hard links,
/// capabilities and user attributes. Devices and sockets are left out: whoever unpacks a container image may not make them.
pub(crate) fn write(root: &Path, sink: impl Write) -> Result<(), StepError> {
    let mut archive = Builder::new(sink);
    let mut links = BTreeMap::new();
    directory(&mut archive, root, Path::new(""), &mut links)?;
    archive.into_inner().and_then(|mut sink| sink.flush()).to("send the tree")
}

/// Writes what is in a directory, given by its path below the root.
fn directory(
    archive: &mut Builder<impl Write>,
    root: &Path,
    inside: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
) -> Result<(), StepError> {
    let full = root.join(inside);
    let mut names = Vec::new();
    for entry in fs_err::read_dir(&full).doing("list", &full)? {
        names.push(entry.doing("list", &full)?.file_name());
    }
    names.sort();
    for name in names {
        if inside == Path::new("") && name == LOST {
            continue;
        }
        let path = inside.join(&name);
        if name.as_bytes().starts_with(WHITEOUT) {
            let value = path.display().to_string();
            let rule = "in a layer, a name that begins with `.wh.` says that a file is removed";
            return Err(StepError::Invalid { what: "the file name", value, rule });
        }
        let full = root.join(&path);
        let metadata = fs_err::symlink_metadata(&full).doing("look at", &full)?;
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_mode(if kind.is_symlink() { metadata.mode() & 0o7777 } else { mode(&full, metadata.mode())? });
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
        header.set_size(0);
        if kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            continue;
        }
        if !kind.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = links.get(&(metadata.dev(), metadata.ino())) {
                header.set_entry_type(EntryType::Link);
                archive.append_link(&mut header, &path, first).doing("send", &full)?;
                continue;
            }
            links.insert((metadata.dev(), metadata.ino()), path.clone());
        }
        // Asking follows no link.
        let mut records = attributes(&full).doing("read the attributes of", &full)?;
        let target = if kind.is_symlink() { fs_err::read_link(&full).doing("read", &full)? } else { PathBuf::new() };
        // As it is, to the last slash: a link may carry something else than a path.
        let target = target.as_os_str().as_bytes();
        if target.len() > LINK_FIELD {
            records.insert(LINK_KEY.to_owned(), target.to_vec());
        }
        if !records.is_empty() {
            let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            archive.append_pax_extensions(records).doing("send", &full)?;
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_link_name_literal(&target[..target.len().min(LINK_FIELD)]).doing("send", &full)?;
            archive.append_data(&mut header, &path, io::empty()).doing("send", &full)?;
        } else if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            let mut name = path.clone().into_os_string();
            name.push("/");
            archive.append_data(&mut header, name, io::empty()).doing("send", &full)?;
            if !(inside == Path::new("") && EMPTY.iter().any(|empty| path == Path::new(empty))) {
                directory(archive, root, &path, links)?;
            }
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            archive.append_data(&mut header, &path, io::empty()).doing("send", &full)?;
        } else {
            let file = fs_err::File::open(&full).doing("open", &full)?;
            header.set_size(metadata.len());
            archive.append_data(&mut header, &path, file).doing("send", &full)?;
        }
    }
    Ok(())
}

/// The permissions of a file. Where it has an access control list, which is left out, the group's bits stand for the list's
/// mask: the group keeps what the list gives to itself.
fn mode(path: &Path, mode: u32) -> Result<u32, StepError> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::lgetxattr(path, ACCESS_LIST, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error).doing("read the attributes of", path),
    };
    let group = group_of(&list[..length]).map_or(mode >> 3 & 0o7, |group| group & (mode >> 3));
    Ok(mode & 0o7707 | group << 3)
}

/// What an access control list gives to the file's group. Source: Linux, `include/uapi/linux/posix_acl_xattr.h`.
fn group_of(list: &[u8]) -> Option<u32> {
    const GROUP_OBJECT: u16 = 0x04;
    // A version of four bytes, and entries of tag, permissions and id.
    list.get(4..)?.chunks_exact(8).find_map(|entry| {
        let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        (number(0) == GROUP_OBJECT).then(|| u32::from(number(2)) & 0o7)
    })
}

/// The attributes that are kept, as records of a PAX header, in the order of their names.
fn attributes(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    // Attributes are bounded by the kernel: 64 KiB for the list of names, 64 KiB for a value.
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        // A file system that has none.
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let kept = ATTRIBUTES.iter().any(|kept| text == *kept || (kept.ends_with('.') && text.starts_with(kept)));
        // The record's key ends there.
        if !kept || text.contains('=') {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsString::from_vec(name.to_vec()).as_bytes(), &mut value[..])?;
        value.truncate(length);
        found.insert(format!("{ATTRIBUTE_KEY}{text}"), value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What is in an archive: kind, path, mode and content or target.
    fn listed(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
            let path = entry.path().unwrap().display().to_string();
            let target = entry.link_name().unwrap().map(|target| target.display().to_string());
            let records: Vec<String> = entry
                .pax_extensions()
                .unwrap()
                .into_iter()
                .flatten()
                .map(|record| record.unwrap())
                .filter(|record| record.key().unwrap() != LINK_KEY)
                .map(|record| format!(" {}={:?}", record.key().unwrap(), record.value_bytes()))
                .collect();
            let mut content = String::new();
            io::Read::read_to_string(&mut entry, &mut content).unwrap();
            format!("{kind:?} {path} {mode:o} {}{}", target.unwrap_or(content), records.concat())
        });
        entries.collect()
    }

    #[test]
    fn a_tree_is_written_in_order_with_links_and_without_what_a_machine_makes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in ["usr/bin", "proc/1", "run/lock", "var/run", "lost+found"] {
            fs_err::create_dir_all(root.join(path)).unwrap();
        }
        fs_err::set_permissions(root.join("usr"), PermissionsExt::from_mode(0o755)).unwrap();
        fs_err::write(root.join("usr/bin/b"), "b\n").unwrap();
        fs_err::set_permissions(root.join("usr/bin/b"), PermissionsExt::from_mode(0o4755)).unwrap();
        fs_err::hard_link(root.join("usr/bin/b"), root.join("usr/bin/c")).unwrap();
        std::os::unix::fs::symlink("/usr/bin", root.join("bin")).unwrap();
        let far = format!("https://a//{}", "b/./".repeat(40));
        std::os::unix::fs::symlink("https://x/./y//", root.join("data")).unwrap();
        std::os::unix::fs::symlink(&far, root.join("far")).unwrap();
        let long = "n".repeat(200);
        fs_err::write(root.join("var").join(&long), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(root.join("var/socket")).unwrap());
        for (name, mode) in [("proc", 0o555), ("run", 0o755), ("var", 0o755), ("var/run", 0o700), ("usr/bin", 0o755)] {
            fs_err::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        fs_err::set_permissions(root.join("var").join(&long), PermissionsExt::from_mode(0o640)).unwrap();
        let mut bytes = Vec::new();
        write(root, &mut bytes).unwrap();
        let expected = [
            "Symlink bin 777 /usr/bin",
            "Symlink data 777 https://x/./y//",
            &format!("Symlink far 777 {far}"),
            "Directory proc/ 555 ",
            "Directory run/ 755 ",
            "Directory usr/ 755 ",
            "Directory usr/bin/ 755 ",
            "Regular usr/bin/b 4755 b\n",
            "Link usr/bin/c 4755 usr/bin/b",
            "Directory var/ 755 ",
            &format!("Regular var/{long} 640 "),
            "Directory var/run/ 700 ",
        ];
        assert_eq!(listed(&bytes), expected);
        let mut again = Vec::new();
        write(root, &mut again).unwrap();
        assert!(bytes == again, "the same tree gives the same archive");
    }

    #[test]
    fn a_name_that_would_remove_another_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(".wh.other"), "").unwrap();
        let error = write(dir.path(), io::sink()).unwrap_err();
        assert!(error.to_string().starts_with("the file name `.wh.other` is not valid"), "{error}");
    }

    #[test]
    fn the_group_keeps_what_a_list_gives_to_it() {
        let entry =
            |tag: u16, permissions: u16| [tag.to_le_bytes(), permissions.to_le_bytes(), [255; 2], [255; 2]].concat();
        // user::rw-, user:alice:rw-, group::r--, mask::rw-, other::---
        let entries = [entry(1, 6), entry(2, 6), entry(4, 4), entry(0x10, 6), entry(0x20, 0)].concat();
        assert_eq!(group_of(&[&2_u32.to_le_bytes()[..], &entries].concat()), Some(4));
        assert_eq!(group_of(&[]), None);
    }

    #[test]
    fn user_attributes_are_records_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs_err::write(&path, "x").unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        if rustix::fs::setxattr(&path, "user.note", b"a\0b", rustix::fs::XattrFlags::empty()).is_err() {
            // This test directory's file system has none.
            return;
        }
        let mut bytes = Vec::new();
        write(dir.path(), &mut bytes).unwrap();
        assert_eq!(listed(&bytes), ["Regular file 644 x SCHILY.xattr.user.note=[97, 0, 98]"]);
    }
}
