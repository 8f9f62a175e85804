//! What both runners do with the disk of a system, on the host or in the machine, so that their images are the same.

use std::io;

use labwright_disk::device::DeviceError;
use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::system::{Shown, System, SystemError};
use labwright_disk::table::Scheme;
use labwright_guest::free_space::{FreeSpaceError, zero_free_space};
use labwright_guest::protocol::{DiskInfo, FileSystemInfo, VolumeInfo};

/// A disk that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The file systems.
    #[error(transparent)]
    System(#[from] SystemError),
    /// A part of the disk cannot be opened; the source has the path.
    #[error("could not open a part of the disk")]
    Open(#[from] io::Error),
    /// Free blocks.
    #[error(transparent)]
    FreeSpace(#[from] FreeSpaceError),
    /// A part of the disk as a block device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Makes sure that everything written so far is on the disk, lets go of it, and erases what the file systems have freed.
pub fn commit(system: &mut System) -> Result<(), CommitError> {
    for part in system.release()? {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(&part.path)?;
        // What trimming leaves: see there.
        zero_free_space(&file, part.offset, part.size)?;
        drop(file);
        part.close()?;
    }
    Ok(())
}

/// What `grub-probe` in the guest should answer while the system is mounted.
pub fn info(system: &System) -> Result<DiskInfo, SystemError> {
    let (scheme, shown) = system.shown()?;
    let partition_map = match scheme {
        Scheme::Gpt => "gpt",
        Scheme::Mbr => "msdos",
        Scheme::None => "",
    };
    let file_systems = shown.into_iter().filter_map(file_system).collect();
    Ok(DiskInfo { partition_map: partition_map.to_owned(), file_systems })
}

/// None where it is mounted at a place that has no name in the guest's terms.
fn file_system(shown: Shown) -> Option<FileSystemInfo> {
    let volume = shown.place.volume.as_ref();
    Some(FileSystemInfo {
        mount: shown.mount_point.parse().ok()?,
        uuid: shown.filesystem.uuid.unwrap_or_default(),
        partition_uuid: shown.partition_uuid.unwrap_or_default(),
        grub_fs: match shown.filesystem.kind {
            FilesystemKind::Ext4 => "ext2",
            FilesystemKind::Vfat => "fat",
            other => other.as_str(),
        }
        .to_owned(),
        volume: volume.map(|volume| VolumeInfo { device: volume.device(), grub: volume.grub_name() }),
    })
}
