//! A front door under a temporary directory, a stand-in for ttyd, and an HTTP client that shows everything.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use labwright_cloud_init::{FrontDoor, Terminal, front_door};

/// Whether the programs are here; says so if not, and panics if LABWRIGHT_REQUIRE names `nginx`.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn has(need: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|path| !std::path::Path::new(path).exists()).collect();
    if missing.is_empty() {
        return true;
    }
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what they may not skip")]
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|word| word == need),
        "LABWRIGHT_REQUIRE names {need}, and {missing:?} is missing"
    );
    eprintln!("SKIPPED: needs {missing:?}");
    false
}

pub(crate) fn command(program: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this crate may not depend on the crate that starts processes")]
    Command::new(program)
}

/// A front door whose paths lie under a temporary directory; ended when dropped.
pub(crate) struct Door {
    pub(crate) root: tempfile::TempDir,
    pub(crate) port: u16,
    nginx: Option<Child>,
}

impl Door {
    /// Files only.
    pub(crate) fn prepare(names: &[&str]) -> Option<Self> {
        if !has("nginx", &["/usr/sbin/nginx", "/usr/bin/openssl"]) {
            return None;
        }
        let root = tempfile::Builder::new().prefix("lw").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let terminals = names.iter().map(|name| Terminal::new(*name, "student").unwrap()).collect();
        let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        for file in front_door(&FrontDoor::new(port, terminals).unwrap()).files {
            let mut text = file.content;
            // The longer names first: they begin like the shorter one.
            for (from, to) in [
                ("/run/labwright-front-door", at("nginx")),
                ("/run/labwright-terminals", at("terminals")),
                ("/run/labwright", at("secrets")),
                ("/etc/labwright", at("etc")),
                ("/usr/lib/labwright", at("lib")),
                ("-o root -g labwright-web", format!("-o {uid} -g {gid}")),
                ("chgrp labwright-web", format!("chgrp {gid}")),
            ] {
                text = text.replace(from, &to);
            }
            if file.path.as_str().ends_with("nginx.conf") && uid == 0 {
                // Here nginx is started by root, not by its own account.
                text.insert_str(0, "user root root;\n");
            }
            let path = at(&format!("lib/{}", file.path.as_str().rsplit('/').next().unwrap()));
            fs_err::create_dir_all(root.path().join("lib")).unwrap();
            fs_err::write(&path, text).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(file.mode)).unwrap();
        }
        for dir in ["etc", "nginx", "terminals", "bin"] {
            fs_err::create_dir(root.path().join(dir)).unwrap();
        }
        for name in names {
            fs_err::create_dir(root.path().join("terminals").join(name)).unwrap();
        }
        let openssl = format!("#!/bin/sh\necho \"$@\" >> {}\nexec /usr/bin/openssl \"$@\"\n", at("openssl.log"));
        fs_err::write(at("bin/openssl"), openssl).unwrap();
        fs_err::set_permissions(at("bin/openssl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { root, port, nginx: None })
    }

    /// A front door that listens, for `student:s3cr:et w0rd`.
    pub(crate) fn open(names: &[&str]) -> Option<Self> {
        let mut door = Self::prepare(names)?;
        door.write_credential("student:s3cr:et w0rd\n");
        assert!(door.run_helper());
        let nginx = door.nginx().spawn().unwrap();
        door.nginx = Some(nginx);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", door.port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "nginx does not listen");
            let ended = door.nginx.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "nginx ended with {ended:?}");
            thread::sleep(Duration::from_millis(10));
        }
        Some(door)
    }

    pub(crate) fn write_credential(&self, text: &str) {
        fs_err::write(self.root.path().join("etc/credential"), text).unwrap();
    }

    pub(crate) fn run_helper(&self) -> bool {
        let path = format!("{}:/usr/bin:/bin", self.root.path().join("bin").display());
        let script = self.root.path().join("lib/front-door");
        let output = command(script.to_str().unwrap()).env("PATH", path).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stderr).contains("s3cr"), "{output:?}");
        output.status.success()
    }

    pub(crate) fn openssl_calls(&self) -> String {
        fs_err::read_to_string(self.root.path().join("openssl.log")).unwrap()
    }

    /// Whether nginx takes its configuration as it lies there now.
    pub(crate) fn starts(&self) -> bool {
        self.nginx().arg("-t").stderr(Stdio::null()).status().unwrap().success()
    }

    fn nginx(&self) -> Command {
        let mut nginx = command("/usr/sbin/nginx");
        nginx.arg("-c").arg(self.root.path().join("lib/nginx.conf"));
        nginx.args(["-g", "daemon off;"]);
        nginx
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "Connection") {
            all.push(("Connection", "close"));
        }
        Request::send(self.port, path, &all).answer()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(mut nginx) = self.nginx.take() {
            // SIGTERM reaches nginx's workers through their master; SIGKILL would leave them.
            let pid = rustix::process::Pid::from_child(&nginx);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            nginx.wait().unwrap();
        }
    }
}

/// A request that was sent, and whose answer is read as a stream.
pub(crate) struct Request(TcpStream, Vec<u8>);

impl Request {
    pub(crate) fn send(port: u16, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut text = format!("GET {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            write!(text, "Host: 127.0.0.1:{port}\r\n").unwrap();
        }
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n").unwrap();
        }
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        Self(stream, Vec::new())
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn read_until(&mut self, end: &str) -> String {
        let mut byte = [0];
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            self.0.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }

    /// The whole answer: to the end of its body where its length is said, else to the end of the connection.
    fn answer(mut self) -> Answer {
        let head = self.read_until("\r\n\r\n");
        let mut answer =
            Answer { status: head.split(' ').nth(1).unwrap().parse().unwrap(), text: head, body: String::new() };
        match answer.header("content-length").map(str::parse::<usize>) {
            Some(length) => {
                self.1.resize(length.unwrap(), 0);
                self.0.read_exact(&mut self.1).unwrap();
            }
            None => drop(self.0.read_to_end(&mut self.1).unwrap()),
        }
        answer.body = String::from_utf8(self.1).unwrap();
        answer.text.push_str(&answer.body);
        answer
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next().unwrap();
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Stands in for a ttyd that belongs to a learner with ideas.
pub(crate) struct Backend {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn serve(door: &Door, name: &str) -> Self {
        let socket = door.root.path().join("terminals").join(name).join("ttyd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let base = format!("/{name}/");
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let base = base.clone();
                thread::spawn(move || converse(stream.unwrap(), &base));
            }
        });
        Self { socket, stop, thread: Some(thread) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
        self.thread.take().unwrap().join().unwrap();
        fs_err::remove_file(&self.socket).unwrap();
    }
}

fn converse(mut stream: UnixStream, base: &str) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    if target == format!("{base}ws") && head.contains("Upgrade: websocket\r\n") {
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        let mut echo = stream.try_clone().unwrap();
        drop(std::io::copy(&mut stream, &mut echo));
        return;
    }
    let (status, body) = match target.strip_prefix(base) {
        Some("token") => ("200 OK", r#"{"token": ""}"#.to_owned()),
        Some(_) => ("200 OK", head.clone()),
        None => ("404 Not Found", String::new()),
    };
    let steering = "X-Accel-Redirect: /evil\r\nSet-Cookie: evil=1\r\n";
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\n{steering}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    // nginx may have hung up.
    drop(stream.write_all(answer.as_bytes()));
}
