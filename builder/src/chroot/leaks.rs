//! Where a finished disk holds what it must not.

use labwright_core::Cancel;
use labwright_disk::read_disk::{DataError, ReadDisk, for_each_piece};
use labwright_guest::audit::{InTree, Needles};

use super::wire::Leak;

/// The smallest block of the file systems that hold a root: where a byte is within its block of the disk, it is within
/// its block of the file.
const BLOCK: u64 = 1024;

/// A secret in the bytes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawHit {
    secret: String,
    encoding: &'static str,
    at: u64,
}

/// Searches everything that a disk holds, whatever it belongs to.
pub(crate) fn in_raw(raw: &dyn ReadDisk, needles: &Needles, cancel: &Cancel) -> Result<Vec<RawHit>, DataError> {
    let mut hits: Vec<RawHit> = Vec::new();
    for_each_piece(raw, needles.overlap(), cancel, &mut |begin, bytes| {
        for hit in needles.find(bytes) {
            let hit = RawHit { secret: hit.name.to_owned(), encoding: hit.encoding, at: begin + hit.at as u64 };
            // What lies in the overlap of two pieces is found twice.
            if !hits.contains(&hit) {
                hits.push(hit);
            }
        }
    })?;
    Ok(hits)
}

/// Puts together what was found in the bytes and in the files of a disk. What no file has is in blocks that are free
/// or belong to the file system itself. Of several copies at the same place of a block, which one is free is a guess.
pub(crate) fn places(mut raw: Vec<RawHit>, files: Vec<InTree>) -> Vec<Leak> {
    let mut leaks = Vec::new();
    for file in files {
        if let Some(at) = file.at {
            let same =
                |hit: &RawHit| hit.secret == file.name && hit.encoding == file.encoding && hit.at % BLOCK == at % BLOCK;
            if let Some(index) = raw.iter().position(same) {
                raw.remove(index);
            }
        }
        let place = match file.at {
            Some(_) => file.path.display().to_string(),
            None => format!("the name or target of {}", file.path.display()),
        };
        leaks.push(Leak { secret: file.name, encoding: file.encoding, place });
    }
    for hit in raw {
        let place = format!("no file, at byte {} of the disk (freed blocks, names of deleted files)", hit.at);
        leaks.push(Leak { secret: hit.secret, encoding: hit.encoding.to_owned(), place });
    }
    leaks.dedup();
    leaks
}

#[cfg(test)]
mod tests {
    use labwright_core::{NamedSecret, Secret};

    use super::*;

    #[test]
    fn each_copy_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let mut bytes = vec![0; 6 << 20];
        for at in [5000, (4 << 20) - 4, 5 << 20] {
            bytes[at..at + 12].copy_from_slice(b"hunter2hunte");
        }
        fs_err::write(&path, &bytes).unwrap();
        let secrets = [NamedSecret { name: "token".to_owned(), value: Secret::new(b"hunter2hunte".to_vec()).unwrap() }];
        let raw = fs_err::File::open(&path).unwrap();
        let hits = in_raw(&raw, &Needles::secrets(&secrets), &Cancel::new()).unwrap();
        let file =
            InTree { name: "token".to_owned(), encoding: "as it is".to_owned(), path: "/etc/x".into(), at: Some(904) };
        let places: Vec<String> = places(hits, vec![file]).into_iter().map(|leak| leak.place).collect();
        assert_eq!(
            places,
            [
                "/etc/x",
                "no file, at byte 4194300 of the disk (freed blocks, names of deleted files)",
                "no file, at byte 5242880 of the disk (freed blocks, names of deleted files)",
            ]
        );
    }
}
