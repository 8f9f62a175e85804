//! `access`.

use labwright_core::{AccessKind, Arch, Span, did_you_mean};

use super::base::{file_digest, remotes};
use super::{Decoder, Fields, Text, shown};
use crate::below;
use crate::load::Feature;
use crate::resolved::{Access, AccessSpec, FRONT_DOOR_PORT, Geometry, Ttyd, User};
use crate::rules;
use labwright_document::Node;
use labwright_document::rules as shared;

const KEYS: [&str; 6] = ["name", "type", "user", "geometry", "port", "ttyd"];

/// The ways in.
pub(super) fn access(
    decoder: &mut Decoder<'_>,
    node: &Node,
    users: &[(User, Span)],
    architectures: &[Arch],
) -> Vec<Access> {
    let mut found = Vec::new();
    let mut names = Vec::new();
    let mut ports: Vec<(u16, Span)> = Vec::new();
    for item in decoder.list(node, "`access`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "an access", &KEYS) else { continue };
        let name = decoder
            .required(&fields, "name", "an access")
            .and_then(|node| decoder.checked(node, "`name`", shared::name));
        if let Some(name) = &name {
            decoder.unique(&mut names, name, "access");
        }
        let kinds = [AccessKind::Terminal, AccessKind::Desktop, AccessKind::Http].map(|kind| (kind.as_str(), kind));
        let kind = decoder
            .required(&fields, "type", "an access")
            .and_then(|node| decoder.choice(node, "a type of access", &kinds));
        let Some(kind) = kind else { continue };
        let spec = spec(decoder, &fields, kind, users, architectures, &mut ports);
        if let (Some(name), Some(spec)) = (name, spec) {
            found.push(Access { name: name.value, spec });
        }
    }
    found
}

fn spec(
    decoder: &mut Decoder<'_>,
    fields: &Fields<'_>,
    kind: AccessKind,
    users: &[(User, Span)],
    architectures: &[Arch],
    ports: &mut Vec<(u16, Span)>,
) -> Option<AccessSpec> {
    let allowed: &[&str] = match kind {
        AccessKind::Terminal => &["user", "ttyd"],
        AccessKind::Desktop => &["user", "geometry"],
        AccessKind::Http => &["port"],
    };
    for (key, span, _) in fields.iter() {
        if !matches!(key, "name" | "type") && !allowed.contains(&key) {
            decoder.push(decoder.error(span, format!("`{key}` does not go with the type `{}`", kind.as_str())));
        }
    }
    match kind {
        AccessKind::Terminal => {
            let user = user(decoder, fields, users);
            let ttyd = match fields.get("ttyd") {
                Some(node) => Some(ttyd(decoder, node, architectures)?),
                None => None,
            };
            Some(AccessSpec::Terminal { user: user?, ttyd })
        }
        AccessKind::Desktop => {
            decoder.context.feature(Feature::Desktop, fields.key("type").unwrap_or_default());
            let user = user(decoder, fields, users);
            let geometry = match fields.get("geometry") {
                Some(node) => decoder.read(node, "`geometry`", rules::geometry)?,
                None => Geometry::default(),
            };
            Some(AccessSpec::Desktop { user: user?, geometry })
        }
        AccessKind::Http => port(decoder, fields, ports).map(|port| AccessSpec::Http { port }),
    }
}

/// A user of the recipe.
fn user(decoder: &mut Decoder<'_>, fields: &Fields<'_>, users: &[(User, Span)]) -> Option<String> {
    let node = decoder.required(fields, "user", "an access to a terminal or desktop")?;
    let text = decoder.text(node, "`user`")?;
    known_user(decoder, &text, users)
}

/// The user of the recipe, or of the one below, that a text names.
pub(super) fn known_user(decoder: &mut Decoder<'_>, text: &Text, users: &[(User, Span)]) -> Option<String> {
    let Text { value, span } = text.clone();
    if users.iter().any(|(user, _)| user.name == value) {
        return Some(value);
    }
    let inherited: Vec<String> =
        decoder.context.below.map(|below| below.users().map(str::to_owned).collect()).unwrap_or_default();
    if inherited.contains(&value) || (decoder.context.below.is_none() && below::is_on_a_recipe(decoder)) {
        return Some(value);
    }
    let diagnostic = decoder.error(span, format!("no user is called `{}`", shown(&value)));
    let names = users.iter().map(|(user, _)| user.name.as_str()).chain(inherited.iter().map(String::as_str));
    decoder.push(match did_you_mean(&value, names) {
        Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
        None => diagnostic.hint("declare the account below `users`"),
    });
    None
}

/// The port of a web server of the machine's own.
fn port(decoder: &mut Decoder<'_>, fields: &Fields<'_>, ports: &mut Vec<(u16, Span)>) -> Option<u16> {
    let node = decoder.required(fields, "port", "an access to a web server")?;
    let port = u16::try_from(decoder.integer(node, "`port`", 1..=65_535)?).ok()?;
    if port == FRONT_DOOR_PORT {
        let diagnostic = decoder.error(node.span, format!("port {port} is the front door's"));
        decoder.push(
            diagnostic
                .label("terminals and desktops are served here")
                .hint("let the web server listen on another port"),
        );
        return None;
    }
    decoder.once(ports, port, node.span, "port")?;
    Some(port)
}

/// A ttyd that the recipe brings.
fn ttyd(decoder: &mut Decoder<'_>, node: &Node, architectures: &[Arch]) -> Option<Ttyd> {
    let fields = decoder.fields(node, "`ttyd`", &["file", "url", "digest"])?;
    decoder.context.feature(Feature::OwnTtyd, node.span);
    match (fields.get("file"), fields.get("url")) {
        (Some(_), Some(_)) => {
            let span = fields.key("url").unwrap_or_default();
            decoder.push(decoder.error(span, "`ttyd` has both `file` and `url`").label("remove one of the two"));
            None
        }
        (None, None) => {
            let head = node.head(&decoder.file.text);
            decoder.push(
                decoder
                    .error(head, "`ttyd` has neither `file` nor `url`")
                    .hint("leave `ttyd` out for the distribution's"),
            );
            None
        }
        (Some(file), None) => {
            let path = decoder.local_file(file, "`file`");
            let digest = file_digest(decoder, &fields, "`ttyd`", architectures);
            Some(Ttyd::File { path: path?, digest: digest? })
        }
        (None, Some(_)) => remotes(decoder, &fields, "`ttyd`", architectures).map(Ttyd::Url),
    }
}
