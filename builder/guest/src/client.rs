//! The host's side of the protocol.

use std::io::{self, Read, Write};

use labwright_core::{LockedPackage, PackageFact};

use crate::audit::Finding;
use crate::frame::{self, Frame, FrameError};
use crate::inventory::Inventory;
use crate::protocol::{AptState, Failure, FileEnd, Message, Report, Request, Seat};
use crate::seal::SealReport;

/// The most that is taken of what apt's choice depends on, in bytes: ten times the largest Debian.
const APT_STATE: usize = 64 << 20;

/// What a step found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The packages that came from elsewhere than the base's own sources.
    pub packages: Vec<PackageFact>,
    /// The packages that came or changed their version; see [`Report::Installed`].
    pub installed: Vec<LockedPackage>,
    /// What sealing did.
    pub sealed: Option<SealReport>,
    /// What an audit found and did not fail of.
    pub findings: Vec<Finding>,
    /// The packages that a sealed image has.
    pub inventory: Option<Inventory>,
    /// What apt's choice of packages depends on.
    pub apt_state: Vec<AptState>,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The guest program cannot be talked to.
    #[error("could not talk to the guest program")]
    Talk {
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The guest program told more of apt than is believed.
    #[error("the guest program told more than {APT_STATE} bytes of apt's state")]
    TooMuch,
    /// The guest program ended in the middle.
    #[error("the guest program ended before the step was done")]
    Ended,
    /// The guest program asked for a file that the request does not name.
    #[error("the guest program asked for file {index}, of {count}")]
    NoSuchFile {
        /// The number that it asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A file could not be read.
    #[error("could not read file {index} for the guest")]
    File {
        /// Its number in the request.
        index: usize,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file is not as long as was said.
    #[error("file {index} for the guest changed while it was sent: it had {expected} bytes before")]
    FileChanged {
        /// Its number in the request.
        index: usize,
        /// The size in the request.
        expected: u64,
    },
    /// The guest's tree could not be kept.
    #[error("could not write the archive of the tree")]
    Archive {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The step failed in the guest.
    #[error("{}", .0.reason)]
    Failed(Failure),
}

impl From<FrameError> for ClientError {
    fn from(source: FrameError) -> Self {
        if matches!(source, FrameError::End) { Self::Ended } else { Self::Talk { source } }
    }
}

/// Has the guest program at the other end do a step, and waits for its end.
///
/// `open_file` gives the contents of the file with a number, as [`Request::file_sizes`] counts them; `on_message` sees
/// every message as it comes. Stopping early is done by ending the guest program.
pub fn run_step(
    writer: &mut dyn Write,
    reader: &mut dyn Read,
    request: &Request,
    open_file: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
    on_message: &mut dyn FnMut(&Message),
) -> Result<Outcome, ClientError> {
    // Nobody sits there: the shell is left at once.
    let mut nobody = |_: &str, writer: &mut dyn Write, reader: &mut dyn Read| {
        frame::write_json(writer, &Seat::Left)?;
        loop {
            if let Frame::Json(json) = frame::read(reader)?
                && matches!(serde_json::from_slice(&json), Ok(Message::ShellClosed))
            {
                return Ok(());
            }
        }
    };
    run_step_at_terminal(writer, reader, request, open_file, on_message, &mut nobody)
}

/// Lends a person's terminal to a shell: gets the lines for the person, and the streams to and from the guest.
pub type LendTerminal<'a> = dyn FnMut(&str, &mut dyn Write, &mut dyn Read) -> Result<(), FrameError> + 'a;

/// As [`run_step`], for a request with [`Terminal::Stream`](crate::protocol::Terminal::Stream): `lend_terminal` gets what
/// [`Message::ShellOpened`] says and both streams. It carries what is typed and shown until [`Message::ShellClosed`], and
/// says [`Seat::Left`] once.
pub fn run_step_at_terminal(
    writer: &mut dyn Write,
    reader: &mut dyn Read,
    request: &Request,
    open_file: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
    on_message: &mut dyn FnMut(&Message),
    lend_terminal: &mut LendTerminal<'_>,
) -> Result<Outcome, ClientError> {
    let sizes = request.file_sizes();
    frame::write_json(writer, request)?;
    writer.flush().map_err(FrameError::from)?;
    let mut outcome = Outcome::default();
    loop {
        let message: Message = frame::read_json(reader)?;
        on_message(&message);
        match message {
            Message::Want { file } => {
                let size = *sizes.get(file).ok_or(ClientError::NoSuchFile { index: file, count: sizes.len() })?;
                send_file(writer, file, size, open_file)?;
            }
            Message::Report(Report::Package(fact)) => outcome.packages.push(fact),
            Message::Report(Report::Installed(more)) => outcome.installed.extend(more),
            Message::Report(Report::Sealed(report)) => outcome.sealed = Some(report),
            Message::Report(Report::AptState(state)) => {
                let total: usize = outcome.apt_state.iter().map(|state| state.piece.len()).sum();
                if total + state.piece.len() > APT_STATE {
                    return Err(ClientError::TooMuch);
                }
                outcome.apt_state.push(state);
            }
            Message::Report(Report::Finding(finding)) => outcome.findings.push(finding),
            Message::Report(Report::Inventory(more)) => outcome.inventory.get_or_insert_default().extend(more),
            Message::Failed(failure) => return Err(ClientError::Failed(failure)),
            Message::Done => return Ok(outcome),
            Message::ShellOpened { words } => lend_terminal(&words, writer, reader)?,
            Message::ActionStarted { .. }
            | Message::ActionFinished { .. }
            | Message::Output { .. }
            // Nobody waits for them outside a shell.
            | Message::ShellTook
            | Message::ShellClosed => {}
        }
    }
}

/// Has the guest program at the other end send its tree, which is a request with [`Action::Archive`] alone, and writes the
/// tar archive to `sink`.
///
/// [`Action::Archive`]: crate::protocol::Action::Archive
pub fn receive_archive(
    writer: &mut dyn Write,
    reader: &mut dyn Read,
    request: &Request,
    sink: &mut dyn Write,
) -> Result<(), ClientError> {
    frame::write_json(writer, request)?;
    writer.flush().map_err(FrameError::from)?;
    loop {
        match frame::read(reader)? {
            Frame::Data(piece) => sink.write_all(&piece).map_err(|source| ClientError::Archive { source })?,
            Frame::Json(json) => match serde_json::from_slice(&json).map_err(|source| FrameError::Json { source })? {
                Message::Failed(failure) => return Err(ClientError::Failed(failure)),
                Message::Done => return sink.flush().map_err(|source| ClientError::Archive { source }),
                _ => {}
            },
        }
    }
}

/// Sends a file; where it cannot, tells the guest before it fails.
fn send_file(
    writer: &mut dyn Write,
    index: usize,
    size: u64,
    open_file: &mut dyn FnMut(usize) -> io::Result<Box<dyn Read>>,
) -> Result<(), ClientError> {
    let result = open_file(index)
        .map_err(|source| ClientError::File { index, source })
        .and_then(|mut content| copy(writer, index, size, &mut content));
    match &result {
        Ok(()) => frame::write_json(writer, &FileEnd::Complete)?,
        Err(ClientError::File { .. } | ClientError::FileChanged { .. }) => {
            let reason = result.as_ref().expect_err("this arm is for errors").to_string();
            // The file's error is the one to tell, whatever becomes of this farewell.
            drop(frame::write_json(writer, &FileEnd::Abort { reason }));
        }
        Err(_) => {}
    }
    writer.flush().map_err(FrameError::from)?;
    result
}

fn copy(writer: &mut dyn Write, index: usize, size: u64, content: &mut dyn Read) -> Result<(), ClientError> {
    let file = |source| ClientError::File { index, source };
    let changed = || ClientError::FileChanged { index, expected: size };
    let mut buffer = vec![0; 256 << 10];
    let mut left = size;
    loop {
        let count = content.read(&mut buffer).map_err(file)?;
        if count == 0 {
            return if left == 0 { Ok(()) } else { Err(changed()) };
        }
        left = left.checked_sub(count as u64).ok_or_else(changed)?;
        frame::write_data(writer, &buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use labwright_core::GuestPath;

    use super::*;
    use crate::protocol::{Action, Owner};

    fn request(size: u64) -> Request {
        let path: GuestPath = "/etc/motd".parse().unwrap();
        Request::new("/mnt", vec![Action::WriteFile { path, mode: 0o644, owner: Owner::root(), append: false, size }])
    }

    fn answers(messages: &[Message]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            frame::write_json(&mut bytes, message).unwrap();
        }
        bytes
    }

    #[test]
    fn files_are_sent_when_wanted() {
        let said = [Message::ActionStarted { index: 0 }, Message::Want { file: 0 }, Message::Done];
        let mut sent = Vec::new();
        let mut heard = Vec::new();
        let outcome = run_step(
            &mut sent,
            &mut &answers(&said)[..],
            &request(5),
            &mut |_| Ok(Box::new(&b"hello"[..])),
            &mut |message| heard.push(message.clone()),
        );
        assert_eq!(outcome.unwrap(), Outcome::default());
        assert_eq!(heard, said);
        let mut sent = &sent[..];
        assert_eq!(frame::read_json::<Request>(&mut sent).unwrap(), request(5));
        assert_eq!(frame::read(&mut sent).unwrap(), Frame::Data(b"hello".to_vec()));
        assert_eq!(frame::read_json::<FileEnd>(&mut sent).unwrap(), FileEnd::Complete);
        assert!(sent.is_empty());
    }

    #[test]
    fn a_file_that_changes_is_an_error_and_the_guest_hears_of_it() {
        for size in [4, 6] {
            let mut sent = Vec::new();
            let error = run_step(
                &mut sent,
                &mut &answers(&[Message::Want { file: 0 }])[..],
                &request(size),
                &mut |_| Ok(Box::new(&b"hello"[..])),
                &mut |_| {},
            )
            .unwrap_err();
            assert!(matches!(error, ClientError::FileChanged { index: 0, expected } if expected == size), "{error:?}");
            let text = String::from_utf8_lossy(&sent);
            assert!(text.contains(r#"{"abort":{"reason":"file 0 for the guest changed"#), "{text}");
        }
    }

    #[test]
    fn a_shell_that_nobody_can_see_is_left_at_once() {
        let opened = Message::ShellOpened { words: "look".to_owned() };
        let mut said = answers(&[opened]);
        frame::write_data(&mut said, b"$ ").unwrap();
        said.extend(answers(&[Message::ShellClosed, Message::Done]));
        let mut sent = Vec::new();
        let mut none = |_: usize| -> io::Result<Box<dyn Read>> { Ok(Box::new(&b""[..])) };
        run_step(&mut sent, &mut &said[..], &request(0), &mut none, &mut |_| {}).unwrap();
        let mut sent = &sent[..];
        assert_eq!(frame::read_json::<Request>(&mut sent).unwrap(), request(0));
        assert_eq!(frame::read_json::<Seat>(&mut sent).unwrap(), Seat::Left);
        assert!(sent.is_empty());
    }

    #[test]
    fn an_archive_is_what_comes_between_messages_and_is_whole_at_the_end() {
        let mut said = answers(&[Message::ActionStarted { index: 0 }]);
        frame::write_data(&mut said, b"one ").unwrap();
        frame::write_data(&mut said, b"two").unwrap();
        let request = Request::new("/mnt", vec![Action::Archive]);
        let mut sink = Vec::new();
        let cut = receive_archive(&mut Vec::new(), &mut &said[..], &request, &mut sink);
        assert!(matches!(cut, Err(ClientError::Ended)), "{cut:?}");
        said.extend(answers(&[Message::ActionFinished { index: 0 }, Message::Done]));
        sink.clear();
        receive_archive(&mut Vec::new(), &mut &said[..], &request, &mut sink).unwrap();
        assert_eq!(sink, b"one two");
    }

    #[test]
    fn an_early_end_and_a_wrong_wish_are_errors() {
        let mut none = |_: usize| -> io::Result<Box<dyn Read>> { Ok(Box::new(&b""[..])) };
        let error = run_step(&mut Vec::new(), &mut &b""[..], &request(0), &mut none, &mut |_| {});
        assert!(matches!(error, Err(ClientError::Ended)));
        let wish = answers(&[Message::Want { file: 1 }]);
        let error = run_step(&mut Vec::new(), &mut &wish[..], &request(0), &mut none, &mut |_| {});
        assert!(matches!(error, Err(ClientError::NoSuchFile { index: 1, count: 1 })));
    }
}
