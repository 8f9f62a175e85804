//! Debian packages are read without dpkg: a host of another distribution has none.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The size of a member's header in an ar archive.
const HEADER: usize = 60;

/// The largest compressed kernel module or kernel that is believed, in bytes.
pub(crate) const LARGEST: u64 = 256 << 20;

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The file, or what it was compressed with; the source has the path where there is one.
    #[error("could not read a package")]
    Read {
        /// The reason.
        #[from]
        source: io::Error,
    },
    /// Not a Debian package.
    #[error("`{path}` is not a Debian package: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Calls `visit` for every regular file of a package, with its path without a leading `./`, until it answers with an
/// error.
pub(crate) fn read(
    deb: &Path,
    visit: &mut dyn FnMut(&Path, &mut dyn Read) -> io::Result<()>,
) -> Result<(), PackageError> {
    let mut archive = tar::Archive::new(data(deb)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() || entry.size() > LARGEST {
            continue;
        }
        let path = entry.path()?.into_owned();
        visit(path.strip_prefix("./").unwrap_or(&path), &mut entry)?;
    }
    Ok(())
}

/// The files of a package as a tar stream.
fn data(deb: &Path) -> Result<Box<dyn Read>, PackageError> {
    let wrong = |reason| PackageError::Format { path: deb.display().to_string(), reason };
    let mut file = fs_err::File::open(deb)?;
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(wrong("it does not begin like one"));
    }
    loop {
        let mut header = [0; HEADER];
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(wrong("it has no files")),
            result => result?,
        }
        let field = |range: std::ops::Range<usize>| str::from_utf8(&header[range]).unwrap_or_default().trim();
        let size: u64 = field(48..58).parse().map_err(|_| wrong("a member has no size"))?;
        let name = field(0..16).trim_end_matches('/');
        if name.starts_with("data.tar") {
            return decompress(name, file.take(size)).map_err(PackageError::from);
        }
        // Members begin at even places.
        let step = i64::try_from(size + size % 2).map_err(|_| wrong("a member is too large"))?;
        file.seek(SeekFrom::Current(step))?;
    }
}

/// What is compressed as the end of its name says.
pub(crate) fn decompress(name: &str, stream: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    Ok(match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Box::new(xz2::read::XzDecoder::new_multi_decoder(stream)),
        Some("zst") => Box::new(zstd::Decoder::new(stream)?),
        _ => Box::new(stream),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// A package with files.
    pub(crate) fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(xz2::write::XzEncoder::new(Vec::new(), 0));
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("./{path}"), *content).unwrap();
        }
        let data = tar.into_inner().unwrap().finish().unwrap();
        let mut deb = b"!<arch>\n".to_vec();
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar.xz", b"odd"), ("data.tar.xz", &data)] {
            writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, content.len()).unwrap();
            deb.extend_from_slice(content);
            if content.len() % 2 == 1 {
                deb.push(b'\n');
            }
        }
        deb
    }

    fn paths(bytes: &[u8]) -> Result<Vec<String>, PackageError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), bytes).unwrap();
        let mut found = Vec::new();
        read(file.path(), &mut |path, content| {
            found.push(format!("{}={}", path.display(), io::read_to_string(content)?));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn files_of_a_package_are_read() {
        let deb = package(&[("boot/vmlinuz-1", b"kernel"), ("lib/a.ko", b"module")]);
        assert_eq!(paths(&deb).unwrap(), ["boot/vmlinuz-1=kernel", "lib/a.ko=module"]);
        assert!(matches!(paths(&deb[..40]), Err(PackageError::Read { .. } | PackageError::Format { .. })));
        assert!(paths(&deb[..deb.len() - 40]).is_err());
        assert!(matches!(paths(b"not a package at all"), Err(PackageError::Format { .. })));
    }
}
