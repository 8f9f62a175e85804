//! The lab that uses every key.

#[path = "support/images.rs"]
mod images;
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use images::facts;
use labwright_core::{AccessKind, Arch, Digest, ImageFacts, ImageForm};
use labwright_lab::{ImageOffer, LockedImage, Origin, is_lab, load, recipes_in, schema, to_json};
use support::{Disk, full, here, load_text};

fn image(facts: Option<ImageFacts>) -> LockedImage {
    LockedImage {
        repository: "registry.example/labs/two-host-pentest".to_owned(),
        digest: Digest::sha256(b"image"),
        facts,
        archs: vec![Arch::Amd64],
    }
}

#[test]
fn every_key_resolves() {
    let loaded = load_text(&full()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.warnings.render(false), "");
    insta::assert_json_snapshot!(loaded.lab);
}

#[test]
fn every_key_is_in_the_full_lab() {
    let lab = full();
    let mut missing = Vec::new();
    each_property(&schema(), &mut |name| {
        if !lab.contains(&format!("{name}:")) {
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
    let lab = to_json("lab.yaml", &full()).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(&lab).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn a_bundle_needs_neither_recipes_nor_solve_scripts() {
    let text = full().replace("./images/attacker", "./images/gone").replace("tasks/port.solve.sh", "tasks/gone.sh");
    load_text(&text).expect_err("the author's directory needs them");
    let dir = here().join("tests/full");
    let loaded = load("lab.yaml", &text, (&dir, &Disk), &BTreeMap::new(), Origin::Bundle, &BTreeMap::new());
    let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(loaded.lab.tasks[0].solve, None);
}

#[test]
fn a_lab_is_locked_to_images_that_offer_what_it_wants() {
    let loaded = load_text(&full()).unwrap();
    let images = BTreeMap::from([
        ("attacker".to_owned(), image(Some(facts(&[("shell", AccessKind::Terminal)])))),
        ("builder".to_owned(), image(None)),
        ("target".to_owned(), image(None)),
    ]);
    let locked = loaded.lock(images).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let attacker = locked.lab().machine("attacker").unwrap();
    let doors: Vec<_> = locked.doors(attacker).into_iter().map(|door| (door.name, door.port, door.path)).collect();
    assert_eq!(doors, [("shell".to_owned(), 7681, "/shell/".to_owned()), ("site".to_owned(), 8080, "/".to_owned())]);
    assert_eq!(locked.front_door(attacker), Some(7681));
    assert_eq!(
        locked.credential(attacker).map(|(user, value)| (user, value.as_secret())),
        Some(("student", Some("student_password")))
    );
    assert_eq!(locked.front_door(locked.lab().machine("target").unwrap()), None);
}

#[test]
fn what_the_image_lacks_is_said_at_its_place() {
    let text = full().replace("password: \"${{ secrets.student_password }}\"\n", "\n");
    let text = text.replace("storage: {size: 20Gi, class: fast}", "storage: {size: 2Gi}");
    let loaded = load_text(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let known =
        |facts: Option<ImageFacts>| BTreeMap::from([("attacker".to_owned(), facts.as_ref().map(ImageOffer::from))]);
    insta::assert_snapshot!(
        "image-offers-less",
        loaded.check_images(&known(Some(facts(&[("shel", AccessKind::Terminal)]))))
    );
    insta::assert_snapshot!(
        "nobody-has-a-password",
        loaded.check_images(&known(Some(facts(&[("shell", AccessKind::Terminal)]))))
    );
    let container = ImageFacts { form: ImageForm::Container, ..facts(&[("shell", AccessKind::Terminal)]) };
    insta::assert_snapshot!("an-image-of-a-container", loaded.check_images(&known(Some(container))));
    let disk = BTreeMap::from([("target".to_owned(), Some(ImageOffer::from(&facts(&[]))))]);
    insta::assert_snapshot!("a-disk-for-a-container", loaded.check_images(&disk));
    insta::assert_snapshot!("a-stranger's-image", loaded.check_images(&known(None)));
    assert_eq!(loaded.check_images(&BTreeMap::new()).render(false), "");
}

#[test]
fn paths_are_relative_to_the_lab() {
    let mistakes = load(
        "lab.yaml",
        &full(),
        (Path::new("/nonexistent"), &Disk),
        &BTreeMap::new(),
        Origin::Source,
        &BTreeMap::new(),
    )
    .unwrap_err();
    assert!(mistakes.render(false).contains("`./images/attacker` does not exist"), "{mistakes}");
}

#[test]
fn the_published_schema_is_this_one() {
    let path = here().join("../docs/schemas/lab.schema.json");
    let published: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    assert_eq!(
        published,
        schema(),
        "docs/schemas/lab.schema.json is not what the code says; write it anew with\n\
         cargo run -p labwright-lab --example schema > docs/schemas/lab.schema.json"
    );
}

#[test]
fn a_lab_is_told_from_a_recipe() {
    assert!(is_lab("lab.yaml", &full()));
    for other in ["kind: Recipe\n", "", "[", "- kind: Lab\n"] {
        assert!(!is_lab("lab.yaml", other), "{other}");
    }
    let broken = "kind: Lab\nmachines:\n  - {image: ./a}\n  - {image: registry.example/x}\n  - {image: ../b, name: X}\n  - {image: ./a}\n";
    assert_eq!(recipes_in("lab.yaml", broken), ["./a", "../b"]);
}

#[test]
fn names_may_come_of_variables() {
    let text = full().replace("  - name: target\n", "  - name: \"${{ role }}\"\n");
    let text = text.replace("variables:\n", "variables:\n  role: {default: target, description: of a machine}\n");
    let text = text.replace("{name: port-found, machine: attacker", "{name: \"${{ role }}-found\", machine: attacker");
    let text = text.replace("tasks: [port-found]", "tasks: [target-found]");
    let loaded = load_text(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(loaded.lab.machine("target").is_some());
    assert_eq!(loaded.lab.instructions[1].tasks, ["target-found"]);
}
