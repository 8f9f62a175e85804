//! Frames on a byte stream: the length of the payload, its kind, the payload.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The most bytes that one frame carries behind its header.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One JSON document.
    Json(Vec<u8>),
    /// A piece of a file.
    Data(Vec<u8>),
}

/// Why bytes are not a frame of this protocol, or could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the stream between host and guest failed")]
    Stream {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The stream ended where a frame was due.
    #[error("the stream between host and guest ended")]
    End,
    /// A frame that claims too much.
    #[error("a frame of {length} bytes, where {MAX_PAYLOAD} are allowed")]
    TooLong {
        /// The length in the header, or of what was to be sent.
        length: usize,
    },
    /// A kind that nobody knows.
    #[error("a frame of the unknown kind {kind}")]
    Kind {
        /// The kind in the header.
        kind: u8,
    },
    /// The JSON is not what was due.
    #[error("a message that cannot be read")]
    Json {
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Data where a message was due, or a message where data was due.
    #[error("a frame of the wrong kind")]
    Unexpected,
}

impl From<io::Error> for FrameError {
    fn from(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof { Self::End } else { Self::Stream { source } }
    }
}

const JSON: u8 = 0;
const DATA: u8 = 1;

/// Writes one frame: the payload's length (u32, little endian), its kind (u8), the payload.
fn write(writer: &mut (impl Write + ?Sized), kind: u8, payload: &[u8]) -> Result<(), FrameError> {
    let length = payload.len();
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLong { length });
    }
    let length = u32::try_from(length).expect("the bound is below 4 GiB");
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(&[kind])?;
    writer.write_all(payload)?;
    Ok(())
}

/// Writes a message.
pub fn write_json(writer: &mut (impl Write + ?Sized), message: &impl Serialize) -> Result<(), FrameError> {
    // A request may hold secrets.
    let payload = Zeroizing::new(serde_json::to_vec(message).map_err(|source| FrameError::Json { source })?);
    write(writer, JSON, &payload)
}

/// Writes a piece of a file; at most [`MAX_PAYLOAD`] bytes.
pub fn write_data(writer: &mut (impl Write + ?Sized), piece: &[u8]) -> Result<(), FrameError> {
    write(writer, DATA, piece)
}

/// Reads one frame.
pub fn read(reader: &mut (impl Read + ?Sized)) -> Result<Frame, FrameError> {
    let mut header = [0; 5];
    reader.read_exact(&mut header)?;
    let [a, b, c, d, kind] = header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLong { length });
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload)?;
    match kind {
        JSON => Ok(Frame::Json(payload)),
        DATA => Ok(Frame::Data(payload)),
        kind => Err(FrameError::Kind { kind }),
    }
}

/// Reads a message.
pub fn read_json<T: DeserializeOwned>(reader: &mut (impl Read + ?Sized)) -> Result<T, FrameError> {
    match read(reader)? {
        Frame::Json(payload) => {
            serde_json::from_slice(&Zeroizing::new(payload)).map_err(|source| FrameError::Json { source })
        }
        Frame::Data(_) => Err(FrameError::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_a_length_a_kind_and_a_payload() {
        let mut bytes = Vec::new();
        write_json(&mut bytes, &"hi").unwrap();
        write_data(&mut bytes, b"\0\xff").unwrap();
        assert_eq!(bytes, b"\x04\0\0\0\0\"hi\"\x02\0\0\0\x01\0\xff");
        let mut reader = &bytes[..];
        assert_eq!(read_json::<String>(&mut reader).unwrap(), "hi");
        assert_eq!(read(&mut reader).unwrap(), Frame::Data(vec![0, 0xff]));
        assert!(matches!(read(&mut reader), Err(FrameError::End)));
    }

    #[test]
    fn hostile_frames_are_refused_before_memory_is_taken() {
        assert!(matches!(read(&mut &b"\xff\xff\xff\xff\0"[..]), Err(FrameError::TooLong { length: 0xffff_ffff })));
        assert!(matches!(read(&mut &b"\0\0\0\0\x07"[..]), Err(FrameError::Kind { kind: 7 })));
        assert!(matches!(read(&mut &b"\x09\0\0\0\0x"[..]), Err(FrameError::End)));
        assert!(matches!(read_json::<String>(&mut &b"\x01\0\0\0\x01x"[..]), Err(FrameError::Unexpected)));
        assert!(matches!(read_json::<String>(&mut &b"\x01\0\0\0\0x"[..]), Err(FrameError::Json { .. })));
        assert!(matches!(write_data(&mut Vec::new(), &vec![0; MAX_PAYLOAD + 1]), Err(FrameError::TooLong { .. })));
    }
}
