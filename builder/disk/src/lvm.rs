//! LVM2: the volumes of a physical volume by its own metadata, and their growth.
//!
//! What is read is a stranger's: every number is bounded before it is used, and what is not a plain linear volume on
//! this one disk is refused or left out. Nothing is written but by [`grow`], which changes the sizes of the physical
//! volume, and of one volume, and leaves every other byte of the metadata's text as it was: names, UUIDs, tags, times.
//!
//! Sources: lib/format_text/layout.h and lib/label/label.h of LVM2, which have the structures, and its lvmsystemid(7)
//! and vgcfgbackup(8), which have the text.

mod area;
mod text;

use std::path::PathBuf;

use fs_err::File;

use crate::table::SECTOR;
use area::Area;
use text::{Section, Value};

/// The longest name of a group or volume, as LVM2 has it.
const LONGEST_NAME: usize = 127;

/// More than that of any group that a person made.
const MOST_SEGMENTS: usize = 2000;

/// A linear logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The name of its volume group.
    pub group: String,
    /// Its own name.
    pub name: String,
    /// The group's id, with dashes, as LVM2 prints it.
    pub group_id: String,
    /// Its own id.
    pub id: String,
    /// Where on the disk the physical volume is, in bytes: offset and size.
    pub container: (u64, u64),
    /// What it is made of, in its own order, without gaps.
    pub segments: Vec<Segment>,
}

/// A piece of a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the volume.
    pub start: u64,
    /// Where it begins on the disk.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

impl Volume {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Its name in `/dev/mapper`.
    pub fn mapper_name(&self) -> String {
        mapper_name(&self.group, &self.name)
    }

    /// The name of its device in a machine that boots from it.
    pub fn device(&self) -> String {
        format!("/dev/mapper/{}", self.mapper_name())
    }

    /// How GRUB names it.
    pub fn grub_name(&self) -> String {
        format!("lvmid/{}/{}", self.group_id, self.id)
    }

    /// Whether a name in `/etc/fstab` is one of its own.
    pub(crate) fn has_name(&self, device: &str) -> bool {
        device == self.device() || device == format!("/dev/{}/{}", self.group, self.name)
    }
}

fn mapper_name(group: &str, name: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), name.replace('-', "--"))
}

/// A physical volume that is not read or grown.
#[derive(Debug, thiserror::Error)]
pub enum LvmError {
    /// The disk cannot be read or written; the source has the path.
    #[error("could not access a physical volume of LVM")]
    Access {
        /// The reason, with the path.
        source: std::io::Error,
    },
    /// Its metadata contradicts itself.
    #[error("the LVM metadata of `{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Something that this program does not handle.
    #[error("the LVM volume group {group} of `{}` {what}", path.display())]
    Unsupported {
        /// The disk.
        path: PathBuf,
        /// The group.
        group: String,
        /// What it has: a fragment.
        what: String,
    },
}

/// The volumes of a physical volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes {
    /// Those that can be opened.
    pub linear: Vec<Volume>,
    /// The names of the others that are no part of another one, with what they are (`thin`).
    pub others: Vec<(String, String)>,
}

/// Reads the volumes of the physical volume in the `size` bytes from byte `offset` of a disk on. None if it belongs to no
/// volume group.
pub fn read(disk: &File, offset: u64, size: u64) -> Result<Volumes, LvmError> {
    let area = Area::read(disk, offset, size)?;
    match area.metadata() {
        Some(text) => Group::parse(&area, &text)?.volumes(),
        None => Ok(Volumes::default()),
    }
}

/// Grows the physical volume to the `size` bytes that its partition has now, and a volume to all that is free in its
/// group then. Returns the volume as it is now.
pub fn grow(disk: &File, volume: &Volume, size: u64) -> Result<Volume, LvmError> {
    let offset = volume.container.0;
    let mut area = Area::read(disk, offset, size)?;
    let text = area.metadata().ok_or_else(|| area.damaged("it has no metadata"))?;
    let group = Group::parse(&area, &text)?;
    let changed = group.grown(volume)?;
    // What was written is read like a stranger's before it counts.
    let check = Group::parse_sized(&area, &changed, size)?;
    let found = check.volumes()?.linear.into_iter().find(|other| other.id == volume.id);
    let grown = found.ok_or_else(|| area.damaged("the volume is not in its group any more"))?;
    area.write(&changed, size)?;
    Ok(grown)
}

/// A volume group on one physical volume, as its metadata has it.
struct Group<'a> {
    area: &'a Area<'a>,
    root: Section,
    name: String,
    /// In bytes.
    extent: u64,
    /// The name of the physical volume in the metadata.
    physical: String,
    /// Where the first extent begins in the physical volume, in bytes, and how many there are.
    extents: (u64, u64),
}

impl<'a> Group<'a> {
    fn parse(area: &'a Area<'a>, text: &str) -> Result<Self, LvmError> {
        Self::parse_sized(area, text, area.device_size())
    }

    /// The same for a physical volume of this size.
    fn parse_sized(area: &'a Area<'a>, text: &str, device_size: u64) -> Result<Self, LvmError> {
        let damaged = |reason| area.damaged(reason);
        let root = text::parse(text).ok_or_else(|| damaged("its text cannot be read"))?;
        let mut sections = root.sections.iter();
        let (Some((name, group)), None) = (sections.next(), sections.next()) else {
            return Err(damaged("it does not have one volume group"));
        };
        if !is_name(name) {
            return Err(damaged("its volume group has an impossible name"));
        }
        let unsupported = |what: &str| area.unsupported(name, what);
        let status = group.words("status").ok_or_else(|| damaged("its volume group has no status"))?;
        if status.contains(&"EXPORTED") {
            return Err(unsupported("is exported: import it first (vgimport)"));
        }
        if status.contains(&"CLUSTERED") || group.text("lock_type").is_some_and(|kind| kind != "none") {
            return Err(unsupported("is shared by several machines, which is not built on"));
        }
        let sectors = group.number("extent_size").filter(|size| *size > 0 && *size <= 1 << 32);
        let extent = sectors.ok_or_else(|| damaged("its volume group has an impossible extent size"))? * SECTOR;
        let physical = group.section("physical_volumes").ok_or_else(|| damaged("it names no physical volume"))?;
        let [(physical_name, own)] = physical.sections.as_slice() else {
            let count = physical.sections.len();
            return Err(unsupported(&format!("lies on {count} physical volumes, and only one is handled here")));
        };
        if own.text("id").is_none_or(|id| id.replace('-', "").as_bytes() != area.id()) {
            return Err(damaged("it is that of another physical volume"));
        }
        if own.words("flags").is_some_and(|flags| flags.contains(&"MISSING")) {
            return Err(unsupported("counts its physical volume as missing (vgextend --restoremissing mends that)"));
        }
        let (start, count) = (own.number("pe_start"), own.number("pe_count"));
        let (Some(start), Some(count)) = (start, count) else {
            return Err(damaged("it does not say where its extents are"));
        };
        let start = start.checked_mul(SECTOR).filter(|start| *start >= area.first_free());
        let start = start.ok_or_else(|| damaged("its extents begin inside of its metadata"))?;
        let end = count.checked_mul(extent).and_then(|size| size.checked_add(start));
        if end.is_none_or(|end| end > device_size.min(area.size())) {
            return Err(damaged("its extents do not lie in its physical volume"));
        }
        let (name, physical) = (name.clone(), physical_name.clone());
        let extents = (start, count);
        Ok(Self { area, root, name, extent, physical, extents })
    }

    fn section(&self) -> &Section {
        &self.root.sections[0].1
    }

    /// The logical volumes of the metadata, hidden ones too.
    fn logical(&self) -> &[(String, Section)] {
        self.section().section("logical_volumes").map_or(&[], |section| &section.sections)
    }

    fn volumes(&self) -> Result<Volumes, LvmError> {
        let damaged = |reason| self.area.damaged(reason);
        let group_id = self.section().text("id").filter(|id| is_id(id));
        let group_id = group_id.ok_or_else(|| damaged("its volume group has no id"))?;
        let mut volumes = Volumes::default();
        let mut used = Vec::new();
        for (name, section) in self.logical() {
            let id = section.text("id").filter(|id| is_id(id)).ok_or_else(|| damaged("a volume has no id"))?;
            if !is_name(name) || mapper_name(&self.name, name).len() > LONGEST_NAME {
                return Err(damaged("a volume has an impossible name"));
            }
            let status = section.words("status").ok_or_else(|| damaged("a volume has no status"))?;
            match self.segments(section)? {
                Ok(segments) if status.contains(&"VISIBLE") => {
                    used.extend(segments.iter().map(|segment| (segment.offset, segment.size)));
                    volumes.linear.push(Volume {
                        group: self.name.clone(),
                        name: name.clone(),
                        group_id: group_id.to_owned(),
                        id: id.to_owned(),
                        container: (self.area.offset(), self.area.size()),
                        segments,
                    });
                }
                Err(kind) if status.contains(&"VISIBLE") => volumes.others.push((name.clone(), kind)),
                _ => {}
            }
        }
        used.sort_unstable();
        if used.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return Err(damaged("two volumes lie on the same extents"));
        }
        Ok(volumes)
    }

    /// The segments of a volume, or what it is if it is not linear.
    fn segments(&self, volume: &Section) -> Result<Result<Vec<Segment>, String>, LvmError> {
        let damaged = |reason| self.area.damaged(reason);
        let mut found: Vec<(u64, u64, u64)> = Vec::new();
        for (_, segment) in volume.sections.iter().filter(|(name, _)| name.starts_with("segment")) {
            let kind = segment.text("type").ok_or_else(|| damaged("a segment has no type"))?;
            if kind != "striped" || segment.number("stripe_count") != Some(1) {
                return Ok(Err(kind.to_owned()));
            }
            let (Some(start), Some(count)) = (segment.number("start_extent"), segment.number("extent_count")) else {
                return Err(damaged("a segment has no place"));
            };
            let Some([Value::Text(on), Value::Number(first)]) = segment.list("stripes") else {
                return Err(damaged("a segment has no stripe"));
            };
            if *on != self.physical {
                return Ok(Err("spread over other volumes".to_owned()));
            }
            let first = u64::try_from(*first)
                .ok()
                .filter(|first| count > 0 && first.checked_add(count).is_some_and(|end| end <= self.extents.1));
            found.push((start, first.ok_or_else(|| damaged("a segment lies outside of its physical volume"))?, count));
        }
        if found.is_empty() || found.len() > MOST_SEGMENTS {
            return Err(damaged("a volume has an impossible number of segments"));
        }
        found.sort_unstable();
        let mut end = 0;
        let mut segments = Vec::new();
        for (start, first, count) in found {
            if start != end {
                return Err(damaged("a volume has gaps"));
            }
            end += count;
            segments.push(Segment {
                start: start * self.extent,
                offset: self.area.offset() + self.extents.0 + first * self.extent,
                size: count * self.extent,
            });
        }
        Ok(Ok(segments))
    }

    /// What nobody uses of `count` extents: first ones and numbers.
    ///
    /// What a segment uses is counted generously, whatever its kind: every list in it that names the physical volume
    /// has the first extent behind the name.
    fn free(&self, count: u64) -> Vec<(u64, u64)> {
        let mut used: Vec<(u64, u64)> = Vec::new();
        for segment in self.logical().iter().flat_map(|(_, volume)| &volume.sections).map(|(_, segment)| segment) {
            let length = segment.number("extent_count").unwrap_or(u64::MAX);
            for (_, entry) in &segment.entries {
                let Value::List(list) = &entry.value else { continue };
                for pair in list.windows(2) {
                    if let [Value::Text(on), Value::Number(first)] = pair
                        && *on == self.physical
                        && let Ok(first) = u64::try_from(*first)
                    {
                        used.push((first, first.saturating_add(length)));
                    }
                }
            }
        }
        used.sort_unstable();
        let mut free = Vec::new();
        let mut at = 0;
        for (first, end) in used.into_iter().chain([(count, count)]) {
            if first.min(count) > at {
                free.push((at, first.min(count) - at));
            }
            at = at.max(end);
        }
        free
    }

    /// The text of the metadata after growth.
    fn grown(&self, volume: &Volume) -> Result<String, LvmError> {
        let area = self.area;
        let damaged = |reason| area.damaged(reason);
        let unsupported = |what: &str| area.unsupported(&self.name, what);
        if area.copies() != 1 {
            return Err(unsupported("keeps more than one copy of its metadata, with which it is not grown here"));
        }
        let group = self.section();
        if group.words("status").is_none_or(|status| !status.contains(&"RESIZEABLE") || !status.contains(&"WRITE")) {
            return Err(unsupported("is not resizeable (vgchange --resizeable y makes it so)"));
        }
        let own = &group.section("physical_volumes").expect("it was read").sections[0].1;
        let count = ((area.size() - self.extents.0) / self.extent).max(self.extents.1);
        let mut edits = Vec::new();
        let mut set = |section: &Section, name: &str, value: u64| match section.entry(name) {
            Some(entry) => {
                edits.push((entry.span.clone(), value.to_string()));
                Ok(())
            }
            None => Err(damaged("a field is missing")),
        };
        let next = group.number("seqno").and_then(|number| number.checked_add(1)).filter(|number| *number <= 1 << 31);
        set(group, "seqno", next.ok_or_else(|| damaged("its volume group has no number"))?)?;
        set(own, "dev_size", area.size() / SECTOR)?;
        set(own, "pe_count", count)?;

        let (_, section) = self
            .logical()
            .iter()
            .find(|(_, section)| section.text("id") == Some(&volume.id))
            .ok_or_else(|| damaged("the volume is not in its group any more"))?;
        let segments: Vec<&(String, Section)> =
            section.sections.iter().filter(|(name, _)| name.starts_with("segment")).collect();
        let last = segments.iter().max_by_key(|(_, segment)| segment.number("start_extent"));
        let (_, last) = last.ok_or_else(|| damaged("a volume has no segment"))?;
        let (start, length) = (last.number("start_extent"), last.number("extent_count"));
        let (Some(start), Some(length), Some([_, Value::Number(first)])) = (start, length, last.list("stripes")) else {
            return Err(damaged("a segment has no place"));
        };
        let mut free = self.free(count);
        let mut end = start + length;
        // What follows the last segment makes it longer; the rest are segments of their own.
        let behind = u64::try_from(*first).map_err(|_| damaged("a segment has no place"))? + length;
        if let Some(index) = free.iter().position(|(first, _)| *first == behind) {
            let (_, more) = free.remove(index);
            set(last, "extent_count", length + more)?;
            end += more;
        }
        if !free.is_empty() {
            let number = segments.len() + free.len();
            if number > MOST_SEGMENTS {
                return Err(unsupported("would have too many segments"));
            }
            set(section, "segment_count", number as u64)?;
        }
        let mut added = String::new();
        let mut number = segments.len();
        for (first, count) in free {
            number += 1;
            let name = format!("segment{number}");
            if section.section(&name).is_some() {
                return Err(damaged("its segments are not numbered"));
            }
            let physical = &self.physical;
            added.extend([format!(
                "\n{name} {{\nstart_extent = {end}\nextent_count = {count}\n\ntype = \"striped\"\nstripe_count = 1\n\n\
                 stripes = [\n\"{physical}\", {first}\n]\n}}\n"
            )]);
            end += count;
        }
        edits.push((section.end..section.end, added));
        Ok(text::edited(area.text(), edits))
    }
}

/// Whether LVM2 takes this as a name.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !matches!(name, "" | "." | "..")
        && name.len() <= LONGEST_NAME
        && !name.starts_with('-')
        && name.bytes().all(allowed)
}

fn is_id(id: &str) -> bool {
    id.len() == 38 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
