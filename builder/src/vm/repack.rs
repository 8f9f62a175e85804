//! A Debian package written again without compression: the machine then need not emulate the decompressor.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fs_err::File;
use labwright_core::{Algorithm, Digest, Hasher};

use super::package::{MemberHeader, PackageError, decompress, members};

/// The most that the contents of one package may be, in bytes. A larger one is handed over as it is.
const LARGEST: u64 = 4 << 30;

/// The digest of a file, and its size.
pub(crate) fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finish())
}

/// Writes the package `from` without compression to `to`, which must not exist, and returns its size. A package that
/// has anything unusual about it is copied.
pub(crate) fn uncompressed(from: &Path, to: &Path) -> io::Result<u64> {
    match repack(from, to) {
        Ok(size) => Ok(size),
        Err(PackageError::Format { reason, .. }) => {
            tracing::debug!(package = %from.display(), reason, "handed over as it is");
            let mut copy = File::create(to)?;
            io::copy(&mut File::open(from)?, &mut copy)
        }
        Err(PackageError::Read { source }) => Err(source),
    }
}

fn repack(from: &Path, to: &Path) -> Result<u64, PackageError> {
    let unusual = |reason| PackageError::Format { path: from.display().to_string(), reason };
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(to)?);
    out.write_all(b"!<arch>\n")?;
    for member in members(from)? {
        let mut file = File::open(from)?;
        file.seek(SeekFrom::Start(member.offset))?;
        let packed = BufReader::with_capacity(1 << 18, file.take(member.size));
        let (name, ending) = match member.name.split_once(".tar") {
            Some((stem @ ("control" | "data"), ending)) => (format!("{stem}.tar"), ending),
            _ => (member.name.clone(), ""),
        };
        let mut content = match ending {
            "" | ".xz" | ".zst" => decompress(&member.name, packed)?,
            _ => return Err(unusual("it is compressed in an old way")),
        }
        .take(LARGEST + 1);
        let place = out.stream_position()?;
        out.write_all(&MemberHeader { name: &name, size: 0 }.bytes())?;
        let size = io::copy(&mut content, &mut out)?;
        if size > LARGEST {
            return Err(unusual("its contents are too large"));
        }
        if size % 2 == 1 {
            out.write_all(b"\n")?;
        }
        let end = out.stream_position()?;
        out.seek(SeekFrom::Start(place))?;
        out.write_all(&MemberHeader { name: &name, size }.bytes())?;
        out.seek(SeekFrom::Start(end))?;
    }
    let size = out.stream_position()?;
    out.flush()?;
    Ok(size)
}

/// Runs the same work on each processor, which shares out what there is to do; the first failure, once all have ended.
pub(super) fn on_all_processors<E: Send>(work: impl Fn() -> Result<(), E> + Copy + Send) -> Result<(), E> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::package::tests::package;
    use super::*;

    #[test]
    fn contents_stay_and_compression_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, again) = (dir.path().join("a.deb"), dir.path().join("b.deb"), dir.path().join("c.deb"));
        let long = vec![b'x'; 100_001];
        let bytes = package(&[("usr/bin/x", &long), ("etc/y", b"why")]);
        fs_err::write(&from, &bytes).unwrap();
        let size = uncompressed(&from, &to).unwrap();
        assert_eq!(size, fs_err::metadata(&to).unwrap().len());
        let names: Vec<_> = members(&to).unwrap().into_iter().map(|member| member.name).collect();
        assert_eq!(names, ["debian-binary", "control.tar", "data.tar"]);
        assert!(size > 100_001 && (bytes.len() as u64) < 10_000);
        let mut found = Vec::new();
        super::super::package::read(&to, &mut |path, content| {
            found.push((path.display().to_string(), io::read_to_string(content)?.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [("usr/bin/x".to_owned(), 100_001), ("etc/y".to_owned(), 3)]);
        // What has no compression stays as it is.
        uncompressed(&to, &again).unwrap();
        assert_eq!(fs_err::read(&to).unwrap(), fs_err::read(&again).unwrap());
    }

    #[test]
    fn what_cannot_be_repacked_is_copied_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a.deb"), dir.path().join("b.deb"));
        fs_err::write(&from, b"not a package").unwrap();
        assert_eq!(uncompressed(&from, &to).unwrap(), 13);
        assert_eq!(fs_err::read(&to).unwrap(), b"not a package");
        let mut bytes = package(&[("usr/bin/x", &[b'x'; 5000])]);
        let at = bytes.len() - 40;
        bytes[at] ^= 0xff;
        fs_err::write(&from, &bytes).unwrap();
        assert!(uncompressed(&from, &dir.path().join("c.deb")).is_err());
    }
}
