//! The guest program, which runs inside the disk's own root file system; compiled in by the build script.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

use labwright_core::Digest;

static PROGRAM: &[u8] = include_bytes!(env!("LABWRIGHT_GUEST_PROGRAM"));

/// The digest of the guest program: part of every key, since what it does decides what a step leaves behind.
pub(crate) fn digest() -> &'static Digest {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    DIGEST.get_or_init(|| Digest::sha256(PROGRAM))
}

/// Writes the guest program as an executable file.
pub(crate) fn write_to(path: &Path) -> io::Result<()> {
    fs_err::write(path, PROGRAM)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// The same program with what the first process of a machine does.
pub(crate) static APPLIANCE: &[u8] = include_bytes!(env!("LABWRIGHT_APPLIANCE_PROGRAM"));
