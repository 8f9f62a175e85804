//! A bundle that may come from anyone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use labwright_core::Diagnostics;
use labwright_document::{FileKind, Files};

use super::{Config, LAB_FILE, SOURCE, Tree};
use crate::LockedLab;
use crate::load::{Origin, load};

/// A bundle that is not used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// It has no lab.
    #[error("the bundle has no {LAB_FILE}")]
    NoLab,
    /// Its lab is no text.
    #[error("{LAB_FILE} in the bundle is not UTF-8 text")]
    NotText,
    /// Its lab has mistakes, or wants of its images what these do not offer.
    #[error("the lab in the bundle has mistakes")]
    Lab(#[source] Diagnostics),
    /// Its config says one thing and its lab another.
    #[error("the bundle's config is not that of the lab in it")]
    Config,
    /// A manifest is not one that a lab has.
    #[error("{file} in the bundle has {what}, which a lab has no business with")]
    Foreign {
        /// The file.
        file: String,
        /// What stands there.
        what: String,
    },
    /// It has a file that a bundle does not have.
    #[error("`{file}` is no file of a bundle")]
    Unknown {
        /// The file.
        file: String,
    },
    /// A manifest is no YAML.
    #[error("{file} in the bundle is not YAML")]
    Yaml {
        /// The file.
        file: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The kinds of objects that a lab consists of.
const KINDS: [(&str, &str); 13] = [
    ("v1", "Namespace"),
    ("v1", "Pod"),
    ("v1", "ResourceQuota"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("kubevirt.io/v1", "VirtualMachine"),
    ("networking.k8s.io/v1", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("traefik.io/v1alpha1", "IngressRoute"),
];

/// The files of a bundle, below the lab's directory.
struct Members<'a>(&'a Tree);

impl Members<'_> {
    fn name(path: &Path) -> Option<String> {
        let mut name = SOURCE.to_owned();
        for part in path.components() {
            match part {
                Component::CurDir => {}
                Component::Normal(part) => {
                    name.push('/');
                    name.push_str(part.to_str()?);
                }
                _ => return None,
            }
        }
        Some(name)
    }
}

impl Files for Members<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = Self::name(path).and_then(|name| self.0.get(&name));
        found.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        let Some(name) = Self::name(path) else { return Ok(None) };
        let below = format!("{name}/");
        Ok(match self.0.get(&name) {
            Some(_) => Some(FileKind::File),
            None if self.0.keys().any(|known| known.starts_with(&below)) => Some(FileKind::Directory),
            None => None,
        })
    }
}

/// The lab of a bundle. Nothing of it is believed: the lab is read and checked as an author's would be, its manifests
/// must be of kinds that a lab has and in one namespace. What Labwright applies it renders anew.
///
/// `here` is the repository in which the bundle was found, if all of its images are there as well.
pub fn open(config: &Config, tree: &Tree, here: Option<&str>) -> Result<LockedLab, InvalidBundle> {
    let text = tree.get(LAB_FILE).ok_or(InvalidBundle::NoLab)?;
    let text = std::str::from_utf8(text).map_err(|_| InvalidBundle::NotText)?;
    let files = Members(tree);
    let overrides: BTreeMap<String, String> = config.variables.clone();
    let loaded = load(LAB_FILE, text, (Path::new(""), &files), &overrides, Origin::Bundle, &BTreeMap::new())
        .map_err(InvalidBundle::Lab)?;
    if !config.fits(&loaded) {
        return Err(InvalidBundle::Config);
    }
    manifests(tree)?;
    loaded.lock(config.images(here)).map_err(InvalidBundle::Lab)
}

/// What a file of a bundle is, by its name. Kustomize reads files of any name that a kustomization has, so there are no
/// others than these.
enum Place {
    /// Nothing that is applied.
    Text,
    /// Something that may be.
    Manifests,
    /// Nothing that a bundle has.
    Nowhere,
}

/// Whether a file is called as those that we write are, capitals included.
fn is_yaml(file: &str) -> bool {
    Path::new(file).extension().is_some_and(|extension| extension == "yaml")
}

fn place(file: &str) -> Place {
    let in_dir = |dir: &str| {
        let name = file.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/'));
        name.is_some_and(|name| is_yaml(name) && !name.contains('/'))
    };
    match file {
        "README.md" | ".imgpkg/images.yml" => Place::Text,
        "all.yaml" | "kustomization.yaml" | "kustomizeconfig.yaml" => Place::Manifests,
        _ if file.starts_with(&format!("{SOURCE}/")) => Place::Text,
        _ if ["manifests", "secrets", "routes/gateway", "routes/ingress", "routes/traefik"].into_iter().any(in_dir) => {
            Place::Manifests
        }
        _ if file.starts_with("flux-") && is_yaml(file) && !file.contains('/') => Place::Manifests,
        _ => Place::Nowhere,
    }
}

/// Looks through all manifests: who applies them with other programs than ours trusts that somebody did.
fn manifests(tree: &Tree) -> Result<(), InvalidBundle> {
    let mut namespace: Option<String> = None;
    for (file, bytes) in tree {
        match place(file) {
            Place::Text => continue,
            Place::Manifests => {}
            Place::Nowhere => {
                return Err(InvalidBundle::Unknown { file: file.clone() });
            }
        }
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidBundle::NotText)?;
        let yaml = |source: serde_saphyr::Error| InvalidBundle::Yaml { file: file.clone(), source: source.into() };
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).map_err(yaml)?;
        for document in documents {
            object(file, &document, &mut namespace)?;
        }
    }
    Ok(())
}

fn object(file: &str, document: &serde_json::Value, namespace: &mut Option<String>) -> Result<(), InvalidBundle> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let foreign = |what: String| InvalidBundle::Foreign { file: file.to_owned(), what };
    let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
    if file == "kustomizeconfig.yaml" {
        let only_images = document.as_object().is_some_and(|entries| entries.keys().all(|key| key == "images"));
        return if only_images { Ok(()) } else { Err(foreign("other settings than those for images".to_owned())) };
    }
    if version.starts_with("kustomize.config.k8s.io/") {
        return kustomization(document).map_err(foreign);
    }
    if !KINDS.contains(&(version.as_str(), kind.as_str())) {
        return Err(foreign(format!("an object of the kind `{kind}` ({version})")));
    }
    let own = if kind == "Namespace" { &document["metadata"]["name"] } else { &document["metadata"]["namespace"] };
    let own = text(own);
    match namespace {
        None => *namespace = Some(own),
        Some(known) if *known == own => {}
        Some(known) => return Err(foreign(format!("a {kind} in the namespace `{own}` beside those in `{known}`"))),
    }
    Ok(())
}

/// Kustomize can fetch what a kustomization names, and run generators: ours names files beside it.
fn kustomization(document: &serde_json::Value) -> Result<(), String> {
    const KEYS: [&str; 5] = ["apiVersion", "kind", "resources", "configurations", "patches"];
    let Some(entries) = document.as_object() else { return Err("a kustomization that is no mapping".to_owned()) };
    if let Some(key) = entries.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("`{key}` in a kustomization"));
    }
    let items = |key: &str| document[key].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(other) = items("configurations").map(text).find(|path| path != "kustomizeconfig.yaml") {
        return Err(format!("a kustomization that names `{other}`"));
    }
    let patches = items("patches").map(|patch| text(&patch["path"]));
    for path in items("resources").map(text).chain(patches) {
        let below = Path::new(&path);
        let plain = !path.is_empty()
            && is_yaml(&path)
            && path != "kustomizeconfig.yaml"
            && below.components().all(|part| matches!(part, Component::Normal(_)))
            && !path.contains(':')
            && !below.starts_with(SOURCE);
        if !plain {
            return Err(format!("a kustomization that names `{path}`"));
        }
    }
    Ok(())
}
