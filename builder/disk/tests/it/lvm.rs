//! Logical volumes as LVM2's own programs make them: read, grown, and read by those programs again.

use std::path::Path;

use fs_err::File;
use labwright_disk::device::Disk;
use labwright_disk::filesystem::FilesystemKind;
use labwright_disk::layout::{LayoutError, candidates, find_root};
use labwright_disk::loop_device::{Access, LoopDevice};
use labwright_disk::lvm::{self, Volume};
use labwright_disk::table::{self, SECTOR};

use crate::kinds::{installed, program, text};
use crate::support::{has, has_root, raw, scratch};

const SMALL: u64 = 200 << 20;

/// The programs see one device, do without the device mapper and udev, and keep nothing on this host.
fn lvm2(command: &str, node: &str, args: &[&str]) -> String {
    let settings = format!(
        "global {{ use_lvmlockd=0 use_lvmpolld=0 activation=0 }} activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
         backup {{ backup=0 archive=0 }} devices {{ use_devicesfile=0 obtain_device_list_from_udev=0 \
         external_device_info_source=\"none\" filter=[\"a|^{node}$|\",\"r|.*|\"] }}"
    );
    program(command, &[&["--config", &settings], args].concat(), "").trim().to_owned()
}

/// What LVM2 says of a group on a part of a disk; its own check of it must find nothing.
fn told(path: &Path, (offset, size): (u64, u64), group: &str) -> Vec<String> {
    let device = LoopDevice::attach(path, offset, size, Access::ReadOnly).unwrap();
    let node = text(device.path());
    lvm2("vgck", node, &[group]);
    let list = |command: &str, fields: &str| {
        let columns = ["--noheadings", "--units", "b", "--nosuffix", "--separator", " ", "-o", fields];
        let said = lvm2(command, node, &[&columns[..], &[group]].concat());
        said.lines().map(|line| line.trim().replace(node, "PV")).collect::<Vec<_>>()
    };
    let mut all = list("vgs", "vg_uuid,vg_size,vg_free,vg_tags");
    all.extend(list("lvs", "lv_name,lv_uuid,lv_size"));
    all.extend(list("lvs", "lv_name,seg_pe_ranges"));
    device.close().unwrap();
    all
}

/// The volumes in the words of `lvs -o lv_name,seg_pe_ranges`, for extents of 4 MiB that begin at 1 MiB.
fn ranges(volumes: &[Volume]) -> Vec<String> {
    let mut all: Vec<String> = volumes
        .iter()
        .flat_map(|volume| volume.segments.iter().map(move |segment| (volume, segment)))
        .map(|(volume, segment)| {
            let first = (segment.offset - volume.container.0 - (1 << 20)) >> 22;
            format!("{} PV:{first}-{}", volume.name, first + (segment.size >> 22) - 1)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn what_lvm2_makes_is_read_and_what_we_grow_is_read_by_lvm2() {
    let ready = ["pvcreate", "vgcreate", "lvcreate", "vgck", "pvck"].iter().all(|name| installed(name));
    if !has_root() || !has("lvm2", ready) {
        return;
    }
    let mbr = "label: dos\nlabel-id: 0x1234abcd\nstart=2048,size=20480,type=83,bootable\nstart=22528,type=8e\n";
    let gpt = "label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\n\
               start=4096,type=E6D6D379-F507-44C2-A23C-238F2A3DF928,name=lvm\n";
    // As Debian's installer makes it, with swap behind the root; the root alone; and no partitions at all.
    for (table, number, volumes) in [
        (mbr, Some(2), &[("root", "20"), ("swap_1", "3")][..]),
        (gpt, Some(2), &[("swap", "2"), ("root", "30")][..]),
        ("", None, &[("root", "10"), ("home", "10"), ("var-log", "5")][..]),
    ] {
        let scratch = scratch();
        let dir = scratch.path();
        let path = dir.join("disk.raw");
        let disk = raw(&path, SMALL, &[]);
        if number.is_some() {
            program("sfdisk", &["-q", "--no-reread", "--no-tell-kernel", text(&path)], table);
        }
        let place = |disk: &File| match number {
            Some(number) => {
                let table = table::read(disk).unwrap();
                let partition = table.get(number).unwrap().clone();
                (partition.offset(), partition.size())
            }
            None => (0, File::open(&path).unwrap().metadata().unwrap().len()),
        };
        let (offset, size) = place(&disk);
        let group = format!("lab-vg{}", std::process::id());
        let device = LoopDevice::attach(&path, offset, size, Access::ReadWrite).unwrap();
        let node = text(device.path()).to_owned();
        // A small ring, so that it goes round below.
        lvm2("pvcreate", &node, &["-y", "--metadatasize", "20k", "--dataalignment", "1m", &node]);
        lvm2("vgcreate", &node, &[&group, &node]);
        for (name, extents) in volumes {
            lvm2("lvcreate", &node, &["-y", "-an", "-Zn", "-Wn", "-l", extents, "-n", name, &group]);
        }
        device.close().unwrap();
        let before = told(&path, (offset, size), &group);
        let found = lvm::read(&disk, offset, size).unwrap();
        assert!(found.others.is_empty() && found.linear.len() == volumes.len());
        let segments = |told: &[String]| {
            let mut lines: Vec<String> = told.iter().filter(|line| line.contains("PV:")).cloned().collect();
            lines.sort();
            lines
        };
        assert_eq!(ranges(&found.linear), segments(&before));
        let root = found.linear.iter().find(|volume| volume.name == "root").unwrap().clone();
        assert!(before.iter().any(|line| *line == format!("root {} {}", root.id, root.size())), "{before:#?}");
        assert!(before[0].starts_with(&root.group_id), "{before:#?}");

        // A file system in the root is seen through the volume, and a disk that is a file cannot open it.
        let loop_device = LoopDevice::attach(&path, root.segments[0].offset, root.segments[0].size, Access::ReadWrite);
        let loop_device = loop_device.unwrap();
        program("mke2fs", &["-q", "-F", "-t", "ext4", text(loop_device.path())], "");
        loop_device.close().unwrap();
        let seen = candidates(&disk).unwrap();
        let ext4: Vec<_> = seen.iter().filter(|found| found.filesystem.kind == FilesystemKind::Ext4).collect();
        assert_eq!(ext4.len(), 1);
        assert_eq!((&ext4[0].place.volume, ext4[0].place.partition), (&Some(root.clone()), number));
        let error = find_root(&Disk::File(path.clone()), dir, Access::ReadOnly).unwrap_err();
        assert!(matches!(error, LayoutError::NeedsMachine { .. }), "{error}");

        let mut root = root;
        for round in 1..=24_u64 {
            let larger = SMALL + round * (8 << 20);
            disk.set_len(larger).unwrap();
            if let Some(number) = number {
                table::grow(&disk, number, larger / SECTOR).unwrap();
            }
            let (offset, size) = place(&disk);
            let grown = lvm::grow(&disk, &root, size).unwrap();
            assert!(grown.size() > root.size(), "round {round}");
            assert_eq!(grown.segments[0].offset, root.segments[0].offset);
            root = grown;
            // Its own programs write behind us, and we behind them.
            if round % 6 == 0 {
                let after = told(&path, (offset, size), &group);
                assert_eq!(ranges(&lvm::read(&disk, offset, size).unwrap().linear), segments(&after));
                assert!(after.iter().any(|line| *line == format!("root {} {}", root.id, root.size())), "{after:#?}");
                // Size, free bytes: all but what the growth gave to the root is as it was.
                let (was, is) = (&before[0], &after[0]);
                assert_eq!(is.split(' ').next(), was.split(' ').next());
                assert_eq!(is.split(' ').nth(2), Some("0"), "{is}");
                for (name, _) in volumes.iter().filter(|(name, _)| *name != "root") {
                    let of = |told: &[String]| {
                        told.iter().filter(|line| line.starts_with(&format!("{name} "))).cloned().collect::<Vec<_>>()
                    };
                    assert_eq!(of(&after), of(&before));
                }
                let device = LoopDevice::attach(&path, offset, size, Access::ReadWrite).unwrap();
                let node = text(device.path());
                let checked = lvm2("pvck", node, &[node]);
                assert!(!checked.to_lowercase().contains("error"), "{checked}");
                let tag = format!("round{round}");
                lvm2("vgchange", node, &["--addtag", &tag, &group]);
                lvm2("pvresize", node, &["-y", node]);
                device.close().unwrap();
                assert_eq!(lvm::read(&disk, offset, size).unwrap().linear.len(), volumes.len());
                assert!(told(&path, (offset, size), &group)[0].contains(&tag));
            }
        }
    }
}
