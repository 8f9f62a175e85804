use std::fmt;

use labwright_document::yaml::{Map, Yaml};
use serde::{Serialize, Serializer};

/// A Kubernetes object, and why it is there.
///
/// `Debug` shows which one it is and not what is in it, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    why: &'static str,
    body: Map,
}

impl Object {
    /// `metadata` has a name; `why` is for the reader of the manifest, as whole sentences.
    pub(super) fn new(api_version: &str, kind: &str, metadata: Map, why: &'static str) -> Self {
        Self { why, body: Map::new().with("apiVersion", api_version).with("kind", kind).with("metadata", metadata) }
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<Yaml>) -> Self {
        self.body.put(key, value);
        self
    }

    /// `v1`, `kubevirt.io/v1`.
    pub fn api_version(&self) -> &str {
        self.text(&["apiVersion"])
    }

    /// `VirtualMachine`.
    pub fn kind(&self) -> &str {
        self.text(&["kind"])
    }

    /// Its name in its namespace.
    pub fn name(&self) -> &str {
        self.text(&["metadata", "name"])
    }

    /// The namespace that it is in; a Namespace is in none.
    pub fn namespace(&self) -> Option<&str> {
        match self.body.get("metadata") {
            Some(Yaml::Map(metadata)) => metadata.get("namespace")?.as_str(),
            _ => None,
        }
    }

    /// The whole object.
    pub fn body(&self) -> &Map {
        &self.body
    }

    fn text(&self, path: &[&str]) -> &str {
        let (first, rest) = path.split_first().expect("a path has a key");
        self.body.get(first).and_then(|value| value.at(rest)).and_then(Yaml::as_str).unwrap_or_default()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("kind", &self.kind()).field("name", &self.name()).finish_non_exhaustive()
    }
}

/// The object as an API server takes it.
impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

/// A file of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its name (`00-namespace.yaml`): sorted, files are in the order in which they are applied.
    pub name: String,
    /// What is in it, in that order too.
    pub objects: Vec<Object>,
}

impl ManifestFile {
    /// The file's text.
    pub fn yaml(&self) -> String {
        to_yaml(&self.objects)
    }
}

/// Objects as documents of one YAML text, each below a comment that says why it is there.
pub fn to_yaml<'a>(objects: impl IntoIterator<Item = &'a Object>) -> String {
    let documents: Vec<String> = objects
        .into_iter()
        .map(|object| commented(object.why) + &labwright_document::yaml::write(&object.body))
        .collect();
    documents.join("---\n")
}

/// Comment lines of at most 100 characters.
fn commented(text: &str) -> String {
    const WIDTH: usize = 100;
    let mut out = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        if length == 0 || length + 1 + word.len() > WIDTH {
            out.push_str(if length == 0 { "#" } else { "\n#" });
            length = 1;
        }
        out.push(' ');
        out.push_str(word);
        length += 1 + word.len();
    }
    out + "\n"
}
