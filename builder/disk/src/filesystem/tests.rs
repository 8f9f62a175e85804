use super::*;

fn recognised(parts: &[(usize, &[u8])]) -> Option<(FilesystemKind, Option<String>, Option<String>)> {
    let mut bytes = vec![0; usize::try_from(LOOK).unwrap()];
    for (at, part) in parts {
        bytes[*at..*at + part.len()].copy_from_slice(part);
    }
    recognise(&bytes).map(|found| (found.kind, found.uuid, found.label))
}

#[test]
fn superblocks_are_recognised() {
    let id: &[u8] = &[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let uuid = Some("deadbeef-0102-0304-0506-0708090a0b0c".to_owned());
    let label = Some("root".to_owned());
    let cases = [
        (recognised(&[(0x438, b"\x53\xef"), (0x468, id), (0x478, b"root")]), FilesystemKind::Ext4),
        (recognised(&[(0, b"XFSB"), (32, id), (108, b"root")]), FilesystemKind::Xfs),
        (recognised(&[(0x10040, b"_BHRfS_M"), (0x10020, id), (0x1012b, b"root")]), FilesystemKind::Btrfs),
        (recognised(&[(4086, b"SWAPSPACE2"), (0x40c, id), (0x41c, b"root")]), FilesystemKind::Swap),
    ];
    for (found, kind) in cases {
        assert_eq!(found, Some((kind, uuid.clone(), label.clone())));
    }
    let fat =
        recognised(&[(510, b"\x55\xaa"), (82, b"FAT32   "), (67, &[0x44, 0x33, 0x22, 0x11]), (71, b"EFI        ")]);
    assert_eq!(fat, Some((FilesystemKind::Vfat, Some("1122-3344".to_owned()), Some("EFI".to_owned()))));
    let lvm = recognised(&[(512, b"LABELONE"), (536, b"LVM2 001"), (0x438, b"\x53\xef")]);
    assert_eq!(lvm, Some((FilesystemKind::LvmPhysicalVolume, None, None)));
    assert_eq!(recognised(&[(0, b"LUKS\xba\xbe")]).unwrap().0, FilesystemKind::Luks);
    assert_eq!(recognised(&[(0, b"hsqs")]).unwrap().0, FilesystemKind::Squashfs);
    assert_eq!(recognised(&[(0x8001, b"CD001")]).unwrap().0, FilesystemKind::Iso9660);
    assert_eq!(recognised(&[]), None);
}
