//! Makes a bootable Debian cloud image from packages.

mod image;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use fs_err as fs;
use labwright_core::{Algorithm, Arch, ByteSize, Cancel, Cancelled, Digest, Event, Reporter};
use labwright_host::{Invocation, Tool, ToolError};

use crate::cache::Record;
use crate::file::{Progress, StreamError, digest_of};
use crate::{Base, Cache, CacheError, DiskFormat, Origin};
use image::Ids;

/// Prepares the root before the packages are in.
const PREPARE: &str = include_str!("prepare.sh");

/// Finishes the root after the packages are in.
const FINISH: &str = include_str!("finish.sh");

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
}

impl Bootstrap {
    /// What the cache calls the result. Another version of this program with other packages or another finish makes
    /// its own.
    fn key(self) -> String {
        let recipe = format!("{PREPARE}\n{FINISH}\n{}\n{}", image::LAYOUT, self.packages().join(","));
        format!("bootstrap-debian-{}-{}-{}", self.suite, self.arch, Digest::sha256(recipe.as_bytes()).short())
    }

    fn packages(self) -> Vec<&'static str> {
        PACKAGES.iter().chain(self.suite.own_packages()).copied().collect()
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
    #[error("bootstrapping Debian needs root: run it with sudo")]
    NotRoot,
    /// A program of the host failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
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

/// Makes a bootable Debian cloud image from packages, or takes the one made earlier from the cache.
///
/// The disk is laid out as the vendor's: a GPT with a BIOS boot partition (14), an EFI system partition (15) and the
/// ext4 root (1) last. It boots under SeaBIOS and UEFI, has the serial console and the first virtual terminal,
/// cloud-init, no password and no host keys. Its UUIDs are drawn anew each time. Two processes that want the same
/// image at the same time make it once.
pub fn bootstrap(
    spec: &Bootstrap,
    cache: &Cache,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Base, BootstrapError> {
    if spec.arch != Arch::Amd64 || Arch::host() != Some(Arch::Amd64) {
        return Err(BootstrapError::Arch { wanted: spec.arch });
    }
    let key = spec.key();
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    let _lock = cache.lock(&key, reporter, cancel)?;
    if let Some(base) = cache.find_name(&key) {
        return Ok(base);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(BootstrapError::NotRoot);
    }
    let step = format!("bootstrap debian {}", spec.suite);
    reporter.event(Event::Started { step: step.clone() });
    let base = make(*spec, &key, cache, reporter, cancel)?;
    reporter.event(Event::Finished { step, outcome: format!("{} {}", base.digest.short(), base.format) });
    Ok(base)
}

fn make(
    spec: Bootstrap,
    key: &str,
    cache: &Cache,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Base, BootstrapError> {
    let work = cache.work_dir()?;
    let root = work.path().join("root");
    let ids = Ids::random()?;
    fill_root(spec, work.path(), &root, &ids, reporter, cancel)?;
    let raw = work.path().join("disk.raw");
    image::make_disk(&raw, &root, &ids, cancel)?;
    let disk = work.path().join("disk.qcow2");
    Invocation::new(Tool::QemuImg)
        .args(["convert", "-q", "-f", "raw", "-O", "qcow2"])
        .arg(&raw)
        .arg(&disk)
        .run(cancel)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| BootstrapError::Disk { path, source }
    };
    let bytes = fs::metadata(&disk).map_err(at(&disk))?.len();
    let progress = Progress { task: "digest of the bootstrapped disk", total: Some(bytes), reporter, cancel };
    let mut file = fs::File::open(&disk).map_err(at(&disk))?;
    let digest = digest_of(&mut file, Algorithm::Sha256, &progress).map_err(|error| match error {
        StreamError::Io(source) => at(&disk)(source),
        StreamError::Cancelled(cancelled) => cancelled.into(),
    })?;
    let read = |name: &str| {
        let path = work.path().join(name);
        fs::read_to_string(&path).map_err(at(&path))
    };
    let origin = Origin::Bootstrap {
        suite: spec.suite.as_str().to_owned(),
        arch: spec.arch,
        packages: read("packages")?.lines().count(),
        release_date: read("release-date")?.trim().to_owned(),
    };
    let name = format!("debian {} {}, bootstrapped", spec.suite, spec.arch);
    let size = ByteSize::from_bytes(image::DISK_BYTES);
    let base = cache.store(&disk, &Record::new(name, digest, DiskFormat::Qcow2, size, bytes, origin))?;
    cache.set_name(key, &base.digest)?;
    work.close().map_err(|source| cache.error("remove a working directory", source))?;
    Ok(base)
}

/// Fills `root` with packages and configuration.
fn fill_root(
    spec: Bootstrap,
    work: &Path,
    root: &Path,
    ids: &Ids,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<(), BootstrapError> {
    let script = |name: &str, text: &str| -> Result<String, BootstrapError> {
        let path = work.join(name);
        fs::write(&path, text).map_err(|source| BootstrapError::Disk { path: path.clone(), source })?;
        Ok(format!("exec sh {} \"$1\"", shell_quoted(&path.to_string_lossy())))
    };
    let prepare = format!("{} {} {}", script("prepare.sh", PREPARE)?, ids.root_partition, ids.efi_partition);
    let finish = format!("{} {} {} {}", script("finish.sh", FINISH)?, spec.suite, ids.file_system, ids.root_partition);
    // In namespaces of its own, mmdebstrap and all that it starts end with the one process that we can kill, and
    // its mounts with them.
    Invocation::new(Tool::Unshare)
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(Tool::Mmdebstrap.find()?)
        .args(["--mode=root", "--format=directory", "--variant=minbase", "--dpkgopt=force-unsafe-io"])
        .arg(format!("--architectures={}", spec.arch))
        .arg(format!("--include={}", spec.packages().join(",")))
        .arg(format!("--essential-hook={prepare}"))
        .arg(format!("--customize-hook={finish}"))
        .arg(spec.suite.as_str())
        .arg(root)
        .stream(cancel, &|line| reporter.event(Event::Output { line: line.to_owned() }))?;
    Ok(())
}

/// A word of a shell command that stands for exactly this text.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_is_one_word() {
        assert_eq!(shell_quoted("/a b/it's"), r"'/a b/it'\''s'");
    }

    #[test]
    fn the_key_names_suite_and_architecture() {
        let [old, new] = Suite::ALL.map(|suite| Bootstrap { suite, arch: Arch::Amd64 }.key());
        assert!(old.starts_with("bootstrap-debian-bookworm-amd64-"), "{old}");
        assert!(new.starts_with("bootstrap-debian-trixie-amd64-"), "{new}");
        assert_ne!(old.rsplit('-').next(), new.rsplit('-').next());
    }

    #[test]
    fn only_known_suites_have_a_name() {
        assert_eq!("trixie".parse(), Ok(Suite::Trixie));
        assert_eq!("sarge".parse::<Suite>(), Err(UnknownSuite("sarge".to_owned())));
    }
}
