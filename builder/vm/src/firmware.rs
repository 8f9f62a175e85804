use std::path::{Path, PathBuf};

use labwright_core::Arch;

/// What starts the boot loader of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings; amd64 only.
    Bios,
    /// UEFI (OVMF, AAVMF).
    Uefi {
        /// The program; read only.
        code: PathBuf,
        /// The variables: a copy that belongs to this machine alone.
        vars: PathBuf,
    },
}

/// Where the distribution has its UEFI firmware: the program and the template of the variables, which must be copied
/// before a machine may write to it. `None` if no package has it (Debian: `ovmf`, `qemu-efi-aarch64`).
pub fn find_uefi(arch: Arch) -> Option<(PathBuf, PathBuf)> {
    let candidates: &[(&str, &str)] = match arch {
        Arch::Amd64 => &[
            ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
            ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ],
        Arch::Arm64 => &[
            ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
            ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ],
    };
    candidates
        .iter()
        .find(|(code, vars)| Path::new(code).is_file() && Path::new(vars).is_file())
        .map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)))
}

impl Firmware {
    /// UEFI with variables of the machine's own, copied to `vars`.
    ///
    /// `None` if the host has no UEFI firmware for the architecture.
    pub fn uefi(arch: Arch, vars: &Path) -> std::io::Result<Option<Self>> {
        let Some((code, template)) = find_uefi(arch) else { return Ok(None) };
        // Bytes, not `copy`: the template is read-only, and a copy would be too.
        fs_err::write(vars, fs_err::read(template)?)?;
        Ok(Some(Self::Uefi { code, vars: vars.to_owned() }))
    }
}
