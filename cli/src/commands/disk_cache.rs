//! The disks of images in the store, unpacked: an image is one compressed tar, and a machine needs a file.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use labwright_core::Arch;
use labwright_registry::{Descriptor, container_disk};

use super::build::parent;
use super::image::Found;
use crate::commands::Context;
use crate::error::{CommandError, Kind};
use crate::settings::Settings;

/// Where the disk in a layer is kept.
pub(super) fn path(layer: &Descriptor, settings: &Settings) -> PathBuf {
    settings.disks().join(format!("{}.qcow2", layer.digest.hex()))
}

/// Keeps a disk that was just packed into `layer`, by moving it.
pub(super) fn keep(disk: &Path, layer: &Descriptor, settings: &Settings) -> Result<(), CommandError> {
    let target = path(layer, settings);
    let fail = |source: io::Error| CommandError::new(Kind::Host, source).context("could not keep the disk");
    fs_err::create_dir_all(settings.disks()).map_err(fail)?;
    // Its bytes must be on the disk before the name is: a name here is believed.
    fs_err::File::open(disk).and_then(|file| file.sync_all()).map_err(fail)?;
    fs_err::rename(disk, &target).map_err(fail)?;
    fs_err::File::open(settings.disks()).and_then(|dir| dir.sync_all()).map_err(fail)
}

/// Copies a disk to where the user wants it; the name appears when all bytes are there.
pub(super) fn copy(disk: &Path, target: &Path) -> Result<(), CommandError> {
    let fail = |source: io::Error| CommandError::new(Kind::Host, source).context("could not write the disk");
    // A result is as readable as the user's other files; temporary files are private by default.
    let mut partial = tempfile::Builder::new()
        .prefix(".labwright-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent(target))
        .map_err(fail)?;
    io::copy(&mut fs_err::File::open(disk).map_err(fail)?, &mut partial).map_err(fail)?;
    partial.as_file().sync_all().map_err(fail)?;
    partial.persist(target).map_err(|error| fail(error.error))?;
    Ok(())
}

/// The disk of an image as a file: the one that was kept when it was built.
pub(super) fn get(found: &Found, arch: Arch, context: &Context<'_>) -> Result<PathBuf, CommandError> {
    let layer = container_disk::layer(&found.layout, &found.image, Some(arch))?;
    let kept = path(&layer, context.settings);
    if kept.exists() {
        return Ok(kept);
    }
    todo!()
}
