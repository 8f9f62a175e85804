//! ext2, ext3 and ext4. Source: `ext4_super_block` and `ext4_group_desc` of the kernel's fs/ext4/ext4.h.

use super::{Area, FreeSpaceError};

const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
/// The group's bitmap was never written, so none of its blocks ever was in use.
const BLOCK_UNINIT: u16 = 0x2;

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Two halves of a number.
fn wide(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// What of the superblock is needed.
struct Layout {
    blocks: u64,
    first_data_block: u64,
    block_size: u64,
    cluster_size: u64,
    blocks_per_group: u64,
    descriptor_size: usize,
    /// The first group of descriptors that lies with its groups, and not behind the superblock.
    first_meta_group: u64,
    sparse: bool,
    /// The groups with copies of the superblock, where the file system lists them.
    backups: Option<[u64; 2]>,
}

impl Layout {
    fn new(area: &Area<'_>, superblock: &[u8]) -> Result<Self, FreeSpaceError> {
        let (compat, incompat) = (le32(superblock, 0x5c), le32(superblock, 0x60));
        let ro_compat = le32(superblock, 0x64);
        if incompat & INCOMPAT_RECOVER != 0 {
            return Err(area.unclean());
        }
        let (block, cluster) = (le32(superblock, 0x18), le32(superblock, 0x1c));
        if block > 6 || cluster > 16 {
            return Err(area.damaged("the size of its blocks is impossible"));
        }
        let block_size = 1024 << block;
        let is_64bit = incompat & INCOMPAT_64BIT != 0;
        let layout = Self {
            blocks: wide(le32(superblock, 0x4), if is_64bit { le32(superblock, 0x150) } else { 0 }),
            first_data_block: le32(superblock, 0x14).into(),
            block_size,
            cluster_size: if ro_compat & RO_COMPAT_BIGALLOC == 0 { block_size } else { 1024 << cluster },
            blocks_per_group: le32(superblock, 0x20).into(),
            descriptor_size: if is_64bit { le16(superblock, 0xfe).into() } else { 32 },
            first_meta_group: if incompat & INCOMPAT_META_BG == 0 { u64::MAX } else { le32(superblock, 0x104).into() },
            sparse: ro_compat & RO_COMPAT_SPARSE_SUPER != 0,
            backups: (compat & COMPAT_SPARSE_SUPER2 != 0)
                .then(|| [le32(superblock, 0x24c).into(), le32(superblock, 0x250).into()]),
        };
        let clusters = layout.blocks_per_group.saturating_mul(block_size) / layout.cluster_size;
        let sound = layout.blocks > layout.first_data_block
            && layout.first_data_block <= 1
            && layout.cluster_size >= block_size
            && (32..=1024).contains(&layout.descriptor_size)
            && layout.descriptor_size.is_power_of_two()
            && (8..=8 * block_size).contains(&clusters);
        if !sound {
            return Err(area.damaged("its superblock is impossible"));
        }
        area.check(0, layout.blocks.saturating_mul(block_size))?;
        Ok(layout)
    }

    fn has_superblock(&self, group: u64) -> bool {
        let power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        match self.backups {
            Some(backups) => group == 0 || backups.contains(&group),
            None => !self.sparse || group <= 1 || power(3) || power(5) || power(7),
        }
    }

    /// The block in which the descriptor of a group lies, and its byte in it.
    fn descriptor(&self, group: u64) -> (u64, usize) {
        let per_block = self.block_size / self.descriptor_size as u64;
        let (table, index) = (group / per_block, group % per_block);
        let block = if table < self.first_meta_group {
            self.first_data_block + 1 + table
        } else {
            let first = table * per_block;
            self.first_data_block + first * self.blocks_per_group + u64::from(self.has_superblock(first))
        };
        (block, usize::try_from(index).expect("an index in a block") * self.descriptor_size)
    }
}

pub(super) fn zero(area: &mut Area<'_>, superblock: &[u8]) -> Result<(), FreeSpaceError> {
    let layout = Layout::new(area, superblock)?;
    let block_size = usize::try_from(layout.block_size).expect("at most 64 KiB");
    let mut descriptors = (u64::MAX, Vec::new());
    let mut first = layout.first_data_block;
    let mut group = 0;
    while first < layout.blocks {
        let count = layout.blocks_per_group.min(layout.blocks - first);
        let (block, at) = layout.descriptor(group);
        if descriptors.0 != block {
            descriptors = (block, area.read(block.saturating_mul(layout.block_size), block_size)?);
        }
        let descriptor = &descriptors.1[at..at + layout.descriptor_size];
        if le16(descriptor, 0x12) & BLOCK_UNINIT == 0 {
            let long = layout.descriptor_size >= 64;
            let bitmap = wide(le32(descriptor, 0), if long { le32(descriptor, 0x20) } else { 0 });
            let high = if long { le16(descriptor, 0x2c).into() } else { 0_u32 };
            let free = u64::from(le16(descriptor, 0x0c)) | u64::from(high) << 16;
            let bitmap = area.read(bitmap.saturating_mul(layout.block_size), block_size)?;
            // Small groups have at most the bits of one block.
            let clusters = (count * layout.block_size).div_ceil(layout.cluster_size);
            let is_free = |cluster: &u64| {
                let byte = usize::try_from(cluster / 8).expect("a bit of one block");
                bitmap[byte] & 1 << (cluster % 8) == 0
            };
            let found: Vec<u64> = (0..clusters).filter(is_free).collect();
            if found.len() as u64 != free {
                return Err(area.damaged("a group has another number of free blocks than it says"));
            }
            let (start, end) = (first * layout.block_size, layout.blocks * layout.block_size);
            for cluster in found {
                let at = start + cluster * layout.cluster_size;
                area.free(at, layout.cluster_size.min(end - at))?;
            }
        }
        first += layout.blocks_per_group;
        group += 1;
    }
    Ok(())
}
