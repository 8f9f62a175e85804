use std::collections::BTreeMap;
use std::io::{self, Read as _};

use flate2::bufread::GzDecoder;

use super::names::{InvalidName, Names};
use super::{MAX_LAYER, MAX_MEMBERS, MAX_UNPACKED};
use crate::tar_reader::{Kind, TarError, TarReader};

/// A layer is not that of a bundle, or is made to do harm.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The layer itself is larger than allowed.
    #[error("it has {0} bytes; at most {MAX_LAYER} are read")]
    LayerTooLarge(u64),
    /// No proper gzip stream.
    #[error("it is not a whole gzip stream")]
    Gzip(#[source] io::Error),
    /// It unpacks to more than allowed.
    #[error("it unpacks to more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// Something follows the gzip stream or the archive in it.
    #[error("something follows the end of the archive")]
    Trailing,
    /// No proper archive.
    #[error("it is not a usable archive")]
    Tar(#[source] TarError),
    /// A link, a device or the like.
    #[error("`{}` is neither a file nor a directory", .0.escape_default())]
    Special(String),
    /// A name that a member must not have.
    #[error("the name `{}` cannot be used", name.escape_default())]
    Name {
        /// The member.
        name: String,
        /// What is wrong.
        source: InvalidName,
    },
    /// More members than allowed.
    #[error("it has more than {MAX_MEMBERS} members")]
    TooManyMembers,
}

/// Takes the files out of the layer of a bundle that anyone may have made; nothing is written.
///
/// Only what all tools read alike is accepted: one gzip stream of one archive of files and directories without extended
/// headers, with plain relative names that are there once, and within [`MAX_LAYER`], [`MAX_UNPACKED`] and
/// [`MAX_MEMBERS`]. The digest of the layer is the caller's to verify.
pub fn unpack(layer: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, UnpackError> {
    if layer.len() as u64 > MAX_LAYER {
        return Err(UnpackError::LayerTooLarge(layer.len() as u64));
    }
    let mut decoder = GzDecoder::new(layer);
    let mut plain = Vec::new();
    // One byte more than allowed tells a bomb from a whole stream, whose checksum is verified at its end.
    decoder.by_ref().take(MAX_UNPACKED + 1).read_to_end(&mut plain).map_err(UnpackError::Gzip)?;
    if plain.len() as u64 > MAX_UNPACKED {
        return Err(UnpackError::TooLarge);
    }
    if !decoder.into_inner().is_empty() {
        return Err(UnpackError::Trailing);
    }
    let mut tar = TarReader::strict(plain.as_slice());
    let (mut files, mut names, mut members) = (BTreeMap::new(), Names::default(), 0);
    while let Some(entry) = tar.next_entry().map_err(UnpackError::Tar)? {
        members += 1;
        if members > MAX_MEMBERS {
            return Err(UnpackError::TooManyMembers);
        }
        if !matches!(entry.kind, Kind::File | Kind::Directory) {
            return Err(UnpackError::Special(entry.name));
        }
        names.add(&entry.name, entry.kind).map_err(|source| UnpackError::Name { name: entry.name.clone(), source })?;
        if entry.kind == Kind::File {
            let mut bytes = Vec::new();
            tar.read_to_end(&mut bytes).map_err(|error| UnpackError::Tar(error.into()))?;
            files.insert(entry.name, bytes);
        }
    }
    if tar.into_inner().iter().any(|&byte| byte != 0) {
        return Err(UnpackError::Trailing);
    }
    Ok(files)
}
