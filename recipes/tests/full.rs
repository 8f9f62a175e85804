//! The recipe that uses every key, and the recipes that are shipped.

mod support;

use std::collections::BTreeMap;

use labwright_core::Span;
use labwright_recipes::{Feature, load, schema, to_json};
use support::{Disk, full, here, load_text};

fn text() -> String {
    fs_err::read_to_string(full().join("recipe.yaml")).expect("the recipe is there")
}

/// The keys that go with a container image, and not with a disk.
fn container() -> String {
    fs_err::read_to_string(full().join("container.yaml")).expect("the recipe is there")
}

#[test]
fn every_key_of_a_container_resolves_and_validates() {
    let loaded = load_text(&container()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings.render(false), "");
    insta::assert_json_snapshot!((&loaded.recipe.base, &loaded.recipe.output));
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let json = to_json("recipe.yaml", &container()).unwrap();
    assert!(validator.is_valid(&json), "{:?}", validator.iter_errors(&json).collect::<Vec<_>>());
}

#[test]
fn every_key_resolves() {
    let loaded = load_text(&text()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings.render(false), "");
    insta::assert_json_snapshot!(loaded.recipe);
}

#[test]
fn every_key_is_in_the_full_recipe() {
    // The schema is the list of keys: each must be somewhere in the recipe, or in the few forms of `base` and of
    // `ttyd` that one recipe cannot have at once.
    let elsewhere = ["url", "image", "recipe", "amd64", "arm64"];
    let recipe = text() + &container();
    let mut missing = Vec::new();
    each_property(&schema(), &mut |name| {
        if !recipe.contains(&format!("{name}:")) && !elsewhere.contains(&name) {
            missing.push(name.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

fn each_property(value: &serde_json::Value, visit: &mut impl FnMut(&str)) {
    match value {
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                properties.keys().for_each(|name| visit(name));
            }
            object.values().for_each(|value| each_property(value, visit));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|value| each_property(value, visit)),
        _ => {}
    }
}

#[test]
fn every_key_validates_against_the_schema() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let recipe = to_json("recipe.yaml", &text()).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&recipe).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn every_form_of_a_base_resolves_and_validates() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let digest = format!("sha256:{}", "a".repeat(64));
    let two = "architectures: [amd64, arm64]\n";
    for (more, base) in [
        ("", "debian-13".to_owned()),
        ("", format!("{{file: ./files/motd, digest: \"{digest}\"}}")),
        ("", format!("{{url: https://example.org/a.qcow2, digest: \"{digest}\"}}")),
        (
            two,
            format!(
                "{{url: {{amd64: https://example.org/a, arm64: https://example.org/b}}, digest: {{amd64: \"{digest}\", arm64: \"sha512:{}\"}}}}",
                "b".repeat(128)
            ),
        ),
        ("", format!("{{image: registry.example/labs/base@{digest}}}")),
        ("", "{image: oci:out}".to_owned()),
        ("", "{recipe: .}".to_owned()),
        ("", "{recipe: ./recipe.yaml}".to_owned()),
        (two, "{bootstrap: debian, suite: trixie}".to_owned()),
    ] {
        let text = format!(
            "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: a, version: 1.0.0}}\n{more}base: {base}\n"
        );
        load_text(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let json = to_json("recipe.yaml", &text).unwrap();
        assert!(validator.is_valid(&json), "{text}\n{:?}", validator.iter_errors(&json).collect::<Vec<_>>());
    }
}

#[test]
fn an_override_takes_the_place_of_a_default() {
    let overrides = BTreeMap::from([("user".to_owned(), "guest".to_owned())]);
    let loaded = load("recipe.yaml", &text(), &full(), &Disk, &overrides).unwrap();
    assert_eq!(loaded.recipe.users[0].name, "guest");
    assert_eq!(loaded.recipe.access[0].user(), Some("guest"));
    let overrides = BTreeMap::from([("usr".to_owned(), "guest".to_owned())]);
    let mistakes = load("recipe.yaml", &text(), &full(), &Disk, &overrides).unwrap_err();
    insta::assert_snapshot!(mistakes);
}

#[test]
fn an_override_is_data_and_never_an_expression() {
    let overrides = BTreeMap::from([("user".to_owned(), "${{ port }}".to_owned())]);
    let mistakes = load("recipe.yaml", &text(), &full(), &Disk, &overrides).unwrap_err();
    assert!(mistakes.0.iter().all(|mistake| mistake.message.contains("${{ port }}")), "{mistakes}");
}

#[test]
fn features_have_places() {
    let text = text();
    let loaded = load_text(&text).unwrap();
    let words: Vec<_> = loaded.features.iter().map(|(feature, span)| (*feature, &text[span.start..span.end])).collect();
    assert_eq!(words[0], (Feature::Architecture(labwright_core::Arch::Amd64), "amd64"));
    assert_eq!(words[1], (Feature::BuildSecrets, "[token]"));
    assert_eq!(words[2].0, Feature::OwnTtyd);
    assert_eq!(words[3], (Feature::Desktop, "type"));
    assert_eq!(words.len(), 4);
    let refused = loaded
        .refuse(|feature| (feature == Feature::Desktop).then(|| "this version builds no desktops yet".to_owned()));
    assert_eq!(refused.0.len(), 1);
    assert_eq!(refused.0[0].message, "this version builds no desktops yet");
    assert_ne!(refused.0[0].span, Span::default());
}

#[test]
fn a_step_key_does_not_depend_on_where_the_recipe_lies() {
    let loaded = load_text(&text()).unwrap();
    let serialised = serde_json::to_string(&loaded.recipe).unwrap();
    assert!(!serialised.contains(env!("CARGO_MANIFEST_DIR")), "{serialised}");
}

#[test]
fn shipped_recipes_load() {
    let mut names = Vec::new();
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for entry in fs_err::read_dir(here().join("library")).unwrap() {
        let directory = entry.unwrap().path();
        let text = fs_err::read_to_string(directory.join("recipe.yaml")).unwrap();
        // The program that goes into its own image is built by whoever builds that.
        let built = BTreeMap::from([("program".to_owned(), "./recipe.yaml".to_owned())]);
        let overrides = if text.contains("program: {default:") { built } else { BTreeMap::new() };
        let loaded = load("recipe.yaml", &text, &directory, &Disk, &overrides);
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(loaded.warnings.render(false), "");
        // The directory is how the command line names it.
        assert_eq!(Some(loaded.recipe.name.as_str()), directory.file_name().unwrap().to_str());
        assert!(validator.is_valid(&to_json("recipe.yaml", &text).unwrap()));
        names.push(loaded.recipe.name);
    }
    names.sort();
    assert_eq!(names, ["debian-terminal", "labwright"]);
}

#[test]
fn the_committed_schema_is_current() {
    let path = here().join("../docs/schemas/recipe.schema.json");
    let committed = fs_err::read_to_string(&path).unwrap_or_default();
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    assert!(
        committed == current,
        "docs/schemas/recipe.schema.json is not what the code says; write it anew with\n\
         cargo run -p labwright-recipes --example schema > docs/schemas/recipe.schema.json"
    );
    jsonschema::meta::validate(&schema()).unwrap();
}
