//! `users`.

use labwright_core::Span;

use super::{Decoder, Text, expected, shown};
use crate::resolved::User;
use labwright_document::rules as shared;
use labwright_document::{Kind, Meaning, Node};

const KEYS: [&str; 12] = [
    "name",
    "gecos",
    "uid",
    "homedir",
    "no_create_home",
    "primary_group",
    "groups",
    "shell",
    "sudo",
    "ssh_authorized_keys",
    "lock_passwd",
    "system",
];

/// The accounts, each with the place of its name.
pub(super) fn users(decoder: &mut Decoder<'_>, node: &Node) -> Vec<(User, Span)> {
    let mut found = Vec::new();
    let mut names = Vec::new();
    let mut uids: Vec<(u32, Span)> = Vec::new();
    for item in decoder.list(node, "`users`").unwrap_or_default() {
        if let Kind::Scalar(scalar) = &item.kind {
            let diagnostic = decoder.error(item.span, expected("a user is a mapping", item));
            decoder.push(diagnostic.hint(format!("write `{{name: {}}}`", shown(&scalar.value))));
            continue;
        }
        let Some((name, user)) = user(decoder, item) else { continue };
        decoder.unique(&mut names, &name, "user");
        if let Some((uid, span)) = user.uid.zip(uid_place(item)) {
            // The mistake is said; the account is one all the same.
            let _said = decoder.once(&mut uids, uid, span, "uid");
        }
        found.push((user, name.span));
    }
    found
}

fn uid_place(node: &Node) -> Option<Span> {
    let Kind::Mapping(entries) = &node.kind else { return None };
    entries.iter().find(|(key, _)| key.name == "uid").map(|(_, value)| value.span)
}

/// One account; `None` only where it has no usable name.
fn user(decoder: &mut Decoder<'_>, node: &Node) -> Option<(Text, User)> {
    let fields = decoder.fields(node, "a user", &KEYS)?;
    let name = decoder
        .required(&fields, "name", "a user")
        .and_then(|node| decoder.checked(node, "`name`", shared::account))
        .and_then(|name| {
            if name.value != "root" {
                return Some(name);
            }
            let diagnostic = decoder.error(name.span, "`root` exists already");
            decoder.push(diagnostic.hint("give files to root with `write_files`, and commands run as root anyway"));
            None
        });
    let gecos = fields.get("gecos").and_then(|node| {
        decoder.checked(node, "`gecos`", |text| {
            if text.contains([':', '\n', '\r']) {
                Err("a comment for /etc/passwd (no `:` and one line)")
            } else {
                Ok(())
            }
        })
    });
    let uid = fields.get("uid").and_then(|node| decoder.integer(node, "`uid`", 1..=60_000));
    let absolute = |decoder: &mut Decoder<'_>, node: &Node, what: &str| {
        let text = decoder.text(node, what)?;
        let path = decoder.guest_path(&text)?;
        if path.is_directory() {
            let message = format!("{what} ends with `/`");
            decoder.push(decoder.error(text.span, message).hint("leave the last `/` out"));
            return None;
        }
        Some(path)
    };
    let homedir = fields.get("homedir").and_then(|node| absolute(decoder, node, "`homedir`"));
    let shell = fields.get("shell").and_then(|node| absolute(decoder, node, "`shell`"));
    let mut flag = |key: &str, default: bool| match fields.get(key) {
        Some(node) => decoder.boolean(node, &format!("`{key}`")).unwrap_or(default),
        None => default,
    };
    let (no_create_home, lock_passwd, system) =
        (flag("no_create_home", false), flag("lock_passwd", true), flag("system", false));
    let primary_group = fields
        .get("primary_group")
        .and_then(|node| decoder.checked(node, "`primary_group`", shared::account))
        .map(|text| text.value);
    let groups = fields.get("groups").map(|node| groups(decoder, node)).unwrap_or_default();
    let sudo = fields.get("sudo").map(|node| sudo(decoder, node)).unwrap_or_default();
    let mut keys = Vec::new();
    if let Some(node) = fields.get("ssh_authorized_keys") {
        for item in decoder.list(node, "`ssh_authorized_keys`").unwrap_or_default() {
            keys.extend(decoder.checked(item, "an SSH key", shared::ssh_key).map(|text| text.value));
        }
    }
    let name = name?;
    let user = User {
        name: name.value.clone(),
        gecos: gecos.map(|text| text.value),
        uid: uid.and_then(|uid| u32::try_from(uid).ok()),
        homedir,
        no_create_home,
        primary_group,
        groups,
        shell,
        sudo,
        ssh_authorized_keys: keys,
        lock_passwd,
        system,
    };
    Some((name, user))
}

/// Groups: a list, or as in cloud-config a text with commas.
fn groups(decoder: &mut Decoder<'_>, node: &Node) -> Vec<String> {
    let mut names = Vec::new();
    if let Kind::Scalar(_) = node.kind {
        if let Some(text) = decoder.text(node, "`groups`") {
            names.extend(text.value.split(',').map(|name| Text { value: name.trim().to_owned(), span: text.span }));
        }
    } else {
        for item in decoder.list(node, "`groups`").unwrap_or_default() {
            names.extend(decoder.text(item, "a group"));
        }
    }
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for name in names {
        let Some(name) = decoder.follows(name, shared::account) else { continue };
        decoder.unique(&mut seen, &name, "group");
        found.push(name.value);
    }
    found
}

/// Rules for sudo: a text, a list, or as in cloud-config `false` or nothing for none.
fn sudo(decoder: &mut Decoder<'_>, node: &Node) -> Vec<String> {
    let rule = |text: &str| {
        let good = text.contains('=') && !text.contains(['\n', '\r']);
        if good { Ok(()) } else { Err("a rule for sudo (such as ALL=(ALL) NOPASSWD:ALL)") }
    };
    if let Kind::Scalar(scalar) = &node.kind {
        return match scalar.meaning() {
            Meaning::Null | Meaning::Boolean(false) => Vec::new(),
            _ => decoder.checked(node, "`sudo`", rule).map(|text| text.value).into_iter().collect(),
        };
    }
    let items = decoder.list(node, "`sudo`").unwrap_or_default();
    items.iter().filter_map(|item| decoder.checked(item, "a rule for sudo", rule)).map(|text| text.value).collect()
}
