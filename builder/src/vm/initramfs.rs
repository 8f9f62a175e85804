//! The initial RAM disk: a cpio archive of the form "newc", written without any tool.
//!
//! Source: Linux documentation, "initramfs buffer format".

use std::io::{self, Write};

/// An archive being written. Directories must be added before what is in them.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    writer: W,
    /// The number of the next entry.
    next: u32,
}

/// The type bits of a file's mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, next: 1 }
    }

    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, (0, 0), content)
    }

    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Writes the end of the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.next = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.writer.flush()?;
        Ok(self.writer)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // Number, mode, owner, group, links, time, size, device (major, minor), the node's device, name, checksum.
        let fields = [self.next, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.next += 1;
        let mut header = "070701".to_owned();
        for field in fields {
            use std::fmt::Write as _;
            write!(header, "{field:08X}").expect("a string takes everything");
        }
        self.writer.write_all(header.as_bytes())?;
        self.writer.write_all(path.as_bytes())?;
        self.writer.write_all(&[0])?;
        self.pad(header.len() + path.len() + 1)?;
        self.writer.write_all(content)?;
        self.pad(content.len())
    }

    /// Contents and headers begin at multiples of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.writer.write_all(&[0; 3][..length.next_multiple_of(4) - length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_the_kernel_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.file("init", 0o755, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8(bytes).unwrap();
        let zeros = |count: usize| "0".repeat(8 * count);
        let device = format!(
            "07070100000002{mode}{}00000001{}0000000500000001{size}{}dev/console\0",
            zeros(2),
            zeros(4),
            zeros(1),
            mode = "00002180",
            size = "0000000C"
        );
        assert!(text.contains(&device), "{text}");
        let file = format!("07070100000003000081ED{}00000001{}00000005", zeros(2), zeros(1));
        assert!(text.contains(&file), "{text}");
        assert!(text.contains("init\0\0hello\0\0\x00070701"), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }
}
