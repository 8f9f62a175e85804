//! The deterministic archive of a bundle or a chart.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use labwright_core::Digest;

use super::names::{InvalidName, Names};
use super::{MAX_LAYER, MAX_MEMBERS, MAX_UNPACKED};
use crate::stored_gzip::StoredGzip;
use crate::tar_reader::Kind;

/// What a directory may be used for, by everyone who unpacks it.
const DIRECTORY_MODE: u32 = 0o755;

/// What a file may be used for.
const FILE_MODE: u32 = 0o644;

/// The most bytes of the first name field of a tar header.
const NAME_FIELD: usize = 100;

/// The most bytes of its prefix field.
const PREFIX_FIELD: usize = 155;

/// Where that field begins.
const PREFIX_AT: usize = 345;

/// An archive as a layer.
#[derive(Debug)]
pub(super) struct Tarball {
    /// The gzip-compressed archive.
    pub(super) bytes: Vec<u8>,
    /// The digest of the archive itself.
    pub(super) diff_id: Digest,
}

/// Why files cannot be put into an archive; the caller says of which.
#[derive(Debug)]
pub(super) enum TarballError {
    Name(String, InvalidName),
    TooManyMembers(usize),
    TooLarge(u64),
}

/// Writes an archive of these files and of the directories that they are in, sorted by name, owned by root.
///
/// The gzip stream is stored, not compressed: the files of a lab are small, and its digest depends on no version of a
/// compressor. `mtime` is in seconds since 1970.
pub(super) fn write(files: &BTreeMap<String, Vec<u8>>, mtime: u64) -> Result<Tarball, TarballError> {
    let mut names = Names::default();
    let mut members: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for (name, bytes) in files {
        names.add(name, Kind::File).map_err(|source| TarballError::Name(name.clone(), source))?;
        directories.extend(name.match_indices('/').map(|(at, _)| name[..=at].to_owned()));
        members.insert(name.clone(), bytes);
    }
    members.extend(directories.into_iter().map(|name| (name, [].as_slice())));
    if members.len() > MAX_MEMBERS {
        return Err(TarballError::TooManyMembers(members.len()));
    }
    let mut tar = Vec::new();
    for (name, bytes) in members {
        let header = header(&name, bytes.len() as u64, mtime)
            .ok_or_else(|| TarballError::Name(name.clone(), InvalidName::TooLong))?;
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
        if tar.len() as u64 + 1024 > MAX_UNPACKED {
            return Err(TarballError::TooLarge(MAX_UNPACKED));
        }
    }
    tar.resize(tar.len() + 1024, 0);
    let gzip = || -> io::Result<Vec<u8>> {
        let mut gzip = StoredGzip::new(Vec::new())?;
        gzip.write_all(&tar)?;
        gzip.finish()
    };
    let bytes = gzip().expect("writing into memory does not fail");
    if bytes.len() as u64 > MAX_LAYER {
        return Err(TarballError::TooLarge(MAX_LAYER));
    }
    Ok(Tarball { bytes, diff_id: Digest::sha256(&tar) })
}

/// The header of a member, a directory if its name ends with `/`; `None` if the name does not fit.
fn header(name: &str, size: u64, mtime: u64) -> Option<tar::Header> {
    let (prefix, short) = split(name)?;
    let mut header = tar::Header::new_ustar();
    let block = header.as_mut_bytes();
    block[..short.len()].copy_from_slice(short.as_bytes());
    block[PREFIX_AT..PREFIX_AT + prefix.len()].copy_from_slice(prefix.as_bytes());
    let (kind, mode) = if name.ends_with('/') {
        (tar::EntryType::Directory, DIRECTORY_MODE)
    } else {
        (tar::EntryType::Regular, FILE_MODE)
    };
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(size);
    header.set_cksum();
    Some(header)
}

/// Splits a name at a `/` so that both parts fit their fields.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME_FIELD {
        return Some(("", name));
    }
    name.match_indices('/')
        .map(|(at, _)| (&name[..at], &name[at + 1..]))
        .find(|(prefix, short)| prefix.len() <= PREFIX_FIELD && !short.is_empty() && short.len() <= NAME_FIELD)
}
