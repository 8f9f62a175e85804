//! From the written tree to the resolved lab.

mod kubevirt;
mod lab;
mod machine;
mod networks;
mod secrets;
mod study;

use labwright_core::{ByteSize, ImageForm, Span, did_you_mean};
use labwright_document::{Kind, Node, Piece, Text, Words, listed, shown};

use crate::load::Origin;
use crate::value::{Part, Value};

pub(crate) use lab::{KIND, lab};
pub(crate) use secrets::LENGTHS;

/// What the decoders of one lab share.
pub(crate) type Decoder<'a> = labwright_document::Decoder<'a, Context>;

/// What labs need besides.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where the text comes from.
    pub(crate) origin: Origin,
    /// The secrets that are declared, with their places.
    pub(crate) secrets: Vec<Text>,
    /// The names of secrets that something uses.
    pub(crate) used_secrets: Vec<String>,
    /// What can only be checked once the images are known.
    pub(crate) uses: Vec<ImageUse>,
}

/// What a machine wants of its image, with places.
#[derive(Debug, Clone)]
pub(crate) struct ImageUse {
    /// The machine.
    pub(crate) machine: String,
    /// What the image must be for, and where the lab names it.
    pub(crate) form: (ImageForm, Span),
    /// The ways in that the image must offer.
    pub(crate) access: Vec<(String, Span)>,
    /// Its recipe as the lab writes it, if it has one.
    pub(crate) recipe: Option<String>,
    /// Whether the session gives a user a password.
    pub(crate) has_password: bool,
    /// The size of its root disk and where it stands, if the lab gives one.
    pub(crate) size: Option<(ByteSize, Span)>,
}

/// Words for people.
pub(crate) const WORDS: Words = Words {
    noun: "lab",
    kind: KIND,
    elsewhere: &ELSEWHERE,
    fixed: "`${{ … }}` works in values, but not in what identifies a lab or defines a variable",
    elsewhere_names: &[(
        "secrets",
        "a secret stands as `${{ secrets.NAME }}` in a password, an environment variable or an output, and nowhere else",
    )],
};

/// Keys that people know from elsewhere, with what a lab has instead.
const ELSEWHERE: [(&str, &str); 19] = [
    ("<<", "YAML 1.2 has no merge keys; write the keys out, or use a whole value again with an anchor and an alias"),
    ("cpu", "the key is `resources: {cpus: 2, memory: 4Gi}`"),
    ("cpus", "the key is `resources: {cpus: 2, memory: 4Gi}`"),
    ("description", "the key belongs into `metadata`"),
    ("disk", "the disk's size stands in the recipe; a root disk that stays is `kubevirt: {storage: {size: 20Gi}}`"),
    ("environment", "the key is `env`"),
    ("expose", "the key is `access: [{name: site, type: http, port: 8080}]`"),
    ("idle", "reserved until something can observe that a session is idle"),
    ("memory", "the key is `resources: {cpus: 2, memory: 4Gi}`"),
    ("on_idle", "reserved until something can observe that a session is idle"),
    ("passwd", "the key is `password: \"${{ secrets.NAME }}\"`"),
    ("plain_text_passwd", "the key is `password: \"${{ secrets.NAME }}\"`"),
    ("ports", "the key is `access: [{name: site, type: http, port: 8080}]`"),
    ("recipe", "the key is `image: ./images/NAME`"),
    ("services", "a container is one of the `machines`, with `kind: container`"),
    ("title", "the key belongs into `metadata`"),
    ("vms", "the key is `machines`"),
    ("volumes", "the key belongs into a machine's `kubevirt`"),
    ("write_files", "files belong into the machine's recipe"),
];

/// The name in `secrets.NAME`.
fn secret_name(expression: &str) -> Option<&str> {
    expression.strip_prefix("secrets.").filter(|name| labwright_document::rules::variable(name).is_ok())
}

/// A text in which secrets may stand.
fn value(decoder: &mut Decoder<'_>, node: &Node, what: &str) -> Option<Value> {
    let pieces = decoder.pieces(node, what, |expression| secret_name(expression).is_some())?;
    let mut parts = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => parts.push(Part::Text(text)),
            Piece::Own(text) => {
                let name = secret_name(&text.value)?.to_owned();
                let known = decoder.context.secrets.clone();
                parts.push(Part::Secret(refer(decoder, &Text { value: name, span: text.span }, "secret", &known)?));
            }
        }
    }
    let value = Value::new(parts);
    decoder.context.used_secrets.extend(value.secrets().map(str::to_owned));
    Some(value)
}

/// A name that must be among those declared.
fn refer(decoder: &mut Decoder<'_>, name: &Text, what: &str, known: &[Text]) -> Option<String> {
    if known.iter().any(|one| one.value == name.value) {
        return Some(name.value.clone());
    }
    let diagnostic = decoder.error(name.span, format!("no {what} is called `{}`", shown(&name.value)));
    let names: Vec<&str> = known.iter().map(|one| one.value.as_str()).collect();
    decoder.push(match did_you_mean(&name.value, names.iter().copied()) {
        Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
        None if names.is_empty() => diagnostic.hint(format!("the lab declares no {what}")),
        None => diagnostic.hint(format!("known: {}", listed(&names))),
    });
    None
}

/// The names that the items of a list give under `name`, as far as they can be read: also those of items that have other
/// mistakes, whose uses are not wrong.
fn names_in(decoder: &mut Decoder<'_>, node: Option<&Node>) -> Vec<Text> {
    let Some(Kind::Sequence(items)) = node.map(|node| &node.kind) else { return Vec::new() };
    let mut names = Vec::new();
    for item in items {
        let Kind::Mapping(entries) = &item.kind else { continue };
        if let Some((_, node)) = entries.iter().find(|(key, _)| key.name == "name") {
            // What is wrong with it is said once, wherever it is read.
            names.extend(decoder.text(node, "`name`"));
        }
    }
    names
}
