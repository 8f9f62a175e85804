//! `outputs`, `tasks` and `instructions`: what the learner sees and does.

use std::path::{Component, Path};

use labwright_document::rules as shared;
use labwright_document::{LocalPath, Node, Text, shown};

use super::{Decoder, refer, value};
use crate::load::Origin;
use crate::resolved::{Machine, MachineKind, Output, Page, Task};

const OUTPUT_KEYS: [&str; 2] = ["label", "value"];
const TASK_KEYS: [&str; 5] = ["name", "machine", "check", "hint", "solve"];
const PAGE_KEYS: [&str; 3] = ["title", "file", "tasks"];

pub(super) fn outputs(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Output> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`outputs`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "an output", &OUTPUT_KEYS) else { continue };
        let label = decoder
            .required(&fields, "label", "an output")
            .and_then(|node| decoder.checked(node, "`label`", shared::one_line));
        let value = decoder.required(&fields, "value", "an output").and_then(|node| value(decoder, node, "`value`"));
        if let Some(label) = &label {
            decoder.unique(&mut seen, label, "output");
        }
        if let (Some(label), Some(value)) = (label, value) {
            found.push(Output { label: label.value, value });
        }
    }
    found
}

/// The tasks. `known` are the machines' names as they stand, `machines` those without mistakes.
pub(super) fn tasks(decoder: &mut Decoder<'_>, node: &Node, known: &[Text], machines: &[Machine]) -> Vec<Task> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`tasks`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a task", &TASK_KEYS) else { continue };
        let name =
            decoder.required(&fields, "name", "a task").and_then(|node| decoder.checked(node, "`name`", shared::name));
        if let Some(name) = &name {
            decoder.unique(&mut seen, name, "task");
        }
        let machine = decoder.required(&fields, "machine", "a task").and_then(|node| {
            let text = decoder.text(node, "`machine`")?;
            let name = refer(decoder, &text, "machine", known)?;
            let is_container = |machine: &Machine| matches!(machine.kind, MachineKind::Container(_));
            if machines.iter().any(|machine| machine.name == name && is_container(machine)) {
                let diagnostic = decoder.error(text.span, format!("`{name}` is a container, and tasks run over SSH"));
                decoder.push(diagnostic.hint("check it from a virtual machine on the same network"));
                return None;
            }
            Some(name)
        });
        let check = decoder.required(&fields, "check", "a task").and_then(|node| inside(decoder, node, "`check`"));
        let hint = fields.get("hint").map(|node| inside(decoder, node, "`hint`"));
        // A published lab comes without what solves it.
        let solve = fields
            .get("solve")
            .filter(|_| decoder.context.origin == Origin::Source)
            .map(|node| inside(decoder, node, "`solve`"));
        let (Some(name), Some(machine), Some(check)) = (name, machine, check) else { continue };
        found.push(Task { name: name.value, machine, check, hint: hint.flatten(), solve: solve.flatten() });
    }
    found
}

pub(super) fn pages(decoder: &mut Decoder<'_>, node: &Node, tasks: &[Text]) -> Vec<Page> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`instructions`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a page", &PAGE_KEYS) else { continue };
        let title = decoder
            .required(&fields, "title", "a page")
            .and_then(|node| decoder.checked(node, "`title`", shared::title));
        let file = decoder.required(&fields, "file", "a page").and_then(|node| inside(decoder, node, "`file`"));
        let mut of_page = Vec::new();
        if let Some(node) = fields.get("tasks") {
            for item in decoder.list(node, "`tasks` of a page").unwrap_or_default() {
                let Some(text) = decoder.text(item, "a task") else { continue };
                if let Some(name) = refer(decoder, &text, "task", tasks) {
                    decoder.unique(&mut seen, &text, "task");
                    of_page.push(name);
                }
            }
        }
        if let (Some(title), Some(file)) = (title, file) {
            found.push(Page { title: title.value, file, tasks: of_page });
        }
    }
    found
}

/// A file that is published with the lab, so it lies beside it.
fn inside(decoder: &mut Decoder<'_>, node: &Node, what: &str) -> Option<LocalPath> {
    let text = decoder.text(node, what)?;
    let leaves = Path::new(&text.value)
        .components()
        .any(|part| matches!(part, Component::ParentDir | Component::RootDir | Component::Prefix(_)));
    if leaves {
        let diagnostic =
            decoder.error(text.span, format!("`{}` is outside of the lab's directory", shown(&text.value)));
        decoder.push(diagnostic.hint("what is published with a lab lies beside its lab.yaml, or below"));
        return None;
    }
    decoder.local(&text, labwright_document::Want::File).map(|(path, _)| path)
}
