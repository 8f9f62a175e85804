//! What the tests of registries and bases talk to: a registry, certificates, a vendor, a slow line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use labwright_tests::{Lab, program};

/// `u` with the password `secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "u:$2b$04$N0Snld0T9d.sx9pPiNhKwOLv0V9A60HLZcAnfupXgNp0YSZ1tyzxS\n";

/// Whether root and the programs are there; says loudly what is skipped, and panics where `LABWRIGHT_REQUIRE` names
/// the need.
pub(crate) fn have(need: &str, programs: &[&str]) -> bool {
    let there = |program: &&str| ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
    let mut missing: Vec<_> = programs.iter().filter(|program| !there(program)).copied().collect();
    if run("id", &["-u"]).trim() != "0" {
        missing.push("root");
    }
    if missing.is_empty() {
        return true;
    }
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what must be there")]
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "{need} is required, but there is no {missing:?}");
    #[expect(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
    {
        eprintln!("SKIPPED: needs {missing:?}");
    }
    false
}

#[expect(clippy::disallowed_methods, reason = "the tests use other makers and readers of images")]
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// Runs a program that must succeed and returns its stdout.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = command(program).args(args).output().expect("the program starts");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the program writes UTF-8")
}

/// Starts the program in the background; its stderr goes to a file.
pub(crate) fn start(lab: &Lab, args: &[&str], log: &Path) -> Child {
    let mut command = command(program());
    command.args(args).current_dir(lab.path()).env_clear().env("LABWRIGHT_HOME", lab.path().join("home"));
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs_err::File::create(log).unwrap().into_parts().0).spawn().unwrap()
}

/// The digest of a file.
pub(crate) fn sha256(path: &Path) -> String {
    format!("sha256:{}", &run("sha256sum", &[path.to_str().unwrap()])[..64])
}

/// A disk with a GPT and an ext4 root that has just enough for files to be written into it.
pub(crate) fn small_disk(dir: &Path) -> PathBuf {
    let (root, disk) = (dir.join("root"), dir.join("disk.raw"));
    for sub in ["etc", "dev", "proc", "sys", "run", "tmp", "usr/bin", "var", "root"] {
        fs_err::create_dir_all(root.join(sub)).unwrap();
    }
    fs_err::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs_err::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    fs_err::write(root.join("etc/os-release"), "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n").unwrap();
    for link in ["bin", "sbin", "lib"] {
        std::os::unix::fs::symlink("usr/bin", root.join(link)).unwrap();
    }
    fs_err::File::create(&disk).unwrap().set_len(34 << 20).unwrap();
    let script = format!(
        "printf 'label: gpt\\nstart=2048, size=65536, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\\n' | sfdisk -q {0} && \
         mke2fs -q -t ext4 -F -E offset=1048576 -d {1} {0} 32M 2>&1",
        disk.display(),
        root.display()
    );
    run("sh", &["-c", &script]);
    disk
}

/// A recipe of files only on a base.
pub(crate) fn recipe(name: &str, base: &str, files: &str) -> String {
    format!(
        "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: {name}, version: 1.0.0}}\nbase: {base}\n\
         write_files:\n  - {{path: /etc/motd, content: \"hello\\n\"}}\n{files}"
    )
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// Builds an image `shell:1.0.0` with some megabytes that do not compress.
pub(crate) fn build_image(lab: &Lab) {
    let disk = small_disk(lab.path());
    fs_err::write(lab.path().join("noise"), noise(6 << 20)).unwrap();
    let base = format!("{{file: disk.raw, digest: \"{}\"}}", sha256(&disk));
    lab.write("recipe.yaml", &recipe("shell", &base, "  - {path: /root/noise, from: noise}\n"));
    let said = lab.run(&["build"]);
    assert_eq!((said.code, said.out.as_str()), (0, "shell:1.0.0\n"), "{said}");
}

/// A certificate authority and a certificate that it signed for these names.
pub(crate) fn certificates(dir: &Path, names: &str) {
    let script = format!(
        "cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca \
         -keyout ca.key -out ca.pem && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server \
         -keyout server.key -out server.csr && printf 'subjectAltName={names}\\nbasicConstraints=CA:FALSE\\n' > ext && \
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
        dir.display()
    );
    run("sh", &["-c", &script]);
}

/// Waits until something listens.
fn wait_for(port: u16) {
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing listens on port {port}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A `docker-registry` of our own on loopback.
pub(crate) struct Registry {
    child: Child,
    config: PathBuf,
    port: u16,
}

impl Registry {
    /// Without TLS and login.
    pub(crate) fn plain(dir: &Path) -> Self {
        Self::start(dir, "", "")
    }

    /// With TLS (`ca.pem` in the directory) and a login for `u` with the password `secret`.
    pub(crate) fn guarded(dir: &Path) -> Self {
        certificates(dir, "IP:127.0.0.1");
        fs_err::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let http = format!(", tls: {{certificate: '{}', key: '{}'}}", at("server.pem"), at("server.key"));
        Self::start(dir, &http, &format!("auth: {{htpasswd: {{realm: labs, path: '{}'}}}}", at("htpasswd")))
    }

    fn start(dir: &Path, http: &str, auth: &str) -> Self {
        let port = free_port();
        let (config, storage) = (dir.join("registry.yml"), dir.join("registry").display().to_string());
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: \
             {{rootdirectory: '{storage}'}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: \
             fixed{http}}}\n{auth}\n"
        );
        fs_err::write(&config, text).unwrap();
        let child = Self::spawn(&config);
        wait_for(port);
        Self { child, config, port }
    }

    fn spawn(config: &Path) -> Child {
        let mut command = command("docker-registry");
        command.arg("serve").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.config);
        wait_for(self.port);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A line to a server that carries so many bytes a second towards it, and counts them.
pub(crate) struct SlowLine {
    pub(crate) port: u16,
    carried: Arc<AtomicU64>,
    deletions: Arc<AtomicU64>,
}

impl SlowLine {
    pub(crate) fn to(server: u16, bytes_per_second: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, carried, deletions) = (listener.local_addr().unwrap().port(), Arc::default(), Arc::default());
        let (count, deleted) = (Arc::clone(&carried), Arc::clone(&deletions));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A dead server looks dead through the line, too.
                let Ok(upstream) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let (count, deleted) = (Arc::clone(&count), Arc::clone(&deleted));
                let (back_from, back_to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                let none = Arc::<AtomicU64>::default();
                thread::spawn(move || carry(back_from, back_to, usize::MAX, &none, &none));
                thread::spawn(move || carry(client, upstream, bytes_per_second, &count, &deleted));
            }
        });
        Self { port, carried, deletions }
    }

    /// How many requests to delete something went through.
    pub(crate) fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::SeqCst)
    }

    /// Waits until so many bytes went through.
    pub(crate) fn wait_for(&self, bytes: u64) {
        let begin = Instant::now();
        while self.carried.load(Ordering::SeqCst) < bytes {
            assert!(begin.elapsed() < Duration::from_secs(20), "nothing goes through the line");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Carries bytes until either end closes. Everything is taken in at once and let out slowly, so that an end that goes
/// away is noticed at once.
fn carry(mut from: TcpStream, mut to: TcpStream, bytes_per_second: usize, count: &AtomicU64, deleted: &AtomicU64) {
    let (sender, receiver) = std::sync::mpsc::channel::<Vec<u8>>();
    let (reading, writing) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; (bytes_per_second / 50).clamp(1, 64 << 10)];
        while let Ok(length) = from.read(&mut buffer)
            && length > 0
            && sender.send(buffer[..length].to_vec()).is_ok()
        {}
        if bytes_per_second != usize::MAX {
            drop(writing.shutdown(Shutdown::Both));
        }
    });
    for piece in receiver {
        if to.write_all(&piece).is_err() {
            break;
        }
        count.fetch_add(piece.len() as u64, Ordering::SeqCst);
        // A request begins a piece, because the one before it was answered.
        deleted.fetch_add(u64::from(piece.starts_with(b"DELETE ")), Ordering::SeqCst);
        if bytes_per_second != usize::MAX {
            thread::sleep(Duration::from_millis(20));
        }
    }
    drop(to.shutdown(Shutdown::Both));
    drop(reading.shutdown(Shutdown::Both));
    drop(reader.join());
}

/// nginx as a vendor: serves the directory `www` below `dir`, plain on one port and with `dir`'s certificate on another.
pub(crate) struct Vendor {
    child: Child,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
}

impl Vendor {
    pub(crate) fn start(dir: &Path) -> Self {
        let (port, tls_port, at) = (free_port(), free_port(), dir.display());
        fs_err::create_dir_all(dir.join("www")).unwrap();
        let text = format!(
            "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/error.log;\nevents {{}}\nhttp {{ \
             access_log off; client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3; \
             uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;\nserver {{ listen 127.0.0.1:{port}; listen \
             127.0.0.1:{tls_port} ssl; ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key; root \
             {at}/www; }} }}\n"
        );
        let config = dir.join("nginx.conf");
        fs_err::write(&config, text).unwrap();
        let mut command = command("/usr/sbin/nginx");
        command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(&config).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for(port);
        Self { child, port, tls_port }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A proxy that connects to `port` on loopback, whatever host it is asked for; returns its own port.
pub(crate) fn proxy_to(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|length| length == 1) {
                    head.push(byte[0]);
                }
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let none = Arc::<AtomicU64>::default();
                let also_none = Arc::clone(&none);
                thread::spawn(move || carry(back_from, back_to, usize::MAX, &none, &none));
                carry(client, server, usize::MAX, &also_none, &also_none);
            });
        }
    });
    own
}
