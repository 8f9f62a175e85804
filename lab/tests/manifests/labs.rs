//! Labs whose images are known.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use labwright_core::{AccessFact, AccessKind, Arch, ByteSize, Digest, ImageFacts, ImageForm};
use labwright_lab::manifests::{Manifests, Object, Options, render, session_secrets};
use labwright_lab::{FileKind, Files, LockedImage, LockedLab, Origin, load};
use serde_json::Value;

/// The lab that uses everything.
pub(crate) fn everything() -> LockedLab {
    locked(include_str!("everything.yaml"))
}

/// These labs name images only.
#[derive(Debug)]
pub(crate) struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    fn kind(&self, _path: &Path) -> io::Result<Option<FileKind>> {
        Ok(None)
    }
}

/// The lab of a text: its virtual machines run an image of ours, its containers somebody's.
pub(crate) fn locked(text: &str) -> LockedLab {
    locked_in(text, |machine| format!("registry.example.org:5000/labs/{machine}"))
}

/// The same with the images of the machines in other repositories.
pub(crate) fn locked_in(text: &str, repository: impl Fn(&str) -> String) -> LockedLab {
    let loaded = load("lab.yaml", text, (Path::new("/"), &NoFiles), &BTreeMap::new(), Origin::Bundle, &BTreeMap::new())
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
    let images = loaded.lab.machines.iter().map(|machine| {
        let image = image(&machine.name, machine.vm().is_some());
        (machine.name.clone(), LockedImage { repository: repository(&machine.name), ..image })
    });
    let images = images.collect();
    loaded.lock(images).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn image(name: &str, ours: bool) -> LockedImage {
    LockedImage {
        repository: format!("registry.example.org:5000/labs/{name}"),
        digest: Digest::sha256(name.as_bytes()),
        facts: ours.then(|| facts(name)),
        archs: if ours { vec![Arch::Amd64] } else { Vec::new() },
    }
}

/// An image with a terminal, a desktop and a web server.
fn facts(name: &str) -> ImageFacts {
    let access = |name: &str, kind, port, path: &str, user: Option<&str>| AccessFact {
        name: name.to_owned(),
        kind,
        port,
        path: path.to_owned(),
        user: user.map(str::to_owned),
    };
    ImageFacts {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        title: None,
        form: ImageForm::ContainerDisk,
        arch: Arch::Amd64,
        virtual_size: ByteSize::from_bytes(8 << 30),
        base: "debian-13".to_owned(),
        base_digest: Digest::sha256(b"base"),
        recipe_digest: Digest::sha256(b"recipe"),
        build_key: Digest::sha256(b"key"),
        tool_version: "0.1.0".to_owned(),
        access: vec![
            access("shell", AccessKind::Terminal, 8080, "/shell/", Some("student")),
            access("desktop", AccessKind::Desktop, 8080, "/desktop/", Some("student")),
            access("site", AccessKind::Http, 3000, "/", None),
        ],
        front_door: Some(8080),
        extra_packages: Vec::new(),
    }
}

/// What a secret is in these tests.
pub(crate) fn secret_value(name: &str) -> String {
    format!("value-of-{name}")
}

/// Everything of one session, in the order in which it is applied.
pub(crate) struct Session {
    pub(crate) manifests: Manifests,
    pub(crate) secrets: Vec<Object>,
}

impl Session {
    pub(crate) fn of(lab: &LockedLab, options: &Options) -> Self {
        let secrets = session_secrets(lab, options, &secret_value).unwrap();
        Self { manifests: render(lab, options), secrets }
    }

    /// All objects as an API server gets them.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let json = |object: &Object| serde_json::to_value(object).unwrap();
        self.manifests.objects().chain(&self.secrets).map(json).collect()
    }
}
