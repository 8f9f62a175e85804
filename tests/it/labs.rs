//! Labs through the command line: new, check, build, render, push, inspect, pull, copy.

use std::collections::BTreeSet;

use labwright_tests::{Lab, Said};
use serde_json::Value;

use crate::servers::{Registry, have, recipe, run, sha256, small_disk};

/// What is built and published; `NAME` is the lab's name.
const LAB: &str = "\
apiVersion: labwright/v1alpha1
kind: Lab
metadata: {name: NAME, version: 1.0.0, title: Two machines, license: CC-BY-4.0}
networks: [{name: lan}]
secrets:
  flag: {type: text, value: \"FLAG{${{ hex(16) }}}\"}
machines:
  - {name: web, image: ./shell, interfaces: [{network: lan}], access: [site]}
  - name: target
    kind: container
    image: oci:../c:1
    interfaces: [{network: lan}]
    env: {FLAG: \"${{ secrets.flag }}\"}
    hidden: true
outputs: [{label: Flag, value: \"${{ secrets.flag }}\"}]
tasks: [{name: found, machine: web, check: tasks/found.sh, hint: tasks/hint.md, solve: tasks/solve.sh}]
instructions: [{title: Intro, file: instructions/intro.md, tasks: [found]}]
";

/// A lab whose images are small: a disk of files, and an empty container.
fn write_lab(lab: &Lab, dir: &str, name: &str) {
    let disk = small_disk(&lab.path().join(dir));
    let base = format!("{{file: ../disk.raw, digest: \"{}\"}}", sha256(&disk));
    let access = "access: [{name: site, type: http, port: 8080}]\n";
    lab.write(&format!("{dir}/shell/recipe.yaml"), &(recipe(&format!("{name}-shell"), &base, "") + access));
    lab.write(&format!("{dir}/lab.yaml"), &LAB.replace("NAME", name));
    lab.write(&format!("{dir}/tasks/found.sh"), "#!/bin/sh\ntest -e /root/found\n");
    lab.write(&format!("{dir}/tasks/hint.md"), "Look.\n");
    lab.write(&format!("{dir}/tasks/solve.sh"), "#!/bin/sh\ntouch /root/found # solved\n");
    lab.write(&format!("{dir}/instructions/intro.md"), "# Intro\n");
}

/// An OCI layout with a container image without files, where the labs look for it.
fn write_container(lab: &Lab) {
    let layout = lab.path().join("c");
    let image = format!("{}:1", layout.display());
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--created",
            "2026-01-01T00:00:00Z",
            "--history.created",
            "2026-01-01T00:00:00Z",
        ],
    );
}

fn json(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{said}");
    serde_json::from_str(&said.out).expect("stdout is JSON and nothing else")
}

#[test]
fn new_writes_labs_that_check_accepts() {
    for template in ["terminal", "network"] {
        let lab = Lab::new();
        let said = lab.run(&["new", "web-lab", "--template", template]);
        assert_eq!(said.code, 0, "{said}");
        let said = lab.run(&["check", "web-lab"]);
        assert_eq!((said.code, said.err.as_str()), (0, "web-lab/lab.yaml: web-lab 0.1.0 is fine\n"), "{said}");
        assert_eq!(lab.run(&["new", "web-lab", "--template", template]).code, 1, "an existing directory stays");
    }
}

#[test]
fn all_mistakes_of_a_lab_and_its_recipes_are_said_in_one_run() {
    let lab = Lab::new();
    lab.run(&["new", "web-lab"]);
    let edit = |file: &str, from: &str, to: &str| {
        let path = lab.path().join(file);
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}");
        fs_err::write(path, text.replace(from, to)).unwrap();
    };
    edit("web-lab/lab.yaml", "access: [shell]", "access: [shel]");
    edit("web-lab/lab.yaml", "check: tasks/first-commit.sh", "check: tasks/gone.sh");
    edit("web-lab/images/shell/recipe.yaml", "shell: /bin/bash", "shel: /bin/bash");
    let said = lab.run(&["check", "web-lab"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said}");
    for part in ["`tasks/gone.sh` does not exist", "unknown key `shel`", "2 mistakes found"] {
        assert!(said.err.contains(part), "{part}: {said}");
    }
    // What the recipe offers is known once it has no mistakes.
    edit("web-lab/images/shell/recipe.yaml", "shel: /bin/bash", "shell: /bin/bash");
    let said = lab.run(&["check", "--format", "json", "web-lab"]);
    let found: Value = serde_json::from_str(&said.out).unwrap();
    let messages: Vec<&str> =
        found["diagnostics"].as_array().unwrap().iter().map(|one| one["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["the image of `shell` offers no access `shel`", "`tasks/gone.sh` does not exist"]);
}

#[test]
fn what_is_for_recipes_or_for_labs_only_is_said() {
    let lab = Lab::new();
    lab.run(&["new", "web-lab"]);
    lab.run(&["new", "tools", "--template", "recipe"]);
    for (args, code, expected) in [
        (&["render", "tools"][..], 1, "only a lab has manifests"),
        (&["render", "nowhere"], 1, "nothing was built yet"),
        (&["render", "--routes", "gateway", "web-lab"], 1, "the store has no image"),
        (&["build", "-o", "x.qcow2", "web-lab"], 2, "--output is for one recipe"),
        (&["push", "./tools", "oci:x"], 2, "is a recipe"),
        (&["push", "./gone", "oci:x"], 1, "no recipe or lab"),
        (&["push", "web-lab/lab.yaml", "registry.example/x"], 1, "the store has no image"),
        (&["render", "--set", "a=b", "registry.example/labs/x:1"], 2, "a published lab has the values"),
        (&["build", "--secret", "id=token,env=HOME", "web-lab"], 2, "the lab names no secret `token`"),
    ] {
        let said = lab.run(args);
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{said}");
        assert!(said.err.contains(expected), "{said}");
    }
}

#[test]
fn recipes_of_one_lab_have_names_of_their_own() {
    let lab = Lab::new();
    lab.run(&["new", "net", "--template", "network"]);
    let (attacker, target) = (lab.path().join("net/images/attacker"), lab.path().join("net/images/target"));
    let text = fs_err::read_to_string(target.join("recipe.yaml")).unwrap();
    fs_err::write(attacker.join("recipe.yaml"), text.replace("type: http, port: 8088", "type: http, port: 8089"))
        .unwrap();
    let said = lab.run(&["check", "net"]);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.err.contains("makes the image net-target:0.1.0 as well"), "{said}");
    // One recipe for two machines is one image, and fine.
    let file = lab.path().join("net/lab.yaml");
    let text = fs_err::read_to_string(&file).unwrap();
    fs_err::write(&file, text.replace("image: ./images/attacker", "image: ./images/target/")).unwrap();
    let said = lab.run(&["check", "net"]);
    assert!(!said.err.contains("as well"), "{said}");
}

#[test]
fn build_publishes_a_lab_as_one_artifact() {
    if !have("registry", &["docker-registry", "skopeo", "umoci", "mke2fs", "sfdisk"]) {
        return;
    }
    let (lab, other) = (Lab::new(), Lab::new());
    write_lab(&lab, "one", "one");
    write_lab(&lab, "two", "two");
    write_container(&lab);
    let (first, second) = (lab.path().join("a"), lab.path().join("b"));
    fs_err::create_dir(&first).unwrap();
    fs_err::create_dir(&second).unwrap();
    let (registry, mirror) = (Registry::plain(&first), Registry::plain(&second));
    let there = format!("{}/labs/all", registry.host());

    // Before a build there is nothing to publish.
    let said = lab.run(&["push", "./one", &there, "--plain-http"]);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.err.contains("`labwright build` makes it"), "{said}");

    let built = json(&lab.run(&["--format", "json", "build", "one"]));
    assert_eq!((&built["lab"], &built["machines"][0]["name"]), (&"one".into(), &"web".into()));
    assert_eq!(built["machines"][0]["unchanged"], false);
    let again = json(&lab.run(&["--format", "json", "build", "--locked", "one"]));
    assert_eq!(again["machines"][0]["unchanged"], true, "{again}");
    assert_eq!(again["machines"][0]["digest"], built["machines"][0]["digest"]);
    let lock: Value =
        serde_json::from_str(&fs_err::read_to_string(lab.path().join("one/labwright.lock")).unwrap()).unwrap();
    assert_eq!(lock["labs"]["one"]["web"], built["machines"][0]["digest"]);
    assert_eq!(lock["images"]["oci:../c:1"], built["machines"][1]["digest"]);
    json(&lab.run(&["--format", "json", "build", "two"]));

    let plan = json(&lab.run(&["--format", "json", "plan", "one"]));
    let recipe = &plan["recipes"][0];
    assert_eq!(
        (&plan["lab"], &recipe["machines"], &recipe["upToDate"]),
        (&"one".into(), &serde_json::json!(["web"]), &true.into())
    );

    // Two labs in one repository, with the same names of machines.
    let pushed = json(&lab.run(&["--format", "json", "push", "./one", &format!("{there}:one"), "--plain-http"]));
    json(&lab.run(&["--format", "json", "push", "./two", &format!("{there}:two"), "--plain-http"]));
    let tags = json(&lab.run(&["--format", "json", "inspect", "--tags", &format!("{there}:one"), "--plain-http"]));
    let tags: BTreeSet<&str> = tags.as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect();
    let expected = ["one", "one-imgpkg", "one.target", "one.web", "two", "two-imgpkg", "two.target", "two.web"];
    assert_eq!(tags, expected.into());
    let same = json(&lab.run(&["--format", "json", "push", "./one", &format!("{there}:one"), "--plain-http"]));
    assert_eq!((&same["digest"], &same["sent"]), (&pushed["digest"], &0.into()), "publishing again changes nothing");

    // Anyone sees what is in it, without a disk.
    let inspected = json(&other.run(&["--format", "json", "inspect", &format!("{there}:one"), "--plain-http"]));
    assert_eq!(inspected["digest"], pushed["digest"]);
    assert_eq!(inspected["lab"]["machines"][0]["digest"], built["machines"][0]["digest"]);
    assert_eq!(inspected["lab"]["repository"], there);
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{there}:one")]);
    let raw: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(raw["artifactType"], "application/vnd.labwright.lab.v1");

    // What is rendered of the published lab is what is rendered of its directory.
    let of_dir = lab.run(&["render", "--repository", &there, "one"]);
    let of_registry = other.run(&["render", &format!("{there}:one"), "--plain-http"]);
    assert_eq!((of_dir.code, &of_dir.out), (0, &of_registry.out), "{of_registry}");
    assert!(of_dir.out.contains(&format!("{there}@{}", built["machines"][0]["digest"].as_str().unwrap())), "{of_dir}");
    assert!(!of_dir.out.contains("FLAG{"), "no secret is rendered unasked");
    let with_secrets = other.run(&["render", "--secrets", "new", &format!("{there}:one"), "--plain-http"]);
    assert!(with_secrets.out.contains("FLAG{"), "{with_secrets}");

    let said = lab.run(&["render", "--repository", &there, "--namespace", "kube-system", "one"]);
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{said}");
    assert!(said.err.contains("is a namespace of the cluster"), "{said}");

    // To another registry, into an archive and back: the digests stay, and the images are taken from there.
    let moved = format!("{}/mirror/one", mirror.host());
    let copied = json(&lab.run(&["--format", "json", "copy", &format!("{there}:one"), &moved, "--plain-http"]));
    assert_eq!(copied["digest"], pushed["digest"]);
    let archived =
        json(&lab.run(&["--format", "json", "copy", &format!("{there}:one"), "oci-archive:lab.tar", "--plain-http"]));
    assert_eq!(archived["digest"], pushed["digest"]);
    drop(registry);
    let back = format!("{}/back/one", mirror.host());
    let returned = json(&lab.run(&["--format", "json", "copy", "oci-archive:lab.tar:one", &back, "--plain-http"]));
    assert_eq!(returned["digest"], pushed["digest"]);
    for place in [&moved, &back] {
        let rendered = other.run(&["render", &format!("{place}:one"), "--plain-http"]);
        assert_eq!(rendered.out, of_dir.out.replace(&there, place), "{rendered}");
    }
    let pulled = json(&other.run(&["--format", "json", "pull", &format!("{moved}:one"), "--plain-http"]));
    assert_eq!(pulled["digest"], pushed["digest"]);
    assert_eq!(json(&other.run(&["--format", "json", "inspect", "one:1.0.0"]))["digest"], pushed["digest"]);

    // What solves the lab is published nowhere.
    let out = lab.path().join("unpacked");
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            "--src-tls-verify=false",
            &format!("docker://{moved}:one-imgpkg"),
            &format!("dir:{}", out.display()),
        ],
    );
    let mut seen = false;
    for file in fs_err::read_dir(&out).unwrap() {
        let file = file.unwrap().path();
        let listed = crate::servers::command("tar").arg("tzf").arg(&file).output().unwrap();
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(!names.contains("solve"), "{names}");
        seen |= names.contains("lab/tasks/found.sh");
    }
    assert!(seen, "the layer was looked at");
}
