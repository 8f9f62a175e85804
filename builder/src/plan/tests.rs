use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use labwright_base_images::{DiskFormat, PackageLock};
use labwright_core::LockedPackage;
use labwright_recipes::{FileKind, Files, load};

use super::*;

/// The host's files, as the command line sees them.
struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs_err::read(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match fs_err::metadata(path) {
            Ok(data) if data.is_dir() => Ok(Some(FileKind::Directory)),
            Ok(_) => Ok(Some(FileKind::File)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn disk(bytes: &[u8]) -> Base {
    Base {
        path: PathBuf::from("/base"),
        format: DiskFormat::Qcow2,
        digest: Digest::sha256(bytes),
        virtual_size: ByteSize::from_bytes(3 << 30),
        name: "base".to_owned(),
    }
}

fn recipe(dir: &Path, text: &str) -> Recipe {
    load("recipe.yaml", text, dir, &HostFiles, &BTreeMap::new())
        .unwrap_or_else(|found| panic!("{text}\n{}", found.render(false)))
        .recipe
}

fn plan(dir: &Path, text: &str) -> Plan {
    Plan::new(recipe(dir, text), Arch::Amd64, disk(b"base")).unwrap()
}

/// Every key of a recipe.
const FULL: &str = r#"apiVersion: labwright/v1alpha1
kind: Recipe
metadata: {name: full, version: 1.0.0, title: Full}
architectures: [amd64]
base: {bootstrap: debian, suite: trixie}
disk: {size: 4Gi}
apt: {sources: {extra: {source: "deb https://a.example/ s main", key: "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n-----END PGP PUBLIC KEY BLOCK-----\n"}}}
package_update: false
packages: [git, "vim=2:9"]
users:
  - name: student
    gecos: Student
    uid: 1500
    homedir: /home/student
    primary_group: users
    groups: [sudo]
    shell: /bin/bash
    sudo: ["ALL=(ALL) ALL"]
    ssh_authorized_keys: ["ssh-ed25519 AAAAC3Nz me"]
    lock_passwd: true
    system: false
    no_create_home: false
write_files:
  - {path: /etc/motd, content: "one\n", permissions: "0644", owner: "root:root", append: false}
  - {path: /opt/file, from: ./file, permissions: "0600"}
  - {path: /opt/tree/, from: ./tree/}
runcmd:
  - echo one
  - [echo, two]
hostname: box
timezone: Europe/Berlin
locale: de_DE.UTF-8
build_secrets: [token]
access:
  - {name: shell, type: terminal, user: student}
  - {name: web, type: http, port: 8080}
checks:
  - {name: alive, run: "true", timeout: 10s}
output: {compression: zstd}
timeouts: {packages: 1h, users: 1m, files: 1m, access: 1m, runcmd: 1h}
"#;

/// What is changed in [`FULL`], one at a time: a text that is there once, and what takes its place.
const CHANGES: &[(&str, &str)] = &[
    ("size: 4Gi", "size: 5Gi"),
    ("deb https://a.example/ s main", "deb https://b.example/ s main"),
    ("{extra: {source", "{other: {source"),
    ("BLOCK-----\\nx\\n", "BLOCK-----\\ny\\n"),
    ("[git, ", "[git, jq, "),
    ("[git, \"vim=2:9\"]", "[\"vim=2:9\", git]"),
    ("vim=2:9", "vim=2:8"),
    ("gecos: Student", "gecos: Teacher"),
    ("uid: 1500", "uid: 1501"),
    ("homedir: /home/student", "homedir: /srv/student"),
    ("primary_group: users", "primary_group: games"),
    ("groups: [sudo]", "groups: [adm]"),
    ("shell: /bin/bash", "shell: /bin/sh"),
    ("ALL=(ALL) ALL", "ALL=(root) ALL"),
    ("AAAAC3Nz me", "AAAAC3Nz you"),
    ("lock_passwd: true", "lock_passwd: false"),
    ("system: false", "system: true"),
    ("no_create_home: false", "no_create_home: true"),
    ("path: /etc/motd", "path: /etc/issue"),
    ("content: \"one\\n\"", "content: \"two\\n\""),
    ("permissions: \"0644\"", "permissions: \"0640\""),
    ("owner: \"root:root\"", "owner: \"root:adm\""),
    ("append: false", "append: true"),
    ("permissions: \"0600\"", "permissions: \"0640\""),
    ("path: /opt/file", "path: /opt/file2"),
    ("path: /opt/tree/", "path: /opt/tree2/"),
    ("- echo one", "- echo 1"),
    ("[echo, two]", "[echo, three]"),
    ("hostname: box", "hostname: bax"),
    ("Europe/Berlin", "Europe/Paris"),
    ("de_DE.UTF-8", "fr_FR.UTF-8"),
    ("build_secrets: [token]", "build_secrets: [other]"),
    ("{name: shell, type", "{name: term, type"),
    ("  - {name: shell, type: terminal, user: student}\n", ""),
];

/// What is in no key of a step, because no step does anything about it: names for people and for the image, limits,
/// and how the finished disk is packed. `recipe_digest` has what of it is in the image.
const OUTSIDE: &[(&str, &str)] = &[
    ("name: full", "name: other"),
    ("version: 1.0.0", "version: 1.0.1"),
    ("title: Full", "title: Other"),
    ("architectures: [amd64]", "architectures: [amd64, arm64]"),
    // The base counts by its digest, whatever it was called.
    ("suite: trixie", "suite: bookworm"),
    // The lists are fetched anyway where packages are installed.
    ("package_update: false", "package_update: true"),
    ("port: 8080", "port: 8081"),
    ("name: alive", "name: living"),
    ("run: \"true\"", "run: \"false\""),
    ("timeout: 10s", "timeout: 11s"),
    ("compression: zstd", "compression: zlib"),
    ("packages: 1h,", "packages: 2h,"),
    ("users: 1m", "users: 2m"),
    ("files: 1m", "files: 2m"),
    ("access: 1m", "access: 2m"),
    ("runcmd: 1h", "runcmd: 2h"),
];

fn beside() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("file"), "file").unwrap();
    fs_err::create_dir(dir.path().join("tree")).unwrap();
    fs_err::write(dir.path().join("tree/a"), "a").unwrap();
    dir
}

#[test]
fn every_field_that_a_step_sees_is_in_the_key() {
    let dir = beside();
    let key = plan(dir.path(), FULL).key();
    assert_eq!(plan(dir.path(), FULL).key(), key);
    let change = |(from, to): &(&str, &str)| {
        assert_eq!(FULL.matches(from).count(), 1, "{from}");
        plan(dir.path(), &FULL.replace(from, to)).key()
    };
    let mut seen = vec![key.clone()];
    for pair in CHANGES {
        let changed = change(pair);
        assert!(!seen.contains(&changed), "{pair:?} makes no difference");
        seen.push(changed);
    }
    for pair in OUTSIDE {
        assert_eq!(change(pair), key, "{pair:?} makes a difference: move it to CHANGES");
    }
    let base = Plan::new(recipe(dir.path(), FULL), Arch::Amd64, disk(b"another base")).unwrap();
    assert_ne!(base.key(), key);
    for (path, text) in [("file", "filf"), ("tree/a", "b")] {
        let before = fs_err::read(dir.path().join(path)).unwrap();
        fs_err::write(dir.path().join(path), text).unwrap();
        assert_ne!(plan(dir.path(), FULL).key(), key, "{path}");
        fs_err::write(dir.path().join(path), before).unwrap();
    }
    fs_err::write(dir.path().join("tree/b"), "").unwrap();
    assert_ne!(plan(dir.path(), FULL).key(), key, "one more file in the tree");
}

/// What is locked decides about the packages step and all behind it, and nothing before it.
#[test]
fn every_part_of_what_is_locked_is_in_the_key() {
    let dir = beside();
    let open = plan(dir.path(), FULL);
    let request = open.packages()[0].and_then(|packages| {
        let mut known = packages.clone();
        known.installed(Vec::new());
        known.lock()
    });
    let request = request.unwrap().request().clone();
    let locked = |request: &Digest, packages: &[(&str, &str)]| {
        let packages = packages.iter().map(|(name, version)| LockedPackage::from_entry(name, version).unwrap());
        let mut plan = plan(dir.path(), FULL);
        plan.use_lock(0, &PackageLock::new(request.clone(), packages));
        plan
    };
    let (a, b) = (format!("1 sha256:{}", "a".repeat(64)), format!("1 sha256:{}", "b".repeat(64)));
    let usual = locked(&request, &[("git:amd64", &a)]);
    assert_eq!(usual.keys(), locked(&request, &[("git:amd64", &a)]).keys());
    let packages = usual.steps.iter().position(|step| step.kind == StepKind::Packages).unwrap();
    let mut seen = vec![open, usual];
    for (request, packages) in [
        (&request, &[("git:amd64", b.as_str())][..]),
        (&request, &[("git:amd64", "1")]),
        (&request, &[("git:amd64", "2")]),
        (&request, &[("git:i386", &a)]),
        (&request, &[("vim:amd64", &a)]),
        (&request, &[("git:amd64", &a), ("vim:amd64", &a)]),
        (&request, &[]),
        (&Digest::sha256(b"another list"), &[("git:amd64", &a)]),
        (&Digest::sha256(b"another list"), &[("git:amd64", "2")]),
    ] {
        seen.push(locked(request, packages));
    }
    for (at, one) in seen.iter().enumerate() {
        for other in &seen[..at] {
            assert_eq!(one.keys()[..packages], other.keys()[..packages]);
            for step in packages..one.steps.len() {
                assert_ne!(one.keys()[step], other.keys()[step], "{step}");
            }
        }
    }
    // A change of what is asked for, and none of how it is asked.
    let request_of = |text: &str| {
        let mut packages = plan(dir.path(), text).packages()[0].cloned().unwrap();
        packages.installed(Vec::new());
        packages.lock().unwrap().request().clone()
    };
    for (from, to) in [
        ("[git, \"vim=2:9\"]", "[git]"),
        ("vim=2:9", "vim=2:8"),
        ("a.example", "b.example"),
        ("{extra: {source", "{other: {source"),
        ("BLOCK-----\\nx\\n", "BLOCK-----\\ny\\n"),
        ("locale: de_DE.UTF-8\n", ""),
        ("  - {name: shell, type: terminal, user: student}\n", ""),
    ] {
        assert_eq!(FULL.matches(from).count(), 1, "{from}");
        assert_ne!(request_of(&FULL.replace(from, to)), request, "{from}");
    }
    for (from, to) in
        [("[git, \"vim=2:9\"]", "[\"vim=2:9\", git]"), ("Europe/Berlin", "Europe/Paris"), ("- echo one", "- echo 1")]
    {
        assert_eq!(request_of(&FULL.replace(from, to)), request, "{from}");
    }
}

/// Whoever adds a field to the model comes by here and says on which side it is.
#[test]
fn the_lists_above_have_every_field() {
    let dir = beside();
    let resolved = serde_json::to_value(recipe(dir.path(), FULL)).unwrap();
    let fields: Vec<&str> = resolved.as_object().unwrap().keys().map(String::as_str).collect();
    let mut known = vec![
        "access",
        "apt_sources",
        "architectures",
        "base",
        "build_secrets",
        "checks",
        "disk_size",
        "files",
        "hostname",
        "locale",
        "name",
        "output",
        "package_update",
        "packages",
        "run",
        "timeouts",
        "timezone",
        "title",
        "users",
        "version",
    ];
    known.sort_unstable();
    let mut fields = fields;
    fields.sort_unstable();
    assert_eq!(fields, known);
    let mut user: Vec<_> = resolved["users"][0].as_object().unwrap().keys().cloned().collect();
    user.sort();
    assert_eq!(user.len(), 12, "{user:?}");
    let file = resolved["files"][0].as_object().unwrap();
    assert_eq!(file.len(), 5, "{file:?}");
}

#[test]
fn a_recipe_on_a_recipe_has_the_doors_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let head = |name: &str, rest: &str| {
        format!(
            "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: {name}, version: 1.0.0}}\n\
             base: {{bootstrap: debian, suite: trixie}}\nusers: [{{name: u{name}}}]\n{rest}"
        )
    };
    let lower = || plan(dir.path(), &head("low", "access: [{name: shell, type: terminal, user: ulow}]\n"));
    let on = |rest: &str| Plan::on(recipe(dir.path(), &head("up", rest)), lower()).unwrap();
    let kinds = |plan: &Plan| -> Vec<String> { plan.steps.iter().map(Step::label).collect() };
    let below = ["low: packages", "low: users", "low: access", "low: seal"];

    // Without a terminal of its own, the door on the disk is the right one.
    let plain = on("");
    assert_eq!(kinds(&plain), [&below[..], &["users", "seal"]].concat());
    let (facts, lower_key) = (plain.facts(Vec::new()), lower().key());
    assert_eq!((facts.base.as_str(), &facts.base_digest), ("recipe low 1.0.0", &lower_key));
    assert_eq!((facts.access.len(), facts.front_door), (1, Some(FRONT_DOOR_PORT)));
    let keys = |plan: &Plan| plan.steps.iter().map(|step| step.key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&plain)[..4], keys(&lower()), "the layers below are the lower recipe's own");

    // With one, the door has both, and nothing is installed again.
    let two = on("access: [{name: root, type: terminal, user: uup}]\n");
    assert_eq!(kinds(&two), [&below[..], &["users", "access", "seal"]].concat());
    let texts = |plan: &Plan| -> String {
        let step = plan.steps.iter().rfind(|step| step.kind == StepKind::Access).unwrap();
        let inline = step.sources.iter().map(|source| match source {
            Source::Inline(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Source::File { .. } => String::new(),
        });
        inline.collect()
    };
    assert!(texts(&two).contains("location /shell/") && texts(&two).contains("location /root/"));
    let names: Vec<String> = two.facts(Vec::new()).access.into_iter().map(|access| access.name).collect();
    assert_eq!(names, ["shell", "root"]);

    // One of the same name takes the place of the other.
    let replaced = on("access: [{name: shell, type: terminal, user: uup}]\n");
    let facts = replaced.facts(Vec::new());
    assert_eq!((facts.access.len(), facts.access[0].user.as_deref()), (1, Some("uup")));
    assert!(texts(&replaced).contains("User=uup") && !texts(&replaced).contains("User=ulow"));

    let size = PlanError::Shrink {
        base: "recipe low 1.0.0".to_owned(),
        base_size: ByteSize::from_bytes(3 << 30),
        size: ByteSize::from_bytes(2 << 30),
    };
    let error = Plan::on(recipe(dir.path(), &head("up", "disk: {size: 2Gi}\n")), lower()).unwrap_err();
    assert_eq!(error.to_string(), size.to_string());
}

#[test]
fn the_provenance_names_all_that_went_in_and_no_clock() {
    let dir = beside();
    let plan = plan(dir.path(), FULL);
    let manifest = Digest::sha256(b"manifest");
    let facts = plan.facts(Vec::new());
    let bytes = plan.provenance(&facts, &manifest, None);
    assert_eq!(bytes, plan.provenance(&facts, &manifest, None));
    let statement: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], manifest.hex());
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["recipe"]["digest"]["sha256"], plan.recipe_digest.hex());
    assert_eq!(definition["resolvedDependencies"][0]["digest"]["sha256"], plan.base().digest.hex());
    let steps = definition["internalParameters"]["steps"].as_array().unwrap();
    assert_eq!(steps.len(), plan.steps().len());
    assert_eq!(steps.last().unwrap()["key"], plan.key().to_string());
    let run = &statement["predicate"]["runDetails"];
    assert_eq!((&run["builder"]["version"]["labwright"], run.get("metadata")), (&facts.tool_version.into(), None));
    let dated = plan.provenance(&plan.facts(Vec::new()), &manifest, Some("2023-11-14T22:13:20Z"));
    let dated: serde_json::Value = serde_json::from_slice(&dated).unwrap();
    assert_eq!(dated["predicate"]["runDetails"]["metadata"]["finishedOn"], "2023-11-14T22:13:20Z");
}
