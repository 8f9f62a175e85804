//! The Secrets of a session, for who has no program that makes them.

use labwright_document::yaml::{Map, write};

use super::kustomize::placeholder;
use super::{BundleError, Tree};
use crate::LockedLab;
use crate::manifests::{Options, session_secrets, to_yaml};
use crate::resolved::{Random, SecretPart, SecretSpec};

/// A component of its own, so that nobody applies placeholders by applying the rest.
pub(super) fn add(tree: &mut Tree, locked: &LockedLab, options: &Options) -> Result<(), BundleError> {
    let objects = session_secrets(locked, options, &placeholder)?;
    let mut text = String::from("# A session's secrets. Fill in each of these before this is applied:\n#\n");
    for (name, spec) in &locked.lab().secrets {
        text.push_str(&format!("#   ${{{name}}}: {}\n", describe(spec)));
    }
    text.push_str("#\n# Values are printable ASCII without quotes, `\\` and `$`.\n");
    text.push_str(&to_yaml(&objects));
    tree.insert("secrets/secrets.yaml".to_owned(), text.into_bytes());
    let kustomization = Map::new()
        .with("apiVersion", "kustomize.config.k8s.io/v1alpha1")
        .with("kind", "Component")
        .with("resources", vec!["secrets.yaml"]);
    tree.insert("secrets/kustomization.yaml".to_owned(), write(&kustomization).into_bytes());
    Ok(())
}

/// What a value looks like, in words.
fn describe(spec: &SecretSpec) -> String {
    let parts: Vec<String> = spec
        .parts()
        .iter()
        .map(|part| match part {
            SecretPart::Fixed(text) => format!("`{text}`"),
            SecretPart::Random(Random { kind, length }) => format!("{length} random characters ({})", kind.as_str()),
        })
        .collect();
    parts.join(", then ")
}
