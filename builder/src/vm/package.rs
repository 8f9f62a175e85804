//! Debian packages are read without dpkg: a host of another distribution has none.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The size of a member's header in an ar archive.
const HEADER: u64 = 60;

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
    let member = members(deb)?.into_iter().find(|member| member.name.starts_with("data.tar"));
    let member = member.ok_or_else(|| wrong(deb, "it has no files"))?;
    let mut file = fs_err::File::open(deb)?;
    file.seek(SeekFrom::Start(member.offset))?;
    decompress(&member.name, file.take(member.size)).map_err(PackageError::from)
}

fn wrong(deb: &Path, reason: &'static str) -> PackageError {
    PackageError::Format { path: deb.display().to_string(), reason }
}

/// A file in a package's own archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where its bytes begin.
    pub(crate) offset: u64,
    /// How many there are.
    pub(crate) size: u64,
}

/// The header of a member, as it is written.
#[derive(Debug)]
pub(crate) struct MemberHeader<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: u64,
}

impl MemberHeader<'_> {
    /// Name, time, owner, group, mode, size.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", self.name, 0, 0, 0, 100_644, self.size).into_bytes()
    }
}

/// The members of a package's archive, in order.
pub(crate) fn members(deb: &Path) -> Result<Vec<Member>, PackageError> {
    let mut file = fs_err::File::open(deb)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut magic = Vec::new();
    (&mut file).take(8).read_to_end(&mut magic)?;
    if magic != b"!<arch>\n" {
        return Err(wrong(deb, "it does not begin like one"));
    }
    let mut found = Vec::new();
    let mut offset = 8;
    while offset < end {
        let mut header = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        (&mut file).take(HEADER).read_to_end(&mut header)?;
        let field = |range: std::ops::Range<usize>| {
            header.get(range).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default().trim()
        };
        let size: u64 = field(48..58).parse().map_err(|_| wrong(deb, "a member has no size"))?;
        let name = field(0..16).trim_end_matches('/').to_owned();
        offset += HEADER;
        if size > end - offset {
            return Err(wrong(deb, "a member is cut short"));
        }
        found.push(Member { name, offset, size });
        // Members begin at even places.
        offset += size + size % 2;
    }
    Ok(found)
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
        for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", b"odd"), ("data.tar.xz", &data)] {
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
