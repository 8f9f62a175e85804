use std::path::PathBuf;

use labwright_core::{Arch, ByteSize};

use crate::{Accelerator, Firmware};

/// A virtual machine, before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Shown in the process list and to the guest's operator; no secret.
    pub name: String,
    /// The processor architecture.
    pub arch: Arch,
    /// What executes the guest's instructions; [`crate::probe`] says what works.
    pub accelerator: Accelerator,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, in whole mebibytes (the rest is dropped).
    pub memory: ByteSize,
    /// The disks, as `/dev/vda`, `/dev/vdb` and so on; the machine boots from the first.
    pub disks: Vec<Drive>,
    /// What happens when the host has no room for what the guest writes.
    pub no_room: NoRoom,
    /// What starts the boot loader.
    pub firmware: Firmware,
    /// A kernel that QEMU itself loads, instead of the boot loader of the first disk.
    pub kernel: Option<DirectKernel>,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Whether the guest reaches more than itself and, through the forwards, its host.
    pub internet: Internet,
    /// Streams between host and guest.
    pub ports: Vec<Port>,
    /// Whether there is a graphics card.
    pub screen: Screen,
    /// The MAC address of the one network card. Two machines that share a network need two.
    pub mac: String,
    /// The file that gets everything the guest writes to its serial console. Emptied at start.
    pub console_log: PathBuf,
    /// The socket of the control channel: QEMU makes it; at most 107 bytes long.
    pub qmp_socket: PathBuf,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// The file.
    pub path: PathBuf,
    /// Its format; never guessed.
    pub format: DiskFormat,
    /// The files below it, nearest first. A backing name that stands in a qcow2 header is never followed: a layer
    /// that is not listed here reads as zeros.
    pub backing: Vec<Layer>,
    /// Whether the guest may write.
    pub read_only: bool,
    /// What a flush by the guest does.
    pub cache: Cache,
}

/// A file below a [`Drive`]; it is only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

/// The formats that a disk may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's format with clusters, layers and compression.
    Qcow2,
}

impl DiskFormat {
    /// QEMU's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a flush by the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// It reaches the host's disk.
    Safe,
    /// Nothing: the disk is worthless after a crash of the host. For what lives only as long as the machine.
    IgnoreFlushes,
}

/// A kernel that QEMU loads itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectKernel {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: String,
}

/// What happens when the host has no room for what the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The machine stands still until somebody makes room.
    Pause,
    /// The guest's write fails.
    Fail,
}

/// Whether a machine has a graphics card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// Nobody looks at it, but GRUB's console hangs for ever on an amd64 machine without one (seen with 2.12), and
    /// KubeVirt gives its machines one too.
    Vga,
    /// None: for a kernel that QEMU loads itself.
    None,
}

/// A stream of bytes between host and guest: a port of virtio-serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name, which the guest finds in `/sys/class/virtio-ports/*/name`.
    pub name: String,
    /// The socket of its other end: QEMU makes it; at most 107 bytes long.
    pub socket: PathBuf,
}

/// A TCP port on the host's loopback address that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The port on 127.0.0.1.
    pub host_port: u16,
    /// The port in the guest.
    pub guest_port: u16,
}

/// What the guest reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internet {
    /// Whatever the host reaches, with the host's own address.
    Reachable,
    /// Nothing; forwards still lead into the guest.
    Cut,
}

impl Drive {
    /// A qcow2 file without layers below, writable, with flushes that count.
    pub fn qcow2(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: DiskFormat::Qcow2, backing: Vec::new(), read_only: false, cache: Cache::Safe }
    }

    /// A raw file, writable, with flushes that count.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self { format: DiskFormat::Raw, ..Self::qcow2(path) }
    }

    /// Puts a file below all those that are there.
    #[must_use]
    pub fn over(mut self, path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        self.backing.push(Layer { path: path.into(), format });
        self
    }

    /// Keeps the guest from writing.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Makes flushes do nothing.
    #[must_use]
    pub fn ignore_flushes(mut self) -> Self {
        self.cache = Cache::IgnoreFlushes;
        self
    }
}

impl Machine {
    /// A machine with one processor, 1 GiB of memory, BIOS on amd64, no disk and no forward; change its fields.
    ///
    /// arm64 has no BIOS: it needs [`Firmware::Uefi`] or a [`DirectKernel`].
    pub fn new(
        arch: Arch,
        accelerator: Accelerator,
        console_log: impl Into<PathBuf>,
        qmp_socket: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: "labwright".to_owned(),
            arch,
            accelerator,
            cpus: 1,
            memory: ByteSize::from_bytes(1 << 30),
            disks: Vec::new(),
            no_room: NoRoom::Pause,
            firmware: Firmware::Bios,
            kernel: None,
            forwards: Vec::new(),
            internet: Internet::Reachable,
            ports: Vec::new(),
            screen: Screen::Vga,
            mac: "52:54:00:6c:61:62".to_owned(),
            console_log: console_log.into(),
            qmp_socket: qmp_socket.into(),
        }
    }
}
