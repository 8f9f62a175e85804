//! A package source of a test's own, on a loopback address: its packages come and go, and it can be slow.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::world::{has, installed, sha256, text, tool};

/// The name of the archive's public key, beside the recipe.
const KEY: &str = "archive.asc";

/// Whether such an archive can be made, and a host's apt is there to ask it.
pub(crate) fn can_publish() -> bool {
    has("apt", ["dpkg-deb", "apt-get"].iter().all(|tool| installed(tool)))
        && has("gpg", ["gpg", "gpgconf"].iter().all(|tool| installed(tool)))
}

/// A package source on a loopback address, signed with a key of its own. The machine of the vm runner cannot reach it:
/// there, packages come through the host's apt or not at all.
pub(crate) struct Archive {
    dir: PathBuf,
    keys: PathBuf,
    _both: TempDir,
    port: u16,
    asked: Arc<AtomicUsize>,
    held: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
}

impl Archive {
    /// An empty archive, whose key is written into the directory of a recipe.
    pub(crate) fn new(recipe: &Path) -> Self {
        let both = tempfile::tempdir().unwrap();
        let (dir, keys) = (both.path().join("archive"), both.path().join("keys"));
        for dir in [&dir, &keys] {
            fs_err::create_dir(dir).unwrap();
        }
        // gpg wants nobody else to read its home.
        tool("chmod", &["700", text(&keys)]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let held = Arc::new(AtomicBool::new(false));
        let archive = Self {
            dir,
            keys,
            _both: both,
            port,
            asked: Arc::clone(&asked),
            held: Arc::clone(&held),
            waiting: Arc::clone(&waiting),
        };
        archive.gpg(&["--passphrase", "", "--quick-generate-key", "archive", "ed25519", "sign", "never"]);
        fs_err::write(recipe.join(KEY), archive.gpg(&["--armor", "--export"])).unwrap();
        let served = archive.dir.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                asked.fetch_add(1, Ordering::SeqCst);
                let (served, held, waiting) = (served.clone(), Arc::clone(&held), Arc::clone(&waiting));
                // A client that goes away in the middle asks again.
                std::thread::spawn(move || drop(answer(&served, stream, &held, &waiting)));
            }
        });
        archive
    }

    /// The section of a recipe that names it.
    pub(crate) fn section(&self) -> String {
        let port = self.port;
        format!("apt: {{sources: {{test: {{source: \"deb http://127.0.0.1:{port}/ ./\", key: ./{KEY}}}}}}}\n")
    }

    /// How often somebody asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// From now on, packages stop half-way until they are let go.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Whether somebody has half of a package and waits for the rest.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Lets packages come as they are asked for.
    pub(crate) fn let_go(&self) {
        self.held.store(false, Ordering::SeqCst);
    }

    /// Has these packages and no others, each a name, a version and what it depends on.
    pub(crate) fn publish(&self, packages: &[(&str, &str, &str)]) {
        let packages: Vec<_> = packages.iter().map(|(name, version, depends)| (*name, *version, *depends, 0)).collect();
        self.publish_sized(&packages);
    }

    /// The same, with so many more bytes in each package, which nothing makes smaller.
    pub(crate) fn publish_sized(&self, packages: &[(&str, &str, &str, usize)]) {
        fs_err::remove_dir_all(&self.dir).unwrap();
        fs_err::create_dir_all(&self.dir).unwrap();
        let mut index = String::new();
        for (name, version, depends, more) in packages {
            let deb = package(&self.dir, name, version, depends, *more);
            let size = fs_err::metadata(&deb).unwrap().len();
            let control = String::from_utf8(tool("dpkg-deb", &["-f", text(&deb)])).unwrap();
            let file = deb.file_name().unwrap().to_str().unwrap();
            let digest = sha256(&deb);
            index.extend([format!("{control}Filename: ./{file}\nSize: {size}\nSHA256: {digest}\n\n")]);
        }
        let path = self.dir.join("Packages");
        fs_err::write(&path, &index).unwrap();
        let date = String::from_utf8(tool("date", &["-Ru"])).unwrap();
        let release = format!("Suite: test\nDate: {date}SHA256:\n {} {} Packages\n", sha256(&path), index.len());
        let path = self.keys.join("Release");
        fs_err::write(&path, release).unwrap();
        let signed = self.gpg(&["--clearsign", "--output", "-", text(&path)]);
        fs_err::write(self.dir.join("InRelease"), signed).unwrap();
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        let always = ["--homedir", text(&self.keys), "--batch", "--quiet", "--pinentry-mode", "loopback"];
        tool("gpg", &[&always[..], args].concat())
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // gpg has started an agent, which nobody else ends.
        drop(Command::new("gpgconf").args(["--homedir", text(&self.keys), "--kill", "gpg-agent"]).output());
    }
}

fn answer(dir: &Path, stream: TcpStream, held: &AtomicBool, waiting: &AtomicUsize) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let name = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').trim_start_matches("./").to_owned();
    let (status, body) = match fs_err::read(dir.join(&name)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    let (first, rest) = body.split_at(body.len() / 2);
    stream.write_all(first)?;
    if Path::new(&name).extension().is_some_and(|extension| extension == "deb") {
        waiting.fetch_add(1, Ordering::SeqCst);
        let waited = wait_while(held, &mut stream);
        waiting.fetch_sub(1, Ordering::SeqCst);
        waited?;
    }
    stream.write_all(rest)
}

/// Waits until packages are let go, or fails when the client is gone.
fn wait_while(held: &AtomicBool, stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    while held.load(Ordering::SeqCst) {
        match stream.read(&mut [0]) {
            Ok(0) => return Err(std::io::ErrorKind::BrokenPipe.into()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a package with one file that says its version, and so many more bytes that nothing makes smaller.
pub(crate) fn package(dir: &Path, name: &str, version: &str, depends: &str, more: usize) -> PathBuf {
    let tree = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(tree.path().join("DEBIAN")).unwrap();
    fs_err::create_dir_all(tree.path().join("usr/share/lab")).unwrap();
    fs_err::write(tree.path().join("usr/share/lab").join(name), format!("{version}\n")).unwrap();
    if more > 0 {
        let mut noise = fs_err::File::create(tree.path().join("usr/share").join(format!("{name}.noise"))).unwrap();
        let random = fs_err::File::open("/dev/urandom").unwrap();
        std::io::copy(&mut random.take(more as u64), &mut noise).unwrap();
    }
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <t@example.org>\n{depends}\
         Description: a package of a test\n"
    );
    fs_err::write(tree.path().join("DEBIAN/control"), control).unwrap();
    let deb = dir.join(format!("{name}_{}_all.deb", version.replace(':', "-")));
    // The same package is the same file, whenever it is made.
    let quickly = ["-Zxz", "-z0", "--root-owner-group", "-b"];
    let make = [&["SOURCE_DATE_EPOCH=0", "dpkg-deb"], &quickly[..], &[text(tree.path()), text(&deb)]].concat();
    tool("env", &make);
    deb
}
