/// Why a file is not accepted as a disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A directory, device, pipe or socket.
    #[error("it is not a regular file")]
    NotAFile,
    /// Larger than allowed.
    #[error("the file has {size} bytes, more than the allowed {limit}")]
    FileTooLarge {
        /// Bytes in the file.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The guest would see a larger disk than allowed.
    #[error("the disk has {size} bytes for the guest, more than the allowed {limit}")]
    VirtualSizeTooLarge {
        /// Bytes of the disk.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Nothing for the guest.
    #[error("the disk has no bytes for the guest")]
    Empty,
    /// Not made of whole sectors.
    #[error("the disk's size of {size} bytes is not a multiple of 512")]
    UnevenSize {
        /// Bytes of the disk.
        size: u64,
    },
    /// The format of another program.
    #[error("it is {format}, neither qcow2 nor a raw disk")]
    OtherFormat {
        /// What it is.
        format: &'static str,
    },
    /// A raw file without a partition table.
    #[error("it has neither an MBR nor a GPT, so it does not look like a raw disk")]
    NotADisk,
    /// Shorter than a header.
    #[error("the file ends inside its qcow2 header")]
    HeaderTruncated,
    /// A version that nobody has defined, or the old qcow.
    #[error("qcow2 version {version} is unknown (2 and 3 are known)")]
    Version {
        /// The version.
        version: u32,
    },
    /// A header length that cannot be.
    #[error("the qcow2 header claims a length of {length} bytes")]
    HeaderLength {
        /// The length.
        length: u32,
    },
    /// It would read another file.
    #[error("it names a backing file, which would be read in its place")]
    BackingFile,
    /// Its contents are in another file.
    #[error("its contents are in an external data file")]
    DataFile,
    /// Encrypted contents.
    #[error("it is encrypted")]
    Encrypted,
    /// Not closed by its last writer.
    #[error("it is marked dirty: its last writer did not close it")]
    Dirty,
    /// Known to be damaged.
    #[error("it is marked corrupt")]
    MarkedCorrupt,
    /// Something that readers must know and nobody has defined.
    #[error("it needs unknown features (incompatible bits {bits:#x})")]
    UnknownFeatures {
        /// The bits.
        bits: u64,
    },
    /// Snapshots inside.
    #[error("it has {count} internal snapshots")]
    Snapshots {
        /// How many.
        count: u32,
    },
    /// Persistent dirty bitmaps inside.
    #[error("it has persistent bitmaps")]
    Bitmaps,
    /// The cluster size is outside 512 bytes to 2 MiB.
    #[error("a cluster size of 2^{bits} bytes is not allowed (9 to 21 are)")]
    ClusterBits {
        /// The exponent.
        bits: u32,
    },
    /// The reference counts are wider than 64 bits.
    #[error("a reference count width of 2^{order} bits is not allowed (0 to 6 are)")]
    RefcountOrder {
        /// The exponent.
        order: u32,
    },
    /// The compression bit and the compression type disagree.
    #[error("its compression type {kind} is unknown or contradicts its feature bits")]
    CompressionType {
        /// The type.
        kind: u8,
    },
    /// Sub-clusters in clusters that are too small for them.
    #[error("it has sub-clusters in clusters of 2^{bits} bytes (at least 2^14 are needed)")]
    ExtendedL2 {
        /// The exponent of the cluster size.
        bits: u32,
    },
    /// A header extension that leaves the header's cluster.
    #[error("header extension {kind:#x} leaves the first cluster")]
    Extension {
        /// Its type.
        kind: u32,
    },
    /// More entries than any disk needs.
    #[error("its {table} table has {entries} entries, more than the allowed {limit}")]
    TableTooLarge {
        /// Which table.
        table: &'static str,
        /// Entries in it.
        entries: u64,
        /// Entries allowed.
        limit: u64,
    },
    /// No reference counts.
    #[error("it has no refcount table")]
    NoRefcounts,
    /// Too few entries for its size.
    #[error("its L1 table has {entries} entries where its size needs {needed}")]
    L1TooSmall {
        /// Entries in it.
        entries: u64,
        /// Entries needed.
        needed: u64,
    },
    /// A table at an impossible place.
    #[error("its {table} table at byte {offset} does not begin on a cluster behind the header")]
    TableOffset {
        /// Which table.
        table: &'static str,
        /// Where.
        offset: u64,
    },
    /// A table behind the end.
    #[error("it is truncated: its {table} table at byte {offset} ends behind the file's {length} bytes")]
    TableOutside {
        /// Which table.
        table: &'static str,
        /// Where.
        offset: u64,
        /// Bytes in the file.
        length: u64,
    },
    /// Two tables on the same bytes.
    #[error("its {first} and {second} tables overlap")]
    TablesOverlap {
        /// One.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An entry with bits that must be zero.
    #[error("an {table} entry has reserved bits ({entry:#x})")]
    ReservedBits {
        /// Which table.
        table: &'static str,
        /// The entry.
        entry: u64,
    },
    /// More L2 tables than there is room for.
    #[error("its L1 table names {tables} L2 tables, more than the file has room for")]
    TooManyL2Tables {
        /// How many.
        tables: u64,
    },
    /// Contents at an impossible place.
    #[error("a data cluster at byte {offset} does not begin on a cluster behind the header")]
    ClusterOffset {
        /// Where.
        offset: u64,
    },
    /// Contents behind the end.
    #[error("it is truncated: a data cluster at byte {offset} ends behind the file's {length} bytes")]
    ClusterOutside {
        /// Where.
        offset: u64,
        /// Bytes in the file.
        length: u64,
    },
    /// A sub-cluster that is both data and zero, or data without a place.
    #[error("the sub-clusters of a cluster contradict each other (bitmap {bitmap:#x})")]
    SubClusters {
        /// The bitmap.
        bitmap: u64,
    },
}
