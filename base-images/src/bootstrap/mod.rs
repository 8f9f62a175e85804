//! Makes a bootable Debian cloud image from packages: as root in a chroot, or as anyone with a machine.

mod chroot;
mod debugfs;
mod image;
mod machine;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fs_err as fs;
use labwright_core::{Algorithm, Arch, ByteSize, Cancel, Cancelled, Digest, Event, Reporter};
use labwright_host::{Invocation, Tool, ToolError};
use rustix::thread::{CapabilitySet, capabilities};

use crate::cache::Record;
use crate::file::{Progress, StreamError, digest_of};
use crate::{Base, Cache, CacheError, DiskFormat, Origin};
use image::Ids;

/// Prepares the root before the packages are in.
const PREPARE: &str = include_str!("prepare.sh");

/// Finishes the root after the packages are in.
const FINISH: &str = include_str!("finish.sh");

/// Fetches packages without installing them.
const FETCH: &str = include_str!("fetch.sh");

/// Installs what was fetched, around the other two.
const INSTALL: &str = include_str!("install.sh");

/// What a cloud image needs beyond the packages without which there is no Debian.
const PACKAGES: &[&str] = &[
    // Boots, and keeps itself bootable when its kernel or its boot loader is updated.
    "grub-cloud-amd64",
    "initramfs-tools",
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "zstd",
    // Finds its place: address, name, size, keys, users.
    "cloud-guest-utils",
    "cloud-init",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "libnss-myhostname",
    "libnss-resolve",
    "netbase",
    "netplan.io",
    "systemd-resolved",
    "systemd-timesyncd",
    "tzdata",
    // Lets people in.
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "sudo",
    // What people and installers expect.
    "apt-utils",
    "bash-completion",
    "ca-certificates",
    "curl",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "locales",
    "man-db",
    "nano",
    "procps",
    "vim-tiny",
    "xz-utils",
];

/// What a container needs: certificates to trust, and a configuration of ext4 for the disk that it is made on.
const MINIMAL_PACKAGES: &[&str] = &["ca-certificates", "e2fsprogs"];

/// A suite of Debian that can be bootstrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    /// All suites, oldest first.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The name in the archive.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// Packages that only some suites have.
    const fn own_packages(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &[],
            // Lets ordinary users ping.
            Self::Trixie => &["linux-sysctl-defaults"],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a distribution a bootstrap makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// A system that boots and takes cloud-init's configuration, as the vendor's cloud images.
    #[default]
    Cloud,
    /// The smallest that has a package manager, without kernel and boot loader: for containers. Its apt installs what packages
    /// depend on, and nothing that they only recommend.
    Minimal,
}

impl Variant {
    /// What it has beyond the packages without which there is no Debian.
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Cloud => PACKAGES,
            Self::Minimal => MINIMAL_PACKAGES,
        }
    }
}

/// The text names no suite that can be bootstrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a suite that can be bootstrapped (bookworm or trixie)")]
pub struct UnknownSuite(pub String);

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        Self::ALL.into_iter().find(|suite| suite.as_str() == text).ok_or_else(|| UnknownSuite(text.to_owned()))
    }
}

/// What to bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bootstrap {
    /// The suite of Debian.
    pub suite: Suite,
    /// The architecture; so far only amd64 works, and only on amd64.
    pub arch: Arch,
    /// How much of it.
    pub variant: Variant,
}

impl Bootstrap {
    /// What the cache calls the result, wherever the packages are installed: both ways make the same. Another version of
    /// this program with other packages or another finish makes its own.
    fn key(self) -> String {
        let scripts = [PREPARE, FINISH, FETCH, INSTALL].join("\n");
        let recipe = format!("{scripts}\n{}\n{}", image::LAYOUT, self.packages().join(","));
        format!("bootstrap-debian-{}-{}-{}", self.suite, self.arch, Digest::sha256(recipe.as_bytes()).short())
    }

    fn packages(self) -> Vec<&'static str> {
        let of_suite = match self.variant {
            Variant::Cloud => self.suite.own_packages(),
            Variant::Minimal => &[],
        };
        self.variant.packages().iter().chain(of_suite).copied().collect()
    }

    /// Whether a machine can boot from it.
    fn boots(self) -> bool {
        self.variant == Variant::Cloud
    }

    /// What people read.
    fn name(self) -> String {
        let minimal = if self.boots() { "" } else { "minimal " };
        format!("debian {} {minimal}{}, bootstrapped", self.suite, self.arch)
    }

    /// The image made earlier, if it is in the cache.
    pub fn find(self, cache: &Cache) -> Option<Base> {
        cache.find_name(&self.key())
    }

    /// Drops the made image from the cache's names, so that the next [`bootstrap`] makes it from today's packages.
    pub fn forget(&self, cache: &Cache) -> Result<(), CacheError> {
        cache.forget_name(&self.key())
    }
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The architecture has no support here.
    #[error("cannot bootstrap Debian for {wanted} on this machine: only amd64 on amd64 is supported")]
    Arch {
        /// What was asked for.
        wanted: Arch,
    },
    /// The process lacks the rights.
    #[error("cannot bootstrap Debian in a chroot: {obstacle}")]
    NoChroot {
        /// What is in the way, as a fragment.
        obstacle: &'static str,
    },
    /// A file has a name that debugfs cannot be told.
    #[error("cannot put {} into a file system: its name is no plain text", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The unmounted file system could not be changed or read.
    #[error("`{command}` complained: {said}")]
    Debugfs {
        /// The command line.
        command: String,
        /// What it said.
        said: String,
    },
    /// A program of the host failed.
    #[error(transparent)]
    Tool(ToolError),
    /// There is no room for what is half-made.
    #[error("the disk that holds {} is full", dir.display())]
    Full {
        /// The cache directory.
        dir: PathBuf,
        /// What the program said that met it.
        source: ToolError,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The boot loader that the packages brought is not of the expected shape.
    #[error("cannot install the boot loader in {}: {what}", path.display())]
    Grub {
        /// What is wrong.
        what: &'static str,
        /// The directory of the boot loader.
        path: PathBuf,
    },
    /// A file of the unfinished image could not be read or written.
    #[error("could not work on {}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The kernel gave no random numbers.
    #[error("could not get random numbers from the kernel")]
    Random(#[source] io::Error),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<ToolError> for BootstrapError {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}

impl BootstrapError {
    /// Tells a full disk by what a program said of it: mmdebstrap removes what it made, so there is room again.
    fn unless_full(self, dir: &Path) -> Self {
        const WORDS: [&str; 2] = ["No space left on device", "You don't have enough free space"];
        match self {
            Self::Tool(source @ ToolError::Failed { .. }) if matches!(&source, ToolError::Failed { stderr, .. } if WORDS.iter().any(|words| stderr.contains(words))) => {
                Self::Full { dir: dir.to_owned(), source }
            }
            other => other,
        }
    }

    fn disk(path: &Path, source: io::Error) -> Self {
        Self::Disk { path: path.to_owned(), source }
    }
}

/// Where packages are installed, which runs their scripts as root.
pub enum Installer<'a, E> {
    /// In a chroot of this host: needs root and the right to mount.
    Chroot,
    /// In a machine of the caller's: nobody here needs any privilege.
    Machine(&'a dyn Fn(&SecondStage<'_>) -> Result<(), E>),
}

impl<E> fmt::Debug for Installer<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chroot => "Chroot",
            Self::Machine(_) => "Machine",
        })
    }
}

/// The part of a bootstrap that a machine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondStage<'a> {
    /// A raw disk, which is changed. Its root has the essential packages extracted, and nothing installed.
    pub disk: &'a Path,
    /// Its size.
    pub size: ByteSize,
    /// A directory that the script must find at `shown_at`, and may write to. With it comes `archives`, the packages
    /// as fetched and verified, and `lists`, what the package sources say of them. It is not needed afterwards.
    pub input: &'a Path,
    /// Where that is, in the root.
    pub shown_at: &'static str,
    /// What to run as root in the disk's root, by its own `sh -e`. It needs no network.
    pub script: String,
}

/// Why packages cannot be installed in a chroot here, as a fragment; none where they can.
pub fn chroot_obstacle() -> Option<&'static str> {
    let may_mount = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if !rustix::process::geteuid().is_root() {
        Some("this process is not root")
    } else if !may_mount {
        Some("this process may not mount")
    } else {
        None
    }
}

/// Makes a bootable Debian cloud image from packages, or takes the one made earlier from the cache; a
/// [`Variant::Minimal`] has no kernel and no boot loader, on the same partitions.
///
/// The disk is laid out as the vendor's: a GPT with a BIOS boot partition (14), an EFI system partition (15) and the
/// ext4 root (1) last. It boots under SeaBIOS and UEFI, has the serial console and the first virtual terminal,
/// cloud-init, no password and no host keys. Its UUIDs are drawn anew each time. Two processes that want the same
/// image at the same time make it once. Where the packages are installed makes no difference to what is on the disk.
pub fn bootstrap<E: From<BootstrapError>>(
    spec: &Bootstrap,
    installer: &Installer<'_, E>,
    cache: &Cache,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Base, E> {
    if spec.arch != Arch::Amd64 || Arch::host() != Some(Arch::Amd64) {
        return Err(BootstrapError::Arch { wanted: spec.arch }.into());
    }
    let key = spec.key();
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    let _lock = cache.lock(&key, reporter, cancel).map_err(BootstrapError::from)?;
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    if let (Installer::Chroot, Some(obstacle)) = (installer, chroot_obstacle()) {
        return Err(BootstrapError::NoChroot { obstacle }.into());
    }
    // Not after everything was fetched.
    let of_machine = matches!(installer, Installer::Machine(_)).then_some(Tool::Debugfs);
    for tool in TOOLS.into_iter().chain(of_machine) {
        tool.find().map_err(BootstrapError::from)?;
    }
    let step = format!("bootstrap debian {}", spec.suite);
    reporter.event(Event::Started { step: step.clone() });
    let work = cache.work_dir().map_err(BootstrapError::from)?;
    let ids = Ids::random()?;
    let making = Making { spec: *spec, work: work.path(), ids: &ids, reporter, cancel };
    let of_disk = |error: BootstrapError| error.unless_full(cache.dir());
    let root = match installer {
        Installer::Chroot => chroot::make(&making).map_err(of_disk)?,
        Installer::Machine(install) => {
            let disk = machine::prepare(&making).map_err(of_disk)?;
            install(&disk.second_stage(&making))?;
            machine::finish(&making).map_err(of_disk)?
        }
    };
    let base = keep(&making, &root, &key, cache).map_err(of_disk)?;
    work.close().map_err(|source| BootstrapError::from(cache.error("remove a working directory", source)))?;
    reporter.event(Event::Finished { step, outcome: format!("{} {}", base.digest.short(), base.format) });
    Ok(base)
}

/// A disk that is being made.
#[derive(Clone, Copy)]
struct Making<'a> {
    spec: Bootstrap,
    /// The directory for everything that is half-made. [`DISK`] becomes the disk, [`RELEASE_DATE`] the date of the suite.
    work: &'a Path,
    ids: &'a Ids,
    reporter: &'a dyn Reporter,
    cancel: &'a Cancel,
}

/// What every bootstrap needs.
const TOOLS: [Tool; 7] =
    [Tool::Mmdebstrap, Tool::Sfdisk, Tool::Mke2fs, Tool::MkfsFat, Tool::Mmd, Tool::Mcopy, Tool::QemuImg];

/// The raw disk in a working directory.
const DISK: &str = "disk.raw";

/// The date in the archive's Release file, in a working directory.
const RELEASE_DATE: &str = "release-date";

/// What the package manager in the root has installed.
const STATUS: &str = "/var/lib/dpkg/status";

impl Making<'_> {
    /// Writes a file into the working directory.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, BootstrapError> {
        let path = self.work.join(name);
        fs::write(&path, text).map_err(|source| BootstrapError::disk(&path, source))?;
        Ok(path)
    }

    fn read(&self, path: &Path) -> Result<String, BootstrapError> {
        let path = self.work.join(path);
        fs::read_to_string(&path).map_err(|source| BootstrapError::disk(&path, source))
    }

    /// A hook that notes the date of the suite while apt's lists are there.
    fn date_hook(&self) -> String {
        let to = shell_quoted(&self.work.join(RELEASE_DATE).to_string_lossy());
        format!(
            "sed -n 's/^Date: //p' \"$1\"/var/lib/apt/lists/*_dists_{}_*Release | head -n 1 > {to}",
            self.spec.suite
        )
    }
}

/// Puts the made disk into the cache. `root` has [`STATUS`] of its root file system.
fn keep(making: &Making<'_>, root: &Path, key: &str, cache: &Cache) -> Result<Base, BootstrapError> {
    let Making { spec, work, reporter, cancel, .. } = *making;
    let disk = work.join("disk.qcow2");
    Invocation::new(Tool::QemuImg)
        .args(["convert", "-q", "-f", "raw", "-O", "qcow2"])
        .arg(work.join(DISK))
        .arg(&disk)
        .run(cancel)?;
    let at = |source| BootstrapError::disk(&disk, source);
    let bytes = fs::metadata(&disk).map_err(at)?.len();
    let progress = Progress { task: "digest of the bootstrapped disk", total: Some(bytes), reporter, cancel };
    let mut file = fs::File::open(&disk).map_err(at)?;
    let digest = digest_of(&mut file, Algorithm::Sha256, &progress).map_err(|error| match error {
        StreamError::Io(source) => at(source),
        StreamError::Cancelled(cancelled) => cancelled.into(),
    })?;
    let status = making.read(&root.join(STATUS.trim_start_matches('/')))?;
    let origin = Origin::Bootstrap {
        suite: spec.suite.as_str().to_owned(),
        arch: spec.arch,
        packages: status.lines().filter(|line| *line == "Status: install ok installed").count(),
        release_date: making.read(RELEASE_DATE.as_ref())?.trim().to_owned(),
    };
    let size = ByteSize::from_bytes(image::DISK_BYTES);
    let base = cache.store(&disk, &Record::new(spec.name(), digest, DiskFormat::Qcow2, size, bytes, origin))?;
    cache.set_name(key, &base.digest)?;
    Ok(base)
}

/// mmdebstrap's word for a script of ours, which gets the root and these arguments.
fn hook(script: &Path, args: &[&str]) -> String {
    let script = shell_quoted(&script.to_string_lossy());
    let words: Vec<String> = args.iter().map(|arg| shell_quoted(arg)).collect();
    format!("exec sh {script} \"$1\" {}", words.join(" "))
}

/// A word of a shell command that stands for exactly this text.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_full_disk_is_told_by_the_words_of_programs() {
        let failed = |stderr: &str| {
            let status = std::process::ExitStatus::from_raw(100 << 8);
            let error = ToolError::Failed { command: "mmdebstrap".to_owned(), status, stderr: stderr.to_owned() };
            BootstrapError::from(error).unless_full(Path::new("/work"))
        };
        let full = failed("E: Write error - write (28: No space left on device)\nE: apt-get failed\n");
        assert_eq!(full.to_string(), "the disk that holds /work is full");
        assert!(matches!(failed("E: no mirror"), BootstrapError::Tool(_)));
    }

    #[test]
    fn a_quoted_word_is_one_word() {
        assert_eq!(shell_quoted("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_key_names_suite_and_architecture() {
        let [old, new] = Suite::ALL.map(|suite| Bootstrap { suite, arch: Arch::Amd64, variant: Variant::Cloud }.key());
        assert!(old.starts_with("bootstrap-debian-bookworm-amd64-"), "{old}");
        assert!(new.starts_with("bootstrap-debian-trixie-amd64-"), "{new}");
        assert_ne!(old.rsplit('-').next(), new.rsplit('-').next());
        let minimal = Bootstrap { suite: Suite::Trixie, arch: Arch::Amd64, variant: Variant::Minimal };
        assert_ne!(minimal.key(), new);
    }

    #[test]
    fn only_known_suites_have_a_name() {
        assert_eq!("trixie".parse(), Ok(Suite::Trixie));
        assert_eq!("sarge".parse::<Suite>(), Err(UnknownSuite("sarge".to_owned())));
    }
}
