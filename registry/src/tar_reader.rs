//! Reads tar archives that strangers made: bounded memory, no surprises, nothing written.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

/// The most bytes of one extended header (long names, PAX records).
const MAX_EXTENSION: u64 = 1 << 20;

/// The most entries of one archive.
const MAX_ENTRIES: u64 = 1_000_000;

/// One block of a tar archive, in bytes.
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic or hard link.
    Link,
    /// A device node, a FIFO, or something that nobody knows.
    Special,
}

/// The head of an entry; its bytes follow in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name without a leading `/` or `./` and without `/` at the end; empty for the root directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes that follow.
    pub size: u64,
    /// Where those bytes begin, counted from the beginning of the archive.
    pub offset: u64,
}

/// The archive is broken, or made to do harm.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading failed, or the stream is no proper gzip or zstd.
    #[error("the archive cannot be read")]
    Read(#[from] io::Error),
    /// It ends inside an entry, or without the two empty blocks.
    #[error("the archive ends too early")]
    Truncated,
    /// No tar header where one should be.
    #[error("there is no valid tar header at byte {0} of the archive")]
    Header(u64),
    /// An extended header that is too large or broken.
    #[error("the extended header at byte {0} of the archive is too large or broken")]
    Extension(u64),
    /// A name that leaves the directory, or that is not UTF-8.
    #[error("the archive holds the name `{}`, which leaves the directory or is not text", .0.escape_default())]
    Name(String),
    /// A sparse file, which images must not have.
    #[error("the archive holds the sparse file `{}`", .0.escape_default())]
    Sparse(String),
    /// An extended header where none may be.
    #[error("the archive has an extended header at byte {0}, which this kind of archive must not have")]
    Extended(u64),
    /// A name with empty or `.` parts.
    #[error("the archive holds the name `{}`, which can be said in a shorter way", .0.escape_default())]
    Roundabout(String),
    /// More entries than anyone needs.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
}

/// Walks through an archive; memory use does not depend on the archive.
pub struct TarReader<R> {
    inner: R,
    strict: bool,
    /// Passes over bytes and says how many there were.
    pass_over: fn(&mut R, u64) -> io::Result<u64>,
    position: u64,
    remaining: u64,
    padding: u64,
    entries: u64,
}

impl<R> fmt::Debug for TarReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarReader")
            .field("position", &self.position)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl<R: Read + Seek> TarReader<R> {
    /// Reads a file from its beginning without reading what is skipped.
    pub fn seeking(inner: R) -> Self {
        Self { pass_over: seek_over, ..Self::new(inner) }
    }
}

impl<R: Read> TarReader<R> {
    /// Reads an archive from its beginning.
    pub fn new(inner: R) -> Self {
        Self { inner, strict: false, pass_over: read_over, position: 0, remaining: 0, padding: 0, entries: 0 }
    }

    /// Reads an archive about which all readers of the world must agree: without extended headers, whose meaning
    /// differs among them, with an end mark, and with names that say in one way where a file is below a directory.
    pub fn strict(inner: R) -> Self {
        Self { strict: true, ..Self::new(inner) }
    }

    /// What was read from.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; the rest of the one before is skipped. `None` at the end mark of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let (mut long_name, mut pax_name, mut pax_size) = (None, None, None);
        loop {
            self.skip()?;
            let at = self.position;
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? {
                // Some tools leave the end mark out; an archive that ends between two entries is whole.
                return if self.entries > 0 && !self.strict { Ok(None) } else { Err(TarError::Truncated) };
            }
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TarError::TooManyEntries);
            }
            let header = Header::parse(&block).ok_or(TarError::Header(at))?;
            if self.strict && matches!(header.flag, b'L' | b'K' | b'x' | b'g') {
                return Err(TarError::Extended(at));
            }
            self.announce(header.size, at)?;
            match header.flag {
                b'L' => long_name = Some(until_nul(&self.extension(header.size, at)?).to_vec()),
                b'x' => {
                    for (key, value) in pax_records(&self.extension(header.size, at)?).ok_or(TarError::Extension(at))? {
                        match key.as_slice() {
                            b"path" => pax_name = Some(value),
                            b"size" => pax_size = Some(decimal(&value).ok_or(TarError::Extension(at))?),
                            key if key.starts_with(b"GNU.sparse.") => {
                                return Err(TarError::Sparse(String::from_utf8_lossy(&header.name).into_owned()));
                            }
                            _ => {}
                        }
                    }
                }
                // Global records may change sizes of all entries; nobody who makes images does that.
                b'g' | b'K' => drop(self.extension(header.size, at)?),
                flag => {
                    let raw = pax_name.take().or(long_name.take()).unwrap_or(header.name);
                    let kind = match flag {
                        b'0' | 0 | b'7' if raw.ends_with(b"/") => Kind::Directory,
                        b'0' | 0 | b'7' => Kind::File,
                        b'5' => Kind::Directory,
                        b'1' | b'2' => Kind::Link,
                        b'S' => return Err(TarError::Sparse(String::from_utf8_lossy(&raw).into_owned())),
                        _ => Kind::Special,
                    };
                    if self.strict {
                        check_spelling(&raw, kind)?;
                    }
                    let name = clean_name(raw)?;
                    // Only files carry bytes, whatever the header of another kind says (as in every other reader).
                    let size = if kind == Kind::File { pax_size.unwrap_or(header.size) } else { 0 };
                    self.announce(size, at)?;
                    return Ok(Some(Entry { name, kind, size, offset: self.position }));
                }
            }
        }
    }

    /// Says how many bytes follow.
    fn announce(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        let padded = size.checked_next_multiple_of(BLOCK as u64).ok_or(TarError::Header(at))?;
        self.position.checked_add(padded).ok_or(TarError::Header(at))?;
        (self.remaining, self.padding) = (size, padded - size);
        Ok(())
    }

    /// Fills a block; `false` if there is nothing at all.
    fn fill(&mut self, block: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position += filled as u64;
        Ok(true)
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let length = self.remaining + self.padding;
        (self.remaining, self.padding) = (0, 0);
        let skipped = (self.pass_over)(&mut self.inner, length)?;
        self.position += skipped;
        if skipped == length { Ok(()) } else { Err(TarError::Truncated) }
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Extension(at));
        }
        let mut bytes = Vec::new();
        self.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(TarError::Truncated) }
    }
}

fn read_over<R: Read>(inner: &mut R, length: u64) -> io::Result<u64> {
    io::copy(&mut inner.by_ref().take(length), &mut io::sink())
}

fn seek_over<R: Read + Seek>(inner: &mut R, length: u64) -> io::Result<u64> {
    let Some(before) = length.checked_sub(1) else { return Ok(0) };
    let before_signed = i64::try_from(before).map_err(|_| io::ErrorKind::InvalidData)?;
    inner.seek(SeekFrom::Current(before_signed))?;
    // A seek succeeds beyond the end of a file too; only a byte that can be read proves that it is there.
    let last = io::copy(&mut inner.by_ref().take(1), &mut io::sink())?;
    Ok(before + last)
}

/// Reads the bytes of the present entry.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if limit == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..limit])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

struct Header {
    name: Vec<u8>,
    size: u64,
    flag: u8,
}

impl Header {
    /// Reads a header block; `None` if its checksum or a number is wrong.
    fn parse(block: &[u8; BLOCK]) -> Option<Self> {
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| u64::from(if (148..156).contains(&at) { b' ' } else { byte }))
            .sum();
        if octal(&block[148..156])? != sum {
            return None;
        }
        let size = &block[124..136];
        let size = if size[0] & 0x80 == 0 {
            octal(size)?
        } else {
            // GNU's base-256 form; anything above 64 bits is nonsense.
            if size[0] != 0x80 || size[1..4].iter().any(|&byte| byte != 0) {
                return None;
            }
            u64::from_be_bytes(size[4..].try_into().ok()?)
        };
        let mut name = until_nul(&block[..100]).to_vec();
        let prefix = until_nul(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Some(Self { name, size, flag: block[156] })
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn decimal(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Splits `LENGTH KEY=VALUE\n` records.
fn pax_records(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Some(records)
}

/// Refuses names that leave the directory; strips what is said in several ways.
fn clean_name(raw: Vec<u8>) -> Result<String, TarError> {
    let text = String::from_utf8(raw)
        .map_err(|error| TarError::Name(String::from_utf8_lossy(error.as_bytes()).into_owned()))?;
    if text.contains('\0') || text.split('/').any(|part| part == "..") {
        return Err(TarError::Name(text));
    }
    Ok(text.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/"))
}

/// Refuses names that others may take for names outside, and names that are said in a roundabout way.
fn check_spelling(raw: &[u8], kind: Kind) -> Result<(), TarError> {
    let name = || String::from_utf8_lossy(raw).into_owned();
    if raw.starts_with(b"/") {
        return Err(TarError::Name(name()));
    }
    let path = if kind == Kind::Directory { raw.strip_suffix(b"/").unwrap_or(raw) } else { raw };
    if path.split(|&byte| byte == b'/').any(|part| matches!(part, b"" | b".")) {
        return Err(TarError::Roundabout(name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn all(bytes: &[u8]) -> Result<Vec<(String, Kind, u64)>, TarError> {
        let mut reader = TarReader::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            found.push((entry.name, entry.kind, entry.size));
        }
        Ok(found)
    }

    #[test]
    fn agrees_with_an_ordinary_writer() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("{}/file", "directory-".repeat(30));
        builder.append(&header("./disk/", tar::EntryType::Directory, 0), &[][..]).unwrap();
        builder.append(&header("/disk/disk.img", tar::EntryType::Regular, 3), &b"abc"[..]).unwrap();
        let mut gnu = tar::Header::new_gnu();
        gnu.set_size(5);
        gnu.set_mode(0o644);
        builder.append_data(&mut gnu, &long, &b"12345"[..]).unwrap();
        builder.append(&header("link", tar::EntryType::Symlink, 0), &[][..]).unwrap();
        builder.append(&header("null", tar::EntryType::Char, 0), &[][..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert_eq!(
            all(&bytes).unwrap(),
            [
                ("disk".to_owned(), Kind::Directory, 0),
                ("disk/disk.img".to_owned(), Kind::File, 3),
                (long, Kind::File, 5),
                ("link".to_owned(), Kind::Link, 0),
                ("null".to_owned(), Kind::Special, 0),
            ]
        );
        let mut reader = TarReader::new(bytes.as_slice());
        reader.next_entry().unwrap();
        let entry = reader.next_entry().unwrap().unwrap();
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), entry.offset), ("abc", 1024));
    }

    #[test]
    fn refuses_what_is_broken_or_hostile() {
        let cut = [header("a", tar::EntryType::Regular, 2000).as_bytes().as_slice(), &[0; 512]].concat();
        assert!(matches!(all(&cut), Err(TarError::Truncated)));
        assert!(matches!(all(&[]), Err(TarError::Truncated)));
        assert!(matches!(all(&[1; 512]), Err(TarError::Header(0))));
        for name in ["../x", "a/../../x", "disk/.."] {
            let bytes = header(name, tar::EntryType::Regular, 0).as_bytes().to_vec();
            assert!(matches!(all(&bytes), Err(TarError::Name(_))), "{name}");
        }
        let sparse = header("a", tar::EntryType::GNUSparse, 0).as_bytes().to_vec();
        assert!(matches!(all(&sparse), Err(TarError::Sparse(_))));
        // A long name of terabytes must not be read into memory.
        let long = header("a", tar::EntryType::GNULongName, 8 << 29).as_bytes().to_vec();
        assert!(matches!(all(&long), Err(TarError::Extension(0))));
        for pax in ["5 a=b\n", "x a=b\n", "9999 a=b\n", "7 ab\n\n\n\n", "19 size=-589934592\n"] {
            let mut bytes = header("x", tar::EntryType::XHeader, pax.len() as u64).as_bytes().to_vec();
            bytes.extend_from_slice(pax.as_bytes());
            bytes.resize(1024, 0);
            assert!(matches!(all(&bytes), Err(TarError::Extension(0))), "{pax:?}");
        }
        let mut huge = header("a", tar::EntryType::Regular, 0);
        huge.as_mut_bytes()[124..136].copy_from_slice(&[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        huge.set_cksum();
        assert!(matches!(all(huge.as_bytes()), Err(TarError::Header(0))));
    }
}
