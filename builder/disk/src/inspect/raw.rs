//! What a raw disk must look like.

use super::{Limits, Refusal};

/// Other formats by what they begin with; compressed files among them, because they are what a download often is.
const MAGICS: [(&[u8], &str); 18] = [
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "a VMDK descriptor"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"QED\0", "QED"),
    (b"WithoutFreeSpace", "a Parallels disk"),
    (b"WithouFreSpacExt", "a Parallels disk"),
    (b"Bochs Virtual HD Image", "a Bochs disk"),
    (b"#!/bin/sh\n#V2.0 Format", "a compressed loop file"),
    (b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x7fELF", "a program"),
];

/// Checks the first 64 KiB or more and the last 512 bytes of a file.
pub(super) fn check(head: &[u8], tail: &[u8], length: u64, limits: &Limits) -> Result<(), Refusal> {
    if length == 0 {
        return Err(Refusal::Empty);
    }
    let other = |format| Err(Refusal::OtherFormat { format });
    if let Some((_, format)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return other(format);
    }
    if head.get(0x40..0x44) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
        return other("VDI");
    }
    if head.get(0x8001..0x8006) == Some(b"CD001") {
        return other("an ISO 9660 image");
    }
    if head.get(257..262) == Some(b"ustar") {
        return other("a tar archive");
    }
    if tail.starts_with(b"conectix") {
        return other("VHD");
    }
    if tail.starts_with(b"koly") {
        return other("a DMG image");
    }
    if !length.is_multiple_of(512) {
        return Err(Refusal::UnevenSize { size: length });
    }
    if length > limits.virtual_size {
        return Err(Refusal::VirtualSizeTooLarge { size: length, limit: limits.virtual_size });
    }
    let mbr = head.get(510..512) == Some(&[0x55, 0xaa]);
    let gpt = head.get(512..520) == Some(b"EFI PART");
    if mbr || gpt { Ok(()) } else { Err(Refusal::NotADisk) }
}
