use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The longest status line that is read, in bytes.
const LINE_LIMIT: usize = 1024;

/// Why a request on loopback got no status.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens, or the connection broke.
    #[error("no answer")]
    Io(#[from] io::Error),
    /// Something answered that is not HTTP.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// The connection was closed without an answer, as QEMU does while nothing listens in the guest.
    #[error("nothing listens in the guest")]
    Closed,
}

/// Asks `GET path` of a port on 127.0.0.1 and returns the status of the answer, within `timeout` altogether.
///
/// No more than the status line is read.
pub fn http_status(port: u16, path: &str, timeout: Duration) -> Result<u16, HttpError> {
    let end = Instant::now() + timeout;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    // One write: a server that does not care for the request may close in the middle of several.
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while !line.contains(&b'\n') {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HttpError::Io(io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            return Err(if line.is_empty() { HttpError::Closed } else { HttpError::NotHttp });
        }
        line.extend_from_slice(&buffer[..count]);
        if line.len() > LINE_LIMIT {
            return Err(HttpError::NotHttp);
        }
    }
    parse_status(&line).ok_or(HttpError::NotHttp)
}

fn parse_status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let digits = rest.get(..3)?;
    if !rest.get(3).is_none_or(|next| matches!(next, b' ' | b'\r' | b'\n')) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}

/// A port on 127.0.0.1 on which nobody listens at the moment.
///
/// Another program can take it before QEMU does; then QEMU says so and ends.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Answers one connection with these bytes and returns what was asked.
    fn answer(bytes: &'static [u8]) -> (u16, thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let count = stream.read(&mut asked).unwrap();
            asked.truncate(count);
            drop(stream.write_all(bytes));
            asked
        });
        (port, server)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn reads_the_status_and_no_more() {
        let (port, server) = answer(b"HTTP/1.1 503 Service Unavailable\r\n");
        assert_eq!(http_status(port, "/-/ready", SECOND).unwrap(), 503);
        let asked = format!("GET /-/ready HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        assert_eq!(String::from_utf8(server.join().unwrap()).unwrap(), asked);
    }

    #[test]
    fn what_is_not_http_is_not_ready() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1 99 \r\n",
            b"HTTP/1.1 20",
            &[b'x'; 5000],
        ] {
            let (port, _server) = answer(bytes);
            assert!(matches!(http_status(port, "/", SECOND), Err(HttpError::NotHttp)), "{bytes:?}");
        }
        let (port, _server) = answer(b"");
        assert!(matches!(http_status(port, "/", SECOND), Err(HttpError::Closed)));
        assert!(matches!(http_status(free_port().unwrap(), "/", SECOND), Err(HttpError::Io(_))));
    }

    #[test]
    fn silence_has_an_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let begin = Instant::now();
        let port = listener.local_addr().unwrap().port();
        let error = http_status(port, "/", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, HttpError::Io(_)), "{error:?}");
        assert!(begin.elapsed() < 10 * SECOND);
    }
}
