//! `apt` and `packages`.

use labwright_core::Diagnostic;

use super::{Decoder, Text, expected, shown};
use crate::resolved::{AptKey, AptSource, Package};
use crate::rules;
use labwright_document::Want;
use labwright_document::rules as shared;
use labwright_document::{Kind, Node};

const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const SECRET: &str = "-----BEGIN PGP PRIVATE KEY BLOCK-----";

/// `apt: {sources: {NAME: {source, key}}}`.
pub(super) fn apt(decoder: &mut Decoder<'_>, node: &Node) -> Vec<AptSource> {
    let Some(fields) = decoder.fields(node, "`apt`", &["sources"]) else { return Vec::new() };
    let Some(sources) = decoder.required(&fields, "sources", "`apt`") else { return Vec::new() };
    let Kind::Mapping(entries) = &sources.kind else {
        let message = expected("`sources` is a mapping from names to sources", sources);
        decoder
            .push(decoder.error(sources.span, message).hint("write `NAME: {source: \"deb …\", key: ./keys/NAME.asc}`"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (key, value) in entries {
        let name = decoder.follows(Text { value: key.name.clone(), span: key.span }, shared::file_name);
        if let (Some(source), Some(name)) = (source(decoder, value), name) {
            found.push(AptSource { name: name.value, ..source });
        }
    }
    found
}

/// One source; its name is the key it stands below.
fn source(decoder: &mut Decoder<'_>, node: &Node) -> Option<AptSource> {
    let fields = decoder.fields(node, "an apt source", &["source", "key"])?;
    let line = decoder.required(&fields, "source", "an apt source").and_then(|node| {
        let text = decoder.text(node, "`source`")?;
        match line(decoder, &text) {
            Ok(()) => Some(text),
            Err(diagnostic) => {
                decoder.push(*diagnostic);
                None
            }
        }
    });
    let key = fields.get("key").map(|node| key(decoder, node));
    let line = line?;
    let own = line.value.contains("signed-by=") || line.value.contains("trusted=yes");
    let trusts = match key {
        Some(key) => Some(key?),
        None if own => None,
        None => {
            let diagnostic = decoder.error(line.span, "an apt source without a key");
            decoder
                .push(diagnostic.hint("add `key: ./keys/NAME.asc`, or `[signed-by=/path/in/the/guest]` to the line"));
            return None;
        }
    };
    if line.value.contains("trusted=yes") {
        let warning =
            Diagnostic::warning(decoder.file, line.span, "`trusted=yes` installs whatever the network answers");
        decoder.push(warning.hint("give the source's `key` instead"));
    }
    Some(AptSource { name: String::new(), line: line.value, key: trusts })
}

/// One line of sources.list.
fn line(decoder: &Decoder<'_>, text: &Text) -> Result<(), Box<Diagnostic>> {
    let wrong = |message: &str, hint: &str| Box::new(decoder.error(text.span, message).hint(hint));
    let value = text.value.trim_end();
    let shape = "write `deb https://… SUITE COMPONENT…`";
    if value.contains(['\n', '\r']) {
        return Err(wrong("an apt source is one line", "give each line a name of its own below `sources`"));
    }
    if value.starts_with("ppa:") {
        return Err(wrong("a `ppa:` short form is not a source line", shape));
    }
    if value.contains("$RELEASE")
        || value.contains("$MIRROR")
        || value.contains("$PRIMARY")
        || value.contains("$SECURITY")
    {
        return Err(wrong(
            "cloud-config's `$RELEASE` and `$MIRROR` are not known here",
            "write the suite and the address out",
        ));
    }
    let (kind, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
    if !matches!(kind, "deb" | "deb-src") {
        return Err(wrong("an apt source begins with `deb` or `deb-src`", shape));
    }
    let mut rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        let Some((_, behind)) = options.split_once(']') else {
            return Err(wrong("the options of an apt source have no `]`", shape));
        };
        rest = behind.trim_start();
    }
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [address, suite, components @ ..] = words.as_slice() else {
        return Err(wrong("an apt source needs an address and a suite", shape));
    };
    if let Err(wanted) = rules::address(address) {
        return Err(Box::new(decoder.error(text.span, format!("`{}` is not {wanted}", shown(address)))));
    }
    // apt's rule: a flat repository's path ends with `/` and has no components; every other suite has some.
    if components.is_empty() && !suite.ends_with('/') {
        return Err(wrong("an apt source needs a component behind its suite", shape));
    }
    Ok(())
}

/// A key: armoured in the recipe, or a file.
fn key(decoder: &mut Decoder<'_>, node: &Node) -> Option<AptKey> {
    let text = decoder.text(node, "`key`")?;
    if text.value.contains(SECRET) {
        decoder.push(
            decoder.error(text.span, "a private key in a recipe").hint("export the public key: gpg --armor --export"),
        );
        return None;
    }
    if text.value.trim_start().starts_with(ARMOR) {
        return Some(AptKey::Inline(text.value));
    }
    let (path, _) = decoder.local(&text, Want::File)?;
    let name = shown(&text.value);
    match decoder.files.read(&path.path) {
        // An OpenPGP packet's first byte has its highest bit set (RFC 9580, 4.2).
        Ok(bytes) if bytes.starts_with(ARMOR.as_bytes()) || bytes.first().is_some_and(|byte| byte & 0x80 != 0) => {
            Some(AptKey::File(path))
        }
        Ok(_) => {
            let diagnostic = decoder.error(text.span, format!("`{name}` is not an OpenPGP public key"));
            decoder.push(diagnostic.hint(format!("a file that begins with `{ARMOR}`, or a binary key")));
            None
        }
        Err(error) => {
            decoder.push(decoder.error(text.span, format!("`{name}` cannot be read: {error}")));
            None
        }
    }
}

/// The packages to install.
pub(super) fn packages(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Package> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`packages`").unwrap_or_default() {
        let Some(text) = decoder.text(item, "a package") else { continue };
        if rules::is_package_file(&text.value) {
            if let Some((path, _)) = decoder.local(&text, Want::File) {
                found.push(Package::File(path));
            }
        } else if let Err(wanted) = rules::package(&text.value) {
            let diagnostic = decoder.not(&text, wanted);
            decoder.push(if text.value.contains(char::is_whitespace) {
                diagnostic.hint("one package for each entry of the list")
            } else {
                diagnostic
            });
        } else {
            found.push(Package::Named(text.value.clone()));
        }
        decoder.unique(&mut seen, &text, "package");
    }
    found
}
