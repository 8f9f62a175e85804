//! `architectures` and `base`.

use std::collections::BTreeMap;

use labwright_core::{Arch, Digest, ImageRef};

use super::{Decoder, Fields, listed, shown};
use crate::load::Feature;
use crate::resolved::{Base, Distribution, Remote, Variant};
use crate::rules;
use labwright_document::FileKind;
use labwright_document::Want;
use labwright_document::{Kind, Node};

/// The forms of a base that is a mapping: its first key, and its others.
const FORMS: [(&str, &[&str]); 5] = [
    ("url", &["digest"]),
    ("file", &["digest"]),
    ("image", &[]),
    ("recipe", &[]),
    ("bootstrap", &["suite", "variant"]),
];
const KEYS: [&str; 8] = ["url", "file", "image", "recipe", "bootstrap", "digest", "suite", "variant"];

/// The architectures to build for; amd64 where nothing is said.
pub(super) fn architectures(decoder: &mut Decoder<'_>, node: Option<&Node>) -> Vec<Arch> {
    let Some(node) = node else { return vec![Arch::Amd64] };
    let Some(items) = decoder.list(node, "`architectures`") else { return vec![Arch::Amd64] };
    if items.is_empty() {
        decoder.push(decoder.error(node.span, "`architectures` needs at least one of amd64 and arm64"));
    }
    let mut found = Vec::new();
    for item in items {
        let choices = Arch::ALL.map(|arch| (arch.as_str(), arch));
        let Some(arch) = decoder.choice(item, "an architecture", &choices) else { continue };
        if found.contains(&arch) {
            decoder.push(decoder.error(item.span, format!("architecture `{arch}` is given twice")));
        } else {
            found.push(arch);
            decoder.context.feature(Feature::Architecture(arch), item.span);
        }
    }
    // What the mistake leaves still tells the rest of the recipe what to expect.
    if found.is_empty() { vec![Arch::Amd64] } else { found }
}

/// What the disk starts from.
pub(super) fn base(decoder: &mut Decoder<'_>, node: &Node, architectures: &[Arch]) -> Option<Base> {
    if let Kind::Scalar(_) = node.kind {
        let name = decoder.text(node, "`base`")?;
        decoder.context.feature(Feature::BaseCatalogue, node.span);
        return decoder.follows(name, rules::catalogue_name).map(|name| Base::Catalogue(name.value));
    }
    let fields = decoder.fields(node, "`base`", &KEYS)?;
    let form = form(decoder, node, &fields)?;
    match form {
        "url" => {
            decoder.context.feature(Feature::BaseUrl, node.span);
            remotes(decoder, &fields, "`base`", architectures).map(Base::Url)
        }
        "file" => {
            let path = fields.get("file").and_then(|node| decoder.local_file(node, "`file`"));
            let digest = file_digest(decoder, &fields, "`base`", architectures);
            Some(Base::File { path: path?, digest: digest? })
        }
        "image" => {
            decoder.context.feature(Feature::BaseImage, node.span);
            let text = decoder.text(fields.get("image")?, "`image`")?;
            match text.value.parse::<ImageRef>() {
                Ok(ImageRef::Registry(registry)) if registry.digest.is_none() => {
                    let diagnostic = decoder.error(text.span, "an image in a registry needs a digest");
                    decoder.push(diagnostic.hint("write NAME@sha256:…; a tag can be moved to other contents"));
                    None
                }
                Ok(reference) => Some(Base::Image(reference)),
                Err(error) => {
                    let message = format!("`{}` is not a reference to an image", shown(&text.value));
                    decoder.push(decoder.error(text.span, message).hint(error.to_string()));
                    None
                }
            }
        }
        "recipe" => {
            decoder.context.feature(Feature::BaseRecipe, node.span);
            let text = decoder.text(fields.get("recipe")?, "`recipe`")?;
            let (path, kind) = decoder.local(&text, Want::FileOrDirectory)?;
            if kind == FileKind::Directory {
                let inside = path.path.join("recipe.yaml");
                if !matches!(decoder.files.kind(&inside), Ok(Some(FileKind::File))) {
                    let message = format!("`{}` is a directory without a recipe.yaml", shown(&text.value));
                    decoder.push(decoder.error(text.span, message));
                    return None;
                }
            }
            Some(Base::Recipe(path))
        }
        _ => bootstrap(decoder, &fields),
    }
}

/// Which of the forms it is; mistakes for none, several, and keys of another.
fn form(decoder: &mut Decoder<'_>, node: &Node, fields: &Fields<'_>) -> Option<&'static str> {
    let given: Vec<_> = fields.iter().filter(|(key, ..)| FORMS.iter().any(|(name, _)| name == key)).collect();
    let names = FORMS.map(|(name, _)| name);
    let Some((form, ..)) = given.first().copied() else {
        let head = node.head(&decoder.file.text);
        decoder.push(
            decoder.error(head, "`base` does not say what to start from").hint(format!("one of {}", listed(&names))),
        );
        return None;
    };
    for (other, span, _) in given.iter().skip(1) {
        let message = format!("`base` has both `{form}` and `{other}`");
        decoder.push(decoder.error(*span, message).label("a disk starts from one thing"));
    }
    let (_, allowed) = FORMS.into_iter().find(|(name, _)| *name == form)?;
    for (key, span, _) in fields.iter() {
        if !names.contains(&key) && !allowed.contains(&key) {
            decoder.push(decoder.error(span, format!("`{key}` does not go with `{form}`")));
        }
    }
    if given.len() == 1 { Some(form) } else { None }
}

fn bootstrap(decoder: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Base> {
    let distribution = fields
        .get("bootstrap")
        .and_then(|node| decoder.choice(node, "a distribution to bootstrap", &[("debian", Distribution::Debian)]));
    let suite = decoder.required(fields, "suite", "`base`").and_then(|node| {
        let suites: Vec<_> = Distribution::Debian.suites().iter().map(|suite| (*suite, *suite)).collect();
        decoder.choice(node, "a release of Debian", &suites)
    });
    let variants = Variant::ALL.map(|variant| (variant.as_str(), variant));
    let variant = fields.get("variant").map(|node| decoder.choice(node, "a variant of a bootstrap", &variants));
    Some(Base::Bootstrap {
        distribution: distribution?,
        suite: suite?.to_owned(),
        variant: variant.unwrap_or(Some(Variant::default()))?,
    })
}

/// `digest` of a file that serves one architecture.
pub(super) fn file_digest(
    decoder: &mut Decoder<'_>,
    fields: &Fields<'_>,
    what: &str,
    architectures: &[Arch],
) -> Option<Digest> {
    if architectures.len() > 1 {
        let span = fields.key("file").unwrap_or_default();
        decoder.push(
            decoder.error(span, "one file cannot serve two architectures").hint("use `url`, with one address for each"),
        );
    }
    let node = decoder.required(fields, "digest", what)?;
    decoder.digest(node, "`digest`")
}

/// `url` and `digest`: both text, or both a mapping with each architecture of the recipe.
pub(super) fn remotes(
    decoder: &mut Decoder<'_>,
    fields: &Fields<'_>,
    what: &str,
    architectures: &[Arch],
) -> Option<BTreeMap<Arch, Remote>> {
    let urls = fields.get("url").and_then(|node| {
        each(decoder, node, "`url`", architectures, |decoder, node| {
            decoder.checked(node, "`url`", rules::address).map(|text| text.value)
        })
    });
    let digests = decoder.required(fields, "digest", what).and_then(|node| {
        each(decoder, node, "`digest`", architectures, |decoder, node| decoder.digest(node, "`digest`"))
    });
    let mut digests = digests?;
    let remotes =
        urls?.into_iter().filter_map(|(arch, url)| Some((arch, Remote { url, digest: digests.remove(&arch)? })));
    Some(remotes.collect())
}

/// One value for each architecture; a single value for the only one may stand alone.
fn each<T>(
    decoder: &mut Decoder<'_>,
    node: &Node,
    what: &str,
    architectures: &[Arch],
    mut one: impl FnMut(&mut Decoder<'_>, &Node) -> Option<T>,
) -> Option<BTreeMap<Arch, T>> {
    if let Kind::Scalar(_) = node.kind {
        if architectures.len() > 1 {
            let diagnostic = decoder.error(node.span, format!("{what} needs a value for each architecture"));
            decoder.push(diagnostic.hint("write {amd64: …, arm64: …}"));
            return None;
        }
        return Some(BTreeMap::from([(*architectures.first()?, one(decoder, node)?)]));
    }
    let fields = decoder.fields(node, what, &Arch::ALL.map(Arch::as_str))?;
    let mut values = BTreeMap::new();
    let mut complete = true;
    for (name, span, node) in fields.iter() {
        let value = one(decoder, node);
        let Some(arch) = name.parse().ok().filter(|arch| architectures.contains(arch)) else {
            decoder.push(decoder.error(span, format!("`{name}` is not in the recipe's `architectures`")));
            complete = false;
            continue;
        };
        match value {
            Some(value) => drop(values.insert(arch, value)),
            None => complete = false,
        }
    }
    for arch in architectures {
        if fields.get(arch.as_str()).is_none() {
            decoder.required(&fields, arch.as_str(), what);
            complete = false;
        }
    }
    complete.then_some(values)
}
