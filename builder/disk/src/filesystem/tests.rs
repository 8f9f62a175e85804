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
    assert_eq!(recognised(&[(4096, &RAID), (0x438, b"\x53\xef")]).unwrap().0, FilesystemKind::RaidMember);
    assert_eq!(recognised(&[(0x400, b"\x10\x20\xf5\xf2")]).unwrap().0, FilesystemKind::F2fs);
    assert_eq!(recognised(&[(0x20c00, b"\x0c\xb1\xba\0\0\0\0\0")]).unwrap().0, FilesystemKind::Zfs);
    let bcachefs = b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef";
    assert_eq!(recognised(&[(0x1018, bcachefs)]).unwrap().0, FilesystemKind::Bcachefs);
}

#[test]
fn a_raid_member_is_known_by_its_end() {
    let temporary = tempfile::NamedTempFile::new().unwrap();
    let size = (1 << 20) + 512;
    for (version, at) in [("0.90", 2048 - 128), ("1.0", 2032)] {
        let file = File::options().write(true).read(true).open(temporary.path()).unwrap();
        file.set_len(0).unwrap();
        file.set_len(4096 + size).unwrap();
        file.file().write_all_at(b"\x53\xef", 4096 + 0x438).unwrap();
        assert_eq!(probe(&file, 4096, size).unwrap().unwrap().kind, FilesystemKind::Ext4, "{version}");
        file.file().write_all_at(&RAID, 4096 + at * 512).unwrap();
        assert_eq!(probe(&file, 4096, size).unwrap().unwrap().kind, FilesystemKind::RaidMember, "{version}");
        // A partition that is smaller than what is looked for.
        assert_eq!(probe(&file, 4096, 1024).unwrap(), None);
    }
}
