//! What a tree of files is, to compare those of two disks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::world::{Disk, World, files, text, tool};

/// The files of a disk's root partition: paths, contents, owners, modes, attributes (capabilities among them), no times.
pub(crate) fn root_tree(world: &World, disk: &Disk) -> BTreeMap<PathBuf, String> {
    tree_at(&disk.raw, 4096, world.lab.path())
}

/// The same of the ext4 file system that begins at a sector of a raw disk. `work` is a directory to mount it in.
pub(crate) fn tree_at(raw: &Path, sector: u64, work: &Path) -> BTreeMap<PathBuf, String> {
    let mount = work.join("mnt");
    fs_err::create_dir_all(&mount).unwrap();
    let options = format!("ro,noload,loop,offset={}", sector * 512);
    tool("mount", &["-t", "ext4", "-o", &options, text(raw), text(&mount)]);
    let tree = tree(&mount);
    tool("umount", &[text(&mount)]);
    tree
}

/// Where two trees differ, with what is there in each.
pub(crate) fn differences<'a>(
    one: &'a BTreeMap<PathBuf, String>,
    other: &'a BTreeMap<PathBuf, String>,
) -> Vec<(&'a PathBuf, Option<&'a String>, Option<&'a String>)> {
    let mut different: Vec<_> = one
        .keys()
        .chain(other.keys())
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| (path, one.get(path), other.get(path)))
        .collect();
    different.sort();
    different.dedup();
    different
}

/// Everything that a tree of files is, without its times.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs_err::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            open.extend(files(&path));
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", fs_err::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            let mut hasher = DefaultHasher::new();
            fs_err::read(&path).unwrap().hash(&mut hasher);
            format!("file {} {:x} links {}", meta.len(), hasher.finish(), meta.nlink())
        } else {
            format!("special {} {}", kind.is_fifo(), meta.rdev())
        };
        let mode = meta.mode();
        let line = format!("{content} {mode:o} {}:{} {:?}", meta.uid(), meta.gid(), attributes(&path));
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let value = |name: &str| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value[..length].to_vec()
    };
    names.split('\0').filter(|name| !name.is_empty()).map(|name| (name.to_owned(), value(name))).collect()
}
