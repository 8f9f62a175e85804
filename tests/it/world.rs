//! What the tests of builds share: a small base disk, a recipe on it, and looks at what a build leaves behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
pub(crate) use labwright_tests::has;
use labwright_tests::{Lab, Said, program};
use serde_json::Value;

/// The first sector of the base's root partition.
const ROOT_SECTOR: u64 = 4096;
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a program is installed.
pub(crate) fn installed(name: &str) -> bool {
    SYSTEM_PATH.split(':').any(|dir| Path::new(dir).join(name).exists())
}

/// Whether this host can build at all.
pub(crate) fn can_build() -> bool {
    let root = fs_err::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t0\t0\t0\n");
    let tools = ["qemu-img", "qemu-storage-daemon", "mke2fs", "debugfs", "e2fsck", "sfdisk", "mmdebstrap"];
    has("root", root) && has("qemu", tools.iter().all(|tool| installed(tool)))
}

/// Runs a program that must succeed and returns its stdout.
pub(crate) fn tool(name: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(name).args(args).env("PATH", SYSTEM_PATH).output().expect("the program starts");
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of these tests is text")
}

/// The SHA-256 of a file by a program that is not ours.
pub(crate) fn sha256(path: &Path) -> String {
    let said = String::from_utf8(tool("sha256sum", &[text(path)])).unwrap();
    said.split(' ').next().unwrap().to_owned()
}

/// A base disk with the essential packages of Debian: GPT, a BIOS boot partition, ext4. Made once for a target
/// directory.
fn base() -> PathBuf {
    made_base("essential-base-4k", &["--variant=essential", "--include=passwd"], 320 << 20)
}

/// The same with apt and no package sources, and with what locales, time zones and front doors take from Debian: a package
/// source of a test's own is all that is needed.
pub(crate) fn base_with_apt() -> PathBuf {
    let no_sources = "--customize-hook=rm -f $1/etc/apt/sources.list $1/etc/apt/sources.list.d/*";
    let packages = "--include=passwd,systemd,sudo,locales,tzdata,nginx,openssl";
    made_base("apt-base-no-sources-4k", &["--variant=apt", packages, no_sources], 700 << 20)
}

fn made_base(name: &str, made_of: &[&str], size: u64) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs_err::create_dir_all(dir).unwrap();
    let finished = dir.join(format!("{name}.qcow2"));
    let lock = fs_err::File::create(dir.join(format!("{name}.lock"))).unwrap().into_parts().0;
    lock.lock().unwrap();
    if finished.exists() {
        return finished;
    }
    let work = tempfile::tempdir_in(dir).unwrap();
    let (tree, raw, disk) = (work.path().join("tree"), work.path().join("raw"), work.path().join("qcow2"));
    let drop_docs = "--dpkgopt=path-exclude=/usr/share/doc/*";
    let drop_words = "--dpkgopt=path-exclude=/usr/share/locale/*";
    let mode = ["--mode=root", "--format=directory"];
    let rest = [drop_docs, drop_words, "--dpkgopt=force-unsafe-io", "trixie", text(&tree)];
    tool("mmdebstrap", &[&mode[..], made_of, &rest[..]].concat());
    fs_err::File::create(&raw).unwrap().set_len(size).unwrap();
    let table = format!(
        "label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649,name=bios\n\
         start={ROOT_SECTOR},name=root,attrs=\"GUID:60\"\n"
    );
    let partition =
        Command::new("sfdisk").args(["-q", text(&raw)]).env("PATH", SYSTEM_PATH).write_stdin(table).output();
    assert!(partition.unwrap().status.success());
    let size = format!("{}k", partitions(&raw)[1]["size"].as_u64().unwrap() / 2);
    let offset = format!("offset={},nodiscard", ROOT_SECTOR * 512);
    tool("mke2fs", &["-q", "-t", "ext4", "-b", "4096", "-F", "-d", text(&tree), "-E", &offset, text(&raw), &size]);
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&disk)]);
    fs_err::rename(&disk, &finished).unwrap();
    finished
}

/// Another base that is made of the usual one, once for a target directory. `make` gets the usual one, a directory
/// for its work and the file to write.
pub(crate) fn derived_base(name: &str, make: impl FnOnce(&Path, &Path, &Path)) -> PathBuf {
    let usual = base();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let finished = dir.join(format!("{name}.qcow2"));
    let lock = fs_err::File::create(dir.join(format!("{name}.lock"))).unwrap().into_parts().0;
    lock.lock().unwrap();
    if !finished.exists() {
        let work = tempfile::tempdir_in(dir).unwrap();
        let disk = work.path().join("qcow2");
        make(&usual, work.path(), &disk);
        fs_err::rename(&disk, &finished).unwrap();
    }
    finished
}

/// The partitions of a raw disk as sfdisk tells them.
pub(crate) fn partitions(raw: &Path) -> Vec<Value> {
    let table: Value = serde_json::from_slice(&tool("sfdisk", &["--json", text(raw)])).unwrap();
    table["partitiontable"]["partitions"].as_array().unwrap().clone()
}

/// A directory with a recipe on the base, and the program.
pub(crate) struct World {
    pub(crate) lab: Lab,
    head: String,
}

impl World {
    /// A recipe called `name` with `body` behind its base.
    pub(crate) fn new(name: &str, body: &str) -> Self {
        Self::on(&base(), name, body)
    }

    /// The same on another base.
    pub(crate) fn on(base: &Path, name: &str, body: &str) -> Self {
        let lab = Lab::new();
        let digest = sha256(base);
        fs_err::create_dir(lab.path().join("r")).unwrap();
        fs_err::copy(base, lab.path().join("r/base.qcow2")).unwrap();
        let head = format!(
            "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: {name}, version: 1.0.0}}\n\
             base: {{file: ./base.qcow2, digest: \"sha256:{digest}\"}}\n"
        );
        let world = Self { lab, head };
        world.recipe(body);
        world
    }

    /// Gives the recipe another body.
    pub(crate) fn recipe(&self, body: &str) {
        self.lab.write("r/recipe.yaml", &format!("{}{body}", self.head));
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.lab.path().join("home")
    }

    /// The only disk that the home keeps.
    pub(crate) fn only_disk(&self) -> PathBuf {
        let mut disks = files(&self.home().join("disks"));
        assert_eq!(disks.len(), 1, "{disks:?}");
        disks.remove(0)
    }

    pub(crate) fn build(&self, more: &[&str]) -> Said {
        self.lab.run(&[&["build", "--format", "json", "r"], more].concat())
    }

    /// Builds, and returns the answer.
    pub(crate) fn build_well(&self, more: &[&str]) -> Value {
        let said = self.build(more);
        assert_eq!(said.code, 0, "{said}");
        serde_json::from_str(&said.out).expect("the answer is JSON")
    }

    /// Starts a build that goes on by itself.
    #[expect(clippy::disallowed_methods, reason = "assert_cmd starts nothing in the background")]
    pub(crate) fn start(&self, more: &[&str]) -> Child {
        let log = fs_err::File::create(self.lab.path().join("stderr")).unwrap().into_parts().0;
        let mut command = std::process::Command::new(program());
        command.args(["build", "--format", "json", "r"]).args(more).current_dir(self.lab.path()).env_clear();
        command.env("LABWRIGHT_HOME", self.home()).env("PATH", SYSTEM_PATH);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
    }

    /// A file of a disk, read without mounting anything.
    pub(crate) fn disk(&self, qcow2: &Path) -> Disk {
        tool("qemu-img", &["check", "-q", text(qcow2)]);
        let raw = tempfile::Builder::new().prefix("disk-").tempfile_in(self.lab.path()).unwrap().into_temp_path();
        tool("qemu-img", &["convert", "-O", "raw", text(qcow2), text(&raw)]);
        Disk { raw }
    }

    /// The layers, as their records tell them, by step.
    pub(crate) fn layers(&self) -> Vec<(String, Value, PathBuf)> {
        let mut found = Vec::new();
        for path in files(&self.home().join("layers")) {
            if path.extension().is_some_and(|extension| extension == "json") {
                let record: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
                found.push((record["step"].as_str().unwrap().to_owned(), record, path.with_extension("qcow2")));
            }
        }
        found
    }

    pub(crate) fn layer(&self, step: &str) -> PathBuf {
        let layers = self.layers();
        let mut of_step = layers.into_iter().filter(|(name, ..)| name == step);
        let (_, _, path) = of_step.next().expect("the step has a layer");
        assert!(of_step.next().is_none(), "several layers of {step}");
        path
    }

    /// Nothing that a later run would believe is damaged, by the word of programs that are not ours.
    pub(crate) fn assert_believable(&self) {
        for (step, record, path) in self.layers() {
            if path.exists() && path.metadata().unwrap().len() == record["size"].as_u64().unwrap() {
                assert_eq!(format!("sha256:{}", sha256(&path)), record["digest"], "layer of {step}");
            }
        }
        let mut named: Vec<PathBuf> = files(&self.home().join("store/blobs/sha256"));
        named.retain(|path| path.file_name().is_some_and(|name| name.len() == 64));
        for blob in named {
            assert_eq!(sha256(&blob), blob.file_name().unwrap().to_str().unwrap(), "blob of the store");
        }
        for disk in files(&self.home().join("disks")) {
            if disk.extension().is_some_and(|extension| extension == "qcow2")
                && !disk.file_name().unwrap().to_str().unwrap().starts_with('.')
            {
                tool("qemu-img", &["check", "-q", text(&disk)]);
            }
        }
    }

    /// Waits a moment for the kernel, then fails if anything of a build still holds on to the home.
    pub(crate) fn assert_nothing_left(&self, what: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = leftovers(self.lab.path());
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "{what} left {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A raw disk with the base's partitions.
pub(crate) struct Disk {
    pub(crate) raw: tempfile::TempPath,
}

impl Disk {
    fn file_system(&self) -> String {
        format!("{}?offset={}", text(&self.raw), ROOT_SECTOR * 512)
    }

    /// The bytes of a file; empty if it is not there.
    pub(crate) fn read(&self, path: &str) -> String {
        String::from_utf8(self.debugfs(&format!("cat {path}"))).expect("the file is text")
    }

    pub(crate) fn debugfs(&self, request: &str) -> Vec<u8> {
        tool("debugfs", &["-R", request, &self.file_system()])
    }

    /// The file system's own check finds nothing.
    pub(crate) fn check(&self) {
        tool("e2fsck", &["-f", "-n", &self.file_system()]);
    }

    /// A field of the superblock.
    pub(crate) fn superblock(&self, field: &str) -> String {
        let said = String::from_utf8(tool("dumpe2fs", &["-h", &self.file_system()])).unwrap();
        let line = said.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.expect("the superblock has the field").trim().to_owned()
    }

    /// Whether the disk has these bytes anywhere.
    pub(crate) fn contains(&self, token: &str) -> bool {
        grep(&self.raw, token)
    }
}

/// Whether a file has these bytes anywhere.
pub(crate) fn grep(path: &Path, token: &str) -> bool {
    let status = Command::new("grep").args(["-qaF", token, text(path)]).output().unwrap().status;
    assert!(matches!(status.code(), Some(0 | 1)), "grep failed");
    status.success()
}

/// The entries of a directory; none if it is not there.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Processes, mounts and loop devices that have something to do with a directory.
fn leftovers(dir: &Path) -> BTreeSet<String> {
    let name = text(dir);
    let mut left = BTreeSet::new();
    for process in files(Path::new("/proc")) {
        let Some(id) = process.file_name().and_then(|name| name.to_str()).filter(|name| name.parse::<u32>().is_ok())
        else {
            continue;
        };
        if id.parse() == Ok(std::process::id()) {
            continue;
        }
        // Processes come and go while we look, so what cannot be read is no matter.
        let read = |file: &str| {
            fs_err::read(process.join(file))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        for file in ["cmdline", "environ", "mountinfo"] {
            if read(file).contains(name) {
                left.insert(format!("process {id} ({}): {file}", read("comm").trim()));
            }
        }
        for link in ["cwd", "root", "exe"] {
            if fs_err::read_link(process.join(link)).is_ok_and(|target| target.starts_with(dir)) {
                left.insert(format!("process {id} ({}): {link}", read("comm").trim()));
            }
        }
    }
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    left.extend(loop_devices().into_iter().filter(|line| line.contains(name)));
    left
}

/// The loop devices in use, with the names that the kernel gives for their files.
fn loop_devices() -> Vec<String> {
    let said =
        String::from_utf8(tool("losetup", &["--list", "--noheadings", "--raw", "-O", "NAME,BACK-FILE"])).unwrap();
    said.lines().map(str::to_owned).collect()
}
