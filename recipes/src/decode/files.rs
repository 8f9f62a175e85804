//! `write_files`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use labwright_core::GuestPath;

use super::{Decoder, Fields, Text, shown};
use crate::resolved::{FileSource, Owner, WriteFile};
use crate::rules;
use labwright_document::FileKind;
use labwright_document::Want;
use labwright_document::rules as shared;
use labwright_document::{Kind, Meaning, Node};

const KEYS: [&str; 7] = ["path", "content", "from", "owner", "permissions", "append", "encoding"];

/// Directories that hold nothing of the image: what is written there while building is gone at boot, or never arrives.
const VOLATILE: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var/run"];

/// Padding may be missing: editors and shells lose it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    Base64,
}

/// The files to write.
pub(super) fn files(decoder: &mut Decoder<'_>, node: &Node) -> Vec<WriteFile> {
    let items = decoder.list(node, "`write_files`").unwrap_or_default();
    let mut seen = Vec::new();
    items.iter().filter_map(|item| file(decoder, item, &mut seen)).collect()
}

fn file(decoder: &mut Decoder<'_>, node: &Node, seen: &mut Vec<Text>) -> Option<WriteFile> {
    let fields = decoder.fields(node, "a file", &KEYS)?;
    let path = decoder.required(&fields, "path", "a file").and_then(|node| {
        let text = decoder.text(node, "`path`")?;
        let path = decoder.guest_path(&text)?;
        volatile(decoder, &text, &path)?;
        Some((path, text))
    });
    let append = fields.get("append").and_then(|node| decoder.boolean(node, "`append`")).unwrap_or(false);
    let owner = fields.get("owner").and_then(|node| owner(decoder, node));
    let mode = fields.get("permissions").and_then(|node| permissions(decoder, node));
    let source = source(decoder, node, &fields);
    let (path, text) = path?;
    let (source, is_tree) = source?;
    let tree_alone = |decoder: &mut Decoder<'_>, key: &str, why: &str| {
        if let Some(span) = fields.key(key).filter(|_| is_tree) {
            decoder.push(decoder.error(span, format!("`{key}` does not go with a directory")).hint(why));
        }
    };
    tree_alone(decoder, "permissions", "a tree keeps the permissions of its files");
    tree_alone(decoder, "append", "only a file can be appended to");
    if is_tree && !path.is_directory() {
        let diagnostic = decoder.error(text.span, format!("`{path}` does not end with `/`, but `from` is a directory"));
        decoder.push(diagnostic.hint(format!("write `{path}/`: the directory's contents go in there")));
        return None;
    }
    if !is_tree && path.is_directory() {
        let diagnostic = decoder.error(text.span, format!("`{path}` ends with `/`, but what is written is a file"));
        decoder.push(diagnostic.hint("give the file's whole path; only a tree in `from` has a `/` at the end"));
        return None;
    }
    // Trees may be laid over each other, and appending needs something that is there.
    if !is_tree && !append {
        decoder.unique(seen, &text, "file");
    }
    Some(WriteFile { path, source, owner, mode, append })
}

fn volatile(decoder: &mut Decoder<'_>, text: &Text, path: &GuestPath) -> Option<()> {
    let inside = |directory: &&str| {
        path.as_str().strip_prefix(*directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(directory) = VOLATILE.into_iter().find(|directory| inside(directory)) {
        let diagnostic = decoder.error(text.span, format!("nothing below `{directory}` is part of an image"));
        decoder.push(diagnostic.hint("files that must be there after boot are made by tmpfiles.d or a systemd unit"));
        return None;
    }
    Some(())
}

/// The contents, and whether they are a tree.
fn source(decoder: &mut Decoder<'_>, node: &Node, fields: &Fields<'_>) -> Option<(FileSource, bool)> {
    let choices = [("text/plain", Encoding::Plain), ("b64", Encoding::Base64), ("base64", Encoding::Base64)];
    let encoding = match fields.get("encoding") {
        Some(node) => decoder.choice(node, "an encoding", &choices),
        None => Some(Encoding::Plain),
    };
    match (fields.get("content"), fields.get("from")) {
        (Some(_), Some(_)) => {
            let span = fields.key("from").unwrap_or_default();
            let diagnostic = decoder.error(span, "a file has both `content` and `from`");
            decoder.push(diagnostic.label("remove one of the two"));
            None
        }
        (None, None) => {
            let head = node.head(&decoder.file.text);
            let diagnostic = decoder.error(head, "a file has neither `content` nor `from`");
            decoder.push(diagnostic.hint("`content: \"\"` makes an empty file"));
            None
        }
        (Some(content), None) => {
            let text = decoder.text(content, "`content`")?;
            match encoding? {
                Encoding::Plain => Some((FileSource::Inline(text.value.into_bytes()), false)),
                Encoding::Base64 => {
                    let compact: String = text.value.split_ascii_whitespace().collect();
                    match BASE64.decode(compact) {
                        Ok(bytes) => Some((FileSource::Inline(bytes), false)),
                        Err(error) => {
                            decoder.push(
                                decoder
                                    .error(text.span, "`content` is not base64")
                                    .hint(error.to_string().to_lowercase()),
                            );
                            None
                        }
                    }
                }
            }
        }
        (None, Some(from)) => {
            if let Some(span) = fields.key("encoding") {
                decoder
                    .push(decoder.error(span, "`encoding` does not go with `from`").label("a file is copied as it is"));
            }
            let text = decoder.text(from, "`from`")?;
            let (path, kind) = decoder.local(&text, Want::FileOrDirectory)?;
            if kind == FileKind::File && text.value.ends_with('/') {
                decoder.push(decoder.error(text.span, format!("`{}` is a file, not a directory", shown(&text.value))));
                return None;
            }
            Some((FileSource::From(path), kind == FileKind::Directory))
        }
    }
}

/// `user`, `user:group` or `:group`, by name or number.
fn owner(decoder: &mut Decoder<'_>, node: &Node) -> Option<Owner> {
    let text = decoder.text(node, "`owner`")?;
    let good = |name: &str| {
        shared::account(name).is_ok() || (name.parse::<u32>().is_ok() && name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (user, group) = match text.value.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text.value.as_str(), None),
    };
    let user = if user.is_empty() && group.is_some() { "root" } else { user };
    if good(user) && group.is_none_or(good) {
        return Some(Owner { user: user.to_owned(), group: group.map(str::to_owned) });
    }
    let diagnostic = decoder.not(&text, "an owner (`user` or `user:group`)");
    decoder.push(match text.value.split_once('.') {
        Some((user, group)) if good(user) && good(group) => diagnostic.hint(format!("write `{user}:{group}`")),
        _ => diagnostic,
    });
    None
}

/// Permission bits, in quotes: YAML 1.2 reads a bare 0644 as six hundred and forty-four.
fn permissions(decoder: &mut Decoder<'_>, node: &Node) -> Option<u32> {
    if let Kind::Scalar(scalar) = &node.kind
        && matches!(scalar.meaning(), Meaning::Integer(_) | Meaning::Float(_))
    {
        let diagnostic = decoder.error(node.span, format!("`permissions` is text, not {}", node.describe()));
        decoder.push(diagnostic.hint(format!("write it in quotes: \"{}\"", scalar.value)));
        return None;
    }
    decoder.read(node, "`permissions`", rules::permissions)
}
