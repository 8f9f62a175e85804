//! Container images: a tree that runs as a container.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use fs_err as fs;
use labwright_core::{Algorithm, Cancel, Digest, Event, Hasher, ImageFacts, Reporter};

use crate::document::{ContainerConfig, Descriptor};
use crate::layout::Layout;
use crate::media_type::OCI_LAYER_GZIP;
use crate::pack::{self, PackError, Packed};

/// How much is read at a time, in bytes.
const BUFFER: usize = 1 << 20;

/// Packs a tar archive as the only layer of a container image and tags it `NAME:VERSION` of its facts, as
/// [`container_disk::pack`](crate::container_disk::pack()) does. `container` says how it runs; its labels are ours.
///
/// The same archive, facts, `created` (seconds since 1970, default 0) and other architectures in the index give the same
/// digests with one version of Labwright; another may compress in another way. `reporter` gets the progress of the task
/// `layer`.
pub fn pack(
    layout: &Layout,
    archive: &Path,
    facts: &ImageFacts,
    container: ContainerConfig,
    created: Option<u64>,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Packed, PackError> {
    let guard = layout.begin_write()?;
    let layer = write_layer(layout, archive, reporter, cancel)?;
    let packed = pack::tag(layout, facts, created.unwrap_or(0), layer, container)?;
    guard.close();
    Ok(packed)
}

/// Writes the layer blob in one pass; returns its descriptor and the digest of the tar in it.
fn write_layer(
    layout: &Layout,
    archive: &Path,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<(Descriptor, Digest), PackError> {
    let mut source = fs::File::open(archive).map_err(PackError::Read)?;
    let meta = source.metadata().map_err(PackError::Read)?;
    if !meta.is_file() {
        return Err(PackError::NotAFile { path: archive.to_owned() });
    }
    let write = |source| PackError::Write { dir: layout.dir().to_owned(), source };
    let blob = io::BufWriter::with_capacity(BUFFER, layout.blob_writer(Algorithm::Sha256)?);
    // gzip: the one compressed type that every tool must read.
    let mut gzip = GzEncoder::new(blob, Compression::default());
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    let mut done = 0;
    loop {
        cancel.check()?;
        let count = source.read(&mut buffer).map_err(PackError::Read)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        gzip.write_all(&buffer[..count]).map_err(write)?;
        done += count as u64;
        reporter.event(Event::Progress { task: "layer".to_owned(), done, total: Some(meta.len()) });
    }
    let blob = gzip.finish().map_err(write)?.into_inner().map_err(|error| write(error.into_error()))?;
    Ok((blob.commit(OCI_LAYER_GZIP, None)?, hasher.finish()))
}
