//! What every kind of document begins with: what it is, and its variables.

use std::collections::BTreeMap;

use labwright_core::{Diagnostic, Span, did_you_mean};

use crate::decoder::{Decoder, Fields, Text, expected, listed, shown};
use crate::node::{Kind, Meaning, Node};
use crate::rules;
use crate::template::{OPEN, Templates};

/// The `apiVersion` of all kinds of document.
pub const API_VERSION: &str = "labwright/v1alpha1";

/// What identifies a document; `None` where there was a mistake.
#[derive(Debug)]
pub struct Identity {
    /// A DNS label of at most 32 characters.
    pub name: Option<String>,
    /// semver, and an OCI tag.
    pub version: Option<String>,
    /// For people, on one line; also `None` where none is given.
    pub title: Option<String>,
}

impl<C> Decoder<'_, C> {
    /// Reads `name`, `version` and `title` of `metadata`.
    pub fn identity(&mut self, fields: &Fields<'_>) -> Identity {
        let name = self
            .required(fields, "name", "`metadata`")
            .and_then(|node| self.fixed_text(node, "`name`"))
            .and_then(|text| self.follows(text, rules::name));
        let version = self
            .required(fields, "version", "`metadata`")
            .and_then(|node| self.checked(node, "`version`", rules::version));
        let title = fields.get("title").and_then(|node| self.checked(node, "`title`", rules::title));
        let value = |text: Option<Text>| text.map(|text| text.value);
        Identity { name: value(name), version: value(version), title: value(title) }
    }

    /// Reads `apiVersion` and `kind`, which say what the rest means.
    pub fn kind(&mut self, fields: &Fields<'_>) {
        let noun = self.words.noun;
        for (key, expected) in [("apiVersion", API_VERSION), ("kind", self.words.kind)] {
            let Some(node) = self.required(fields, key, &format!("a {noun}")) else { continue };
            let Some(text) = self.fixed_text(node, &format!("`{key}`")) else { continue };
            if text.value != expected {
                let message = format!("`{}` is not a known `{key}`", shown(&text.value));
                self.push(self.error(text.span, message).hint(format!("write `{key}: {expected}`")));
            }
        }
    }

    /// Reads `variables`, makes their values known to expressions, and returns the names with their places.
    /// `overrides` are values that take the place of defaults.
    pub fn variables(&mut self, fields: &Fields<'_>, overrides: &BTreeMap<String, String>) -> Vec<(String, Span)> {
        let mut values = BTreeMap::new();
        let mut declared = Vec::new();
        let entries = match fields.get("variables") {
            None => &[][..],
            Some(node) => {
                if let Kind::Mapping(entries) = &node.kind {
                    entries
                } else {
                    let message = expected("`variables` is a mapping", node);
                    self.push(self.error(node.span, message).hint("write `NAME: {default: VALUE, description: TEXT}`"));
                    &[][..]
                }
            }
        };
        for (key, node) in entries {
            let name = Text { value: key.name.clone(), span: key.span };
            if self.follows(name, rules::variable).is_none() {
                continue;
            }
            declared.push((key.name.clone(), key.span));
            let variable = self.fields(node, "a variable", &["default", "description"]);
            if let Some(node) = variable.as_ref().and_then(|fields| fields.get("description")) {
                self.fixed_text(node, "`description`");
            }
            let default =
                variable.as_ref().and_then(|fields| fields.get("default")).and_then(|node| self.default(node));
            let value = overrides.get(&key.name).cloned().or(default);
            if value.is_none() && variable.as_ref().is_some_and(|fields| fields.get("default").is_none()) {
                let diagnostic = self.error(key.span, format!("variable `{}` has no value", key.name));
                self.push(diagnostic.hint("give it a `default`, or a value when building"));
            }
            // A variable with a mistake still exists: its uses are not wrong.
            values.insert(key.name.clone(), value.unwrap_or_default());
        }
        let place = fields.key("variables").unwrap_or_default();
        for name in overrides.keys().filter(|name| !values.contains_key(*name)) {
            let diagnostic = self.error(place, format!("a value is given for `{}`, which is no variable", shown(name)));
            let names: Vec<&str> = values.keys().map(String::as_str).collect();
            self.push(match did_you_mean(name, names.iter().copied()) {
                Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
                None if names.is_empty() => diagnostic.hint(format!("the {} declares no variables", self.words.noun)),
                None => diagnostic.hint(format!("its variables: {}", listed(&names))),
            });
        }
        self.templates = Templates::new(values);
        declared
    }

    /// A default: text, a number or a truth value, kept as it was written.
    fn default(&mut self, node: &Node) -> Option<String> {
        match &node.kind {
            Kind::Scalar(scalar) if scalar.value.contains(OPEN) => {
                self.fixed_text(node, "`default`").map(|text| text.value)
            }
            Kind::Scalar(scalar) if scalar.meaning() != Meaning::Null => Some(scalar.value.clone()),
            _ => {
                let message = expected("`default` is text, a number or a truth value", node);
                let diagnostic = self.error(node.span, message);
                self.push(diagnostic.hint("`\"\"` is the empty text"));
                None
            }
        }
    }

    /// Warns of variables that nothing uses; called when everything is decoded.
    pub fn unused_variables(&mut self, declared: Vec<(String, Span)>) {
        for (name, span) in declared {
            if !self.used.contains(&name) {
                let warning = Diagnostic::warning(self.file, span, format!("variable `{name}` is never used"));
                self.push(warning.hint(format!("use it as `${{{{ {name} }}}}`, or remove it")));
            }
        }
    }
}
