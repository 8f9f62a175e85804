//! The Secrets of a session, for who has no program that makes them.

use std::fmt::Write as _;

use labwright_document::yaml::{Map, Yaml, write};

use super::marks::Marks;
use super::placeholders::Placeholders;
use super::{BundleError, Tree};
use crate::LockedLab;
use crate::manifests::{Object, Options, session_secrets, to_yaml};
use crate::resolved::{Random, SecretPart, SecretSpec};

/// A component of its own, so that nobody applies placeholders by applying the rest. Whether the quotation mark is one
/// of its placeholders.
pub(super) fn add(
    tree: &mut Tree,
    locked: &LockedLab,
    options: &Options,
    placeholders: &Placeholders,
) -> Result<bool, BundleError> {
    let marks = Marks::new(locked);
    let objects = session_secrets(locked, options, &|name| marks.mark(name))?;
    if objects.is_empty() {
        return Ok(false);
    }
    let mut values = Values { marks: &marks, placeholders, lines: Vec::new() };
    let objects: Vec<Object> = objects.into_iter().map(|object| values.apart(object)).collect();
    let Values { lines, .. } = values;
    let mut text = String::new();
    if !locked.lab().secrets.is_empty() {
        text.push_str("# A session's secrets. Fill in each of these before this is applied:\n#\n");
        for (name, spec) in &locked.lab().secrets {
            push(&mut text, format_args!("#   {}: {}\n", placeholders.secret(name), describe(spec)));
        }
        if !lines.is_empty() {
            push(&mut text, format_args!("#   {}: a quotation mark (\")\n", placeholders.operator("quote")));
        }
        text.push_str("#\n# Values are printable ASCII without quotes, `\\` and `$`.\n");
    }
    let yaml = to_yaml(&objects);
    for line in yaml.lines() {
        let line = match lines.iter().find(|(mark, _)| line.contains(mark)) {
            Some((mark, value)) => line.replace(&format!("\"{mark}\""), value),
            None => marks.replace(line, str::to_owned, |name| placeholders.secret(name)),
        };
        push(&mut text, format_args!("{line}\n"));
    }
    tree.insert("secrets/secrets.yaml".to_owned(), text.into_bytes());
    let kustomization = Map::new()
        .with("apiVersion", "kustomize.config.k8s.io/v1alpha1")
        .with("kind", "Component")
        .with("resources", vec!["secrets.yaml"]);
    tree.insert("secrets/kustomization.yaml".to_owned(), write(&kustomization).into_bytes());
    Ok(!lines.is_empty())
}

/// Values with secrets in them, set apart from the objects that the writer of YAML makes a text of.
struct Values<'a> {
    marks: &'a Marks,
    placeholders: &'a Placeholders,
    /// A mark, and what stands in its place on the line.
    lines: Vec<(String, String)>,
}

impl Values<'_> {
    /// The object as neither kustomize nor Flux changes what it says.
    ///
    /// What cloud-init reads is YAML in quotes on several lines, which stays so; its author's dollars are written in YAML's
    /// own way. A variable's value is one scalar: kustomize would take its quotes away, and then a value of digits would
    /// become a number. So those are filled in as well.
    fn apart(&mut self, object: Object) -> Object {
        let Some(Yaml::Map(data)) = object.body().get("stringData") else { return object };
        let mut apart = Map::new();
        for (key, value) in data.iter() {
            let text = value.as_str().unwrap_or_default();
            let is_cloud_init = object.name().ends_with("-cloud-init");
            apart.put(key, if is_cloud_init { text.replace('$', "\\x24") } else { self.line(text) });
        }
        object.with("stringData", apart)
    }

    fn line(&mut self, text: &str) -> String {
        let quote = self.placeholders.operator("quote");
        let value = self.marks.replace(text, |text| inside(text, &quote), |name| self.placeholders.secret(name));
        // No secret has a space in its name.
        let mark = self.marks.mark(&format!("line {}", self.lines.len()));
        self.lines.push((mark.clone(), format!("{quote}{value}{quote}")));
        mark
    }
}

/// A text within double quotes of YAML, in which nothing stands that would make YAML want quotes around them.
fn inside(text: &str, quote: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '"' => push(&mut out, format_args!("\\{quote}")),
            '\\' => out.push_str("\\\\"),
            // The dollar, so that no variable of the author's is taken for a placeholder; a colon and a hash, so that no
            // mapping and no comment begins.
            '$' | ':' | '#' => push(&mut out, format_args!("\\x{:02x}", u32::from(character))),
            ' '..='~' => out.push(character),
            letter if letter.is_alphanumeric() => out.push(letter),
            other => push(&mut out, format_args!("\\U{:08x}", u32::from(other))),
        }
    }
    out
}

/// What a value looks like, in words.
fn describe(spec: &SecretSpec) -> String {
    let parts: Vec<String> = spec
        .parts()
        .iter()
        .map(|part| match part {
            SecretPart::Fixed(text) => format!("`{text}`"),
            SecretPart::Random(Random { kind, length }) => format!("{length} random characters ({})", kind.as_str()),
        })
        .collect();
    parts.join(", then ")
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}
