use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of a console's end is looked at for its last lines, in bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// What the kernel says when it gives up.
const PANIC: &[u8] = b"Kernel panic";

/// The last `lines` lines of a console log, without control sequences; fewer if it has fewer, and the lines of the
/// last 64 KiB only.
pub fn console_tail(log: &Path, lines: usize) -> io::Result<String> {
    let mut file = fs_err::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = plain(&String::from_utf8_lossy(&bytes));
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

/// Drops escape sequences and control characters: what a guest prints must not move our user's cursor.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(character) = chars.next() {
        match character {
            '\u{1b}' => match chars.next() {
                // Control sequences end with a letter or one of `@[\]^_{|}~`.
                Some('[') => while chars.next().is_some_and(|next| !('@'..='~').contains(&next)) {},
                // Operating system commands end with BEL or ESC \.
                Some(']') => while chars.next().is_some_and(|next| next != '\u{7}' && next != '\u{1b}') {},
                _ => {}
            },
            '\n' => out.push('\n'),
            // A lone carriage return overwrites the line; as text, it begins another.
            '\r' if chars.peek() != Some(&'\n') => out.push('\n'),
            '\t' => out.push(' '),
            other if other.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

/// Reads on in a console log and remembers whether the kernel panicked.
#[derive(Debug)]
pub(crate) struct Watch {
    log: PathBuf,
    at: u64,
    carry: Vec<u8>,
    panicked: bool,
}

impl Watch {
    pub(crate) fn new(log: &Path) -> Self {
        Self { log: log.to_owned(), at: 0, carry: Vec::new(), panicked: false }
    }

    /// Looks at what is new. A log that is not there yet has nothing new.
    pub(crate) fn panicked(&mut self) -> bool {
        if let Err(error) = self.read_on() {
            tracing::debug!(log = %self.log.display(), %error, "could not read the console");
        }
        self.panicked
    }

    fn read_on(&mut self) -> io::Result<()> {
        let mut file = fs_err::File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut buffer = [0; 8192];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.at += count as u64;
            self.carry.extend_from_slice(&buffer[..count]);
            self.panicked |= self.carry.windows(PANIC.len()).any(|window| window == PANIC);
            // The words may lie across two reads.
            let excess = self.carry.len().saturating_sub(PANIC.len() - 1);
            self.carry.drain(..excess);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_tail_is_plain_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "first\r\n\u{1b}[1;32m[  OK  ]\u{1b}[0m Started\ta\r\n\r\n\u{1b}]0;title\u{7}over\rwritten\u{8}\nlogin: ";
        fs_err::write(file.path(), text).unwrap();
        assert_eq!(console_tail(file.path(), 4).unwrap(), "[  OK  ] Started a\nover\nwritten\nlogin:");
        assert_eq!(console_tail(file.path(), 1).unwrap(), "login:");
        assert!(console_tail(Path::new("/nonexistent/console"), 1).is_err());
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "x\n".repeat(100_000) + "last\n").unwrap();
        let tail = console_tail(file.path(), usize::MAX).unwrap();
        assert!(tail.len() <= 64 << 10 && tail.ends_with("x\nlast"), "{}", tail.len());
    }

    #[test]
    fn a_panic_is_seen_across_two_writes_and_stays_seen() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut watch = Watch::new(file.path());
        file.write_all(b"[    1.0] Kernel pa").unwrap();
        assert!(!watch.panicked());
        file.write_all(b"nic - not syncing: VFS\n").unwrap();
        assert!(watch.panicked());
        file.write_all(b"more\n").unwrap();
        assert!(watch.panicked());
        assert!(!Watch::new(Path::new("/nonexistent/console")).panicked());
    }
}
