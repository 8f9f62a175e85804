use std::fmt;
use std::str::FromStr;

/// A GUID of a partition table, in the mixed byte order in which it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// EFI system partition.
    pub const EFI_SYSTEM: Self = Self::from_fields(0xC12A_7328, 0xF81F, 0x11D2, 0xBA4B_00A0_C93E_C93B);
    /// Where GRUB puts its core image for a BIOS.
    pub const BIOS_BOOT: Self = Self::from_fields(0x2168_6148, 0x6449, 0x6E6F, 0x744E_6565_6445_4649);
    /// Swap space of Linux.
    pub const SWAP: Self = Self::from_fields(0x0657_FD6D, 0xA4AB, 0x43C4, 0x84E5_0933_C84B_4F4F);
    /// A Linux file system of no special purpose.
    pub const LINUX: Self = Self::from_fields(0x0FC6_3DAF, 0x8483, 0x4772, 0x8E79_3D69_D847_7DE4);
    /// The root file system on amd64 (Discoverable Partitions Specification).
    pub const LINUX_ROOT_AMD64: Self = Self::from_fields(0x4F68_BCE3, 0xE8CD, 0x4DB1, 0x96E7_FBCA_F984_B709);
    /// The root file system on arm64 (Discoverable Partitions Specification).
    pub const LINUX_ROOT_ARM64: Self = Self::from_fields(0xB921_B045, 0x1DF0, 0x41C3, 0xAF44_4C6F_280D_3FAE);

    const fn from_fields(first: u32, second: u16, third: u16, rest: u64) -> Self {
        let mut bytes = [0; 16];
        let (fields, last) = bytes.split_at_mut(8);
        fields.split_at_mut(4).0.copy_from_slice(&first.to_le_bytes());
        fields.split_at_mut(4).1.split_at_mut(2).0.copy_from_slice(&second.to_le_bytes());
        fields.split_at_mut(6).1.copy_from_slice(&third.to_le_bytes());
        last.copy_from_slice(&rest.to_be_bytes());
        Self(bytes)
    }

    /// A version 4 GUID from 16 random bytes.
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// From the bytes on the disk.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes on the disk.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Guid {
    /// Lower case, as Linux writes a PARTUUID.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.0;
        let first = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let (second, third) = (u16::from_le_bytes([b[4], b[5]]), u16::from_le_bytes([b[6], b[7]]));
        write!(f, "{first:08x}-{second:04x}-{third:04x}-{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// The text is not a GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a GUID is 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12, joined by dashes")]
pub struct InvalidGuid;

impl FromStr for Guid {
    type Err = InvalidGuid;

    fn from_str(text: &str) -> Result<Self, InvalidGuid> {
        let groups: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        let digits = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if lengths != [8, 4, 4, 4, 12] || !digits {
            return Err(InvalidGuid);
        }
        let number = |group: &str| u64::from_str_radix(group, 16).map_err(|_| InvalidGuid);
        Ok(Self::from_fields(
            u32::try_from(number(groups[0])?).map_err(|_| InvalidGuid)?,
            u16::try_from(number(groups[1])?).map_err(|_| InvalidGuid)?,
            u16::try_from(number(groups[2])?).map_err(|_| InvalidGuid)?,
            number(groups[3])? << 48 | number(groups[4])?,
        ))
    }
}
