//! What needs nothing: help, usage errors, checks, the schema, the doctor's form, exit codes.

use labwright_tests::{Lab, said};
use serde_json::Value;

/// A recipe with one mistake of each of three kinds.
const WRONG: &str = "\
apiVersion: labwright/v1alpha1
kind: Recipe
metadata: {name: shell, version: 1.0.0}
base: {bootstrap: debian, suite: trixie}
pakages: [git]
disk: {size: 4GB}
write_files:
  - {path: /etc/motd, content: \"Hello ${{ nobody }}\\n\"}
";

const RIGHT: &str = "\
apiVersion: labwright/v1alpha1
kind: Recipe
metadata: {name: shell, version: 1.0.0}
base: {bootstrap: debian, suite: trixie}
packages: [git]
";

#[test]
fn usage_errors_end_with_2() {
    let lab = Lab::new();
    insta::assert_snapshot!(lab.run(&["chekc"]));
    assert_eq!(lab.run(&[]).code, 2);
    assert_eq!(lab.run(&["check", "--quiet", "--verbose"]).code, 2);
    assert_eq!(lab.run(&["push", "debian-terminal", "s3://bucket/x"]).code, 2);
}

#[test]
fn the_version_is_data() {
    let said = Lab::new().run(&["--version"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "labwright 0.1.0\n", ""));
}

#[test]
fn without_a_place_for_images_the_host_lacks_something() {
    let lab = Lab::new();
    insta::assert_snapshot!(said(lab.labwright(&["inspect"]).env_remove("LABWRIGHT_HOME")));
}

#[test]
fn check_reports_all_mistakes_of_a_file_with_their_places() {
    let lab = Lab::new();
    lab.write("recipe.yaml", WRONG);
    insta::assert_snapshot!(lab.run(&["check"]));
    let said = lab.run(&["--format", "json", "check"]);
    assert_eq!(said.code, 1);
    let answer: Value = serde_json::from_str(&said.out).expect("stdout is JSON and nothing else");
    insta::assert_json_snapshot!(answer);
    for line in said.err.lines() {
        let event: Value = serde_json::from_str(line).expect("every line on stderr is a JSON object");
        assert_eq!(event["event"], "error");
    }
}

#[test]
fn check_says_nothing_on_stdout_when_all_is_well() {
    let lab = Lab::new();
    lab.write("lab/recipe.yaml", RIGHT);
    insta::assert_snapshot!(lab.run(&["check", "lab"]));
    assert_eq!(
        lab.run(&["check", "--quiet", "lab/recipe.yaml"]).to_string(),
        "exit code: 0\n--- stdout ---\n--- stderr ---\n"
    );
}

#[test]
fn a_recipe_that_is_not_there() {
    let lab = Lab::new();
    insta::assert_snapshot!(lab.run(&["check"]));
    insta::assert_snapshot!(lab.run(&["check", "web/recipe.yaml"]));
}

#[test]
fn new_writes_what_check_accepts() {
    let lab = Lab::new();
    insta::assert_snapshot!(lab.run(&["new", "web-shell", "--template", "recipe"]));
    let said = lab.run(&["check", "web-shell"]);
    assert_eq!((said.code, said.err.as_str()), (0, "web-shell/recipe.yaml: web-shell 0.1.0 is fine\n"));
    assert_eq!(lab.run(&["new", "web-shell"]).code, 1, "an existing directory is never overwritten");
    assert_eq!(lab.run(&["new", "Web"]).code, 2);
}

#[test]
fn the_schema_accepts_what_check_accepts() {
    let lab = Lab::new();
    let said = lab.run(&["schema", "recipe"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let schema: Value = serde_json::from_str(&said.out).unwrap();
    let schema = jsonschema::validator_for(&schema).expect("it is a JSON Schema");
    let recipe = serde_json::json!({
        "apiVersion": "labwright/v1alpha1",
        "kind": "Recipe",
        "metadata": {"name": "shell", "version": "1.0.0"},
        "base": {"bootstrap": "debian", "suite": "trixie"},
        "packages": ["git"],
    });
    assert!(schema.is_valid(&recipe));
    let mut wrong = recipe.clone();
    wrong["pakages"] = serde_json::json!(["git"]);
    assert!(!schema.is_valid(&wrong));
}

#[test]
fn the_doctor_speaks_json_and_its_exit_code_is_the_verdict() {
    let lab = Lab::new();
    let said = lab.run(&["doctor", "--format", "json"]);
    let report: Value = serde_json::from_str(&said.out).expect("stdout is JSON and nothing else");
    let jobs = report["jobs"].as_array().unwrap();
    let names: Vec<&str> = jobs.iter().map(|job| job["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["build images", "make a base from packages", "run images"]);
    let possible = jobs.iter().all(|job| job["main"] == false || job["possible"] == true);
    assert_eq!(said.code, if possible { 0 } else { 3 }, "{}", said.err);
    for tool in report["tools"].as_array().unwrap() {
        assert!(tool["package"].as_str().is_some_and(|package| !package.is_empty()), "{tool}");
    }
    let text = lab.run(&["doctor"]);
    assert_eq!(text.code, said.code);
    assert!(
        text.out.starts_with("Jobs\n") && text.out.contains("\nHost\n") && text.out.contains("\nTools\n"),
        "{text}"
    );
}

#[test]
fn images_that_are_not_there() {
    let lab = Lab::new();
    let said = lab.run(&["inspect"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""));
    insta::assert_snapshot!(lab.run(&["inspect", "shell"]));
    insta::assert_snapshot!(lab.run(&["run", "oci:nowhere"]));
    insta::assert_snapshot!(lab.run(&["push", "shell", "oci:out"]));
}

#[test]
fn what_this_version_cannot_build_is_refused_with_its_place() {
    let lab = Lab::new();
    lab.write("recipe.yaml", &format!("{RIGHT}architectures: [arm64]\n"));
    insta::assert_snapshot!(lab.run(&["build"]));
}

#[test]
fn completions_for_the_usual_shells() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = lab.run(&["completions", shell]);
        assert!(said.code == 0 && said.out.contains("labwright"), "{said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let lab = Lab::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = lab.spawn(&["completions", "bash"], writer.into()).wait().unwrap();
    assert_eq!(status.code(), Some(0));
    // A disk that is full is one.
    let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0;
    let status = lab.spawn(&["completions", "bash"], full.into()).wait().unwrap();
    assert_eq!(status.code(), Some(3));
}
