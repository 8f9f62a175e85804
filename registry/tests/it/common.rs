//! What the tests share.

use std::path::Path;
use std::process::{Command, Output};

use labwright_core::{Arch, ByteSize, Digest, ImageFacts, ImageForm};

/// Whether the programs are there; says loudly what is skipped, and panics where `LABWRIGHT_REQUIRE` names the need.
pub(crate) fn have(need: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| {
            !["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists())
        })
        .collect();
    if missing.is_empty() {
        return true;
    }
    skip(need, &format!("{missing:?}"));
    false
}

/// Whether Python has a module, with the same words and needs as for [`have`].
pub(crate) fn have_python(need: &str, module: &str) -> bool {
    let there =
        command("python3").args(["-c", &format!("import {module}")]).output().is_ok_and(|out| out.status.success());
    if !there {
        skip(need, &format!("Python's `{module}`"));
    }
    there
}

fn skip(need: &str, missing: &str) {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what must be there")]
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "{need} is required, but there is no {missing}");
    #[expect(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
    {
        eprintln!("SKIPPED: needs {missing}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests use other makers and readers of images")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// Runs a program that must succeed and returns its stdout.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(program).args(args).output().expect(program);
    assert!(status.success(), "{program} {args:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

pub(crate) fn facts(arch: Arch) -> ImageFacts {
    ImageFacts {
        name: "debian-terminal".to_owned(),
        version: "1.0.0".to_owned(),
        title: Some("Debian with a terminal".to_owned()),
        form: ImageForm::ContainerDisk,
        arch,
        virtual_size: ByteSize::from_bytes(8 << 30),
        base: "debian:13".to_owned(),
        base_digest: Digest::sha256(b"base"),
        recipe_digest: Digest::sha256(b"recipe"),
        build_key: Digest::sha256(b"build"),
        tool_version: "0.1.0".to_owned(),
        access: Vec::new(),
        front_door: Some(8080),
        extra_packages: Vec::new(),
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

/// An error with all its causes.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A reporter that keeps what it is told.
#[derive(Debug, Default)]
pub(crate) struct Kept(pub(crate) std::sync::Mutex<Vec<labwright_core::Event>>);

impl labwright_core::Reporter for Kept {
    fn event(&self, event: labwright_core::Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// A `docker-registry` of our own on loopback.
pub(crate) struct DockerRegistry {
    child: std::process::Child,
    config: std::path::PathBuf,
    pub(crate) port: u16,
}

impl DockerRegistry {
    /// Starts one in a directory; `http` and `auth` are lines of its configuration.
    pub(crate) fn start(dir: &Path, http: &str, auth: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("registry.yml");
        let storage = dir.join("registry").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: '{storage}'}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: fixed{http}}}\n{auth}\n"
        );
        fs_err::write(&config, text).unwrap();
        let child = Self::spawn(&config, port);
        Self { child, config, port }
    }

    #[expect(clippy::zombie_processes, reason = "the owner waits for it when it is dropped")]
    fn spawn(config: &Path, port: u16) -> std::process::Child {
        let child = command("docker-registry")
            .args(["serve", &config.display().to_string()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return child;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("docker-registry does not listen");
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.config, self.port);
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
