//! Recipes on recipes: the lower one's layers are shared, and what does not fit is said with its place.

use labwright_tests::Lab;
use serde_json::Value;

use crate::world::{World, can_build, files};

fn recipe(name: &str, base: &str, body: &str) -> String {
    format!(
        "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: {name}, version: 1.0.0}}\nbase: {base}\n{body}"
    )
}

/// What `check` says about the recipe in `r`.
fn check(lab: &Lab) -> (i32, String) {
    let said = lab.run(&["check", "r"]);
    (said.code, said.err)
}

#[test]
fn what_does_not_fit_has_its_place() {
    let lab = Lab::new();
    let lower = "{bootstrap: debian, suite: trixie}";
    let user = "users: [{name: student}]\n";
    lab.write(
        "lower/recipe.yaml",
        &recipe("lower", lower, &format!("{user}disk: {{size: 4Gi}}\naccess: [{{name: web, type: http, port: 80}}]\n")),
    );
    let upper = |body: &str| lab.write("r/recipe.yaml", &recipe("upper", "{recipe: ../lower}", body));
    upper("access: [{name: shell, type: terminal, user: student}]\n");
    assert_eq!(check(&lab).0, 0, "the user is one of the lower recipe's: {}", check(&lab).1);
    for (body, said, place) in [
        ("access: [{name: shell, type: terminal, user: studnt}]\n", "did you mean `student`?", "r/recipe.yaml:5:"),
        ("disk: {size: 2Gi}\n", "the base recipe `lower` has a disk of 4Gi: disks never shrink", "r/recipe.yaml:5:"),
        ("architectures: [arm64]\n", "the base recipe `lower` is not for arm64, and this one is", "r/recipe.yaml:4:"),
        (
            "users: [{name: a}]\naccess: [{name: web, type: terminal, user: a}]\n",
            "the base recipe `lower` has an access `web` of the type http",
            "r/recipe.yaml:6:",
        ),
    ] {
        upper(body);
        let (code, err) = check(&lab);
        assert_eq!(code, 1, "{body}: {err}");
        assert!(err.contains(said) && err.contains(place), "{body}: {err}");
        // A build says the same before it does anything.
        let built = lab.run(&["build", "r"]);
        assert_eq!((built.code, built.err.contains(said)), (1, true), "{built}");
    }
    let minimal = "{bootstrap: debian, suite: trixie, variant: minimal}";
    lab.write("lower/recipe.yaml", &recipe("lower", minimal, "output: {container: {}}\n"));
    upper("output: {container: {command: [/bin/sh]}}\n");
    assert_eq!(check(&lab).0, 0, "{}", check(&lab).1);
    upper("");
    let (code, err) = check(&lab);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("has no kernel, so this disk would not boot") && err.contains("r/recipe.yaml:4:"), "{err}");
    lab.write("lower/recipe.yaml", &recipe("lower", lower, "pakages: [git]\n"));
    let (code, err) = check(&lab);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("lower/recipe.yaml:5:") && err.contains("did you mean `packages`?"), "{err}");
    assert!(err.contains("the base recipe `../lower` has mistakes") && err.contains("r/recipe.yaml:4:"), "{err}");

    lab.write("lower/recipe.yaml", &recipe("lower", "{recipe: ../r}", ""));
    let (code, err) = check(&lab);
    assert_eq!((code, err.contains("this recipe starts from itself: its base leads back to it")), (1, true), "{err}");
    for number in 0..12 {
        let base = format!("{{recipe: ../many{}}}", number + 1);
        lab.write(&format!("many{number}/recipe.yaml"), &recipe("many", &base, ""));
    }
    lab.write("many12/recipe.yaml", &recipe("many", lower, ""));
    let said = lab.run(&["check", "many0"]);
    assert!(said.code == 1 && said.err.contains("more than 8 recipes stand on one another"), "{said}");
}

fn steps(answer: &Value, cached: bool) -> Vec<&str> {
    let steps = answer["steps"].as_array().unwrap().iter().filter(|step| step["cached"] == cached);
    steps.map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn build_on_a_recipe_shares_its_layers() {
    if !can_build() {
        return;
    }
    let world = World::new(
        "lower",
        "users: [{name: student}]\nwrite_files: [{path: /opt/lower, content: \"lower\\n\"}]\n\
         access: [{name: web, type: http, port: 80}]\n",
    );
    let upper = |text: &str| {
        let body = format!(
            "disk: {{size: 640Mi}}\nwrite_files: [{{path: /opt/upper, content: \"{text}\\n\"}}]\n\
             runcmd: [cat /opt/lower /opt/upper > /opt/both]\naccess: [{{name: api, type: http, port: 81}}]\n"
        );
        world.lab.write("upper/recipe.yaml", &recipe("upper", "{recipe: ../r/recipe.yaml}", &body));
    };
    let build = |path: &str| -> Value {
        let said = world.lab.run(&["build", "--format", "json", path]);
        assert_eq!(said.code, 0, "{said}");
        serde_json::from_str(&said.out).unwrap()
    };
    upper("one");
    let own = ["disk", "files", "commands", "seal"];
    let below = ["lower: users", "lower: files", "lower: seal"];
    let first = build("upper");
    assert_eq!(steps(&first, false), [&below[..], &own].concat());
    // The lower recipe's own build finds everything done.
    let lower = build("r");
    assert_eq!(steps(&lower, true), ["users", "files", "seal"]);
    assert_eq!(steps(&lower, false), Vec::<&str>::new());
    upper("two");
    let planned = world.lab.run(&["plan", "--format", "json", "upper"]);
    let planned: Value = serde_json::from_str(&planned.out).unwrap();
    assert_eq!(steps(&planned, false), ["files", "commands", "seal"], "{planned}");
    let second = build("upper");
    assert_eq!(steps(&second, false), ["files", "commands", "seal"]);
    assert_ne!(first["digest"], second["digest"]);
    assert_eq!(build("upper")["unchanged"], true);

    let out = world.lab.path().join("out.qcow2");
    let said = world.lab.run(&["build", "-o", "out.qcow2", "upper"]);
    assert_eq!(said.code, 0, "{said}");
    let disk = world.disk(&out);
    disk.check();
    assert_eq!(disk.read("/opt/both"), "lower\ntwo\n");
    assert!(disk.read("/etc/passwd").contains("student:"));
    assert_eq!(fs_err::metadata(&disk.raw).unwrap().len(), 640 << 20);

    let facts = world.lab.run(&["inspect", "--format", "json", "upper:1.0.0"]);
    let facts: Value = serde_json::from_str(&facts.out).unwrap();
    let facts = &facts["platforms"][0]["facts"];
    assert_eq!(facts["base"], "recipe lower 1.0.0");
    let lower_facts = world.lab.run(&["inspect", "--format", "json", "lower:1.0.0"]);
    let lower_facts: Value = serde_json::from_str(&lower_facts.out).unwrap();
    assert_eq!(facts["baseDigest"], lower_facts["platforms"][0]["facts"]["buildKey"]);
    let names: Vec<_> = facts["access"].as_array().unwrap().iter().map(|way| way["name"].clone()).collect();
    assert_eq!(names, ["web", "api"], "the ways into the lower machine are ways into this one");

    // So is what describes them, although no step does anything about a port.
    let body = fs_err::read_to_string(world.lab.path().join("r/recipe.yaml")).unwrap();
    world.lab.write("r/recipe.yaml", &body.replace("port: 80}", "port: 82}"));
    let described = build("upper");
    assert_eq!((steps(&described, false), &described["unchanged"]), (Vec::<&str>::new(), &Value::Bool(false)));
    assert_eq!(build("upper")["unchanged"], true);

    // A change below is a change above; `--from` is about the recipe's own steps, `--no-cache` about all.
    let from = world.lab.run(&["build", "--format", "json", "--from", "files", "upper"]);
    assert_eq!(steps(&serde_json::from_str(&from.out).unwrap(), false), ["files", "commands", "seal"], "{from}");
    let anew = world.lab.run(&["build", "--format", "json", "--no-cache", "upper"]);
    assert_eq!(steps(&serde_json::from_str(&anew.out).unwrap(), true), Vec::<&str>::new(), "{anew}");
    assert!(!files(&world.home().join("layers")).is_empty());
}
