//! The lab as a whole.

use std::collections::BTreeMap;

use labwright_core::Diagnostic;
use labwright_document::rules as shared;
use labwright_document::{Identity, Node};

use super::networks::networks;
use super::{Decoder, kubevirt, machine, names_in, secrets, study};
use crate::resolved::{Lab, Session};
use crate::rules;

/// The `kind` that this crate reads.
pub(crate) const KIND: &str = "Lab";

const KEYS: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "variables",
    "session",
    "networks",
    "secrets",
    "machines",
    "outputs",
    "tasks",
    "instructions",
    "kubevirt",
];
const METADATA_KEYS: [&str; 6] = ["name", "version", "title", "description", "authors", "license"];

/// Decodes everything; `None` when what is missing leaves no lab. The caller looks at `decoder.found` for errors.
pub(crate) fn lab(decoder: &mut Decoder<'_>, root: &Node, overrides: &BTreeMap<String, String>) -> Option<Lab> {
    let fields = decoder.fields(root, "a lab", &KEYS)?;
    decoder.kind(&fields);
    let declared = decoder.variables(&fields, overrides);
    let metadata = decoder.required(&fields, "metadata", "a lab").and_then(|node| metadata(decoder, node));
    let session = fields.get("session").and_then(|node| session(decoder, node)).unwrap_or_default();
    let mut networks = networks(decoder, fields.get("networks"));
    // Whatever stands before it in the file: only these may be used further down.
    let secrets = fields.get("secrets").map(|node| secrets::secrets(decoder, node)).unwrap_or_default();
    let defaults = kubevirt::lab(decoder, fields.get("kubevirt"), &mut networks);
    let machines_node = decoder.required(&fields, "machines", "a lab");
    let machines =
        machines_node.map(|node| machine::machines(decoder, node, &mut networks, &defaults)).unwrap_or_default();
    networks.unused(decoder);
    let outputs = fields.get("outputs").map(|node| study::outputs(decoder, node)).unwrap_or_default();
    let machine_names = names_in(decoder, machines_node);
    let tasks =
        fields.get("tasks").map(|node| study::tasks(decoder, node, &machine_names, &machines)).unwrap_or_default();
    let task_names = names_in(decoder, fields.get("tasks"));
    let instructions =
        fields.get("instructions").map(|node| study::pages(decoder, node, &task_names)).unwrap_or_default();
    if machines.len() == machine_names.len() {
        machine::no_way_in(decoder, &machines, fields.key("machines").unwrap_or_default());
    }
    unused_secrets(decoder);
    decoder.unused_variables(declared);
    let metadata = metadata?;
    Some(Lab {
        name: metadata.identity.name?,
        version: metadata.identity.version?,
        title: metadata.identity.title,
        description: metadata.description,
        authors: metadata.authors,
        license: metadata.license,
        session,
        networks: networks.declared,
        secrets,
        machines,
        outputs,
        tasks,
        instructions,
        kubevirt_version: defaults.version,
    })
}

struct Metadata {
    identity: Identity,
    description: Option<String>,
    authors: Vec<String>,
    license: Option<String>,
}

fn metadata(decoder: &mut Decoder<'_>, node: &Node) -> Option<Metadata> {
    let fields = decoder.fields(node, "`metadata`", &METADATA_KEYS)?;
    let identity = decoder.identity(&fields);
    if let (Some(name), Some(node)) = (&identity.name, fields.get("name"))
        && rules::is_reserved_namespace(name)
    {
        let diagnostic = decoder.error(node.span, format!("`{name}` is a namespace of the cluster"));
        decoder.push(diagnostic.hint("a session's namespace is first called as the lab is; give the lab another name"));
    }
    let description = fields.get("description").and_then(|node| decoder.text(node, "`description`"));
    let mut authors = Vec::new();
    if let Some(node) = fields.get("authors") {
        for item in decoder.list(node, "`authors`").unwrap_or_default() {
            authors.extend(decoder.checked(item, "an author", shared::one_line).map(|text| text.value));
        }
    }
    let license = fields.get("license").and_then(|node| decoder.checked(node, "`license`", rules::license));
    Some(Metadata {
        identity,
        description: description.map(|text| text.value),
        authors,
        license: license.map(|text| text.value),
    })
}

fn session(decoder: &mut Decoder<'_>, node: &Node) -> Option<Session> {
    let fields = decoder.fields(node, "`session`", &["expires"])?;
    let expires = match fields.get("expires") {
        Some(node) => Some(decoder.read(node, "`expires`", shared::duration)?),
        None => None,
    };
    Some(Session { expires })
}

fn unused_secrets(decoder: &mut Decoder<'_>) {
    for name in decoder.context.secrets.clone() {
        if !decoder.context.used_secrets.contains(&name.value) {
            let message = format!("secret `{}` is never used", name.value);
            let warning = Diagnostic::warning(decoder.file, name.span, message);
            decoder.push(warning.hint(format!("use it as `${{{{ secrets.{} }}}}`, or remove it", name.value)));
        }
    }
}
