//! XFS. Source: `xfs_dsb`, `xfs_agf`, `xfs_agfl` and `xfs_btree_block` of the kernel's fs/xfs/libxfs/xfs_format.h.

use super::{Area, FreeSpaceError};

/// No block.
const NULL: u32 = u32::MAX;

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What of the superblock is needed.
struct Layout {
    block_size: u64,
    sector_size: u64,
    /// Blocks of an allocation group; the last one may have fewer.
    group_blocks: u64,
    /// Version 5: blocks have checksums and longer headers.
    checksums: bool,
}

/// One allocation group.
struct Group {
    /// Its first byte.
    start: u64,
    /// How many blocks it has.
    blocks: u64,
}

impl Layout {
    /// The bytes of a block of a group.
    fn read(&self, area: &Area<'_>, group: &Group, block: u32) -> Result<Vec<u8>, FreeSpaceError> {
        if u64::from(block) >= group.blocks {
            return Err(area.damaged("a tree leads out of its allocation group"));
        }
        let size = usize::try_from(self.block_size).expect("at most 64 KiB");
        area.read(group.start + u64::from(block) * self.block_size, size)
    }
}

pub(super) fn zero(area: &mut Area<'_>, superblock: &[u8]) -> Result<(), FreeSpaceError> {
    let blocks = u64::from_be_bytes(superblock[8..16].try_into().expect("eight bytes"));
    let groups = be32(superblock, 88);
    let layout = Layout {
        block_size: be32(superblock, 4).into(),
        sector_size: be16(superblock, 102).into(),
        group_blocks: be32(superblock, 84).into(),
        checksums: be16(superblock, 100) & 0xf == 5,
    };
    let power = |size: u64, least: u64, most: u64| size.is_power_of_two() && (least..=most).contains(&size);
    let sound = power(layout.block_size, 512, 1 << 16)
        && power(layout.sector_size, 512, 1 << 15)
        && layout.group_blocks.saturating_mul(layout.block_size) >= 1 << 16
        && u64::from(groups) == blocks.div_ceil(layout.group_blocks.max(1));
    if !sound {
        return Err(area.damaged("its superblock is impossible"));
    }
    area.check(0, blocks.saturating_mul(layout.block_size))?;
    for number in 0..u64::from(groups) {
        let first = number * layout.group_blocks;
        let group = Group { start: first * layout.block_size, blocks: layout.group_blocks.min(blocks - first) };
        zero_group(area, &layout, &group)?;
    }
    Ok(())
}

fn zero_group(area: &mut Area<'_>, layout: &Layout, group: &Group) -> Result<(), FreeSpaceError> {
    let sector = usize::try_from(layout.sector_size).expect("at most 32 KiB");
    let header = area.read(group.start + layout.sector_size, sector)?;
    if &header[..4] != b"XAGF" || u64::from(be32(&header, 12)) != group.blocks {
        return Err(area.damaged("an allocation group has no header"));
    }
    let mut free = free_extents(area, layout, group, be32(&header, 16), be32(&header, 28))?;
    if free.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() != u64::from(be32(&header, 52)) {
        return Err(area.damaged("an allocation group has another number of free blocks than it says"));
    }
    free.extend(free_list(area, layout, group, &header)?.into_iter().map(|block| (block, 1)));
    for (block, count) in free {
        if u64::from(block) + u64::from(count) > group.blocks {
            return Err(area.damaged("a free block lies outside of its allocation group"));
        }
        let length = u64::from(count) * layout.block_size;
        area.free(group.start + u64::from(block) * layout.block_size, length)?;
    }
    Ok(())
}

/// The free extents of a group, by its tree of them.
fn free_extents(
    area: &Area<'_>,
    layout: &Layout,
    group: &Group,
    root: u32,
    levels: u32,
) -> Result<Vec<(u32, u32)>, FreeSpaceError> {
    let (magic, header_size): (&[u8], usize) = if layout.checksums { (b"AB3B", 56) } else { (b"ABTB", 16) };
    if !(1..=9).contains(&levels) {
        return Err(area.damaged("the tree of free blocks has an impossible height"));
    }
    let mut block = root;
    for level in (1..levels).rev() {
        let bytes = layout.read(area, group, block)?;
        // Keys of eight bytes, and behind the place for the last possible one the pointers.
        let most = (bytes.len() - header_size) / 12;
        if &bytes[..4] != magic || u32::from(be16(&bytes, 4)) != level {
            return Err(area.damaged("the tree of free blocks is broken"));
        }
        block = be32(&bytes, header_size + most * 8);
    }
    let mut extents = Vec::new();
    let mut seen = 0;
    while block != NULL {
        let bytes = layout.read(area, group, block)?;
        let records = usize::from(be16(&bytes, 6));
        seen += 1;
        if &bytes[..4] != magic
            || be16(&bytes, 4) != 0
            || records > (bytes.len() - header_size) / 8
            || seen > group.blocks
        {
            return Err(area.damaged("the tree of free blocks is broken"));
        }
        let record = |index: usize| (be32(&bytes, header_size + index * 8), be32(&bytes, header_size + index * 8 + 4));
        extents.extend((0..records).map(record));
        block = be32(&bytes, 12);
    }
    Ok(extents)
}

/// The blocks that a group keeps for its own trees.
fn free_list(area: &Area<'_>, layout: &Layout, group: &Group, header: &[u8]) -> Result<Vec<u32>, FreeSpaceError> {
    let sector = usize::try_from(layout.sector_size).expect("at most 32 KiB");
    let list = area.read(group.start + 3 * layout.sector_size, sector)?;
    let list = if layout.checksums { &list[36..] } else { &list[..] };
    let size = list.len() / 4;
    let place = |at| usize::try_from(be32(header, at)).unwrap_or(usize::MAX);
    let (first, count) = (place(40), place(48));
    if count == 0 {
        return Ok(Vec::new());
    }
    if first >= size || count > size {
        return Err(area.damaged("the list of free blocks is impossible"));
    }
    Ok((0..count).map(|index| be32(list, (first + index) % size * 4)).collect())
}
