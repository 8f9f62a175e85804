//! Broken recipes: what the author reads, and that a JSON Schema sees the mistake as well.

mod support;

use std::collections::BTreeSet;

use labwright_recipes::{schema, to_json};
use support::{here, load_text};

/// Mistakes that no schema can see: uniqueness by one key, references between parts, files, names in expressions,
/// arithmetic, and decoding.
const NOT_FOR_A_SCHEMA: [&str; 11] = [
    "access-user",
    "apt-key-file",
    "base-file-missing",
    "base-url-architectures",
    "disk-too-small",
    "files-twice",
    "output-minimal",
    "package-file",
    "undefined-variable",
    "expression",
    "user-twice",
];

/// What YAML itself, or our limits on it, refuse before a schema could look.
const NOT_A_DOCUMENT: [&str; 11] = [
    "alias-bomb",
    "alias-cycle",
    "alias-unknown",
    "duplicate-key",
    "empty",
    "nesting",
    "not-yaml",
    "tab",
    "tag",
    "two-documents",
    "unquoted-expression",
];

fn recipes() -> Vec<(String, String)> {
    let mut recipes: Vec<(String, String)> = fs_err::read_dir(here().join("tests/broken"))
        .expect("the directory is there")
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs_err::read_to_string(&path).expect("the file is text"))
        })
        .collect();
    recipes.sort();
    recipes
}

#[test]
fn every_mistake_is_said_in_one_run() {
    let recipes = recipes();
    assert!(recipes.len() >= 40, "{}", recipes.len());
    for (name, text) in recipes {
        let mistakes = load_text(&text).expect_err(&name);
        assert!(mistakes.has_errors(), "{name}");
        insta::assert_snapshot!(name, mistakes);
    }
}

#[test]
fn the_schema_sees_them_too() {
    let validator = jsonschema::draft202012::new(&schema()).expect("the schema is one");
    let (mut seen, mut unseen, mut no_document) = (0, BTreeSet::new(), BTreeSet::new());
    for (name, text) in recipes() {
        match to_json("recipe.yaml", &text) {
            Err(_) => drop(no_document.insert(name)),
            Ok(json) if validator.is_valid(&json) => drop(unseen.insert(name)),
            Ok(_) => seen += 1,
        }
    }
    assert!(seen >= 30, "{seen}");
    assert_eq!(unseen, NOT_FOR_A_SCHEMA.map(str::to_owned).into());
    assert_eq!(no_document, NOT_A_DOCUMENT.map(str::to_owned).into());
}
