//! The recipe as a whole.

use std::collections::BTreeMap;

use labwright_core::ByteSize;

use super::{Decoder, access, base, expected, files, output, packages, users};
use crate::below;
use crate::load::Feature;
use crate::resolved::{Check, Command, Output, Recipe, Timeouts};
use crate::rules;
use labwright_document::rules as shared;
use labwright_document::{Kind, Node, Wanted};

/// The `kind` that this crate reads.
pub(crate) const KIND: &str = "Recipe";

pub(crate) const KEYS: [&str; 21] = [
    "apiVersion",
    "kind",
    "metadata",
    "variables",
    "architectures",
    "base",
    "disk",
    "apt",
    "package_update",
    "packages",
    "users",
    "write_files",
    "runcmd",
    "hostname",
    "timezone",
    "locale",
    "build_secrets",
    "access",
    "checks",
    "output",
    "timeouts",
];

/// Smaller holds no operating system.
const MIN_DISK: ByteSize = ByteSize::from_bytes(64 << 20);
/// What ext4 with 4 KiB blocks holds.
const MAX_DISK: ByteSize = ByteSize::from_bytes(16 << 40);

/// Decodes everything; `None` when what is missing leaves no recipe. The caller looks at `decoder.found` for errors.
pub(crate) fn recipe(decoder: &mut Decoder<'_>, root: &Node, overrides: &BTreeMap<String, String>) -> Option<Recipe> {
    let fields = decoder.fields(root, "a recipe", &KEYS)?;
    decoder.kind(&fields);
    let declared = decoder.variables(&fields, overrides);
    let metadata = decoder.required(&fields, "metadata", "a recipe").and_then(|node| {
        let fields = decoder.fields(node, "`metadata`", &["name", "version", "title"])?;
        Some(decoder.identity(&fields))
    });
    let architectures = base::architectures(decoder, fields.get("architectures"));
    let base = decoder.required(&fields, "base", "a recipe").and_then(|node| base::base(decoder, node, &architectures));
    let disk_size = fields.get("disk").and_then(|node| disk(decoder, node));
    let apt_sources = fields.get("apt").map(|node| packages::apt(decoder, node)).unwrap_or_default();
    let package_update =
        fields.get("package_update").and_then(|node| decoder.boolean(node, "`package_update`")).unwrap_or(false);
    let packages = fields.get("packages").map(|node| packages::packages(decoder, node)).unwrap_or_default();
    let users = fields.get("users").map(|node| users::users(decoder, node)).unwrap_or_default();
    let files = fields.get("write_files").map(|node| files::files(decoder, node)).unwrap_or_default();
    let run = fields.get("runcmd").map(|node| commands(decoder, node)).unwrap_or_default();
    let one = |decoder: &mut Decoder<'_>, key: &str, rule: fn(&str) -> Result<(), Wanted>| {
        let node = fields.get(key)?;
        decoder.checked(node, &format!("`{key}`"), rule).map(|text| text.value)
    };
    let hostname = one(decoder, "hostname", rules::hostname);
    let timezone = one(decoder, "timezone", rules::timezone);
    let locale = one(decoder, "locale", rules::locale);
    let build_secrets = fields.get("build_secrets").map(|node| secrets(decoder, node)).unwrap_or_default();
    let access =
        fields.get("access").map(|node| access::access(decoder, node, &users, &architectures)).unwrap_or_default();
    let disk = disk_size.zip(fields.get("disk").map(|node| node.span));
    let ways = (&access[..], fields.key("access").unwrap_or_default());
    below::fit(decoder, &architectures, disk, ways);
    let checks = fields.get("checks").map(|node| checks(decoder, node)).unwrap_or_default();
    let output = fields.get("output").map(|node| output::output(decoder, node, &users));
    if let Some(Some(Output::Container(_))) = output {
        output::fit_container(decoder, &fields, &access);
    }
    output::bootable(decoder, base.as_ref(), output.as_ref(), fields.key("base").unwrap_or_default());
    let timeouts = fields.get("timeouts").map(|node| timeouts(decoder, node)).unwrap_or_default();
    decoder.unused_variables(declared);
    let metadata = metadata?;
    Some(Recipe {
        name: metadata.name?,
        version: metadata.version?,
        title: metadata.title,
        architectures,
        base: base?,
        disk_size,
        apt_sources,
        package_update,
        packages,
        users: users.into_iter().map(|(user, _)| user).collect(),
        files,
        run,
        hostname,
        timezone,
        locale,
        build_secrets,
        access,
        checks,
        output: output.unwrap_or_else(|| Some(Output::default()))?,
        timeouts,
    })
}

fn disk(decoder: &mut Decoder<'_>, node: &Node) -> Option<ByteSize> {
    let fields = decoder.fields(node, "`disk`", &["size"])?;
    let node = decoder.required(&fields, "size", "`disk`")?;
    decoder.size(node, "`size`", MIN_DISK..=MAX_DISK)
}

/// A script or a program with its arguments.
fn command(decoder: &mut Decoder<'_>, node: &Node, what: &str) -> Option<Command> {
    match &node.kind {
        Kind::Sequence(items) => {
            if items.is_empty() {
                decoder.push(decoder.error(node.span, format!("{what} has no program")));
                return None;
            }
            // Not stopping at the first, so that every word's mistake is told.
            let words: Vec<_> = items.iter().map(|item| decoder.text(item, "a word of a command")).collect();
            let words = words.into_iter().map(|word| word.map(|text| text.value)).collect::<Option<Vec<_>>>()?;
            if words[0].trim().is_empty() {
                decoder.push(decoder.error(items[0].span, format!("{what} has no program")));
                return None;
            }
            Some(Command::Exec(words))
        }
        Kind::Mapping(_) => {
            let diagnostic = decoder.error(node.span, expected(&format!("{what} is text or a list"), node));
            decoder.push(diagnostic.hint("put a command with `: ` in quotes, or write it below `|`"));
            None
        }
        Kind::Scalar(_) => {
            let text = decoder.text(node, what)?;
            if text.value.trim().is_empty() {
                decoder.push(decoder.error(text.span, format!("{what} is empty")));
                return None;
            }
            Some(Command::Shell(text.value))
        }
    }
}

fn commands(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Command> {
    let items = decoder.list(node, "`runcmd`").unwrap_or_default();
    items.iter().filter_map(|item| command(decoder, item, "a command")).collect()
}

fn secrets(decoder: &mut Decoder<'_>, node: &Node) -> Vec<String> {
    let items = decoder.list(node, "`build_secrets`").unwrap_or_default();
    if !items.is_empty() {
        decoder.context.feature(Feature::BuildSecrets, node.span);
    }
    let mut seen = Vec::new();
    for item in items {
        if let Some(name) = decoder.checked(item, "a name of a secret", shared::file_name) {
            decoder.unique(&mut seen, &name, "secret");
        }
    }
    seen.into_iter().map(|name| name.value).collect()
}

fn checks(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Check> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`checks`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a check", &["name", "run", "timeout"]) else { continue };
        let name = decoder.required(&fields, "name", "a check").and_then(|node| {
            decoder.checked(node, "`name`", |text| {
                if text.trim().is_empty() || text.contains(['\n', '\r']) {
                    Err("a name for a check (one line)")
                } else {
                    Ok(())
                }
            })
        });
        if let Some(name) = &name {
            decoder.unique(&mut seen, name, "check");
        }
        let run = decoder.required(&fields, "run", "a check").and_then(|node| command(decoder, node, "`run`"));
        let timeout = fields.get("timeout").and_then(|node| decoder.read(node, "`timeout`", shared::duration));
        if let (Some(name), Some(run)) = (name, run) {
            found.push(Check { name: name.value, run, timeout });
        }
    }
    found
}

fn timeouts(decoder: &mut Decoder<'_>, node: &Node) -> Timeouts {
    let mut found = Timeouts::default();
    let keys = ["packages", "users", "files", "access", "runcmd"];
    let Some(fields) = decoder.fields(node, "`timeouts`", &keys) else { return found };
    for (key, _, node) in fields.iter() {
        let time = decoder.read(node, &format!("`{key}`"), shared::duration);
        match key {
            "packages" => found.packages = time,
            "users" => found.users = time,
            "files" => found.files = time,
            "access" => found.access = time,
            _ => found.runcmd = time,
        }
    }
    found
}
