//! From a root directory to a disk with partitions and boot loaders, without mounts and without loop devices.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use fs_err as fs;
use labwright_core::Cancel;
use labwright_host::{Invocation, Tool};

use super::BootstrapError;

/// The version of what [`make_disk`] makes of a root; raised with every change, so that older disks are made anew.
pub(super) const LAYOUT: u32 = 1;

const SECTOR: u64 = 512;

/// The size of the disk, as the vendor's: a build grows it.
pub(super) const DISK_BYTES: u64 = 3 << 30;

/// The partitions, numbered and placed as on the vendor's images: the root is number 1 and last on the disk.
const BIOS_START: u64 = 2048;
const BIOS_SECTORS: u64 = 6144;
const EFI_START: u64 = 8192;
const EFI_SECTORS: u64 = 253_952;
const ROOT_START: u64 = 262_144;
/// The last sectors of the disk belong to the second copy of the partition table; rounded to a whole MiB.
const ROOT_SECTORS: u64 = DISK_BYTES / SECTOR - ROOT_START - 2048;

/// Where the root file system begins, in bytes.
pub(super) const ROOT_OFFSET: u64 = ROOT_START * SECTOR;

const SHIM: &str = "/usr/lib/shim/shimx64.efi.signed";
const MOK_MANAGER: &str = "/usr/lib/shim/mmx64.efi.signed";
const FALLBACK: &str = "/usr/lib/shim/fbx64.efi.signed";
const FALLBACK_LIST: &str = "/usr/lib/shim/BOOTX64.CSV";
const GRUB_EFI: &str = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";

/// What [`install_loaders`] takes from the root file system.
pub(super) const LOADER_FILES: [&str; 7] = [
    "/boot/grub/i386-pc/boot.img",
    "/boot/grub/i386-pc/core.img",
    SHIM,
    MOK_MANAGER,
    FALLBACK,
    FALLBACK_LIST,
    GRUB_EFI,
];

/// Partition types (UEFI specification; "Discoverable Partitions" of the UAPI group; GRUB's manual).
const TYPE_BIOS: &str = "21686148-6449-6E6F-744E-656564454649";
const TYPE_EFI: &str = "C12A7328-F81F-11D2-BA4B-00C93EC93B4C";
const TYPE_ROOT_AMD64: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

/// The identities of one disk, made anew for every bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) file_system: String,
    pub(super) root_partition: String,
    pub(super) efi_partition: String,
    bios_partition: String,
    disk: String,
    hash_seed: String,
    fat_volume: u32,
}

impl Ids {
    /// Draws random identities from the kernel.
    pub(super) fn random() -> Result<Self, BootstrapError> {
        let mut volume = [0; 4];
        fill_random(&mut volume)?;
        Ok(Self {
            file_system: random_uuid()?,
            root_partition: random_uuid()?,
            efi_partition: random_uuid()?,
            bios_partition: random_uuid()?,
            disk: random_uuid()?,
            hash_seed: random_uuid()?,
            fat_volume: u32::from_le_bytes(volume),
        })
    }
}

fn fill_random(bytes: &mut [u8]) -> Result<(), BootstrapError> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| BootstrapError::Random(error.into()))?;
    }
    Ok(())
}

/// A random UUID (RFC 9562, version 4).
fn random_uuid() -> Result<String, BootstrapError> {
    let mut bytes = [0; 16];
    fill_random(&mut bytes)?;
    let bits = (u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Makes the disk: partition table and root file system, filled from `root`. `config` is the suite's own configuration,
/// which decides which ext4 features its tools and its boot loader can read.
pub(super) fn make_disk(
    disk: &Path,
    root: &Path,
    config: &Path,
    ids: &Ids,
    cancel: &Cancel,
) -> Result<(), BootstrapError> {
    fs::File::create(disk)
        .and_then(|file| file.set_len(DISK_BYTES))
        .map_err(|source| BootstrapError::disk(disk, source))?;
    Invocation::new(Tool::Sfdisk)
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(disk)
        .stdin(partition_script(ids))
        .run(cancel)?;
    Invocation::new(Tool::Mke2fs)
        .env("MKE2FS_CONFIG", config)
        .args(["-q", "-F", "-t", "ext4", "-U", &ids.file_system, "-E"])
        .arg(format!("offset={ROOT_OFFSET},hash_seed={},lazy_itable_init=0", ids.hash_seed))
        .arg("-d")
        .arg(root)
        .arg(disk)
        .arg(format!("{}k", ROOT_SECTORS * SECTOR / 1024))
        .run(cancel)?;
    Ok(())
}

/// Puts both boot loaders onto the disk: into the boot record with the BIOS boot partition, and into the EFI system
/// partition. `root` has the files [`LOADER_FILES`] of the root file system; `work` is for another one.
pub(super) fn install_loaders(
    disk: &Path,
    root: &Path,
    work: &Path,
    ids: &Ids,
    cancel: &Cancel,
) -> Result<(), BootstrapError> {
    let place = |source| BootstrapError::disk(disk, source);
    fill_efi(disk, root, work, ids, cancel)?;
    let boot = root.join("boot/grub/i386-pc");
    let (boot_image, core_image) = (read(&boot.join("boot.img"))?, read(&boot.join("core.img"))?);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(disk).map_err(place)?;
    install_bios(&mut file, &boot_image, core_image).map_err(|error| match error {
        BiosError::Io(source) => place(source),
        BiosError::Shape(what) => BootstrapError::Grub { what, path: boot },
    })?;
    file.sync_all().map_err(place)
}

fn read(path: &Path) -> Result<Vec<u8>, BootstrapError> {
    fs::read(path).map_err(|source| BootstrapError::disk(path, source))
}

fn partition_script(ids: &Ids) -> String {
    format!(
        "label: gpt\nlabel-id: {}\nunit: sectors\n\
         d14 : start={BIOS_START}, size={BIOS_SECTORS}, type={TYPE_BIOS}, uuid={}\n\
         d15 : start={EFI_START}, size={EFI_SECTORS}, type={TYPE_EFI}, uuid={}\n\
         d1 : start={ROOT_START}, size={ROOT_SECTORS}, type={TYPE_ROOT_AMD64}, uuid={}\n",
        ids.disk, ids.bios_partition, ids.efi_partition, ids.root_partition
    )
}

/// Fills the EFI system partition with the signed shim and GRUB, at the removable path and at Debian's own.
///
/// Debian's signed GRUB looks for its configuration in `/EFI/debian`, wherever it is started from.
fn fill_efi(disk: &Path, root: &Path, work: &Path, ids: &Ids, cancel: &Cancel) -> Result<(), BootstrapError> {
    Invocation::new(Tool::MkfsFat)
        .args(["-F", "32", "-s", "1", "-h"])
        .arg(EFI_START.to_string())
        .arg("-i")
        .arg(format!("{:08x}", ids.fat_volume))
        .arg(format!("--offset={EFI_START}"))
        .arg(disk)
        .arg((EFI_SECTORS * SECTOR / 1024).to_string())
        .run(cancel)?;
    let mut partition = disk.as_os_str().to_owned();
    partition.push(format!("@@{}", EFI_START * SECTOR));
    Invocation::new(Tool::Mmd)
        .arg("-i")
        .arg(&partition)
        .args(["::/EFI", "::/EFI/BOOT", "::/EFI/debian"])
        .run(cancel)?;
    let config = work.join("grub-efi.cfg");
    let text = format!(
        "search.fs_uuid {} root \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n",
        ids.file_system
    );
    fs::write(&config, text).map_err(|source| BootstrapError::disk(&config, source))?;
    let of_root = |path: &str| root.join(path.trim_start_matches('/'));
    for (source, target) in [
        (of_root(SHIM), "BOOT/BOOTX64.EFI"),
        (of_root(GRUB_EFI), "BOOT/grubx64.efi"),
        (of_root(MOK_MANAGER), "BOOT/mmx64.efi"),
        (of_root(SHIM), "debian/shimx64.efi"),
        (of_root(GRUB_EFI), "debian/grubx64.efi"),
        (of_root(MOK_MANAGER), "debian/mmx64.efi"),
        (of_root(FALLBACK), "debian/fbx64.efi"),
        (of_root(FALLBACK_LIST), "debian/BOOTX64.CSV"),
        (config, "debian/grub.cfg"),
    ] {
        Invocation::new(Tool::Mcopy)
            .arg("-i")
            .arg(&partition)
            .arg(source)
            .arg(format!("::/EFI/{target}"))
            .run(cancel)?;
    }
    Ok(())
}

#[derive(Debug)]
enum BiosError {
    Io(std::io::Error),
    Shape(&'static str),
}

/// Writes GRUB for a PC BIOS: `boot.img` into the master boot record, `core.img` into the BIOS boot partition.
///
/// Does what grub-bios-setup does for a partition table with a BIOS boot partition, where the core image lies in
/// one piece. Source: GRUB 2.12, util/setup.c, grub-core/boot/i386/pc/{boot,diskboot}.S, include/grub/i386/pc/boot.h.
fn install_bios(disk: &mut (impl Read + Write + Seek), boot: &[u8], mut core: Vec<u8>) -> Result<(), BiosError> {
    /// Where boot.img holds the first sector of the core image.
    const KERNEL_SECTOR: usize = 0x5c;
    /// Where boot.img holds the drive; 0xff means the one that the BIOS booted from.
    const BOOT_DRIVE: usize = 0x64;
    /// The jump around a repair of wrong drive numbers; two no-ops let the repair happen, as on hard disks.
    const DRIVE_CHECK: usize = 0x66;
    /// Boot code ends here: the disk's signature and the protective partition table follow.
    const CODE_END: usize = 440;
    /// Where the first sector of core.img lists the other sectors: start (8 bytes), count (2), segment (2).
    const BLOCK_LIST: usize = 0x1f4;
    /// The segment where the sectors behind the first are loaded, in units of 16 bytes.
    const SEGMENT: u16 = 0x820;

    if boot.len() != 512 || boot[510..] != [0x55, 0xaa] {
        return Err(BiosError::Shape("boot.img is no boot sector"));
    }
    let sectors = core.len().div_ceil(512);
    if sectors < 2 || sectors as u64 > BIOS_SECTORS {
        return Err(BiosError::Shape("core.img does not fit into the BIOS boot partition"));
    }
    if core[BLOCK_LIST + 10..BLOCK_LIST + 12] != SEGMENT.to_le_bytes() {
        return Err(BiosError::Shape("core.img has no block list where one is expected"));
    }
    let rest = u16::try_from(sectors - 1).map_err(|_| BiosError::Shape("core.img is too long"))?;
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(BIOS_START + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());

    let mut loader = boot[..CODE_END].to_vec();
    loader[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&BIOS_START.to_le_bytes());
    loader[BOOT_DRIVE] = 0xff;
    loader[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);

    let mut write = |offset: u64, bytes: &[u8]| -> std::io::Result<()> {
        disk.seek(SeekFrom::Start(offset))?;
        disk.write_all(bytes)
    };
    write(0, &loader).and_then(|()| write(BIOS_START * SECTOR, &core)).map_err(BiosError::Io)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn uuids_are_random_and_of_version_4() {
        let (a, b) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(a, b);
        for uuid in [a, b] {
            let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
            assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
            assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        }
    }

    #[test]
    fn the_bios_loader_is_placed_and_patched() {
        let mut boot = vec![0x11; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        let mut core = vec![0x22; 512 * 3 + 1];
        core[0x1fe..0x200].copy_from_slice(&0x820_u16.to_le_bytes());
        let mut disk = Cursor::new(vec![0; 2 << 20]);
        install_bios(&mut disk, &boot, core).unwrap();
        let disk = disk.into_inner();
        assert_eq!(disk[0x5c..0x68], [0, 8, 0, 0, 0, 0, 0, 0, 0xff, 0x11, 0x90, 0x90]);
        assert_eq!(disk[439..441], [0x11, 0], "the partition table's part of the sector is kept");
        let start = 2048 * 512;
        assert_eq!(disk[start + 0x1f4..start + 0x200], [1, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0x20, 0x08]);
        assert_eq!(disk[start + 512 * 3], 0x22);
        assert_eq!(disk[start + 512 * 3 + 1], 0);
    }

    #[test]
    fn a_loader_of_another_shape_is_refused() {
        let good = |len: usize| {
            let mut boot = vec![0; len];
            boot[len - 2..].copy_from_slice(&[0x55, 0xaa]);
            boot
        };
        let mut disk = Cursor::new(vec![0; 8 << 20]);
        let mut core = vec![0; 512 * 4];
        for (boot, core, why) in [
            (vec![0; 512], core.clone(), "boot.img is no boot sector"),
            (good(512), core.clone(), "core.img has no block list where one is expected"),
            (good(512), vec![0; 100], "core.img does not fit into the BIOS boot partition"),
            (good(512), vec![0; 4 << 20], "core.img does not fit into the BIOS boot partition"),
        ] {
            let error = install_bios(&mut disk, &boot, core).unwrap_err();
            assert!(matches!(error, BiosError::Shape(what) if what == why), "{error:?}");
        }
        core[0x1fe..0x200].copy_from_slice(&0x820_u16.to_le_bytes());
        install_bios(&mut disk, &good(512), core).unwrap();
    }
}
