//! The machine around the disk: mounts, kernel modules, devices.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use labwright_disk::mount::{Flags, Mount};
use labwright_disk::system::SystemError;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::ioctl::{NoArg, Opcode};
use rustix::mount::MountFlags;

use crate::init::{Doing, Error};
use crate::{MODULES, ModuleSet, PORT, SCRATCH};

/// `BLKFLSBUF` of linux/fs.h: what is cached of a disk is written and forgotten.
const FLUSH_BUFFERS: Opcode = rustix::ioctl::opcode::none(0x12, 97);

/// How long a device may take to appear once its driver is loaded.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many processes and threads there may be, the kernel's own among them: as many as a step of the chroot runner may
/// have. A step that starts one after the other fails then, where the machine would stand still.
const THREADS: &str = "2048";

/// The kernel's modules, in a directory that has no path any more.
#[derive(Debug)]
pub(crate) struct Modules(OwnedFd);

impl Modules {
    fn open() -> Result<Self, Error> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, MODULES, flags, Mode::empty()).doing(|| format!("open {MODULES}"))?))
    }

    /// Loads the modules of a set, in the order of its list. What is loaded already stays.
    pub(crate) fn load(&self, set: ModuleSet) -> Result<(), Error> {
        let list = io::read_to_string(self.file(set.as_str())?).doing(|| format!("read {}", set.as_str()))?;
        for name in list.lines() {
            match rustix::system::finit_module(self.file(name)?, c"", 0) {
                // What drives a device that this machine lacks only makes something faster.
                Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV) => {}
                Err(error) => return Err(error).doing(|| format!("load the kernel module {name}")),
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty());
        Ok(File::from(file.doing(|| format!("open {MODULES}/{name}"))?))
    }
}

/// Makes a root that can be left for another one, which the initial RAM disk cannot, and loads the machine's modules.
pub(crate) fn prepare() -> Result<Modules, Error> {
    let modules = Modules::open()?;
    let new = Path::new("/new");
    mount("tmpfs", new, "mode=755")?;
    for dir in ["dev", "proc", "sys", "mnt", "look", "scratch", "tmp"] {
        let path = new.join(dir);
        fs_err::create_dir(&path).doing(|| format!("make {}", path.display()))?;
    }
    mount("devtmpfs", &new.join("dev"), "mode=755")?;
    mount("proc", &new.join("proc"), "")?;
    mount("sysfs", &new.join("sys"), "")?;
    let moved = || "change to the new root".to_owned();
    rustix::process::chdir(new).doing(moved)?;
    rustix::mount::mount_move(".", "/").doing(moved)?;
    rustix::process::chroot(".").doing(moved)?;
    rustix::process::chdir("/").doing(moved)?;
    modules.load(ModuleSet::Machine)?;
    let limit = Path::new("/proc/sys/kernel/threads-max");
    fs_err::write(limit, THREADS).doing(|| format!("write {}", limit.display()))?;
    Ok(modules)
}

fn mount(kind: &str, target: &Path, options: &str) -> Result<(), Error> {
    let options = std::ffi::CString::new(options).expect("the options of this file have no NUL");
    rustix::mount::mount(kind, target, kind, MountFlags::NOSUID, options.as_c_str())
        .doing(|| format!("mount {} on {}", kind, target.display()))
}

/// Opens the port that the host talks through.
pub(crate) fn port() -> Result<File, Error> {
    let path = wait_for("the port of the host", || {
        let ports = fs_err::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|entry| {
            let name = fs_err::read_to_string(entry.path().join("name")).ok()?;
            let device = Path::new("/dev").join(entry.file_name());
            (name.trim() == PORT && device.exists()).then_some(device)
        })
    })?;
    let file = fs_err::OpenOptions::new().read(true).write(true).open(&path);
    Ok(file.doing(|| format!("open {}", path.display()))?.into_parts().0)
}

/// Waits for the disk with this letter.
pub(crate) fn disk(letter: char) -> Result<PathBuf, Error> {
    wait_for("a disk", || {
        let device = PathBuf::from(format!("/dev/vd{letter}"));
        device.exists().then_some(device)
    })
}

/// Mounts the disk for what is needed only while building, on which the host has made a file system since.
pub(crate) fn scratch(mounted: &mut Option<Mount>) -> Result<(), Error> {
    let device = disk('b')?;
    if let Some(mount) = mounted.take() {
        mount.close().map_err(SystemError::from)?;
    }
    let disk = fs_err::OpenOptions::new().read(true).write(true).open(&device);
    let disk = disk.doing(|| format!("open {}", device.display()))?;
    #[expect(unsafe_code, reason = "what is cached of the disk is forgotten by ioctl")]
    // SAFETY: the call has no argument.
    let forgotten = unsafe { rustix::ioctl::ioctl(&disk, NoArg::<FLUSH_BUFFERS>::new()) };
    forgotten.doing(|| format!("read {} anew", device.display()))?;
    let mount = Mount::new(&device, Path::new(SCRATCH), "ext4", Flags::WORK, "");
    *mounted = Some(mount.map_err(SystemError::from)?);
    Ok(())
}

fn wait_for<T>(what: &'static str, mut look: impl FnMut() -> Option<T>) -> Result<T, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(Error::Missing { what, seconds: PATIENCE.as_secs() });
        }
        thread::sleep(Duration::from_millis(5));
    }
}
