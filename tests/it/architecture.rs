//! The graph of crates, and what some of them must never know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Every arrow between crates that ARCHITECTURE.md draws. A new one needs a page in docs/decisions/.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "labwright",
        &[
            "labwright-base-images",
            "labwright-builder",
            "labwright-cloud-init",
            "labwright-core",
            "labwright-disk",
            "labwright-host",
            "labwright-lab",
            "labwright-recipes",
            "labwright-registry",
            "labwright-vm",
        ],
    ),
    (
        "labwright-builder",
        &[
            "labwright-appliance",
            "labwright-base-images",
            "labwright-cloud-init",
            "labwright-core",
            "labwright-disk",
            "labwright-guest",
            "labwright-host",
            "labwright-recipes",
            "labwright-vm",
        ],
    ),
    ("labwright-appliance", &["labwright-core", "labwright-disk", "labwright-guest"]),
    ("labwright-base-images", &["labwright-core", "labwright-disk", "labwright-host"]),
    ("labwright-disk", &["labwright-core", "labwright-host"]),
    ("labwright-vm", &["labwright-core", "labwright-host"]),
    ("labwright-guest", &["labwright-core"]),
    ("labwright-host", &["labwright-core"]),
    ("labwright-recipes", &["labwright-core", "labwright-document"]),
    ("labwright-document", &["labwright-core"]),
    ("labwright-lab", &["labwright-cloud-init", "labwright-core", "labwright-document"]),
    ("labwright-cloud-init", &["labwright-core"]),
    ("labwright-registry", &["labwright-core"]),
    ("labwright-core", &[]),
    ("labwright-tests", &[]),
];

/// Crates that are pure, and what nothing below them may be.
const PURE: [&str; 5] =
    ["labwright-core", "labwright-document", "labwright-recipes", "labwright-cloud-init", "labwright-lab"];
const EFFECTS: [&str; 6] = ["tokio", "reqwest", "hyper", "mio", "socket2", "rustls"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the workspace")
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .current_dir(root())
        // Crates of other platforms need not be downloaded for this.
        .other_options(["--filter-platform=x86_64-unknown-linux-gnu".to_owned()])
        .exec()
        .expect("cargo tells what the workspace is")
}

#[test]
fn the_arrows_are_those_of_the_architecture() {
    let metadata = metadata();
    let drawn: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let members = metadata.workspace_packages();
    assert_eq!(
        members.iter().map(|package| package.name.as_str()).collect::<BTreeSet<_>>(),
        drawn.keys().copied().collect(),
        "crates of the workspace"
    );
    for package in members {
        let found: BTreeSet<&str> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.as_str())
            .filter(|name| name.starts_with("labwright"))
            .collect();
        let allowed = &drawn[package.name.as_str()];
        let new: Vec<_> = found.difference(allowed).collect();
        assert!(new.is_empty(), "{} has new arrows to {new:?}", package.name);
    }
}

/// Walks down all arrows from a crate.
fn visit(name: &'static str, above: &mut Vec<&'static str>) {
    assert!(!above.contains(&name), "a circle: {above:?} → {name}");
    above.push(name);
    for to in ARROWS.iter().find(|(from, _)| *from == name).expect("every crate is listed").1 {
        visit(to, above);
    }
    above.pop();
}

#[test]
fn every_arrow_goes_down() {
    visit("labwright", &mut Vec::new());
}

#[test]
fn the_page_draws_every_crate() {
    let page = fs_err::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (name, _) in ARROWS {
        assert!(page.contains(&format!("| {name} |")), "ARCHITECTURE.md does not list {name}");
    }
    assert!(page.lines().count() <= 250, "ARCHITECTURE.md is longer than anyone reads");
}

#[test]
fn pure_crates_have_no_effects_below_them() {
    let metadata = metadata();
    let graph = metadata.resolve.as_ref().expect("cargo resolves the workspace");
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    for pure in PURE {
        let mut open: Vec<_> = names.iter().filter(|(_, name)| **name == pure).map(|(id, _)| *id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let node = graph.nodes.iter().find(|node| &node.id == id).expect("every package has a node");
            for dependency in &node.deps {
                if dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal) {
                    open.push(&dependency.pkg);
                }
            }
        }
        let seen: BTreeSet<&str> = seen.into_iter().map(|id| names[id]).collect();
        for effect in EFFECTS {
            assert!(!seen.contains(effect), "{pure} depends on {effect}");
        }
    }
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    for package in metadata().workspace_packages() {
        let manifest = fs_err::read_to_string(&package.manifest_path).unwrap();
        assert!(
            manifest.contains("\n[lints]\nworkspace = true\n"),
            "{} lacks `[lints] workspace = true`",
            package.manifest_path
        );
    }
}

#[test]
fn every_crate_says_what_it_never_does() {
    for package in metadata().workspace_packages() {
        let lib = package.manifest_path.parent().expect("a manifest is in a folder").join("src/lib.rs");
        if !lib.exists() {
            continue;
        }
        let text = fs_err::read_to_string(&lib).unwrap();
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(head.contains(" never ") || head.contains(" no "), "{lib} does not say what the crate never does");
    }
}
