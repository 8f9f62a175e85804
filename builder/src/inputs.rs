//! The inputs of a step by name, each with a digest: what `plan` compares to say what changed.

use std::collections::BTreeMap;

use labwright_core::Digest;
use labwright_guest::protocol::{Action, EntryKind};
use serde::{Deserialize, Serialize};

use crate::chroot::wire::Source;
use crate::sources::Inputs;

/// One input: what people call it, and a digest of its value. The value itself is not kept, it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) digest: Digest,
}

/// How the inputs of a step differ from those of an earlier build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Difference {
    Added(String),
    Removed(String),
    Changed(String),
    Reordered,
}

impl Input {
    pub(crate) fn new(name: impl Into<String>, value: &[u8]) -> Self {
        Self { name: name.into(), digest: Digest::sha256(value) }
    }

    fn of_action(name: impl Into<String>, action: &impl Serialize) -> Self {
        Self::new(name, &serde_json::to_vec(action).expect("actions have no maps with odd keys"))
    }

    fn of_source(name: impl Into<String>, source: Option<&Source>) -> Self {
        match source {
            Some(Source::File { digest, .. }) => Self { name: name.into(), digest: digest.clone() },
            Some(Source::Inline(bytes)) => Self::new(name, bytes),
            // Each file of an action has a source; without one the name alone is compared.
            None => Self::new(name, b""),
        }
    }
}

/// Every input of a step, by names that are unique within it.
pub(crate) fn named(inputs: &Inputs) -> Vec<Input> {
    let mut sources = inputs.sources.iter();
    let mut found = Vec::new();
    let mut commands = 0;
    for action in &inputs.actions {
        match action {
            Action::AptSource { name, .. } => found.push(Input::of_action(format!("package source {name}"), action)),
            Action::AptUpdate => found.push(Input::of_action("package_update", action)),
            Action::AptInstall { packages, files, fallbacks } => {
                for package in packages {
                    let name = package.split(['=', '/']).next().unwrap_or(package);
                    found.push(Input::new(format!("package {name}"), package.as_bytes()));
                }
                for file in files {
                    found.push(Input::of_source(format!("package file {}", file.name), sources.next()));
                }
                for fallback in fallbacks {
                    found.push(Input::of_action(format!("package {}", fallback.package), fallback));
                }
            }
            Action::User(user) => found.push(Input::of_action(format!("user {}", user.name), action)),
            Action::WriteFile { path, mode, owner, append, .. } => {
                found.push(Input::of_source(format!("content of {path}"), sources.next()));
                found.push(Input::of_action(format!("mode and owner of {path}"), &(mode, owner, append)));
            }
            Action::Tree { destination, entries, owner } => {
                let dir = destination.as_str().trim_end_matches('/');
                for entry in entries {
                    let path = format!("{dir}/{}", entry.path);
                    match &entry.kind {
                        EntryKind::File { .. } => {
                            found.push(Input::of_source(format!("content of {path}"), sources.next()));
                            found.push(Input::of_action(format!("mode and owner of {path}"), &(entry.mode, owner)));
                        }
                        EntryKind::Directory => {
                            found.push(Input::of_action(format!("directory {path}"), &(entry.mode, owner)));
                        }
                        EntryKind::Symlink { target } => {
                            found.push(Input::of_action(format!("link {path}"), &(target, owner)));
                        }
                    }
                }
                found.push(Input::of_action(format!("tree {destination}"), owner));
            }
            Action::Hostname(_) => found.push(Input::of_action("hostname", action)),
            Action::Timezone(_) => found.push(Input::of_action("timezone", action)),
            Action::Locale(_) => found.push(Input::of_action("locale", action)),
            Action::Run(_) => {
                commands += 1;
                found.push(Input::of_action(format!("command {commands}"), action));
            }
            Action::Enable(unit) => found.push(Input::of_action(format!("enabled unit {unit}"), action)),
            Action::Disable(unit) => found.push(Input::of_action(format!("disabled unit {unit}"), action)),
            other => {
                found.push(Input::of_action(kind(other), other));
                for number in 1..=other.file_sizes().len() {
                    found.push(Input::of_source(format!("file {number} of {}", kind(other)), sources.next()));
                }
            }
        }
    }
    number_repeats(&mut found);
    found
}

/// The word of the protocol for an action.
fn kind(action: &Action) -> String {
    match serde_json::to_value(action) {
        Ok(serde_json::Value::Object(map)) => map.keys().next().cloned().unwrap_or_default(),
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A file that is appended to twice has two inputs of one name.
fn number_repeats(inputs: &mut [Input]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for input in inputs {
        let count = seen.entry(input.name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            input.name = format!("{} ({count})", input.name);
        }
    }
}

/// What is different now.
pub(crate) fn differences(then: &[Input], now: &[Input]) -> Vec<Difference> {
    let old: BTreeMap<&str, &Digest> = then.iter().map(|input| (input.name.as_str(), &input.digest)).collect();
    let new: BTreeMap<&str, &Digest> = now.iter().map(|input| (input.name.as_str(), &input.digest)).collect();
    let mut found = Vec::new();
    for input in now {
        match old.get(input.name.as_str()) {
            None => found.push(Difference::Added(input.name.clone())),
            Some(digest) if **digest != input.digest => found.push(Difference::Changed(input.name.clone())),
            Some(_) => {}
        }
    }
    let gone = then.iter().filter(|input| !new.contains_key(input.name.as_str()));
    found.extend(gone.map(|input| Difference::Removed(input.name.clone())));
    if found.is_empty() && then != now {
        found.push(Difference::Reordered);
    }
    found
}

#[cfg(test)]
mod tests {
    use labwright_guest::protocol::Command;

    use super::*;

    fn packages(names: &[&str]) -> Vec<Input> {
        let packages = names.iter().map(|&name| name.to_owned()).collect();
        named(&Inputs::of(vec![Action::AptInstall { packages, files: Vec::new(), fallbacks: Vec::new() }]))
    }

    #[test]
    fn differences_have_names() {
        let old = packages(&["git", "vim=1", "curl"]);
        assert_eq!(differences(&old, &old), []);
        assert_eq!(
            differences(&old, &packages(&["vim=2", "curl", "jq"])),
            [
                Difference::Changed("package vim".to_owned()),
                Difference::Added("package jq".to_owned()),
                Difference::Removed("package git".to_owned())
            ]
        );
        assert_eq!(differences(&old, &packages(&["vim=1", "git", "curl"])), [Difference::Reordered]);
    }

    #[test]
    fn commands_are_not_kept_and_repeats_are_told_apart() {
        let run = |script: &str| Action::Run(Command::Shell(script.to_owned()));
        let inputs = named(&Inputs::of(vec![run("echo hunter2"), run("true"), Action::AptUpdate, Action::AptUpdate]));
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["command 1", "command 2", "package_update", "package_update (2)"]);
        assert!(!serde_json::to_string(&inputs).unwrap().contains("hunter2"));
    }
}
