use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use fs_err as fs;
use labwright_core::{Algorithm, Cancel, Digest, Event, Hasher, ImageFacts, Reporter};

use crate::document::{ContainerConfig, Descriptor};
use crate::layout::Layout;
use crate::media_type::OCI_LAYER_GZIP;
use crate::pack::{self, PackError, Packed};
use crate::stored_gzip::StoredGzip;

/// Who owns the disk: KubeVirt's launcher runs as this user and group.
const OWNER: u64 = 107;

/// Readable for the launcher, writable for nobody: KubeVirt writes into an overlay.
const DIRECTORY_MODE: u32 = 0o555;

/// As for the directory.
const FILE_MODE: u32 = 0o444;

/// Relative names, because CDI looks for names that begin with `disk`.
const DIRECTORY: &str = "disk/";

/// Never `info`, a name that CDI's server uses itself.
const FILE: &str = "disk/disk.img";

/// What a classic tar header can say: eleven octal digits.
const USTAR_MAX: u64 = (8 << 30) - 1;

/// How much is read at a time, in bytes.
const BUFFER: usize = 1 << 20;

/// Packs a disk as a containerDisk and tags it `NAME:VERSION` of its facts.
///
/// Where that tag names an index already, its entry for the same architecture is replaced and the others stay, so
/// packing for a second architecture extends the image. The digests depend on the disk's bytes, the facts, `created`
/// (seconds since 1970, default 0) and the other architectures in the index, and on nothing else.
///
/// The disk is read once, in order, and never held in memory. `reporter` gets the progress of the task `layer`.
pub fn pack(
    layout: &Layout,
    disk: &Path,
    facts: &ImageFacts,
    created: Option<u64>,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Packed, PackError> {
    let created = created.unwrap_or(0);
    let guard = layout.begin_write()?;
    let (layer, diff_id) = write_layer(layout, disk, created, reporter, cancel)?;
    let packed = pack::tag(layout, facts, created, (layer, diff_id), no_entrypoint())?;
    guard.close();
    Ok(packed)
}

/// Nothing runs in it, but `podman create` wants a program to be named.
fn no_entrypoint() -> ContainerConfig {
    ContainerConfig { entrypoint: vec!["no-entrypoint".to_owned()], ..ContainerConfig::default() }
}

/// Writes the layer blob in one pass; returns its descriptor and the digest of the tar in it.
fn write_layer(
    layout: &Layout,
    disk: &Path,
    created: u64,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<(Descriptor, Digest), PackError> {
    let mut source = fs::File::open(disk).map_err(PackError::Read)?;
    let meta = source.metadata().map_err(PackError::Read)?;
    if !meta.is_file() {
        return Err(PackError::NotAFile { path: disk.to_owned() });
    }
    let size = meta.len();
    let write = |source| PackError::Write { dir: layout.dir().to_owned(), source };
    let changed = || PackError::Changed { path: disk.to_owned() };

    let blob = io::BufWriter::with_capacity(BUFFER, layout.blob_writer(Algorithm::Sha256)?);
    let mut gzip = StoredGzip::new(blob).map_err(write)?;
    // The tar is hashed beside the blob that it is in: hashing is most of the work here.
    let diff_id = std::thread::scope(|scope| {
        let (pieces, received) = sync_channel::<Vec<u8>>(4);
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            for piece in received {
                hasher.update(&piece);
            }
            hasher.finish()
        });
        let mut put = |piece: Vec<u8>| -> Result<(), PackError> {
            gzip.write_all(&piece).map_err(write)?;
            pieces.send(piece).expect("the hashing thread ends only when this side does");
            Ok(())
        };
        put(tar_head(size, created))?;
        let mut done = 0;
        while done < size {
            cancel.check()?;
            let mut piece = Vec::with_capacity(BUFFER);
            let count =
                Read::by_ref(&mut source).take(BUFFER as u64).read_to_end(&mut piece).map_err(PackError::Read)?;
            done += count as u64;
            if count == 0 || done > size {
                return Err(changed());
            }
            put(piece)?;
            reporter.event(Event::Progress { task: "layer".to_owned(), done, total: Some(size) });
        }
        if source.read(&mut [0]).map_err(PackError::Read)? != 0 {
            return Err(changed());
        }
        let padding = usize::try_from(size.next_multiple_of(512) - size).expect("less than 512");
        put(vec![0; padding + 1024])?;
        drop(pieces);
        hashing.join().map_err(|panic| std::panic::resume_unwind(panic))
    })?;
    let blob = gzip.finish().map_err(write)?.into_inner().map_err(|error| write(error.into_error()))?;
    Ok((blob.commit(OCI_LAYER_GZIP, None)?, diff_id))
}

/// Everything of the tar before the disk's bytes: the directory and the header of the file.
fn tar_head(size: u64, mtime: u64) -> Vec<u8> {
    let header = |kind: tar::EntryType, path: &str, mode: u32, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(mode);
        header.set_uid(OWNER);
        header.set_gid(OWNER);
        header.set_mtime(mtime);
        header.set_size(size);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let mut head = header(tar::EntryType::Directory, DIRECTORY, DIRECTORY_MODE, 0);
    if size > USTAR_MAX {
        let record = pax_record("size", &size.to_string());
        head.extend(header(tar::EntryType::XHeader, "PaxHeaders.0/disk.img", FILE_MODE, record.len() as u64));
        head.extend_from_slice(record.as_bytes());
        head.resize(head.len().next_multiple_of(512), 0);
        // The true size is in the record before; old readers would take a wrong one from a GNU size field.
        head.extend(header(tar::EntryType::Regular, FILE, FILE_MODE, 0));
    } else {
        head.extend(header(tar::EntryType::Regular, FILE, FILE_MODE, size));
    }
    head
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    format!("{length} {key}={value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_8_gib_has_its_size_in_a_pax_record() {
        let size = USTAR_MAX + 1;
        let mut bytes = tar_head(size, 7);
        assert_eq!(bytes.len(), 4 * 512);
        // The reader takes the size from the record; there is no need for the eight gigabytes behind it.
        bytes.extend_from_slice(&[0; 512]);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .take(2)
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.size(), entry.header().mtime().unwrap())
            })
            .collect();
        assert_eq!(entries, [("disk/".to_owned(), 0, 7), ("disk/disk.img".to_owned(), size, 7)]);
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("size", "8589934592"), "19 size=8589934592\n");
        assert_eq!(pax_record("k", "v"), "6 k=v\n");
        assert_eq!(pax_record("k", "vvvvv"), "11 k=vvvvv\n");
    }
}
