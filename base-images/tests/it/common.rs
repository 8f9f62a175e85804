//! What the tests of downloads share: a server that plays a vendor, and disks.
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use labwright_base_images::{Cache, Context, Fetcher, Limits, Retry};
use labwright_core::{ByteSize, Cancel, Digest, Event, Reporter};
use url::Url;

/// Whether the need is there; a skip is loud, and a panic where the need was promised.
pub(crate) fn has(need: &str, met: bool) -> bool {
    if !met {
        #[expect(clippy::disallowed_methods, reason = "the variable is the contract of the test suite")]
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == need), "LABWRIGHT_REQUIRE names {need}, which is missing");
        eprintln!("SKIPPED: needs {need}");
    }
    met
}

/// A raw disk that the header check accepts: a boot sector's mark, then bytes that repeat nowhere.
pub(crate) fn disk(megabytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .take(megabytes << 18)
    .flatten()
    .collect();
    bytes[..4].copy_from_slice(b"boot");
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// A request as the vendor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
}

/// A server that answers each request with what the script says.
#[derive(Debug)]
pub(crate) struct Vendor {
    pub(crate) url: Url,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Vendor {
    /// Starts the server; the script gets the request and its number, from 0.
    pub(crate) fn new(script: impl Fn(&Request, usize, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (Arc::clone(&log), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                thread::spawn(move || serve(stream, &seen, &*script));
            }
        });
        Self { url, log }
    }

    pub(crate) fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    script: &(dyn Fn(&Request, usize, &mut TcpStream) + Send + Sync),
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let request = Request { path, range: field("range"), if_range: field("if-range") };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    script(&request, number, &mut stream);
}

/// Sends an answer and closes. A client that has gone away is no fault of the server's.
pub(crate) fn answer(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let length = body.len().to_string();
    let headers = [headers, &[("Content-Length", &length)]].concat();
    head(stream, status, &headers);
    drop(stream.write_all(body));
}

/// Sends the beginning of an answer only.
pub(crate) fn head(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)]) {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    drop(stream.write_all((text + "\r\n").as_bytes()));
}

/// An honest answer: the whole file, or the rest of it if the client's proof still holds.
pub(crate) fn honest(request: &Request, stream: &mut TcpStream, body: &[u8], tag: &str) {
    let start = request.range.as_ref().filter(|_| request.if_range.as_deref() == Some(tag)).map(|range| {
        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse::<usize>().unwrap()
    });
    match start {
        Some(start) if start < body.len() => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            answer(stream, "206 Partial Content", &[("ETag", tag), ("Content-Range", &range)], &body[start..]);
        }
        Some(_) => answer(stream, "416 Range Not Satisfiable", &[], b""),
        None => answer(stream, "200 OK", &[("ETag", tag)], body),
    }
}

/// Begins an answer, sends some bytes of the body, and breaks the connection.
pub(crate) fn cut(stream: &mut TcpStream, body: &[u8], sent: usize, headers: &[(&str, &str)]) {
    let length = body.len().to_string();
    head(stream, "200 OK", &[headers, &[("Content-Length", &length)]].concat());
    drop(stream.write_all(&body[..sent]));
}

/// Keeps what was told.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<Event>>);

impl Reporter for Told {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// A cache in a fresh directory and a fetcher that is quick to give up.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cache: Cache,
    pub(crate) fetcher: Fetcher,
    pub(crate) told: Arc<Told>,
    pub(crate) reporter: Arc<dyn Reporter>,
    pub(crate) cancel: Cancel,
}

impl Bench {
    pub(crate) fn new() -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let limits = Limits { download: ByteSize::from_bytes(16 << 20), unpacked: ByteSize::from_bytes(32 << 20) };
        let retry = Retry {
            attempts: 3,
            pause: Duration::from_millis(10),
            longest_wait: Duration::from_secs(2),
            stall: Duration::from_secs(1),
        };
        let told = Arc::new(Told::default());
        let reporter: Arc<dyn Reporter> = Arc::clone(&told) as _;
        let fetcher = Fetcher::new(limits, retry).unwrap();
        Self { dir, cache, fetcher, told, reporter, cancel: Cancel::new() }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { fetcher: &self.fetcher, cache: &self.cache, reporter: &self.reporter, cancel: &self.cancel }
    }

    /// Everything in the cache except lock files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for sub in ["disks", "names", "partial", "work"] {
            for entry in fs_err::read_dir(self.dir.path().join(sub)).unwrap() {
                found.push(PathBuf::from(sub).join(entry.unwrap().file_name()));
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(bytes)
}
