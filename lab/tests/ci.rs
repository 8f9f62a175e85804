//! The files for CI in the documentation: YAML whose every line of shell is one, and whose every `labwright …` is a
//! command line that the program takes, as far as its reference says.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

fn read(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    fs_err::read_to_string(root.join(path)).expect("the file is in the repository")
}

fn workflow(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text below one of the keys whose values are shell.
fn scripts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                if ["run", "script", "before_script", "after_script"].contains(&key.as_str()) {
                    let lines = value.as_array().map_or_else(|| vec![value], |lines| lines.iter().collect());
                    found.extend(lines.into_iter().map(|line| line.as_str().expect("shell is a text").to_owned()));
                } else {
                    scripts(value, found);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| scripts(value, found)),
        _ => {}
    }
}

fn scripts_of(path: &str) -> Vec<String> {
    let mut found = Vec::new();
    scripts(&workflow(path), &mut found);
    assert!(!found.is_empty(), "{path} has scripts");
    found
}

/// The words of a simple command.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), character) if open == character => quote = None,
            (None, ' ') => words.push(String::new()),
            (_, character) => words.last_mut().expect("there is a word").push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The part of the reference that is about a command, up to its examples.
fn section<'a>(reference: &'a str, verb: &str) -> Option<&'a str> {
    let (_, behind) = reference.split_once(&format!("\n## labwright {verb}\n"))?;
    let section = behind.split_once("\n## ").map_or(behind, |(section, _)| section);
    Some(section.split_once("\nExample").map_or(section, |(section, _)| section))
}

/// What is wrong with the words behind `labwright`, as far as the reference tells.
fn mistake(reference: &str, words: &[String]) -> Option<String> {
    let [verb, words @ ..] = words else { return Some("no command".to_owned()) };
    let Some(section) = section(reference, verb) else { return Some(format!("no command `{verb}`")) };
    let mut values = 0;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            values += 1;
            continue;
        }
        let mut lines = section.lines().skip_while(|line| line.trim().split([' ', ',']).all(|known| known != word));
        let Some(head) = lines.next() else { return Some(format!("`{verb}` has no {word}")) };
        if !head.contains('<') {
            continue;
        }
        let Some(value) = words.next() else { return Some(format!("{word} has no value")) };
        let about: Vec<&str> = lines.take_while(|line| !line.trim_start().starts_with("--")).collect();
        let known: Vec<&str> = about.iter().filter_map(|line| line.trim().strip_prefix("- ")).collect();
        if !known.is_empty() && !known.iter().any(|known| known.split(':').next() == Some(value)) {
            return Some(format!("{word} takes none of `{value}`"));
        }
    }
    let usage = section.lines().find(|line| line.starts_with("Usage: "))?;
    let (needed, all) = (usage.matches(" <").count(), usage.matches(" <").count() + usage.matches(" [").count() - 1);
    (!(needed..=all).contains(&values)).then(|| format!("`{verb}` takes {needed} to {all} values, not {values}"))
}

const FILES: [&str; 2] = ["docs/ci/github-actions.yml", "docs/ci/gitlab-ci.yml"];

#[test]
fn every_command_of_labwright_exists_with_its_options() {
    let reference = read("docs/reference/cli.md");
    for file in FILES {
        let mut verbs = Vec::new();
        for script in scripts_of(file) {
            for line in script.lines().map(str::trim).filter(|line| line.split(' ').next() == Some("labwright")) {
                let words = words(line);
                assert_eq!(mistake(&reference, &words[1..]), None, "{file}: {line}");
                verbs.push(words[1].clone());
            }
        }
        for verb in ["check", "build", "push"] {
            assert!(verbs.iter().any(|known| known == verb), "{file} has no {verb}: {verbs:?}");
        }
    }
}

#[test]
fn what_does_not_exist_is_found() {
    let reference = read("docs/reference/cli.md");
    for (line, word) in [
        ("bild .", "no command"),
        ("build --lock .", "no --lock"),
        ("build --runner docker .", "takes none of"),
        ("build --runner", "has no value"),
        ("build . .", "not 2"),
        ("push --authfile x .", "not 1"),
        ("push . x --tag y", "no --tag"),
    ] {
        let found = mistake(&reference, &words(line)).unwrap_or_else(|| panic!("{line} passes"));
        assert!(found.contains(word), "{line}: {found}");
    }
    assert_eq!(mistake(&reference, &words("push --authfile \"$A B/auth.json\" . \"$R\"")), None);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the shell itself knows best what is shell")]
fn every_script_is_one() {
    for file in FILES {
        for script in scripts_of(file) {
            // What GitHub fills in is a word to the shell.
            assert!(!script.contains("${{"), "{file}: values come through the environment: {script}");
            let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("sh starts");
            shell.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("sh reads it");
            assert!(shell.wait().expect("sh ends").success(), "{file}: {script}");
        }
    }
}

/// They run in Labwright's own image, which `setup.sh` makes and a variable names.
#[test]
fn they_run_in_the_image() {
    let github = workflow(FILES[0]);
    assert_eq!(github["jobs"]["lab"]["container"]["image"], "${{ vars.LABWRIGHT_IMAGE }}");
    let gitlab = workflow(FILES[1]);
    assert_eq!(gitlab[".labwright"]["image"], serde_json::json!({"name": "$LABWRIGHT_IMAGE", "entrypoint": [""]}));
    assert!(read("docs/guides/ci.md").contains("./setup.sh image\n"));
    assert!(read("setup.sh").lines().any(|line| line.trim().starts_with("image) ")));
}

/// A tag publishes, and nothing else does.
#[test]
fn only_tags_publish() {
    let github = workflow(FILES[0]);
    let steps = github["jobs"]["lab"]["steps"].as_array().expect("the job has steps");
    let pushes = |step: &&Value| step["run"].as_str().is_some_and(|run| run.contains("labwright push"));
    let publishing: Vec<&Value> = steps.iter().filter(pushes).collect();
    assert_eq!(publishing.len(), 1);
    assert_eq!(publishing[0]["if"], "startsWith(github.ref, 'refs/tags/')");
    let gitlab = workflow(FILES[1]);
    let jobs = gitlab.as_object().expect("the file has jobs");
    let publishing: Vec<&String> =
        jobs.iter().filter(|(_, job)| job.to_string().contains("labwright push")).map(|(name, _)| name).collect();
    assert_eq!(publishing, ["publish"]);
    assert_eq!(gitlab["publish"]["rules"], serde_json::json!([{"if": "$CI_COMMIT_TAG"}]));
}
