//! Broken labs: what the author reads, and that a JSON Schema sees the mistake as well.

mod support;

use std::collections::BTreeSet;

use labwright_lab::{schema, to_json};
use support::{full, here, load_text};

/// Mistakes that no schema can see: uniqueness, references between parts, files, arithmetic.
const NOT_FOR_A_SCHEMA: [&str; 4] = ["namespace", "no-networks", "references", "twice"];

fn labs() -> Vec<(String, String)> {
    let mut labs: Vec<(String, String)> = fs_err::read_dir(here().join("tests/broken"))
        .expect("the directory is there")
        .map(|entry| entry.expect("the directory can be read").path())
        .map(|path| {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs_err::read_to_string(&path).expect("the file is text"))
        })
        .collect();
    labs.sort();
    labs
}

#[test]
fn every_mistake_is_said_in_one_run() {
    let labs = labs();
    assert!(labs.len() >= 16, "{}", labs.len());
    for (name, text) in labs {
        let mistakes = load_text(&text).expect_err(&name);
        assert!(mistakes.has_errors(), "{name}");
        insta::assert_snapshot!(name, mistakes);
    }
}

#[test]
fn the_schema_sees_them_too() {
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is one");
    let unseen: BTreeSet<String> = labs()
        .into_iter()
        .filter(|(name, text)| validator.is_valid(&to_json("lab.yaml", text).expect(name)))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(unseen, NOT_FOR_A_SCHEMA.map(str::to_owned).into());
}

#[test]
fn no_truncation_and_no_deletion_panics() {
    let text = full();
    for (at, _) in text.char_indices() {
        if let Err(mistakes) = load_text(&text[..at]) {
            assert!(!mistakes.0.is_empty(), "{at}");
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    for left_out in 0..lines.len() {
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, line)| *line).collect();
        if let Err(mistakes) = load_text(&kept.join("\n")) {
            assert!(mistakes.render(false).contains("lab.yaml"), "{left_out}");
        }
    }
}
