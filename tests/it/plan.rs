//! `plan`: what it foresees is what a build then does, and looking changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use labwright_tests::Lab;
use serde_json::{Value, json};

use crate::world::{World, can_build, files};

/// Every file below a directory, with what would change if it were touched.
fn tree(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for path in files(&dir) {
            let data = fs_err::symlink_metadata(&path).unwrap();
            found.push((path.clone(), data.ino(), data.mtime(), data.mtime_nsec()));
            if data.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

fn plan(lab: &Lab, more: &[&str]) -> Value {
    let before = tree(lab.path());
    let said = lab.run(&[&["plan", "--format", "json", "r"], more].concat());
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(tree(lab.path()), before, "looking changed something");
    serde_json::from_str(&said.out).expect("the answer is JSON")
}

/// The steps that are not cached, with the reasons as people read them.
fn pending(answer: &Value) -> Vec<(&str, Vec<&str>)> {
    let steps = answer["steps"].as_array().unwrap().iter().filter(|step| step["cached"] == false);
    steps
        .map(|step| {
            let reasons = step["reasons"].as_array().unwrap().iter();
            (step["name"].as_str().unwrap(), reasons.map(|reason| reason["text"].as_str().unwrap()).collect())
        })
        .collect()
}

#[test]
fn plan_makes_no_home_and_says_what_is_not_known_yet() {
    let lab = Lab::new();
    lab.write(
        "r/recipe.yaml",
        "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {name: shell, version: 1.0.0}\n\
         base: {bootstrap: debian, suite: trixie}\npackages: [git]\nruncmd: [\"true\"]\n",
    );
    let answer = plan(&lab, &[]);
    assert!(!lab.path().join("home").exists());
    assert_eq!(answer["base"], json!({"name": "debian trixie amd64", "present": false}));
    let names: Vec<&str> =
        answer["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["packages", "commands", "seal"]);
    for step in answer["steps"].as_array().unwrap() {
        assert_eq!(step["key"], Value::Null);
        assert_eq!(step["reasons"], json!([{"kind": "baseMissing", "text": "the base is not here yet"}]));
    }
    assert_eq!(answer["downloads"][0]["what"], "debian trixie amd64");
    assert_eq!(answer["downloads"][1]["what"], "packages");
    assert_eq!(answer["downloads"][1]["bytes"], Value::Null, "nobody knows it without the lists");
    let text = lab.run(&["plan", "r"]);
    assert!(text.out.contains("not here yet; it is got first, and the key of every step depends on it"), "{text}");
    assert!(text.out.contains("packages  unknown      build"), "{text}");

    // What a lock file would have to say, `--locked` asks for.
    let recipe = fs_err::read_to_string(lab.path().join("r/recipe.yaml")).unwrap();
    lab.write("r/recipe.yaml", &recipe.replace("{bootstrap: debian, suite: trixie}", "debian-13"));
    let said = lab.run(&["plan", "--locked", "r"]);
    assert_eq!(said.code, 7, "{said}");
    let answer = plan(&lab, &[]);
    assert!(answer["downloads"][0]["how"].as_str().unwrap().contains("labwright.lock does not pin it"), "{answer}");
    lab.write(
        "r/labwright.lock",
        &json!({"version": 1, "bases": {"debian-13": {"amd64": {
            "url": "https://vendor.example/disk.qcow2", "digest": format!("sha256:{}", "a".repeat(64)), "size": 1234
        }}}})
        .to_string(),
    );
    assert_eq!(plan(&lab, &[])["downloads"][0]["bytes"], 1234);
}

#[test]
fn build_does_what_plan_foresees() {
    if !can_build() {
        return;
    }
    let body = |motd: &str, command: &str| {
        format!(
            "disk: {{size: 640Mi}}\nusers: [{{name: student}}]\n\
             write_files:\n  - {{path: /etc/motd, content: \"{motd}\\n\"}}\n  - {{path: /opt/tree/, from: ./tree/}}\n\
             runcmd: [\"{command}\"]\n"
        )
    };
    let world = World::new("foreseen", &body("one", "true"));
    world.lab.write("r/tree/a", "a\n");
    let first = plan(&world.lab, &[]);
    assert_eq!(pending(&first)[0], ("disk", vec!["never built here"]));
    assert_eq!(pending(&first).len(), 5);
    assert_eq!(first["imageSize"], Value::Null);
    world.build_well(&[]);
    let built = plan(&world.lab, &[]);
    assert_eq!((&built["upToDate"], pending(&built)), (&json!(true), vec![]));
    let keys = |answer: &Value| -> Vec<Value> {
        answer["steps"].as_array().unwrap().iter().map(|step| step["key"].clone()).collect()
    };
    assert_eq!(keys(&first), keys(&built), "the keys are known before the first build");
    assert_eq!(built["steps"][2]["size"]["from"], "cache");
    assert!(built["imageSize"]["bytes"].as_u64().unwrap() > 1 << 20);

    world.recipe(&body("two", "true"));
    world.lab.write("r/tree/b", "b\n");
    let changed = plan(&world.lab, &[]);
    assert_eq!(
        pending(&changed),
        [
            (
                "files",
                vec!["content of /etc/motd changed", "+ content of /opt/tree/b", "+ mode and owner of /opt/tree/b"]
            ),
            ("commands", vec!["after `files`"]),
            ("seal", vec!["after `commands`"])
        ]
    );
    assert_eq!(changed["steps"][2]["size"]["from"], "lastBuild");
    // A build that fails is remembered as well, and what it finished is not done again.
    world.recipe(&body("two", "false"));
    assert_eq!(world.build(&[]).code, 5);
    let failed = plan(&world.lab, &[]);
    assert_eq!(
        pending(&failed),
        [("commands", vec!["the last build did not come to its end"]), ("seal", vec!["after `commands`"])]
    );
    world.recipe(&body("two", "true"));
    let mended = plan(&world.lab, &[]);
    assert_eq!(pending(&mended)[0], ("commands", vec!["command 1 changed"]));
    let answer = world.build_well(&[]);
    let ran: Vec<&str> = answer["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["cached"] == false)
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(ran, pending(&mended).iter().map(|(name, _)| *name).collect::<Vec<_>>());

    let layer = |step: &str| -> PathBuf {
        let answer = plan(&world.lab, &[]);
        let steps = answer["steps"].as_array().unwrap();
        let key = steps.iter().find(|found| found["name"] == step).unwrap()["key"].as_str().unwrap().to_owned();
        world.home().join("layers").join(key + ".qcow2")
    };
    let (users, commands) = (layer("users"), layer("commands"));
    let file = fs_err::OpenOptions::new().write(true).open(&commands).unwrap();
    file.set_len(7).unwrap();
    assert_eq!(pending(&plan(&world.lab, &[]))[0], ("commands", vec!["its layer is damaged"]));
    fs_err::remove_file(users).unwrap();
    assert_eq!(pending(&plan(&world.lab, &[]))[0], ("users", vec!["its layer was removed (gc)"]));
    // The step below was made anew, so what stood on the old one does not fit.
    world.build_well(&["--force"]);
    assert_eq!(pending(&plan(&world.lab, &[])), []);
    // Nothing is taken from the cache, and everything is in it afterwards.
    let anew = world.build_well(&["--no-cache"]);
    assert!(anew["steps"].as_array().unwrap().iter().all(|step| step["cached"] == false), "{anew}");
    assert_eq!(pending(&plan(&world.lab, &[])), []);

    let history = fs_err::read_to_string(world.home().join("history/foreseen.json")).unwrap();
    assert!(history.contains("content of /etc/motd") && !history.contains("two"), "values are not kept");
}
