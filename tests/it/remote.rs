//! Registries through the command line: push, pull, copy, inspect, and what goes wrong with them.

use labwright_tests::{Lab, said};
use serde_json::Value;

use crate::servers::{Registry, SlowLine, build_image, command, free_port, have, run, start};

/// What `push`, `pull` and `copy` answer with `--format json`.
fn json(lab: &Lab, args: &[&str]) -> Value {
    let said = lab.run(&[&["--format", "json"], args].concat());
    assert_eq!(said.code, 0, "{said}");
    serde_json::from_str(&said.out).expect("stdout is JSON and nothing else")
}

#[test]
fn a_round_trip_over_tls_and_a_login() {
    if !have("registry", &["docker-registry", "openssl", "skopeo", "mke2fs", "sfdisk"]) {
        return;
    }
    let (lab, other) = (Lab::new(), Lab::new());
    build_image(&lab);
    let registry = Registry::guarded(lab.path());
    let there = format!("{}/labs/shell:1.0.0", registry.host());
    let auth = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"dTpzZWNyZXQ=\"}}}}}}", registry.host());
    let (auth, ca) = (lab.write("auth.json", &auth), lab.path().join("ca.pem"));
    let access = ["--authfile", auth.to_str().unwrap(), "--tls-ca", ca.to_str().unwrap()];
    let with = |args: &[&'static str], references: &[&str]| -> Vec<String> {
        args.iter().chain(references).chain(&access).map(|&word| word.to_owned()).collect()
    };
    let call = |lab: &Lab, args: &[String]| json(lab, &args.iter().map(String::as_str).collect::<Vec<_>>());

    let first = call(&lab, &with(&["push", "shell"], &[&there]));
    assert_eq!((&first["image"], &first["sent"], &first["existed"]), (&there.clone().into(), &5.into(), &0.into()));
    assert!(first["bytes"].as_u64().unwrap() > 6 << 20, "{first}");
    let again = call(&lab, &with(&["push", "shell"], &[&there]));
    assert_eq!((&again["sent"], &again["bytes"], &again["existed"]), (&0.into(), &0.into(), &5.into()));
    assert_eq!(again["digest"], first["digest"]);

    let pulled = call(&other, &with(&["pull"], &[&there]));
    assert_eq!((&pulled["image"], &pulled["digest"]), (&"shell:1.0.0".into(), &first["digest"]));
    assert_eq!(json(&other, &["inspect"])[0]["digest"], first["digest"]);

    // Registry, archive, layout, and back: the digests stay.
    let archive = call(&lab, &with(&["copy"], &[&there, "oci-archive:a.tar"]));
    let layout = json(&lab, &["copy", "oci-archive:a.tar:1.0.0", "oci:dir:x"]);
    let mirror = format!("{}/mirror/shell:2", registry.host());
    let back = call(&lab, &with(&["copy"], &["oci:dir:x", &mirror]));
    let mounted = call(&lab, &with(&["copy"], &[&there, &format!("{}/third/shell", registry.host())]));
    for copied in [&archive, &layout, &back, &mounted] {
        assert_eq!(copied["digest"], first["digest"]);
    }
    assert_eq!((&mounted["sent"], &mounted["mounted"]), (&0.into(), &5.into()));

    // Without its layers: what is inside, and the tags.
    let inspected = call(&other, &with(&["inspect"], &[&there]));
    let local = json(&lab, &["inspect", "shell:1.0.0"]);
    assert_eq!((&inspected["digest"], &inspected["platforms"]), (&first["digest"], &local["platforms"]));
    assert_eq!(inspected["platforms"][0]["facts"]["name"], "shell");
    assert_eq!(call(&lab, &with(&["inspect", "--tags"], &[&mirror])), serde_json::json!(["2"]));

    // The list of packages came along everywhere.
    let sbom = lab.run(&["inspect", "--sbom", "shell:1.0.0"]);
    let read: Value = serde_json::from_str(&sbom.out).unwrap();
    assert_eq!(read["metadata"]["component"]["hashes"][0]["content"], manifest_hex(&local));
    for found in [
        other.run(&["inspect", "--sbom", "shell"]),
        lab.run(&["inspect", "--sbom", "oci:dir:x"]),
        lab.run(&with(&["inspect", "--sbom"], &[&mirror]).iter().map(String::as_str).collect::<Vec<_>>()),
    ] {
        assert_eq!((found.code, &found.out), (0, &sbom.out), "{found}");
    }
    // And so did the statement of how it was built.
    let origin = lab.run(&["inspect", "--provenance", "shell:1.0.0"]);
    let read: Value = serde_json::from_str(&origin.out).unwrap();
    assert_eq!(read["subject"][0]["digest"]["sha256"], manifest_hex(&local));
    let found = other.run(&["inspect", "--provenance", "shell"]);
    assert_eq!((found.code, &found.out), (0, &origin.out), "{found}");
    json(&lab, &["copy", "--no-referrers", "shell", "oci:bare:x"]);
    let said = lab.run(&["inspect", "--sbom", "oci:bare:x"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said}");
    assert!(said.err.contains("comes without a list of its packages"), "{said}");

    // skopeo reads what we wrote.
    let dir = format!("dir:{}", lab.path().join("skopeo").display());
    run(
        "skopeo",
        &["copy", "-q", "--src-creds", "u:secret", "--src-tls-verify=false", &format!("docker://{there}"), &dir],
    );

    // A name whose image is gone from the store leaves its blobs to gc.
    let freed = json(&other, &["gc", "--remove", "shell:1.0.0"]);
    assert_eq!(freed["removedImages"], serde_json::json!(["shell:1.0.0"]));

    // What is wrong is said with the registry's name and what to do, and ends with 4.
    let wrong =
        lab.write("wrong.json", &format!("{{\"auths\": {{\"{}\": {{\"auth\": \"dTp3cm9uZw==\"}}}}}}", registry.host()));
    let (wrong, ca) = (wrong.to_str().unwrap(), ca.to_str().unwrap());
    let gone = format!("{}/labs/shell:9", registry.host());
    for (args, expected) in [
        (&["push", "shell", &there, "--tls-ca", ca, "--authfile", wrong][..], "does not accept the credentials of `u`"),
        (&["push", "shell", &there, "--tls-ca", ca], "wants a login"),
        (&["inspect", &gone, "--tls-ca", ca, "--authfile", access[1]], "has no image `labs/shell:9`"),
        (&["pull", &there, "--authfile", access[1]], "certificate"),
    ] {
        let said = lab.run(args);
        assert_eq!((said.code, said.out.as_str()), (4, ""), "{said}");
        assert!(said.err.contains(&registry.host()) && said.err.contains(expected), "{said}");
        assert!(!said.err.contains("secret") && !said.err.contains("dTp"), "{said}");
    }
}

fn manifest_hex(inspected: &Value) -> &str {
    inspected["platforms"][0]["manifest"].as_str().unwrap().strip_prefix("sha256:").unwrap()
}

#[test]
fn options_that_cannot_be_used() {
    let lab = Lab::new();
    lab.write("not.pem", "hello\n");
    for (args, expected) in [
        (&["pull", "shell:1"][..], "already"),
        (&["pull", "oci:x", "--as", "oci:y"], "not a name for the local store"),
        (&["pull", "r.example/x", "--authfile", "nowhere.json"], "--authfile nowhere.json"),
        (&["pull", "r.example/x", "--tls-ca", "not.pem"], "--tls-ca not.pem"),
        (&["copy", "oci:x", "oci:y", "--plain-http"], "for registries only"),
    ] {
        let said = lab.run(args);
        assert_eq!(said.code, 2, "{said}");
        assert!(said.err.contains(expected), "{said}");
    }
}

#[test]
fn a_registry_that_is_not_there() {
    let lab = Lab::new();
    let host = format!("127.0.0.1:{}", free_port());
    let said = lab.run(&["inspect", "--plain-http", &format!("{host}/labs/shell:1")]);
    assert_eq!(said.code, 4, "{said}");
    assert!(said.err.contains(&host), "{said}");
}

#[test]
fn a_registry_that_is_killed_and_comes_back_gets_everything() {
    if !have("registry", &["docker-registry", "mke2fs", "sfdisk"]) {
        return;
    }
    let lab = Lab::new();
    build_image(&lab);
    let mut registry = Registry::plain(lab.path());
    let line = SlowLine::to(registry.port(), 4 << 20);
    let there = format!("127.0.0.1:{}/labs/shell:1", line.port);
    let log = lab.path().join("push.log");
    let mut push = start(&lab, &["push", "--plain-http", "shell", &there], &log);
    line.wait_for(2 << 20);
    registry.kill();
    registry.restart();
    let status = push.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", fs_err::read_to_string(&log).unwrap());
    let direct = format!("{}/labs/shell:1", registry.host());
    assert_eq!(
        json(&lab, &["inspect", "--plain-http", &direct])["digest"],
        json(&lab, &["inspect", "shell"])["digest"]
    );
}

#[test]
fn an_interrupted_push_ends_its_upload_and_leaves_no_tag() {
    if !have("registry", &["docker-registry", "mke2fs", "sfdisk"]) {
        return;
    }
    let lab = Lab::new();
    build_image(&lab);
    let registry = Registry::plain(lab.path());
    let line = SlowLine::to(registry.port(), 1 << 20);
    let there = format!("127.0.0.1:{}/labs/shell:1", line.port);
    let log = lab.path().join("push.log");
    let mut push = start(&lab, &["push", "--plain-http", "shell", &there], &log);
    line.wait_for(1 << 20);
    assert!(command("kill").args(["-INT", &push.id().to_string()]).status().unwrap().success());
    let status = push.wait().unwrap();
    let text = fs_err::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(130), "{text}");
    assert!(text.ends_with("error: stopped on request\n"), "{text}");
    // docker-registry 2.8 refuses to end an upload whose last state only it knows, and purges it later; it is asked.
    assert_eq!(line.deletions(), 1, "{text}");
    let direct = format!("{}/labs/shell:1", registry.host());
    let said = lab.run(&["inspect", "--plain-http", &direct]);
    assert_eq!(said.code, 4, "the tag comes last: {said}");
    assert_eq!(lab.run(&["push", "--plain-http", "shell", &direct]).code, 0);
}

#[test]
fn progress_for_scripts_is_one_object_a_line() {
    if !have("registry", &["docker-registry", "mke2fs", "sfdisk"]) {
        return;
    }
    let lab = Lab::new();
    build_image(&lab);
    let registry = Registry::plain(lab.path());
    let there = format!("{}/labs/shell:1", registry.host());
    let said = said(&mut lab.labwright(&["--format", "json", "push", "--plain-http", "shell", &there]));
    assert_eq!(said.code, 0, "{said}");
    let events: Vec<Value> = said.err.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
    // Other layers, of the SBOM and the provenance, are far smaller.
    let last = events.iter().rfind(|event| {
        event["task"].as_str().is_some_and(|task| task.starts_with("layer "))
            && event["total"].as_u64().is_some_and(|total| total > 6 << 20)
    });
    let last = last.expect("the layer tells where it is");
    assert_eq!(last["done"], last["total"], "{last}");
}
