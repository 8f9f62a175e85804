//! A lab as the files that are published: for `kubectl`, kustomize, Flux, Argo CD, imgpkg and Helm, which need nothing of
//! ours, and for Labwright itself.
//!
//! [`bundle`] makes the files of the bundle, [`chart`] those of a Helm chart. No secret and no solve script is in
//! either. [`open`] reads a bundle that may come from anyone.

mod chart;
mod config;
mod kustomize;
mod marks;
mod open;
mod placeholders;
mod readme;
mod secrets;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use labwright_document::{Files, LocalPath};

pub use chart::{Chart, chart};
pub use config::{Config, InvalidConfig, MachineConfig};
pub use open::{InvalidBundle, open};
use placeholders::Placeholders;

use crate::LockedLab;
use crate::manifests::{self, InvalidSession, Options, render, to_yaml};

/// The files of a bundle or chart by their paths, which have `/` between their parts.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// Where the author's files are in a bundle.
pub(crate) const SOURCE: &str = "lab";
/// The lab itself.
pub(crate) const LAB_FILE: &str = "lab/lab.yaml";

/// A bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file of the lab could not be read.
    #[error("could not read {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file of the lab is larger than a page or a script can be.
    #[error("{} has {size} bytes, more than the {MAX_FILE} that a page or script of a lab may have", path.display())]
    Large {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: usize,
    },
    /// A secret cannot be where the lab puts it.
    #[error(transparent)]
    Session(#[from] InvalidSession),
}

/// The most bytes of one file of a lab: 1 MiB.
pub const MAX_FILE: usize = 1 << 20;

/// The lab as its author wrote it.
#[expect(missing_debug_implementations, reason = "the files of a caller need not be printable")]
pub struct Source<'a> {
    /// The text of lab.yaml.
    pub text: &'a str,
    /// Reads the files beside it.
    pub files: &'a dyn Files,
    /// The directory that `files` finds them in.
    pub dir: &'a Path,
}

/// The files of a lab's bundle.
///
/// `options` says what its plain manifests are made for; its routes are left aside, because the bundle has all kinds.
pub fn bundle(locked: &LockedLab, source: &Source<'_>, options: &Options) -> Result<Tree, BundleError> {
    let options = Options { routes: None, ..options.clone() };
    let manifests = render(locked, &options);
    let mut tree = Tree::new();
    for file in &manifests.files {
        tree.insert(format!("manifests/{}", file.name), file.yaml().into_bytes());
    }
    tree.insert("all.yaml".to_owned(), to_yaml(manifests.objects()).into_bytes());
    let placeholders = Placeholders::new(locked, &manifests);
    kustomize::add(&mut tree, locked, &options, &manifests, &placeholders);
    let quoted = secrets::add(&mut tree, locked, &options, &placeholders)?;
    let secrets = tree.contains_key("secrets/kustomization.yaml");
    let filled = readme::Filled { placeholders, quoted, secrets };
    let readme = readme::text(locked, &options, &manifests, &filled);
    tree.insert("README.md".to_owned(), readme.into_bytes());
    tree.insert(LAB_FILE.to_owned(), source.text.as_bytes().to_vec());
    let lab = locked.lab();
    let of_tasks = lab.tasks.iter().flat_map(|task| [Some(&task.check), task.hint.as_ref()]).flatten();
    for path in of_tasks.chain(lab.instructions.iter().map(|page| &page.file)) {
        let bytes = read(source, path)?;
        tree.insert(format!("{SOURCE}/{}", inside(path)), bytes);
    }
    Ok(tree)
}

fn read(source: &Source<'_>, path: &LocalPath) -> Result<Vec<u8>, BundleError> {
    let file = source.dir.join(&path.written);
    let bytes = source.files.read(&file).map_err(|source| BundleError::File { path: file.clone(), source })?;
    if bytes.len() > MAX_FILE {
        return Err(BundleError::Large { path: file, size: bytes.len() });
    }
    Ok(bytes)
}

/// The path in the bundle: without `.`, and by the decoder without `..`.
fn inside(path: &LocalPath) -> String {
    let parts: Vec<_> = Path::new(&path.written).components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.iter().filter(|part| part.as_ref() != ".").map(AsRef::as_ref).collect::<Vec<&str>>().join("/")
}

/// Whether a machine of the lab has an address in the browser.
fn has_doors(locked: &LockedLab) -> bool {
    locked.lab().machines.iter().any(|machine| !machine.hidden && !locked.doors(machine).is_empty())
}

/// The options of the kinds of routes that a bundle and a chart have: their names, and what an operator fills in.
pub(crate) fn routed(options: &Options, text: impl Fn(&str) -> String) -> [(&'static str, Options); 3] {
    use manifests::{Router, Routes, Tls};
    let with = |router| Options {
        routes: Some(Routes { host: text("host"), namespace: text("router_namespace"), router }),
        ..options.clone()
    };
    [
        (
            "gateway",
            with(Router::Gateway { name: text("gateway"), namespace: text("gateway_namespace"), section: None }),
        ),
        ("ingress", with(Router::Ingress { class: Some(text("ingress_class")), tls: Tls::Secret(text("tls_secret")) })),
        ("traefik", with(Router::Traefik { entry_point: text("entry_point"), tls: Tls::Secret(text("tls_secret")) })),
    ]
}
