//! Where a physical volume keeps its metadata: its label, and the ring that has the text.

use std::os::unix::fs::FileExt;

use fs_err::File;

use super::LvmError;
use crate::named;

const SECTOR: usize = 512;

/// As much as LVM2's own ring has by default, in bytes.
const LONGEST_TEXT: u64 = 1 << 20;
const LARGEST_RING: u64 = 64 << 20;

const LABEL: &[u8; 8] = b"LABELONE";
const KIND: &[u8; 8] = b"LVM2 001";
const RING: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// The places of the fields in a label's sector.
const LABEL_SECTOR: usize = 8;
const LABEL_SUM: usize = 16;
const LABEL_CONTENT: usize = 20;
const LABEL_KIND: usize = 24;
/// In what the label has: id, size of the device, list of data areas, list of metadata areas.
const ID: usize = 32;

/// In the header of the ring.
const RING_MAGIC: usize = 4;
const RING_VERSION: usize = 20;
const RING_START: usize = 24;
const RING_SIZE: usize = 32;
const RING_TEXT: usize = 40;
/// A flag of a text's place: the area is there and not used.
const IGNORED: u32 = 1;

/// A physical volume.
pub(super) struct Area<'a> {
    disk: &'a File,
    offset: u64,
    size: u64,
    /// The sector that has the label, and its bytes.
    label: (u64, Vec<u8>),
    /// Where in it the id begins.
    content: usize,
    id: [u8; ID],
    device_size: u64,
    /// The metadata areas, in bytes of the physical volume: offset and size.
    rings: Vec<(u64, u64)>,
    text: String,
}

impl<'a> Area<'a> {
    pub(super) fn damaged(&self, reason: &'static str) -> LvmError {
        LvmError::Damaged { path: self.disk.path().to_owned(), reason }
    }

    pub(super) fn unsupported(&self, group: &str, what: &str) -> LvmError {
        let (path, group) = (self.disk.path().to_owned(), group.to_owned());
        LvmError::Unsupported { path, group, what: what.to_owned() }
    }

    /// Where on the disk it begins, in bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes that it could have.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that it says it has.
    pub(super) fn device_size(&self) -> u64 {
        self.device_size
    }

    pub(super) fn id(&self) -> &[u8] {
        &self.id
    }

    /// How many places it has for metadata.
    pub(super) fn copies(&self) -> usize {
        self.rings.len()
    }

    /// The first byte behind the label and the metadata at the start.
    pub(super) fn first_free(&self) -> u64 {
        self.rings.first().map_or(4 * SECTOR as u64, |(offset, size)| offset + size)
    }

    /// The text that was read last.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Reads the label, the rings and the text.
    pub(super) fn read(disk: &'a File, offset: u64, size: u64) -> Result<Self, LvmError> {
        let mut area = Self {
            disk,
            offset,
            size,
            label: (0, Vec::new()),
            content: 0,
            id: [0; ID],
            device_size: 0,
            rings: Vec::new(),
            text: String::new(),
        };
        area.read_label()?;
        area.text = area.read_text()?.unwrap_or_default();
        Ok(area)
    }

    /// The text of the metadata; none if it belongs to no group.
    pub(super) fn metadata(&self) -> Option<String> {
        Some(self.text.clone()).filter(|text| !text.is_empty())
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, LvmError> {
        if at.checked_add(length as u64).is_none_or(|end| end > self.size) {
            return Err(self.damaged("it points outside of its physical volume"));
        }
        let mut bytes = vec![0; length];
        self.disk
            .file()
            .read_exact_at(&mut bytes, self.offset + at)
            .map_err(|error| LvmError::Access { source: named(self.disk, &error) })?;
        Ok(bytes)
    }

    fn read_label(&mut self) -> Result<(), LvmError> {
        let head = self.bytes(0, 4 * SECTOR)?;
        let labels = head.chunks(SECTOR).enumerate();
        let found = labels.filter(|(_, sector)| sector.starts_with(LABEL) && sector[LABEL_KIND..].starts_with(KIND));
        let (number, sector) =
            found.min_by_key(|(number, _)| *number).ok_or_else(|| self.damaged("it has no label"))?;
        if le64(sector, LABEL_SECTOR) != number as u64 || le32(sector, LABEL_SUM) != sum(&sector[LABEL_CONTENT..]) {
            return Err(self.damaged("its label has a wrong checksum"));
        }
        let content = le32(sector, LABEL_CONTENT) as usize;
        if !(32..=256).contains(&content) {
            return Err(self.damaged("its label has an impossible length"));
        }
        self.id = sector[content..content + ID].try_into().expect("32 bytes");
        self.device_size = le64(sector, content + ID);
        self.content = content;
        // Two lists of places, each with an empty one at its end: for data, of which there is one, and for metadata.
        let mut at = content + ID + 8;
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            loop {
                if at + 16 > SECTOR {
                    return Err(self.damaged("its label has an impossible length"));
                }
                let place = (le64(sector, at), le64(sector, at + 8));
                at += 16;
                if place.0 == 0 {
                    break;
                }
                list.push(place);
            }
        }
        let [_, rings] = lists;
        self.label = (number as u64 * SECTOR as u64, sector.to_vec());
        if self.device_size > self.size {
            return Err(self.damaged("it is larger than its partition"));
        }
        self.rings = rings;
        Ok(())
    }

    /// The header of a ring.
    fn ring(&self, (offset, size): (u64, u64)) -> Result<Vec<u8>, LvmError> {
        if size <= SECTOR as u64 || size > LARGEST_RING || offset < SECTOR as u64 {
            return Err(self.damaged("its metadata area has an impossible size"));
        }
        let header = self.bytes(offset, SECTOR)?;
        if le32(&header, 0) != sum(&header[RING_MAGIC..]) {
            return Err(self.damaged("its metadata area has a wrong checksum"));
        }
        let right = header[RING_MAGIC..].starts_with(RING)
            && le32(&header, RING_VERSION) == 1
            && (le64(&header, RING_START), le64(&header, RING_SIZE)) == (offset, size);
        if !right {
            return Err(self.damaged("its metadata area is of an unknown kind"));
        }
        Ok(header)
    }

    fn read_text(&self) -> Result<Option<String>, LvmError> {
        for ring in &self.rings {
            let header = self.ring(*ring)?;
            let (at, length) = (le64(&header, RING_TEXT), le64(&header, RING_TEXT + 8));
            let (expected, flags) = (le32(&header, RING_TEXT + 16), le32(&header, RING_TEXT + 20));
            if flags & IGNORED != 0 || (at, length) == (0, 0) {
                continue;
            }
            let (offset, size) = *ring;
            let inside = at >= SECTOR as u64 && at < size && length <= (size - SECTOR as u64).min(LONGEST_TEXT);
            if !inside {
                return Err(self.damaged("its text does not lie in its metadata area"));
            }
            let first = length.min(size - at);
            let count = |bytes: u64| usize::try_from(bytes).expect("a text is a few megabytes long");
            let mut text = self.bytes(offset + at, count(first))?;
            // What does not fit in front of the end goes on behind the header.
            text.extend(self.bytes(offset + SECTOR as u64, count(length - first))?);
            if sum(&text) != expected {
                return Err(self.damaged("its text has a wrong checksum"));
            }
            while text.last() == Some(&0) {
                text.pop();
            }
            let text = String::from_utf8(text).map_err(|_| self.damaged("its text is not text"))?;
            return Ok(Some(text));
        }
        Ok(None)
    }

    /// Writes another text behind the present one, has the header point to it, and notes the size of the device.
    pub(super) fn write(&mut self, text: &str, device_size: u64) -> Result<(), LvmError> {
        let Some(ring) = self.rings.first().copied() else { return Err(self.damaged("it has no metadata area")) };
        let mut header = self.ring(ring)?;
        let (offset, size) = ring;
        let (old, old_length) = (le64(&header, RING_TEXT), le64(&header, RING_TEXT + 8));
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let length = bytes.len() as u64;
        let sector = SECTOR as u64;
        // On a sector of its own, and in one piece, as LVM2 itself does where there is room.
        let end = old + old_length;
        let mut at = end.next_multiple_of(sector);
        if end > size || at + length > size {
            at = if end > size { sector + (end - size).next_multiple_of(sector) } else { sector };
        }
        let free = if at < old { at + length <= old } else { at >= end && at + length <= size };
        if !free {
            return Err(self.damaged("its metadata area has no room"));
        }
        self.put(offset + at, &bytes)?;
        self.sync()?;
        header[RING_TEXT..RING_TEXT + 8].copy_from_slice(&at.to_le_bytes());
        header[RING_TEXT + 8..RING_TEXT + 16].copy_from_slice(&length.to_le_bytes());
        header[RING_TEXT + 16..RING_TEXT + 20].copy_from_slice(&sum(&bytes).to_le_bytes());
        let check = sum(&header[RING_MAGIC..]);
        header[..4].copy_from_slice(&check.to_le_bytes());
        self.put(offset, &header)?;

        let (place, mut label) = self.label.clone();
        let field = self.content + ID;
        label[field..field + 8].copy_from_slice(&device_size.to_le_bytes());
        let check = sum(&label[LABEL_CONTENT..]);
        label[LABEL_SUM..LABEL_SUM + 4].copy_from_slice(&check.to_le_bytes());
        self.put(place, &label)?;
        self.sync()?;
        self.label.1 = label;
        self.device_size = device_size;
        Ok(())
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), LvmError> {
        self.disk
            .file()
            .write_all_at(bytes, self.offset + at)
            .map_err(|error| LvmError::Access { source: named(self.disk, &error) })
    }

    fn sync(&self) -> Result<(), LvmError> {
        self.disk.sync_all().map_err(|source| LvmError::Access { source })
    }
}

/// LVM2's checksum: the CRC of Ethernet with another beginning, and without the inversion at its end.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    const BEGIN: u32 = 0xf597_a6cf;
    bytes.iter().fold(BEGIN, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
