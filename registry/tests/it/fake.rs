//! A registry that misbehaves as it is told.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use labwright_core::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How the registry behaves; the default is well.
#[derive(Debug, Default)]
pub(crate) struct Knobs {
    /// What a mount answers: 201, 202 or something else; 0 means 202 with a session.
    pub(crate) mount: u16,
    /// Locations are paths with a query.
    pub(crate) relative: bool,
    /// Where uploads go, if not here.
    pub(crate) upload_host: Option<String>,
    /// PATCH and PUT bodies above this get 413.
    pub(crate) body_limit: Option<usize>,
    /// PATCH gets this.
    pub(crate) patch_status: Option<u16>,
    /// PATCH is redirected once more.
    pub(crate) patch_redirects: usize,
    /// Chunks must have this length.
    pub(crate) chunk_min: Option<usize>,
    /// The next bodies of PATCH are cut after so many bytes.
    pub(crate) cut_patch: Vec<usize>,
    /// What was read of a body that was cut is kept, and the session lives.
    pub(crate) keep_cut: bool,
    /// Requests whose `METHOD path` contains the text get the status and `Retry-After`, once each.
    pub(crate) fail: Vec<(&'static str, u16, Option<u32>)>,
    /// A bearer token is wanted; each is good for so many requests.
    pub(crate) token_uses: Option<usize>,
    /// Manifests with a subject are answered with `OCI-Subject`.
    pub(crate) lists_referrers: bool,
    /// Blobs are at another address.
    pub(crate) blob_redirect: Option<String>,
    /// GET of blobs ends after so many bytes, once each.
    pub(crate) cut_blob: Vec<usize>,
    /// Ranges are ignored.
    pub(crate) no_range: bool,
    /// `Content-Length` of blobs is off by this.
    pub(crate) lie: i64,
    /// GET of blobs sends the head and nothing more.
    pub(crate) hang: bool,
    /// After so many requests, nobody answers any more.
    pub(crate) die_after: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) knobs: Knobs,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) sessions: HashMap<usize, Vec<u8>>,
    /// `METHOD path`, and what came as authorization.
    pub(crate) log: Vec<(String, Option<String>)>,
    next: usize,
    token: usize,
    token_left: usize,
}

impl State {
    pub(crate) fn count(&self, part: &str) -> usize {
        self.log.iter().filter(|(line, _)| line.contains(part)).count()
    }
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) host: String,
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

#[derive(Default)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    lie: i64,
    hang: bool,
}

fn reply(status: u16) -> Reply {
    Reply { status, ..Reply::default() }
}

impl Reply {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Fake {
    pub(crate) async fn start(knobs: Knobs) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let fake = Self { state: Arc::new(Mutex::new(State { knobs, ..State::default() })), host };
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = serving.clone();
                tokio::spawn(async move { drop(fake.serve(stream).await) });
            }
        });
        fake
    }

    pub(crate) fn add_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for name in [tag.to_owned(), Digest::sha256(bytes).to_string()] {
            state.manifests.insert(name, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            // A TLS client says nothing that we understand.
            if head[0] == 0x16 {
                return Ok(());
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap().split(' ');
        let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
        let headers: HashMap<String, String> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        {
            let state = self.state.lock().unwrap();
            if state.knobs.die_after.is_some_and(|requests| state.log.len() >= requests) {
                return Ok(());
            }
        }
        let length: usize = headers.get("content-length").map_or(0, |value| value.parse().unwrap());
        let cut = {
            let mut state = self.state.lock().unwrap();
            let cuts = method == "PATCH" && !state.knobs.cut_patch.is_empty();
            cuts.then(|| state.knobs.cut_patch.remove(0))
        };
        let mut body = vec![0; cut.unwrap_or(length).min(length)];
        stream.read_exact(&mut body).await?;
        if cut.is_some() {
            let mut state = self.state.lock().unwrap();
            state.log.push((format!("{method} {path} cut"), None));
            let id = session_id(&path);
            if state.knobs.keep_cut {
                state.sessions.get_mut(&id).unwrap().extend(body);
            } else {
                state.sessions.remove(&id);
            }
            return Ok(());
        }
        let reply = self.answer(&Request { method: method.clone(), path, headers, body });
        let mut text = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
        for (name, value) in &reply.headers {
            write!(text, "{name}: {value}\r\n").unwrap();
        }
        let length = i64::try_from(reply.body.len()).unwrap() + reply.lie;
        write!(text, "Content-Length: {length}\r\n\r\n").unwrap();
        stream.write_all(text.as_bytes()).await?;
        if reply.hang {
            std::future::pending::<()>().await;
        }
        if method != "HEAD" {
            stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]).await?;
        }
        stream.shutdown().await
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let line = format!("{} {}", request.method, request.path);
        state.log.push((line.clone(), request.headers.get("authorization").cloned()));
        if request.path.starts_with("/token") {
            let login = request.headers.get("authorization").map(String::as_str);
            if login.is_some_and(|login| login != "Basic dTpw") {
                return reply(401);
            }
            state.token += 1;
            state.token_left = state.knobs.token_uses.unwrap();
            let body = format!(r#"{{"token":"t{}","expires_in":300}}"#, state.token).into_bytes();
            return Reply { body, ..reply(200) };
        }
        if state.knobs.token_uses.is_some() {
            let good = request.headers.get("authorization") == Some(&format!("Bearer t{}", state.token));
            if !good || state.token_left == 0 {
                let challenge = format!(r#"Bearer realm="http://{}/token",service="fake""#, self.host);
                return reply(401).with("WWW-Authenticate", challenge);
            }
            state.token_left -= 1;
        }
        if let Some(at) = state.knobs.fail.iter().position(|(part, ..)| line.contains(part)) {
            let (_, status, after) = state.knobs.fail.remove(at);
            let reply = reply(status);
            return match after {
                Some(seconds) => reply.with("Retry-After", seconds.to_string()),
                None => reply,
            };
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let query: HashMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key, value.replace("%3A", ":").replace("%2F", "/")))
            .collect();
        if path.contains("/blobs/uploads/") {
            return self.upload(state, request, &query);
        }
        let last = path.rsplit('/').next().unwrap();
        if path.contains("/referrers/") {
            if !state.knobs.lists_referrers {
                return reply(404);
            }
            let entries: Vec<_> = state
                .manifests
                .iter()
                .filter(|(name, (_, bytes))| {
                    let text = String::from_utf8_lossy(bytes);
                    name.starts_with("sha256:")
                        && text.split_once("\"subject\"").is_some_and(|(_, rest)| rest.contains(last))
                })
                .map(|(name, (kind, bytes))| {
                    format!(r#"{{"mediaType":"{kind}","digest":"{name}","size":{}}}"#, bytes.len())
                })
                .collect();
            let body = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes();
            return Reply { body, ..reply(200) }.with("Content-Type", "application/vnd.oci.image.index.v1+json");
        }
        match (request.method.as_str(), path.contains("/blobs/")) {
            ("HEAD", true) => reply(if state.blobs.contains_key(last) { 200 } else { 404 }),
            ("GET", true) => {
                if let Some(address) = &state.knobs.blob_redirect {
                    return reply(307).with("Location", format!("{address}/{last}"));
                }
                let Some(bytes) = state.blobs.get(last) else { return reply(404) };
                let range = request.headers.get("range").filter(|_| !state.knobs.no_range);
                let start: usize = range.map_or(0, |range| range[6..].trim_end_matches('-').parse().unwrap());
                let cut = (!state.knobs.cut_blob.is_empty()).then(|| state.knobs.cut_blob.remove(0));
                let body = bytes[start..].to_vec();
                let status = if range.is_some() { 206 } else { 200 };
                let reply = Reply { body, cut, lie: state.knobs.lie, hang: state.knobs.hang, ..reply(status) };
                match range {
                    Some(_) => {
                        reply.with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
                    }
                    None => reply,
                }
            }
            ("PUT", false) => {
                let digest = Digest::sha256(&request.body).to_string();
                let kind = request.headers["content-type"].clone();
                for name in [last.to_owned(), digest] {
                    state.manifests.insert(name, (kind.clone(), request.body.clone()));
                }
                let reply = reply(201);
                if state.knobs.lists_referrers { reply.with("OCI-Subject", "yes") } else { reply }
            }
            (_, false) => match state.manifests.get(last) {
                Some((kind, bytes)) => Reply { body: bytes.clone(), ..reply(200) }
                    .with("Content-Type", kind.clone())
                    .with("Docker-Content-Digest", Digest::sha256(bytes).to_string()),
                None => reply(404),
            },
            _ => reply(405),
        }
    }

    fn upload(&self, state: &mut State, request: &Request, query: &HashMap<&str, String>) -> Reply {
        let location = |id: usize| {
            if state.knobs.relative {
                format!("/v2/x/blobs/uploads/{id}?state=a%2Fb")
            } else {
                let host = state.knobs.upload_host.as_ref().unwrap_or(&self.host);
                format!("http://{host}/v2/x/blobs/uploads/{id}")
            }
        };
        let id = session_id(&request.path);
        match request.method.as_str() {
            "POST" => {
                if query.contains_key("mount") {
                    match state.knobs.mount {
                        0 | 202 => {}
                        status => return reply(status),
                    }
                }
                state.next += 1;
                state.sessions.insert(state.next, Vec::new());
                let reply = reply(202).with("Location", location(state.next)).with("Range", "0-0");
                match state.knobs.chunk_min {
                    Some(length) => reply.with("OCI-Chunk-Min-Length", length.to_string()),
                    None => reply,
                }
            }
            "DELETE" => reply(if state.sessions.remove(&id).is_some() { 204 } else { 404 }),
            _ if state.knobs.relative && query.get("state").map(String::as_str) != Some("a/b") => reply(400),
            _ if !state.sessions.contains_key(&id) => reply(404),
            "GET" => {
                let length = state.sessions[&id].len();
                reply(204).with("Location", location(id)).with("Range", format!("0-{}", length.saturating_sub(1)))
            }
            "PATCH" if state.knobs.patch_redirects > 0 => {
                state.knobs.patch_redirects -= 1;
                reply(307).with("Location", location(id))
            }
            "PATCH" if state.knobs.patch_status.is_some() => reply(state.knobs.patch_status.unwrap()),
            _ if state.knobs.body_limit.is_some_and(|limit| request.body.len() > limit) => reply(413),
            "PATCH" => {
                let have = state.sessions[&id].len();
                let range = request.headers.get("content-range");
                let start = range.map(|range| range.split_once('-').unwrap().0.parse::<usize>().unwrap());
                if start.is_some_and(|start| start != have) || (start.is_none() && have != 0) {
                    return reply(416).with("Range", format!("0-{}", have.saturating_sub(1)));
                }
                state.sessions.get_mut(&id).unwrap().extend(&request.body);
                let length = state.sessions[&id].len();
                reply(202).with("Location", location(id)).with("Range", format!("0-{}", length - 1))
            }
            "PUT" => {
                let mut bytes = state.sessions.remove(&id).unwrap();
                bytes.extend(&request.body);
                if Digest::sha256(&bytes).to_string() != query["digest"] {
                    return reply(400);
                }
                state.blobs.insert(query["digest"].clone(), bytes);
                reply(201)
            }
            _ => reply(405),
        }
    }
}

fn session_id(path: &str) -> usize {
    let last = path.split('?').next().unwrap().rsplit('/').next().unwrap();
    last.parse().unwrap_or(0)
}
