//! Taking the disk out of a containerDisk that anyone may have made.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use labwright_core::{Algorithm, Arch, ByteSize, Cancel, Cancelled, Digest, Hasher, ImageFacts, ImageRef, Reporter};

use super::copy::work_dir;
use super::inspect::{known_facts, read_config};
use super::source::{Place, blocking};
use super::transfer::{fetch, task_name};
use super::{Images, ImagesError};
use crate::container_disk::{FactsError, choose};
use crate::document::{Descriptor, Document, ImageConfig, Manifest};
use crate::layout::Layout;
use crate::remote::Progress;
use crate::tar_reader::{Entry, Kind, TarError, TarReader};

/// The directory in which a containerDisk has its disk.
const DISK: &str = "disk";

/// The largest zstd window that is accepted, as a power of two: what `zstd -19` and all container tools use fits.
const MAX_WINDOW: u32 = 27;

/// More files than this in the disk's directory are not even counted.
const MAX_FILES: usize = 16;

/// How much is handled at a time, in bytes; also the unit of holes in the result.
const BLOCK: usize = 64 << 10;

/// How much a stranger's image may make of our disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtractLimits {
    /// The most bytes that a layer may unpack to.
    pub bytes: u64,
    /// The most bytes that a layer may unpack to for each of its own bytes, beyond `free`.
    pub ratio: u64,
    /// So many bytes may come out of any layer, whatever the ratio.
    pub free: u64,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self { bytes: 256 << 30, ratio: 250, free: 1 << 30 }
    }
}

impl ExtractLimits {
    fn for_layer(&self, size: u64) -> u64 {
        self.free.saturating_add(size.saturating_mul(self.ratio)).min(self.bytes)
    }
}

/// A disk that was taken out of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractedDisk {
    /// The digest of the disk's bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The manifest that it belongs to.
    pub manifest: Digest,
    /// What Labwright knew about the image, if it built it.
    pub facts: Option<ImageFacts>,
}

/// The image has no disk that could be taken out, or is made to do harm.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// A layer is not a proper tar archive.
    #[error("the layer {layer} is broken")]
    Layer {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        source: TarError,
    },
    /// A compression that nobody uses for layers.
    #[error("the layer {layer} is neither plain nor compressed with gzip or zstd")]
    Compression {
        /// The layer.
        layer: Digest,
    },
    /// A bomb, or an honest image that is larger than allowed.
    #[error("the layer {layer} unpacks to more than {}, which its {} do not justify", ByteSize::from_bytes(*limit).human(), ByteSize::from_bytes(*size).human())]
    TooLarge {
        /// The layer.
        layer: Digest,
        /// Bytes of the layer itself.
        size: u64,
        /// Bytes that it may unpack to.
        limit: u64,
    },
    /// The layer has other bytes than the manifest promises.
    #[error("the layer {layer} has other content than its digest promises ({found})")]
    WrongDigest {
        /// The layer.
        layer: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The unpacked layer has other bytes than the config promises.
    #[error("the layer {layer} unpacks to other content than the image config promises")]
    WrongDiffId {
        /// The layer.
        layer: Digest,
    },
    /// A link or a device where the disk should be.
    #[error("`{}` in the layer {layer} is a link or a device, not a file", name.escape_default())]
    NotAFile {
        /// The layer.
        layer: Digest,
        /// The entry.
        name: String,
    },
    /// No disk.
    #[error("the image has no file below `/{DISK}`: it is not a containerDisk")]
    NoDisk,
    /// Several files where one disk should be.
    #[error("the image has several files below `/{DISK}` ({}): a containerDisk has exactly one", names.join(", "))]
    SeveralDisks {
        /// Some of them.
        names: Vec<String>,
    },
    /// The result cannot be written.
    #[error("`{path}` cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The layer's blob cannot be read.
    #[error("the layer {layer} cannot be read")]
    Read {
        /// The layer.
        layer: Digest,
        /// Why not.
        source: io::Error,
    },
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Images {
    /// Takes the disk out of a containerDisk, ours or made by docker, buildah or podman, and writes it to a file.
    ///
    /// `arch` chooses from an index; without it, this machine's own is taken, else the first. Layers of a registry are
    /// fetched into a directory beside `target` first. Digests, sizes and `limits` are checked before `target` appears,
    /// in one step, replacing what was there. The bytes of the disk are not looked at: check them before use.
    pub async fn extract_disk(
        &self,
        image: &ImageRef,
        arch: Option<Arch>,
        target: &Path,
        limits: &ExtractLimits,
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<ExtractedDisk, ImagesError> {
        let source = self.open(image, cancel).await?;
        let (descriptor, manifest) = match source.document(&source.root, cancel).await?.1 {
            Document::Manifest(manifest) => (source.root.clone(), manifest),
            Document::Index(index) => {
                let entry = choose(&index.manifests, arch)?.clone();
                match source.document(&entry, cancel).await?.1 {
                    Document::Manifest(manifest) => (entry, manifest),
                    Document::Index(_) => return Err(FactsError::NestedIndex.into()),
                }
            }
        };
        let config = read_config(&source, &manifest, cancel).await?;
        let facts = known_facts(&config);
        let work = work_dir(target)?;
        let place = match &source.place {
            Place::Registry(_) => {
                let layout = Layout::open_or_create(work.path().join("layers"))?;
                for layer in &manifest.layers {
                    let progress = Progress::new(reporter, &task_name(layer), layer.size);
                    fetch(&source, &layout, layer, &progress, cancel).await?;
                }
                Place::Layout(layout)
            }
            local => local.clone(),
        };
        let unpack = Unpack {
            place,
            manifest,
            config,
            work: work.path().to_owned(),
            target: target.to_owned(),
            limits: *limits,
            reporter: Arc::clone(reporter),
            cancel: cancel.clone(),
        };
        let found = blocking(move || unpack.run()).await?;
        Ok(ExtractedDisk { digest: found.digest, size: found.size, manifest: descriptor.digest, facts })
    }
}

/// A file that may be the disk.
struct Found {
    temp: tempfile::NamedTempFile,
    size: u64,
    digest: Digest,
}

struct FoundDisk {
    size: u64,
    digest: Digest,
}

struct Unpack {
    place: Place,
    manifest: Manifest,
    config: ImageConfig,
    work: PathBuf,
    target: PathBuf,
    limits: ExtractLimits,
    reporter: Arc<dyn Reporter>,
    cancel: Cancel,
}

impl Unpack {
    fn run(self) -> Result<FoundDisk, ImagesError> {
        let mut files: BTreeMap<String, Found> = BTreeMap::new();
        for (at, layer) in self.manifest.layers.iter().enumerate() {
            let blob: Box<dyn Read> = match &self.place {
                Place::Layout(layout) => Box::new(layout.open_blob(layer)?),
                Place::Archive(archive) => Box::new(archive.open_blob(layer)?),
                Place::Registry(_) => unreachable!("the layers of a registry were fetched into a layout"),
            };
            // Some makers leave diff ids out for layers that change nothing; then they cannot be told apart.
            let all = self.config.rootfs.diff_ids.len() == self.manifest.layers.len();
            let diff_id = self.config.rootfs.diff_ids.get(at).filter(|_| all);
            self.layer(blob, layer, diff_id, &mut files)?;
        }
        if files.len() > 1 {
            return Err(ExtractError::SeveralDisks { names: files.into_keys().take(MAX_FILES).collect() }.into());
        }
        let (_, found) = files.pop_first().ok_or(ExtractError::NoDisk)?;
        let write = |source| ExtractError::Write { path: self.target.clone(), source };
        found.temp.as_file().sync_all().map_err(write)?;
        found.temp.persist(&self.target).map_err(|error| write(error.error))?;
        Ok(FoundDisk { size: found.size, digest: found.digest })
    }

    /// Reads one layer to its end and applies it to what the layers below left.
    fn layer(
        &self,
        blob: impl Read,
        layer: &Descriptor,
        diff_id: Option<&Digest>,
        files: &mut BTreeMap<String, Found>,
    ) -> Result<(), ExtractError> {
        let digest = || layer.digest.clone();
        let limit = self.limits.for_layer(layer.size);
        let progress = Progress::new(&self.reporter, &format!("unpack {}", layer.digest.short()), layer.size);
        let compressed = Compressed {
            inner: blob,
            hasher: Hasher::new(layer.digest.algorithm()),
            done: 0,
            progress,
            cancel: self.cancel.clone(),
        };
        let read = |source| ExtractError::Read { layer: digest(), source };
        let plain = Plain {
            inner: decompress(compressed)
                .map_err(read)?
                .ok_or_else(|| ExtractError::Compression { layer: digest() })?,
            hasher: diff_id.map(|diff_id| Hasher::new(diff_id.algorithm())),
            left: limit,
        };
        let broken = |source: TarError| self.explain(source, layer, limit);
        let mut tar = TarReader::new(plain);
        let mut added = BTreeMap::new();
        while let Some(entry) = tar.next_entry().map_err(broken)? {
            if is_whiteout(&entry.name, files) {
                continue;
            }
            if entry.name == DISK && entry.kind == Kind::Directory {
                continue;
            }
            if entry.name != DISK && !entry.name.starts_with("disk/") {
                continue;
            }
            match entry.kind {
                Kind::Directory => {}
                Kind::Link | Kind::Special => return Err(ExtractError::NotAFile { layer: digest(), name: entry.name }),
                // A file where the directory should be hides all that was below.
                Kind::File if entry.name == DISK => files.clear(),
                Kind::File => {
                    if entry.size > limit {
                        return Err(ExtractError::TooLarge { layer: digest(), size: layer.size, limit });
                    }
                    if added.len() >= MAX_FILES {
                        return Err(ExtractError::SeveralDisks { names: added.into_keys().collect() });
                    }
                    let found = self.file(&mut tar, &entry, layer, limit)?;
                    added.insert(entry.name, found);
                }
            }
        }
        files.append(&mut added);
        // What follows the end mark belongs to the digests, too.
        let mut plain = tar.into_inner();
        io::copy(&mut plain, &mut io::sink()).map_err(|error| broken(error.into()))?;
        if let (Some(expected), Some(hasher)) = (diff_id, plain.hasher)
            && hasher.finish() != *expected
        {
            return Err(ExtractError::WrongDiffId { layer: digest() });
        }
        let mut compressed = plain.inner.into_inner();
        io::copy(&mut compressed, &mut io::sink()).map_err(|error| broken(error.into()))?;
        let found = compressed.into_inner().hasher.finish();
        if found == layer.digest { Ok(()) } else { Err(ExtractError::WrongDigest { layer: digest(), found }) }
    }

    /// Says what a failed read really means: our own limits and cancellation come through as read errors.
    fn explain(&self, source: TarError, layer: &Descriptor, limit: u64) -> ExtractError {
        if let Err(cancelled) = self.cancel.check() {
            return cancelled.into();
        }
        let layer_digest = layer.digest.clone();
        match &source {
            TarError::Read(error)
                if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<LimitReached>) =>
            {
                ExtractError::TooLarge { layer: layer_digest, size: layer.size, limit }
            }
            _ => ExtractError::Layer { layer: layer_digest, source },
        }
    }

    /// Writes the bytes of an entry to a temporary file, leaving holes where there is nothing.
    fn file(&self, tar: &mut impl Read, entry: &Entry, layer: &Descriptor, limit: u64) -> Result<Found, ExtractError> {
        let write = |source| ExtractError::Write { path: self.target.clone(), source };
        let mut temp = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&self.work)
            .map_err(write)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut block = vec![0; BLOCK];
        let mut left = entry.size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
            let piece = &mut block[..length];
            tar.read_exact(piece).map_err(|error| {
                let error =
                    if error.kind() == io::ErrorKind::UnexpectedEof { TarError::Truncated } else { error.into() };
                self.explain(error, layer, limit)
            })?;
            hasher.update(piece);
            if piece.iter().all(|&byte| byte == 0) {
                temp.seek(SeekFrom::Current(i64::try_from(length).expect("a block is small"))).map_err(write)?;
            } else {
                temp.write_all(piece).map_err(write)?;
            }
            left -= length as u64;
        }
        temp.as_file().set_len(entry.size).map_err(write)?;
        Ok(Found { temp, size: entry.size, digest: hasher.finish() })
    }
}

/// Removes what a whiteout hides; returns whether the entry is one.
///
/// Source: image-spec, layer.md, "Whiteouts".
fn is_whiteout(name: &str, files: &mut BTreeMap<String, Found>) -> bool {
    let (directory, base) = name.rsplit_once('/').unwrap_or(("", name));
    let Some(hidden) = base.strip_prefix(".wh.") else { return false };
    let below = |parent: &str| if parent.is_empty() { String::new() } else { format!("{parent}/") };
    if hidden == ".wh..opq" {
        files.retain(|file, _| !file.starts_with(&below(directory)));
    } else {
        let path = format!("{}{hidden}", below(directory));
        files.retain(|file, _| *file != path && !file.starts_with(&below(&path)));
    }
    true
}

/// The blob's own bytes, hashed as they pass.
struct Compressed<R> {
    inner: R,
    hasher: Hasher,
    done: u64,
    progress: Progress,
    cancel: Cancel,
}

impl<R: Read> Read for Compressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.done += count as u64;
        self.progress.at(self.done);
        Ok(count)
    }
}

type Input<R> = io::BufReader<Compressed<R>>;

/// A layer under one of the compressions that images use.
enum Decoder<R: Read> {
    Plain(Input<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
}

impl<R: Read> Decoder<R> {
    fn into_inner(self) -> Input<R> {
        match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Looks at the first bytes, not at the media type, which makers get wrong; `None` for other compressions.
fn decompress<R: Read>(compressed: Compressed<R>) -> io::Result<Option<Decoder<R>>> {
    let mut input = io::BufReader::with_capacity(256 << 10, compressed);
    let head = input.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Some(Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(MAX_WINDOW)?;
        Some(Decoder::Zstd(decoder))
    } else if head.starts_with(b"\xfd7zXZ\0") || head.starts_with(b"BZh") {
        None
    } else {
        Some(Decoder::Plain(input))
    })
}

/// A layer unpacks to more than it may.
#[derive(Debug, thiserror::Error)]
#[error("the layer unpacks to more than is allowed")]
struct LimitReached;

/// The unpacked bytes: counted, and hashed if the config has a digest for them.
struct Plain<R: Read> {
    inner: Decoder<R>,
    hasher: Option<Hasher>,
    left: u64,
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(LimitReached))?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}
