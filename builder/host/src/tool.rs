use std::path::{Path, PathBuf};

use crate::ToolError;

/// A program of the host. Every program that Labwright ever starts is listed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tool {
    /// Creates, checks and converts disk images.
    QemuImg,
    /// Serves a chain of qcow2 files as one raw file.
    QemuStorageDaemon,
    /// Runs an amd64 machine.
    QemuSystemX86,
    /// Runs an arm64 machine.
    QemuSystemAarch64,
    /// Makes a Debian root file system from packages.
    Mmdebstrap,
    /// Writes partition tables.
    Sfdisk,
    /// Makes ext4 file systems.
    Mke2fs,
    /// Changes ext4 file systems that are not mounted.
    Debugfs,
    /// Checks ext4 file systems.
    E2fsck,
    /// Grows ext4 file systems.
    Resize2fs,
    /// Makes FAT file systems.
    MkfsFat,
    /// Copies files into FAT file systems.
    Mcopy,
    /// Makes directories in FAT file systems.
    Mmd,
    /// Drops free blocks of a mounted file system.
    Fstrim,
    /// Verifies OpenPGP signatures.
    Gpgv,
    /// Verifies OpenPGP signatures, where gpgv is gone.
    Sqv,
    /// Unpacks archives.
    Tar,
    /// Tells how apt is configured.
    AptConfig,
    /// Tells which packages there are.
    AptCache,
    /// Fetches packages.
    AptGet,
    /// Starts a program in namespaces of its own.
    Unshare,
}

impl Tool {
    /// Every tool, in the order in which `doctor` lists them.
    pub const ALL: [Self; 21] = [
        Self::QemuImg,
        Self::QemuStorageDaemon,
        Self::QemuSystemX86,
        Self::QemuSystemAarch64,
        Self::Mmdebstrap,
        Self::Sfdisk,
        Self::Mke2fs,
        Self::Debugfs,
        Self::E2fsck,
        Self::Resize2fs,
        Self::MkfsFat,
        Self::Mcopy,
        Self::Mmd,
        Self::Fstrim,
        Self::Gpgv,
        Self::Sqv,
        Self::Tar,
        Self::AptConfig,
        Self::AptCache,
        Self::AptGet,
        Self::Unshare,
    ];

    /// The name of the executable.
    pub const fn program(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-img",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
            Self::QemuSystemX86 => "qemu-system-x86_64",
            Self::QemuSystemAarch64 => "qemu-system-aarch64",
            Self::Mmdebstrap => "mmdebstrap",
            Self::Sfdisk => "sfdisk",
            Self::Mke2fs => "mke2fs",
            Self::Debugfs => "debugfs",
            Self::E2fsck => "e2fsck",
            Self::Resize2fs => "resize2fs",
            Self::MkfsFat => "mkfs.fat",
            Self::Mcopy => "mcopy",
            Self::Mmd => "mmd",
            Self::Fstrim => "fstrim",
            Self::Gpgv => "gpgv",
            Self::Sqv => "sqv",
            Self::Tar => "tar",
            Self::AptConfig => "apt-config",
            Self::AptCache => "apt-cache",
            Self::AptGet => "apt-get",
            Self::Unshare => "unshare",
        }
    }

    /// The Debian and Ubuntu package that has it.
    pub const fn package(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-utils",
            Self::QemuStorageDaemon => "qemu-system-common or qemu-utils",
            Self::QemuSystemX86 => "qemu-system-x86",
            Self::QemuSystemAarch64 => "qemu-system-arm",
            Self::Mmdebstrap => "mmdebstrap",
            Self::Sfdisk => "fdisk",
            Self::Mke2fs | Self::Debugfs | Self::E2fsck | Self::Resize2fs => "e2fsprogs",
            Self::MkfsFat => "dosfstools",
            Self::Mcopy | Self::Mmd => "mtools",
            Self::Fstrim | Self::Unshare => "util-linux",
            Self::Gpgv => "gpgv",
            Self::Sqv => "sqv",
            Self::Tar => "tar",
            Self::AptConfig | Self::AptCache | Self::AptGet => "apt",
        }
    }

    /// Looks for the executable in the usual directories, whatever PATH says: an ordinary user's PATH on Debian
    /// lacks the sbin directories.
    pub fn find(self) -> Result<PathBuf, ToolError> {
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .into_iter()
            .map(|dir| Path::new(dir).join(self.program()))
            .find(|path| path.is_file())
            .ok_or(ToolError::Missing { tool: self })
    }
}
