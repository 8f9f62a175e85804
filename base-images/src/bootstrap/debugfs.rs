//! Looks into an ext4 file system of a disk file and changes it without mounting it: for an ordinary user, who cannot make
//! files of root's either.

use std::path::Path;

use fs_err as fs;
use labwright_core::Cancel;
use labwright_host::{Invocation, Tool};

use super::BootstrapError;

/// The device nodes and links that mmdebstrap makes as root, by name: kernels give their own to a system that runs, but
/// for what comes before.
const DEVICES: &[(&str, u32, u32)] = &[
    ("console", 5, 1),
    ("full", 1, 7),
    ("null", 1, 3),
    ("ptmx", 5, 2),
    ("random", 1, 8),
    ("tty", 5, 0),
    ("urandom", 1, 9),
    ("zero", 1, 5),
];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// A file system at an offset in the disk file of a working directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Debugfs<'a> {
    /// The directory, whose name may have anything in it: debugfs takes what is behind a `?` for options.
    pub(super) dir: &'a Path,
    /// The disk's file name in it.
    pub(super) disk: &'a str,
    /// Where the file system begins, in bytes.
    pub(super) offset: u64,
}

impl Debugfs<'_> {
    /// Gives everything to root that came from `tree`, and makes the device nodes.
    pub(super) fn own(self, tree: &Path, cancel: &Cancel) -> Result<(), BootstrapError> {
        let mut script = give_to_root("/");
        script += &give_to_root("/lost+found");
        own_below(tree, "", &mut script)?;
        // What programs of the system have mounted over while packages are installed: nobody mends these later.
        script += "sif /tmp mode 041777\n";
        script += "cd /dev\n";
        let mut commands: Vec<(&str, String)> = DEVICES
            .iter()
            .map(|(name, major, minor)| (*name, format!("mknod {name} c {major} {minor}\nsif {name} mode 020666\n")))
            .collect();
        commands.extend(LINKS.iter().map(|(name, target)| (*name, format!("symlink {name} {target}\n"))));
        commands.extend(["pts", "shm"].map(|name| (name, format!("mkdir {name}\n"))));
        for (name, command) in commands {
            // As root, mmdebstrap has made them.
            if fs::symlink_metadata(tree.join("dev").join(name)).is_err() {
                script += &command;
            }
        }
        self.run("own", &script, true, cancel)
    }

    /// Gives a file to an account, by number.
    pub(super) fn give(self, path: &str, uid: u32, cancel: &Cancel) -> Result<(), BootstrapError> {
        self.run("give", &format!("sif {} uid {uid}\n", quoted(path)), true, cancel)
    }

    /// Copies files out to the same paths below `to`. Paths are absolute.
    pub(super) fn dump(self, paths: &[&str], to: &Path, cancel: &Cancel) -> Result<(), BootstrapError> {
        let mut commands = Vec::new();
        for path in paths {
            let target = to.join(path.trim_start_matches('/'));
            let parent = target.parent().expect("a file is in a directory");
            fs::create_dir_all(parent).map_err(|source| BootstrapError::disk(parent, source))?;
            let target = target.strip_prefix(self.dir).unwrap_or(&target);
            commands.push(format!("dump {} {}\n", quoted(path), quoted(&target.to_string_lossy())));
        }
        self.run("dump", &commands.concat(), false, cancel)
    }

    /// Carries out a script. debugfs itself never fails: what it complains of is on stderr, behind its version.
    fn run(self, name: &str, script: &str, writes: bool, cancel: &Cancel) -> Result<(), BootstrapError> {
        let file = self.dir.join(name);
        fs::write(&file, script).map_err(|source| BootstrapError::disk(&file, source))?;
        let mut call = Invocation::new(Tool::Debugfs).current_dir(self.dir);
        if writes {
            call = call.arg("-w");
        }
        let call = call.arg("-f").arg(name).arg(format!("{}?offset={}", self.disk, self.offset));
        let output = call.run(cancel)?;
        fs::remove_file(&file).map_err(|source| BootstrapError::disk(&file, source))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<&str> = said.lines().filter(|line| !line.starts_with("debugfs ")).collect();
        if complaints.is_empty() {
            return Ok(());
        }
        Err(BootstrapError::Debugfs { command: call.command_line(), said: complaints.join("\n") })
    }
}

/// Adds the commands for everything in a directory, which is `inside` the root.
fn own_below(dir: &Path, inside: &str, script: &mut String) -> Result<(), BootstrapError> {
    let at = |source| BootstrapError::disk(dir, source);
    for entry in fs::read_dir(dir).map_err(at)? {
        let entry = entry.map_err(at)?;
        let Some(path) =
            entry.file_name().to_str().filter(|name| !name.contains('\n')).map(|name| format!("{inside}/{name}"))
        else {
            return Err(BootstrapError::Name { path: entry.path() });
        };
        *script += &give_to_root(&path);
        if entry.file_type().map_err(at)?.is_dir() {
            own_below(&entry.path(), &path, script)?;
        }
    }
    Ok(())
}

/// The commands that make a file root's.
fn give_to_root(path: &str) -> String {
    let path = quoted(path);
    format!("sif {path} uid 0\nsif {path} gid 0\n")
}

/// A word that stands for exactly this text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: u64 = 1 << 20;

    /// A disk with a file system behind its first MiB, filled from `tree`.
    fn disk(dir: &Path, tree: &Path) {
        let disk = dir.join("disk");
        fs::File::create(&disk).unwrap().set_len(OFFSET + (8 << 20)).unwrap();
        Invocation::new(Tool::Mke2fs)
            .args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={OFFSET}"), "-d"])
            .arg(tree)
            .arg(&disk)
            .arg("8192k")
            .run(&Cancel::new())
            .unwrap();
    }

    #[test]
    fn everything_becomes_roots_and_comes_out_as_it_was() {
        // Names that mean something to a shell, to debugfs and to the options behind its file name.
        let dir = tempfile::Builder::new().prefix("it's a \"dir\"?offset=0 ").tempdir().unwrap();
        let tree = dir.path().join("tree");
        let odd = "etc/ask \"why\"?";
        for name in ["dev", "tmp", "etc"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join(odd), "because").unwrap();
        std::os::unix::fs::symlink("nowhere", tree.join("etc/link")).unwrap();
        for path in ["etc", "etc/link", odd] {
            // Only root may give files away; for others they are somebody's already.
            drop(std::os::unix::fs::lchown(tree.join(path), Some(1234), Some(5678)));
        }
        disk(dir.path(), &tree);
        let debugfs = Debugfs { dir: dir.path(), disk: "disk", offset: OFFSET };
        debugfs.own(&tree, &Cancel::new()).unwrap();
        debugfs.dump(&[&format!("/{odd}")], &dir.path().join("out"), &Cancel::new()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("out").join(odd)).unwrap(), "because");

        let stat = |path: &str| {
            let call = Invocation::new(Tool::Debugfs).current_dir(dir.path());
            let call = call.arg("-R").arg(format!("stat {}", quoted(path))).arg(format!("disk?offset={OFFSET}"));
            call.run(&Cancel::new()).unwrap().text()
        };
        for path in ["/", "/lost+found", "/etc", "/etc/link", &format!("/{odd}"), "/dev/null", "/dev/stdin", "/dev/pts"]
        {
            let said = stat(path);
            assert!(said.contains("User:     0   Group:     0 "), "{path}: {said}");
        }
        let null = stat("/dev/null");
        assert!(null.contains("Type: character special    Mode:  0666") && null.contains("01:03"), "{null}");
        assert!(stat("/tmp").contains("Mode:  01777"), "{}", stat("/tmp"));
        let check = Invocation::new(Tool::E2fsck).current_dir(dir.path()).args(["-f", "-n"]);
        check.arg(format!("disk?offset={OFFSET}")).run(&Cancel::new()).unwrap();
    }

    #[test]
    fn what_debugfs_complains_of_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        disk(dir.path(), &tree);
        let debugfs = Debugfs { dir: dir.path(), disk: "disk", offset: OFFSET };
        let error = debugfs.dump(&["/missing"], &dir.path().join("out"), &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains("File not found"), "{error}");
        // Without /dev there is no place for device nodes.
        let error = debugfs.own(&tree, &Cancel::new()).unwrap_err().to_string();
        assert!(error.starts_with("`debugfs -w -f own disk?offset=1048576` complained: "), "{error}");
        let nowhere = Debugfs { offset: 0, ..debugfs };
        assert!(nowhere.dump(&["/x"], &dir.path().join("out"), &Cancel::new()).is_err());
    }
}
