//! A client of the front door: plain HTTP requests, and ttyd's protocol over a WebSocket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocket;
use tungstenite::{Bytes, Message};

/// How long an emulated guest may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A front door on a port of 127.0.0.1, as somebody with or without its credential sees it.
#[derive(Debug, Clone)]
pub struct Door {
    port: u16,
    login: Option<String>,
}

impl Door {
    /// With the credential that an address of the form `http://USER:PASSWORD@127.0.0.1:PORT/PATH` carries.
    pub fn of_address(address: &str) -> Self {
        let rest = address.strip_prefix("http://").expect("the front door speaks HTTP");
        let (login, place) = rest.split_once('@').expect("the address carries the credential");
        let port = place.strip_prefix("127.0.0.1:").expect("the front door is on loopback");
        let port = port.split('/').next().and_then(|port| port.parse().ok()).expect("the address has a port");
        Self { port, login: Some(login.to_owned()) }
    }

    /// The origin that a browser names when a page of this very door asks.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same door without a credential.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { port: self.port, login: None }
    }

    /// The same door with another password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Self {
        let user = self.login.as_deref().and_then(|login| login.split(':').next()).unwrap_or("nobody");
        Self { port: self.port, login: Some(format!("{user}:{password}")) }
    }

    fn authorization(&self) -> Option<String> {
        self.login.as_ref().map(|login| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(login)))
    }

    /// The status of `GET path`, none where nothing answers.
    pub fn status(&self, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n", self.port);
        let authorization = self.authorization();
        let own = authorization.as_deref().map(|value| ("Authorization", value));
        for (name, value) in headers.iter().copied().chain(own) {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // QEMU accepts for a guest that does not listen, and then says nothing or cuts the line.
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }

    /// Waits until the door is ready, or until it is not.
    pub fn wait_ready(&self, wanted: bool, timeout: Duration) {
        let begin = Instant::now();
        while (self.anonymous().status("/-/ready", &[]) == Some(200)) != wanted {
            assert!(begin.elapsed() < timeout, "the front door's readiness is not {wanted} after {timeout:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Opens the WebSocket of the terminal at `path` (`/shell/`), as a page of this door or of `origin` does; the
    /// status where it is refused. Without an origin ttyd refuses everybody.
    pub fn open(&self, path: &str, origin: Option<&str>) -> Result<Shell, u16> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the front door's port is forwarded");
        stream.set_read_timeout(Some(ANSWER)).expect("a socket has a time-out");
        let address = format!("ws://127.0.0.1:{}{path}ws", self.port);
        let mut request = address.into_client_request().expect("the address is one");
        let value = |text: &str| HeaderValue::from_str(text).expect("printable ASCII is a header's value");
        request.headers_mut().insert("Sec-WebSocket-Protocol", value("tty"));
        if let Some(authorization) = self.authorization() {
            request.headers_mut().insert("Authorization", value(&authorization));
        }
        request.headers_mut().insert("Origin", value(origin.unwrap_or(&self.origin())));
        match tungstenite::client(request, stream) {
            Ok((mut socket, _)) => {
                let hello = r#"{"AuthToken":"","columns":80,"rows":24}"#;
                socket.send(Message::Binary(Bytes::from_static(hello.as_bytes()))).expect("the terminal listens");
                Ok(Shell { socket, seen: String::new(), count: 0 })
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("the WebSocket does not open: {error}"),
        }
    }
}

/// A shell in a terminal, at whose prompt commands are typed.
#[derive(Debug)]
pub struct Shell {
    socket: WebSocket<TcpStream>,
    seen: String,
    count: u32,
}

impl Shell {
    /// Types text as it is.
    pub fn type_text(&mut self, text: &str) {
        self.socket.send(Message::Binary(Bytes::from(format!("0{text}")))).expect("the terminal listens");
    }

    /// What the terminal showed until `end` came up; the text behind it is kept for the next call.
    pub fn read_until(&mut self, end: &str, timeout: Duration) -> String {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen.find(end) {
                let rest = self.seen.split_off(at + end.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(begin.elapsed() < timeout, "`{end}` did not come within {timeout:?}, but:\n{}", self.seen);
            match self.socket.read() {
                Ok(Message::Binary(data)) if data.first() == Some(&b'0') => {
                    self.seen.push_str(&String::from_utf8_lossy(&data[1..]));
                }
                // The title, preferences, pings.
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the terminal ended ({error}) after:\n{}", self.seen),
            }
        }
    }

    /// Runs a line of shell and returns what it printed and its exit code.
    pub fn run(&mut self, line: &str, timeout: Duration) -> (String, i32) {
        self.run_with_input(line, None, timeout)
    }

    /// The same; the input is typed once the command runs, which must switch the echo off itself.
    pub fn run_with_input(&mut self, line: &str, input: Option<&str>, timeout: Duration) -> (String, i32) {
        self.count += 1;
        // What is echoed must not look like what is printed, so the marks are put together by printf.
        let (begin, end) = (format!("<begin-{}>\n", self.count), format!("<end-{}-", self.count));
        let number = self.count;
        self.type_text(&format!("printf '<%s-{number}>\\n' begin; {line}; printf '<%s-{number}-%s>\\n' end $?\r"));
        let crlf = begin.replace('\n', "\r\n");
        self.read_until(&crlf, timeout);
        if let Some(input) = input {
            // bash's read has switched the echo off by then: it says so with its prompt.
            self.read_until("input? ", timeout);
            self.type_text(input);
        }
        let mut printed = self.read_until(&end, timeout);
        printed.truncate(printed.len() - end.len());
        let code = self.read_until(">", timeout);
        let code = code.trim_end_matches('>').parse().expect("the shell prints a number");
        (printed.replace("\r\n", "\n"), code)
    }

    /// Runs a line that must succeed; what it printed, without the white space around it.
    pub fn ok(&mut self, line: &str, timeout: Duration) -> String {
        let (printed, code) = self.run(line, timeout);
        assert_eq!(code, 0, "`{line}` failed and printed:\n{printed}");
        printed.trim().to_owned()
    }
}
