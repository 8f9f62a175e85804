//! The surroundings that a step runs in: namespaces, mounts, devices, capabilities.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use labwright_core::NamedSecret;
use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use crate::error::{Doing, StepError};
use crate::protocol::{Bind, DiskInfo, Request};

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What a step may do as root: enough for package managers, nothing that reaches the kernel, devices or mounts.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// The device files of a step, with the rights that udev gives them.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Leaves the host: afterwards `/` is the guest's root, with fresh `/proc`, `/sys`, `/dev`, `/run` and `/tmp`.
///
/// Returns the guest's own mounts as a tree without those fresh ones.
pub(crate) fn enter(request: &Request) -> Result<OwnedFd, StepError> {
    let mut spaces = UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    if !request.network {
        spaces |= UnshareFlags::NEWNET;
    }
    unshare(spaces)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .to("make the mounts private")?;
    let binds = request
        .binds
        .iter()
        .map(|bind| Ok((bind, clone_mounts(&bind.host)?)))
        .collect::<Result<Vec<(&Bind, OwnedFd)>, StepError>>()?;
    let root = fs_err::canonicalize(&request.root).doing("find", &request.root)?;
    pivot(&root)?;
    let bare = clone_mounts(Path::new("/"))?;
    rustix::process::umask(Mode::empty());
    kernel_file_systems()?;
    devices(request.disk.as_ref())?;
    fresh_directories(request)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for (bind, mount) in binds {
        attach(bind, &mount)?;
    }
    secrets(&request.secrets)?;
    if !request.network {
        crate::netlink::link_up(crate::netlink::LOOPBACK).to("bring the loopback interface up")?;
    }
    rustix::system::sethostname(request.hostname.as_bytes()).to("set the host name")?;
    Ok(bare)
}

/// Gives a new namespace of each kind to this process, which has one thread.
#[expect(unsafe_code, reason = "the call is unsafe for the sake of threads that share descriptors")]
pub(crate) fn unshare(spaces: UnshareFlags) -> Result<(), StepError> {
    // SAFETY: descriptors are not unshared, and this program has one thread.
    unsafe { rustix::thread::unshare_unsafe(spaces) }.to("make namespaces (is this root?)")
}

fn clone_mounts(path: &Path) -> Result<OwnedFd, StepError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, path, flags).doing("take the mount of", path)
}

fn pivot(root: &Path) -> Result<(), StepError> {
    rustix::mount::mount_bind_recursive(root, root).doing("mount", root)?;
    let table = fs_err::read_to_string("/proc/self/mountinfo").doing("read", "/proc/self/mountinfo")?;
    for mount in mounts_below(&table, root) {
        let flags = MountFlags::BIND | MountFlags::NODEV;
        rustix::mount::mount_remount(&mount, flags, c"").doing("restrict", &mount)?;
    }
    rustix::process::chdir(root).doing("enter", root)?;
    rustix::process::pivot_root(".", ".").doing("make the root", root)?;
    // The old root lies on top of the new one now.
    rustix::mount::unmount(".", UnmountFlags::DETACH).to("leave the host's files")?;
    rustix::process::chdir("/").to("enter the new root")
}

/// The mount points at and below a directory, from the text of mountinfo.
fn mounts_below(table: &str, root: &Path) -> Vec<PathBuf> {
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| {
            // The kernel writes these four as octal numbers.
            PathBuf::from(
                path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
            )
        })
        .filter(|path| path.starts_with(root))
        .collect();
    mounts.dedup();
    mounts
}

fn fresh(kind: &str, path: &str, flags: MountFlags, data: &std::ffi::CStr) -> Result<(), StepError> {
    fs_err::create_dir_all(path).doing("make", path)?;
    rustix::mount::mount(kind, path, kind, flags, data).doing("mount", path)
}

fn kernel_file_systems() -> Result<(), StepError> {
    fresh("proc", "/proc", PLAIN, c"")?;
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"] {
        if fs_err::metadata(path).is_ok() {
            rustix::mount::mount_bind(path, path).doing("mount", path)?;
            rustix::mount::mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | PLAIN, c"")
                .doing("protect", path)?;
        }
    }
    fresh("sysfs", "/sys", PLAIN | MountFlags::RDONLY, c"")
}

/// Hides what tells of the host or reaches into it. The null device must be there.
fn hide() -> Result<(), StepError> {
    for path in [
        "/proc/kcore",
        "/proc/keys",
        "/proc/key-users",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/proc/latency_stats",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/config.gz",
        "/proc/acpi",
        "/proc/scsi",
        "/proc/asound",
        "/sys/firmware",
        "/sys/kernel/debug",
        "/sys/kernel/security",
        "/sys/fs/cgroup",
        "/sys/fs/selinux",
        "/sys/devices/virtual/powercap",
    ] {
        let Ok(metadata) = fs_err::metadata(path) else { continue };
        if metadata.is_dir() {
            rustix::mount::mount("tmpfs", path, "tmpfs", PLAIN | MountFlags::RDONLY, c"size=0").doing("hide", path)?;
        } else {
            rustix::mount::mount_bind("/dev/null", path).doing("hide", path)?;
        }
    }
    Ok(())
}

fn devices(disk: Option<&DiskInfo>) -> Result<(), StepError> {
    fresh("tmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=755,size=16m")?;
    for (name, major, minor) in DEVICES {
        let path = format!("/dev/{name}");
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
            .doing("make the device", &path)?;
    }
    let terminals = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    fresh("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, terminals)?;
    fresh("tmpfs", "/dev/shm", PLAIN, c"mode=1777")?;
    let mut links = vec![
        ("pts/ptmx".to_owned(), "/dev/ptmx".to_owned()),
        ("/proc/self/fd".to_owned(), "/dev/fd".to_owned()),
        ("/proc/self/fd/0".to_owned(), "/dev/stdin".to_owned()),
        ("/proc/self/fd/1".to_owned(), "/dev/stdout".to_owned()),
        ("/proc/self/fd/2".to_owned(), "/dev/stderr".to_owned()),
    ];
    // grub-mkconfig writes root=UUID only where this link exists.
    for (index, system) in disk.iter().flat_map(|disk| &disk.file_systems).enumerate() {
        for dir in ["/dev/labwright", "/dev/disk/by-uuid", "/dev/disk/by-partuuid"] {
            fs_err::create_dir_all(dir).doing("make", dir)?;
        }
        let file = crate::boot::device(index);
        fs_err::write(&file, "").doing("write", &file)?;
        for (kind, name) in [("uuid", &system.uuid), ("partuuid", &system.partition_uuid)] {
            let link = format!("/dev/disk/by-{kind}/{name}");
            // Two subvolumes are one file system, and two file systems can have one UUID.
            let is_new = links.iter().all(|(_, other)| *other != link);
            if is_new && !name.is_empty() && !name.contains('/') {
                links.push((format!("../../labwright/{index}"), link));
            }
        }
    }
    for (target, path) in links {
        rustix::fs::symlink(target, &path).doing("make the link", &path)?;
    }
    hide()
}

fn fresh_directories(request: &Request) -> Result<(), StepError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    fresh("tmpfs", "/run", flags, c"mode=755")?;
    fresh("tmpfs", "/tmp", flags, c"mode=1777")?;
    for (path, mode) in [("/run/lock", 0o1777), ("/run/labwright", 0o700), ("/run/systemd", 0o755)] {
        rustix::fs::mkdir(path, Mode::from_raw_mode(mode)).doing("make", path)?;
    }
    if request.network {
        // A package that puts systemd-resolved's link at /etc/resolv.conf leaves the step with working names.
        fs_err::create_dir_all("/run/systemd/resolve").doing("make", "/run/systemd/resolve")?;
        for path in ["/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"] {
            fs_err::write(path, crate::stand_in::resolv_conf(&request.dns)).doing("write", path)?;
        }
    }
    if fs_err::metadata("/var/lib/apt/lists").is_ok_and(|metadata| metadata.is_dir()) {
        fresh("tmpfs", "/var/lib/apt/lists", flags, c"mode=755")?;
    }
    Ok(())
}

/// Where a step finds the secrets.
const SECRETS: &str = "/run/secrets";

/// Puts the secrets into memory where only root reads them, and nobody writes.
fn secrets(secrets: &[NamedSecret]) -> Result<(), StepError> {
    if secrets.is_empty() {
        return Ok(());
    }
    fs_err::create_dir_all(SECRETS).doing("make", SECRETS)?;
    // Memory that may be swapped would reach the host's disk; kernels before 6.4 know no such memory.
    let mounted = [c"mode=700,size=8m,noswap", c"mode=700,size=8m"]
        .into_iter()
        .map(|data| rustix::mount::mount("tmpfs", SECRETS, "tmpfs", PLAIN, data))
        .find(|mounted| !matches!(mounted, Err(rustix::io::Errno::INVAL)));
    mounted.unwrap_or(Err(rustix::io::Errno::INVAL)).doing("mount", SECRETS)?;
    for secret in secrets {
        let path = Path::new(SECRETS).join(&secret.name);
        if secret.name.contains(['/', '\0']) || matches!(secret.name.as_str(), "" | "." | "..") {
            let rule = "it is a file name";
            return Err(StepError::Invalid { what: "the secret's name", value: secret.name.clone(), rule });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o400)).doing("make", &path)?;
        std::fs::File::from(file).write_all(secret.value.expose()).doing("write", &path)?;
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | PLAIN;
    rustix::mount::mount_remount(SECRETS, flags, c"").doing("protect", SECRETS)
}

fn attach(bind: &Bind, mount: &OwnedFd) -> Result<(), StepError> {
    let target = Path::new(bind.guest.as_str());
    let source = rustix::fs::fstat(mount).doing("look at", &bind.host)?;
    if FileType::from_raw_mode(source.st_mode) == FileType::Directory {
        fs_err::create_dir_all(target).doing("make", target)?;
    } else if fs_err::symlink_metadata(target).is_err() {
        if let Some(parent) = target.parent() {
            fs_err::create_dir_all(parent).doing("make", parent)?;
        }
        fs_err::write(target, "").doing("make", target)?;
    }
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount.as_fd(), "", CWD, target, empty).doing("mount", target)?;
    let access = if bind.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::BIND | MountFlags::NODEV | MountFlags::NOSUID | access;
    rustix::mount::mount_remount(target, flags, c"").doing("restrict", target)
}

/// Keeps the guest from abstract sockets of the host, which a shared network namespace would show it; its own go on to
/// work. Kernels before 6.12 know no such rule, and those without Landlock none at all. Needs `CAP_SYS_ADMIN`: set-uid
/// programs must go on to work too.
pub(crate) fn scope_sockets() -> Result<(), StepError> {
    let fail = |source: RulesetError| StepError::System {
        what: "keep the guest from the host's sockets",
        source: std::io::Error::other(source),
    };
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket)
        .map_err(fail)?
        .create()
        .map_err(fail)?
        .no_new_privs(false)
        .restrict_self()
        .map_err(fail)?;
    Ok(())
}

/// Gives up every capability that a step does not need, for good. Set-uid programs go on to work.
pub(crate) fn drop_capabilities() -> Result<(), StepError> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no capabilities from here on.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).to("give up capabilities"),
        }
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).to("give up capabilities")?;
    // So that no program of the guest can look into this one: it came from the host.
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).to("hide from the guest")
}

/// Has every descriptor beyond the first three closed in programs that are started.
#[expect(unsafe_code, reason = "the numbers come from the kernel's own list of this process's descriptors")]
pub(crate) fn keep_descriptors_to_ourselves() -> Result<(), StepError> {
    for entry in fs_err::read_dir("/proc/self/fd").doing("list", "/proc/self/fd")? {
        let name = entry.doing("list", "/proc/self/fd")?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|number| *number > 2) else {
            continue;
        };
        // SAFETY: the descriptor was open a moment ago and is only borrowed; a number that is closed again, as that of
        // this listing, makes the call fail with EBADF.
        let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        match rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC) {
            Ok(()) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error).to("keep descriptors from the guest"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_with_odd_names() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /mnt/a\\040b rw - ext4 /dev/b rw\n\
                     3 2 8:3 / /mnt/a\\040b/boot rw - ext4 /dev/c rw\n4 1 8:4 / /mnt/a rw - ext4 /dev/d rw\n";
        assert_eq!(
            mounts_below(table, Path::new("/mnt/a b")),
            [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/a b/boot")]
        );
    }
}
