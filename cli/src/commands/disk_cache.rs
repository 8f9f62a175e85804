//! The disks of images in the store, unpacked: an image is one compressed tar, and a machine needs a file.
//!
//! They are a convenience that is not worth waiting for the medium: after a crash of the host their bytes may be others
//! than their names say. So a name tells the boot of the host in which the file was written, and counts only in that one.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use labwright_core::{Digest, ImageForm};
use labwright_registry::{ExtractLimits, Images};

use super::build::parent;
use super::image::Found;
use crate::commands::Context;
use crate::error::{CommandError, Kind};
use crate::settings::Settings;

/// Where the disk of the image with this manifest is kept.
fn path(manifest: &Digest, settings: &Settings) -> Result<PathBuf, CommandError> {
    Ok(settings.disks().join(format!("{}.{}.qcow2", manifest.hex(), boot()?)))
}

/// This boot of the host: a random number that the kernel drew.
fn boot() -> Result<String, CommandError> {
    let text = fs_err::read_to_string("/proc/sys/kernel/random/boot_id");
    let text = text.map_err(|source| CommandError::new(Kind::Host, source))?;
    Ok(text.trim().to_owned())
}

/// Whether a file is the kept disk of one of these manifests (their hexadecimal digests), and still counts.
pub(super) fn is_current(file: &Path, manifests: &BTreeSet<String>) -> Result<bool, CommandError> {
    let boot = boot()?;
    let parts = file.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split_once('.'));
    Ok(parts.is_some_and(|(manifest, written)| written == boot && manifests.contains(manifest)))
}

/// The disk of the image with this manifest, if it is kept.
pub(super) fn kept(manifest: &Digest, settings: &Settings) -> Result<Option<PathBuf>, CommandError> {
    let path = path(manifest, settings)?;
    Ok(path.exists().then_some(path))
}

/// Keeps a disk that was just packed into an image, by moving it.
pub(super) fn keep(disk: &Path, manifest: &Digest, settings: &Settings) -> Result<(), CommandError> {
    let target = path(manifest, settings)?;
    let fail = |source: io::Error| CommandError::new(Kind::Host, source).context("could not keep the disk");
    fs_err::create_dir_all(settings.disks()).map_err(fail)?;
    fs_err::rename(disk, &target).map_err(fail)
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

/// The disk of an image as a file: kept from its build or an earlier run, else taken out of the image now.
pub(super) fn get(found: &Found, images: &Images, context: &Context<'_>) -> Result<PathBuf, CommandError> {
    if found.platform.facts.as_ref().is_some_and(|facts| facts.form == ImageForm::Container) {
        let text = format!("{} is a container image: it has no disk", found.name);
        return Err(CommandError::sentence(Kind::Input, text).hint("run it with podman, docker or in a lab"));
    }
    if let Some(kept) = kept(&found.platform.manifest, context.settings)? {
        return Ok(kept);
    }
    let kept = path(&found.platform.manifest, context.settings)?;
    fs_err::create_dir_all(context.settings.disks()).map_err(|source| CommandError::new(Kind::Host, source))?;
    let reporter = context.ui.shared_reporter();
    let limits = ExtractLimits::default();
    let extract = images.extract_disk(&found.reference, Some(found.arch), &kept, &limits, &reporter, context.cancel);
    context.runtime.block_on(extract)?;
    Ok(kept)
}
