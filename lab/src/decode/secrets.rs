//! `secrets`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use labwright_core::{Diagnostic, did_you_mean};
use labwright_document::rules as shared;
use labwright_document::{Kind, Node, Piece, Text, expected, listed, shown};

use super::Decoder;
use crate::resolved::{Random, RandomKind, SecretPart, SecretSpec};
use crate::rules;

/// Characters of a password; fewer can be guessed, and more are no safer.
pub(crate) const LENGTHS: RangeInclusive<i64> = 8..=64;
const DEFAULT_LENGTH: u16 = 16;
/// What a password that the front door reads may have.
const MAX_LENGTH: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
enum SecretType {
    Password,
    Text,
}

/// What is made anew for every session.
pub(super) fn secrets(decoder: &mut Decoder<'_>, node: &Node) -> BTreeMap<String, SecretSpec> {
    let mut found = BTreeMap::new();
    let Kind::Mapping(entries) = &node.kind else {
        let message = expected("`secrets` is a mapping from names to secrets", node);
        decoder.push(decoder.error(node.span, message).hint("write `NAME: {type: password}`"));
        return found;
    };
    for (key, value) in entries {
        let name = Text { value: key.name.clone(), span: key.span };
        decoder.context.secrets.push(name.clone());
        let name = decoder.follows(name, shared::variable);
        if let (Some(spec), Some(name)) = (secret(decoder, value), name) {
            found.insert(name.value, spec);
        }
    }
    found
}

fn secret(decoder: &mut Decoder<'_>, node: &Node) -> Option<SecretSpec> {
    let fields = decoder.fields(node, "a secret", &["type", "length", "value"])?;
    let types = [("password", SecretType::Password), ("text", SecretType::Text)];
    let kind = decoder
        .required(&fields, "type", "a secret")
        .and_then(|node| decoder.choice(node, "a type of secret", &types))?;
    let other = if kind == SecretType::Password { "value" } else { "length" };
    if let Some(span) = fields.key(other) {
        let diagnostic = decoder.error(span, format!("`{other}` does not go with this type"));
        decoder.push(diagnostic.hint("`password` has a `length`, `text` has a `value`"));
    }
    match kind {
        SecretType::Password => {
            let length = match fields.get("length") {
                Some(node) => u16::try_from(decoder.integer(node, "`length`", LENGTHS)?).ok()?,
                None => DEFAULT_LENGTH,
            };
            Some(SecretSpec::password(length))
        }
        SecretType::Text => {
            let node = decoder.required(&fields, "value", "a secret of the type `text`")?;
            text(decoder, node)
        }
    }
}

/// `FLAG{${{ hex(16) }}}`: text, and functions that make random characters.
fn text(decoder: &mut Decoder<'_>, node: &Node) -> Option<SecretSpec> {
    let is_call = |expression: &str| expression.ends_with(')') && expression.split_once('(').is_some();
    let mut parts = Vec::new();
    for piece in decoder.pieces(node, "`value`", is_call)? {
        parts.push(match piece {
            Piece::Text(value) if value.is_empty() => continue,
            Piece::Text(value) => {
                let text = decoder.follows(Text { value, span: node.span }, rules::secret_text)?;
                SecretPart::Fixed(text.value)
            }
            Piece::Own(call) => SecretPart::Random(random(decoder, &call)?),
        });
    }
    let spec = SecretSpec::new(parts);
    if !(1..=MAX_LENGTH).contains(&spec.length()) {
        let message = format!("a secret has from 1 to {MAX_LENGTH} characters, not {}", spec.length());
        decoder.push(decoder.error(node.span, message));
        return None;
    }
    if !spec.parts().iter().any(|part| matches!(part, SecretPart::Random(_))) {
        let warning = Diagnostic::warning(decoder.file, node.span, "this secret is the same in every session");
        decoder.push(warning.hint("put random characters into it: `${{ hex(16) }}`"));
    }
    Some(spec)
}

/// `hex(16)`.
fn random(decoder: &mut Decoder<'_>, call: &Text) -> Option<Random> {
    let (name, argument) = call.value.strip_suffix(')')?.split_once('(')?;
    let name = name.trim();
    let Some((_, kind)) = RandomKind::FUNCTIONS.into_iter().find(|(known, _)| *known == name) else {
        let names = RandomKind::FUNCTIONS.map(|(name, _)| name);
        let diagnostic = decoder.error(call.span, format!("unknown function `{}`", shown(name)));
        decoder.push(match did_you_mean(name, names) {
            Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
            None => diagnostic.hint(format!("known functions: {}", listed(&names))),
        });
        return None;
    };
    if let Ok(length @ 1..=128) = argument.trim().parse::<u16>() {
        return Some(Random { kind, length });
    }
    let diagnostic = decoder.error(call.span, format!("`{name}` takes a number of characters from 1 to 128"));
    decoder.push(diagnostic.hint(format!("write `${{{{ {name}(16) }}}}`")));
    None
}
