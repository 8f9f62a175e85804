//! Which packages a root file system has: for the list that goes with an image.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::audit::file_text;
use crate::seal::{SealError, look_at};

/// So many packages go into one report: a frame has a limit, and a root file system has not.
pub(crate) const PER_REPORT: usize = 500;

/// The most bytes of dpkg's database that are read. All of Debian installed at once would be less.
const MAX_STATUS: u64 = 256 << 20;

/// Databases of package managers that are not read.
const UNREAD: [(&str, &str); 4] = [
    ("rpm", "usr/lib/sysimage/rpm"),
    ("rpm", "var/lib/rpm/rpmdb.sqlite"),
    ("apk", "lib/apk/db/installed"),
    ("pacman", "var/lib/pacman/local"),
];

/// The installed packages, and what they are packages of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inventory {
    /// `ID` of os-release (`debian`); none where there is no such file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// `VERSION_ID`, else `VERSION_CODENAME`, of os-release (`13`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Whether there is a database of dpkg.
    pub dpkg: bool,
    /// Package managers whose databases are there and were not read (`rpm`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// The packages, sorted by name, architecture and version.
    pub packages: Vec<InstalledPackage>,
}

/// A package whose files are in the root file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstalledPackage {
    /// Its name.
    pub name: String,
    /// Its architecture, as dpkg names it (`all` for those that fit any).
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// The source package that it was built from.
    pub source: String,
    /// The version of that.
    pub source_version: String,
}

impl Inventory {
    /// Adds what another report of the same root file system says.
    pub fn extend(&mut self, more: Self) {
        let packages = std::mem::take(&mut self.packages);
        *self = more;
        self.packages.splice(0..0, packages);
    }

    /// The same in pieces of at most `size` packages; at least one.
    pub(crate) fn pieces(self, size: usize) -> Vec<Self> {
        let head = Self { packages: Vec::new(), ..self.clone() };
        let mut pieces: Vec<Self> =
            self.packages.chunks(size).map(|packages| Self { packages: packages.to_vec(), ..head.clone() }).collect();
        if pieces.is_empty() {
            pieces.push(head);
        }
        pieces
    }
}

/// Reads which packages the tree at `root` has.
pub(crate) fn read(root: &Path) -> Result<Inventory, SealError> {
    let mut inventory = Inventory::default();
    // The first one is the distribution's own, the second usually a link to it.
    for path in ["usr/lib/os-release", "etc/os-release"] {
        if let Some(text) = file_text(root, Path::new(path), MAX_STATUS)? {
            inventory.distribution = variable(&text, "ID");
            inventory.release = variable(&text, "VERSION_ID").or_else(|| variable(&text, "VERSION_CODENAME"));
            break;
        }
    }
    if let Some(text) = file_text(root, Path::new("var/lib/dpkg/status"), MAX_STATUS)? {
        inventory.dpkg = true;
        inventory.packages = dpkg_status(&text);
    }
    for (manager, path) in UNREAD {
        if look_at(root, Path::new(path))?.is_some() && !inventory.unread.iter().any(|known| known == manager) {
            inventory.unread.push(manager.to_owned());
        }
    }
    Ok(inventory)
}

/// A variable of os-release, without its quotes.
fn variable(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The packages of a status file of dpkg whose files are there, sorted.
///
/// Source: deb-control(5), dpkg(1) "Package states".
fn dpkg_status(text: &str) -> Vec<InstalledPackage> {
    let mut packages: Vec<InstalledPackage> = text.split("\n\n").filter_map(package).collect();
    packages.sort();
    packages.dedup();
    packages
}

fn package(stanza: &str) -> Option<InstalledPackage> {
    let field = |name: &str| {
        let line = |line: &str| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        stanza.lines().find_map(line).filter(|value| !value.is_empty())
    };
    let status = field("Status")?;
    // Of packages in the other states (`config-files`, `not-installed`, `half-installed`) no program can run.
    let there = ["installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending"];
    if !there.contains(&status.split_whitespace().nth(2)?) {
        return None;
    }
    let (name, version) = (field("Package")?, field("Version")?);
    let (source, source_version) = match field("Source") {
        None => (name.clone(), version.clone()),
        Some(source) => match source.split_once(" (") {
            Some((source, version)) => (source.to_owned(), version.trim_end_matches(')').to_owned()),
            None => (source, version.clone()),
        },
    };
    Some(InstalledPackage {
        architecture: field("Architecture").unwrap_or_else(|| "all".to_owned()),
        name,
        version,
        source,
        source_version,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    const STATUS: &str = "\
Package: zsh
Status: install ok installed
Architecture: amd64
Version: 5.9-8+b14
Source: zsh (5.9-8)
Description: shell
 Version: not a field
 .
 Package: nor this

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libc6
Status: hold ok triggers-pending
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 1:2.41-12

Package: libc6
Status: install ok installed
Architecture: i386
Source: glibc
Version: 1:2.41-12

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.152
";

    #[test]
    fn a_status_file_lists_what_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "var/lib/dpkg/status", STATUS);
        write(
            dir.path(),
            "usr/lib/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\nID=debian\n",
        );
        let inventory = read(dir.path()).unwrap();
        let found: Vec<String> = inventory
            .packages
            .iter()
            .map(|one| {
                format!("{} {} {} {} {}", one.name, one.architecture, one.version, one.source, one.source_version)
            })
            .collect();
        assert_eq!(
            found,
            [
                "adduser all 3.152 adduser 3.152",
                "libc6 amd64 1:2.41-12 glibc 1:2.41-12",
                "libc6 i386 1:2.41-12 glibc 1:2.41-12",
                "zsh amd64 5.9-8+b14 zsh 5.9-8"
            ]
        );
        assert_eq!((inventory.distribution.as_deref(), inventory.release.as_deref()), (Some("debian"), Some("13")));
        assert!(inventory.dpkg && inventory.unread.is_empty());

        // In pieces and put together again it is the same.
        let mut whole = Inventory::default();
        let pieces = inventory.clone().pieces(3);
        assert_eq!(pieces.len(), 2);
        for piece in pieces {
            whole.extend(piece);
        }
        assert_eq!(whole, inventory);
        assert_eq!(Inventory::default().pieces(3), [Inventory::default()]);
    }

    #[test]
    fn databases_that_are_not_read_are_told_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "elsewhere", STATUS);
        fs_err::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        symlink("../../../elsewhere", dir.path().join("var/lib/dpkg/status")).unwrap();
        write(dir.path(), "usr/lib/sysimage/rpm/rpmdb.sqlite", "");
        write(dir.path(), "var/lib/rpm/rpmdb.sqlite", "");
        let inventory = read(dir.path()).unwrap();
        assert_eq!(inventory, Inventory { unread: vec!["rpm".to_owned()], ..Inventory::default() });
    }
}
