//! `output`: what is made of the finished disk.

use labwright_core::{AccessKind, GuestPath, Span};
use labwright_document::{Node, Text};

use super::{Decoder, Fields, access};
use crate::resolved::{Access, Base, Compression, Container, Output, User};
use crate::rules;

const KEYS: [&str; 2] = ["compression", "container"];
const CONTAINER_KEYS: [&str; 5] = ["command", "args", "env", "user", "working_dir"];

/// `None` where there is a mistake.
pub(super) fn output(decoder: &mut Decoder<'_>, node: &Node, users: &[(User, Span)]) -> Option<Output> {
    let fields = decoder.fields(node, "`output`", &KEYS)?;
    if let Some(node) = fields.get("container") {
        if fields.get("compression").is_some() {
            let span = fields.key("compression").unwrap_or_default();
            decoder.push(decoder.error(span, "`compression` is that of a disk, and a container image has none"));
        }
        return container(decoder, node, users).map(Output::Container);
    }
    let choices = [Compression::Zstd, Compression::Zlib, Compression::None].map(|choice| (choice.as_str(), choice));
    let compression = match fields.get("compression") {
        Some(node) => decoder.choice(node, "a compression", &choices)?,
        None => Compression::default(),
    };
    Some(Output::Disk { compression })
}

fn container(decoder: &mut Decoder<'_>, node: &Node, users: &[(User, Span)]) -> Option<Container> {
    let fields = decoder.fields(node, "`container`", &CONTAINER_KEYS)?;
    Some(Container {
        command: fields.get("command").map(|node| decoder.words(node, "`command`")).unwrap_or_default(),
        args: fields.get("args").map(|node| decoder.words(node, "`args`")).unwrap_or_default(),
        env: fields.get("env").map(|node| decoder.env(node, value)).unwrap_or_default(),
        user: fields.get("user").and_then(|node| user(decoder, node, users)),
        working_dir: fields.get("working_dir").and_then(|node| directory(decoder, node)),
    })
}

fn value(decoder: &mut Decoder<'_>, node: &Node, what: &str) -> Option<String> {
    decoder.text(node, what).map(|text| text.value)
}

/// A user of the recipe, or numbers: who runs the container may not know the image's accounts.
fn user(decoder: &mut Decoder<'_>, node: &Node, users: &[(User, Span)]) -> Option<String> {
    let text = decoder.checked(node, "`user`", rules::container_user)?;
    let name = text.value.split(':').next().unwrap_or_default();
    if name.bytes().all(|byte| byte.is_ascii_digit()) || name == "root" {
        return Some(text.value);
    }
    access::known_user(decoder, &Text { value: name.to_owned(), span: text.span }, users)?;
    Some(text.value)
}

fn directory(decoder: &mut Decoder<'_>, node: &Node) -> Option<GuestPath> {
    let text = decoder.text(node, "`working_dir`")?;
    decoder.guest_path(&text)
}

/// Finds what a container cannot have: nothing of the guest runs in it but the command.
pub(super) fn fit_container(decoder: &mut Decoder<'_>, fields: &Fields<'_>, access: &[Access]) {
    for access in access.iter().filter(|access| access.kind() != AccessKind::Http) {
        let text =
            format!("a container offers no {}: `{}` needs a machine that boots", access.kind().as_str(), access.name);
        let diagnostic = decoder.error(fields.key("access").unwrap_or_default(), text);
        decoder.push(diagnostic.hint("access of the type `http` goes with containers"));
    }
    if let Some(span) = fields.key("checks") {
        decoder.push(decoder.error(span, "a container has no checks: nothing in it would run them"));
    }
}

/// A disk of what has no kernel would not boot.
pub(super) fn bootable(decoder: &mut Decoder<'_>, base: Option<&Base>, output: Option<&Option<Output>>, span: Span) {
    let below_boots = decoder.context.below.is_none_or(crate::below::Below::boots);
    let boots = below_boots && base.is_none_or(Base::boots);
    if !boots && matches!(output, None | Some(Some(Output::Disk { .. }))) {
        let diagnostic =
            decoder.error(span, "a base of the variant `minimal` has no kernel, so this disk would not boot");
        decoder.push(diagnostic.hint("write `output: {container: {}}` for a container image, or leave `variant` out"));
    }
}
