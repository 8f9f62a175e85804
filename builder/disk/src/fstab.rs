//! The `/etc/fstab` of a disk: which of the disk's own file systems belong where below its root.
//!
//! The text is a stranger's. Of its options none is passed on but the name of a btrfs subvolume, and what it names
//! counts only if it is on the same disk.

use crate::layout::{Candidate, Root};
use crate::table::Partitions;

/// Kinds of file systems that are looked for; `auto` is what the disk says.
const KINDS: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "auto"];

/// What a step has of its own, or what is none of a disk's business.
const NOT_OURS: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// A file system that belongs below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Where, without `..` and with no `/` at the end.
    pub mount_point: String,
    /// Which.
    pub candidate: Candidate,
    /// The btrfs subvolume, if it is not the default one.
    pub subvolume: Option<String>,
}

/// What fstab names for a place and nothing can be mounted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The place.
    pub mount_point: String,
    /// How fstab names the file system.
    pub named: String,
}

/// Finds what belongs below the root, parents first, and what is named and not on this disk.
pub fn below_root(text: &str, table: &Partitions, candidates: &[Candidate], root: &Root) -> (Vec<Below>, Vec<Missing>) {
    let (mut found, mut missing): (Vec<Below>, Vec<Missing>) = (Vec::new(), Vec::new());
    for entry in text.lines().filter_map(Entry::parse) {
        let mut matching = candidates.iter().filter(|candidate| entry.names(candidate, table));
        match (matching.next(), matching.next()) {
            (Some(candidate), None) if candidate.filesystem.kind.can_be_below() => {
                // The root once more, or two entries for one place: the first one counts.
                let same = candidate.place.offset == root.place.offset && entry.subvolume == root.subvolume;
                if !same && found.iter().all(|other| other.mount_point != entry.mount_point) {
                    let (mount_point, subvolume) = (entry.mount_point, entry.subvolume);
                    found.push(Below { mount_point, candidate: candidate.clone(), subvolume });
                }
            }
            _ if entry.optional => {}
            _ => missing.push(Missing { mount_point: entry.mount_point, named: entry.spec }),
        }
    }
    // A stable sort: what hides something else hides it here too.
    found.sort_by_key(|below| below.mount_point.matches('/').count());
    (found, missing)
}

/// A line that may be of interest.
struct Entry {
    spec: String,
    mount_point: String,
    subvolume: Option<String>,
    optional: bool,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let mut fields = line.split_ascii_whitespace();
        let (spec, place, kind) = (unescape(fields.next()?), unescape(fields.next()?), fields.next()?);
        let options: Vec<String> = fields.next().unwrap_or("defaults").split(',').map(unescape).collect();
        let has = |name: &str| options.iter().any(|option| option == name);
        if !KINDS.contains(&kind) || has("noauto") || has("bind") || has("rbind") {
            return None;
        }
        let parts: Vec<&str> = place.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let mount_point = format!("/{}", parts.join("/"));
        let ours = |dir: &&str| mount_point == **dir || mount_point.starts_with(&format!("{dir}/"));
        let odd = !place.starts_with('/') || parts.contains(&"..") || place.contains(['\0', '\n']);
        if odd || parts.is_empty() || NOT_OURS.iter().any(ours) {
            return None;
        }
        let subvolume = options.iter().find_map(|option| option.strip_prefix("subvol="));
        let subvolume = subvolume.map(|name| name.trim_matches('/'));
        // A comma would begin another option.
        if subvolume.is_some_and(|name| name.contains([',', '\0', '\\'])) {
            return None;
        }
        Some(Self {
            spec,
            mount_point,
            subvolume: subvolume.map(str::to_owned),
            optional: has("nofail") || has("x-systemd.automount"),
        })
    }

    /// Whether this is how the file system is named.
    fn names(&self, candidate: &Candidate, table: &Partitions) -> bool {
        let links = [("uuid", "UUID"), ("label", "LABEL"), ("partuuid", "PARTUUID"), ("partlabel", "PARTLABEL")];
        let link = links.iter().find_map(|(dir, tag)| {
            Some((*tag, self.spec.strip_prefix(&format!("/dev/disk/by-{dir}/"))?.replace("\\x20", " ")))
        });
        let tag = link.or_else(|| {
            let (tag, value) = self.spec.split_once('=')?;
            Some((tag, value.trim_matches('"').to_owned()))
        });
        let same = |value: &Option<String>, wanted: &str| {
            value.as_ref().is_some_and(|value| value.eq_ignore_ascii_case(wanted))
        };
        if let Some(volume) = &candidate.place.volume {
            // Its partition's names are those of the physical volume.
            return match &tag {
                Some(("UUID", value)) => same(&candidate.filesystem.uuid, value),
                Some(("LABEL", value)) => candidate.filesystem.label.as_ref() == Some(value),
                Some(_) => false,
                None => volume.has_name(&self.spec),
            };
        }
        let number_of = candidate.place.partition;
        let partition = number_of.and_then(|number| table.get(number));
        match tag {
            Some(("UUID", value)) => same(&candidate.filesystem.uuid, &value),
            Some(("LABEL", value)) => candidate.filesystem.label.as_ref() == Some(&value),
            Some(("PARTUUID", value)) => same(&number_of.and_then(|number| table.part_uuid(number)), &value),
            Some(("PARTLABEL", value)) => partition.is_some_and(|partition| partition.name == value),
            Some(_) => false,
            None => number(&self.spec).is_some_and(|number| number_of == Some(number)),
        }
    }
}

/// The number of a partition in the name that a device has where this disk is the first one.
fn number(device: &str) -> Option<u32> {
    let disks = ["/dev/vda", "/dev/sda", "/dev/xvda", "/dev/hda", "/dev/nvme0n1p", "/dev/mmcblk0p"];
    let digits = disks.iter().find_map(|disk| device.strip_prefix(disk))?;
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// fstab writes blanks and the like as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let value = octal.map(|digits| digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => (bytes.push(byte), rest = &tail[3..]).1,
            None => (bytes.push(first), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::{Filesystem, FilesystemKind};
    use crate::layout::Place;
    use crate::table::{Guid, Partition, PartitionKind, Scheme};

    fn candidate(number: u32, kind: FilesystemKind, uuid: &str, label: &str) -> Candidate {
        let filesystem = Filesystem { kind, uuid: Some(uuid.to_owned()), label: Some(label.to_owned()) };
        let place = Place { partition: Some(number), offset: u64::from(number) << 20, size: 1 << 20, volume: None };
        Candidate { place, filesystem }
    }

    fn disk() -> (Partitions, Vec<Candidate>, Root) {
        let partition = |number: u32, name: &str| Partition {
            number,
            start_sector: u64::from(number) << 11,
            sectors: 1 << 11,
            kind: PartitionKind::Guid(Guid::LINUX),
            unique_guid: Some(Guid::from_random([u8::try_from(number).unwrap(); 16])),
            name: name.to_owned(),
            attributes: 0,
        };
        let partitions = vec![partition(1, "root"), partition(2, "boot"), partition(15, "ESP"), partition(4, "swap")];
        let table = Partitions { scheme: Scheme::Gpt, disk_guid: None, disk_signature: None, partitions };
        let candidates = vec![
            candidate(1, FilesystemKind::Btrfs, "aaaa-1", "top"),
            candidate(2, FilesystemKind::Ext4, "bbbb-2", "boot disk"),
            candidate(15, FilesystemKind::Vfat, "1234-ABCD", "EFI"),
            candidate(4, FilesystemKind::Swap, "dddd-4", "swap"),
        ];
        let root = Root {
            place: candidates[0].place.clone(),
            filesystem: candidates[0].filesystem.clone(),
            subvolume: Some("@".to_owned()),
        };
        (table, candidates, root)
    }

    /// What is mounted, and what is missing.
    fn found(text: &str) -> (Vec<String>, Vec<String>) {
        let (table, candidates, root) = disk();
        let (below, missing) = below_root(text, &table, &candidates, &root);
        let line = |below: &Below| {
            let subvolume = below.subvolume.as_deref().unwrap_or_default();
            format!("{} {} {subvolume}", below.mount_point, below.candidate.place.partition.unwrap())
        };
        (
            below.iter().map(|below| line(below).trim_end().to_owned()).collect(),
            missing.iter().map(|missing| format!("{} {}", missing.mount_point, missing.named)).collect(),
        )
    }

    #[test]
    fn file_systems_of_the_disk_are_found_by_every_name() {
        for boot in [
            "UUID=BBBB-2",
            "UUID=\"bbbb-2\"",
            "LABEL=boot\\040disk",
            "PARTUUID=02020202-0202-4202-8202-020202020202",
            "PARTLABEL=boot",
            "/dev/disk/by-uuid/bbbb-2",
            "/dev/disk/by-label/boot\\x20disk",
            "/dev/vda2",
            "/dev/nvme0n1p2",
        ] {
            let text = format!("{boot} /boot/ ext4 defaults 0 2\n");
            assert_eq!(found(&text), (vec!["/boot 2".to_owned()], vec![]), "{boot}");
        }
        let whole = "# UUID=aaaa-1 /old btrfs\n\
            UUID=1234-abcd /boot/efi vfat umask=0077 0 1\n\
            UUID=aaaa-1\t/ btrfs subvol=@,defaults 0 0\n\
            UUID=aaaa-1 /home btrfs compress=zstd,subvol=/@home 0 0\n\
            UUID=bbbb-2 /boot auto\n\
            UUID=bbbb-2 /boot auto\n\
            UUID=dddd-4 none swap sw 0 0\n\
            tmpfs /var/cache tmpfs defaults 0 0\n\
            server:/srv /srv nfs defaults 0 0\n";
        let expected = ["/home 1 @home", "/boot 2", "/boot/efi 15"].map(str::to_owned).to_vec();
        assert_eq!(found(whole), (expected, vec![]));
    }

    #[test]
    fn what_is_not_on_the_disk_is_said_and_never_mounted() {
        assert_eq!(found("UUID=ffff /boot ext4 defaults\n").1, ["/boot UUID=ffff"]);
        assert_eq!(found("/dev/vdb1 /data ext4\n").1, ["/data /dev/vdb1"]);
        for quiet in [
            "/dev/vdb1 /data ext4 nofail 0 0",
            "/dev/vda2 /boot ext4 noauto 0 0",
            "/etc /boot none bind 0 0",
            "/dev/vda2 /boot auto bind 0 0",
            "/dev/vda2 /proc/x ext4",
            "/dev/vda2 /run ext4",
            "/dev/vda2 /../../etc ext4",
            "/dev/vda2 boot ext4",
            "/dev/vda2 / ext4",
            "/dev/vda2",
            // Another option does not come in by a name.
            "/dev/vda1 /home btrfs subvol=x\\054rescue=all",
            "\\",
            "\\777 \\000 ext4",
        ] {
            let text = format!("{quiet}\n");
            let (below, missing) = found(&text);
            assert!(below.is_empty(), "{quiet}: {below:?}");
            assert!(missing.is_empty(), "{quiet}: {missing:?}");
        }
        assert_eq!(found("/dev/vda4 /data auto\n"), (vec![], vec!["/data /dev/vda4".to_owned()]));
    }
}
