//! Bundles and charts: what is in them, and what is not taken from strangers.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[path = "support/images.rs"]
mod images;
mod support;

use std::collections::BTreeMap;

use images::facts;
use labwright_core::{AccessKind, Arch, Digest, ImageFacts};
use labwright_lab::bundle::{Chart, Config, Source, Tree, bundle, chart, open};
use labwright_lab::manifests::{Options, forbidden};
use labwright_lab::resolved::KubevirtVersion;
use labwright_lab::{LockedImage, LockedLab};
use support::{Disk, full, here, load_text};

const REPOSITORY: &str = "registry.example/labs/two-host-pentest";

fn locked(text: &str) -> LockedLab {
    let image = |repository: &str, facts: Option<ImageFacts>| LockedImage {
        repository: repository.to_owned(),
        digest: Digest::sha256(repository.as_bytes()),
        facts,
        archs: vec![Arch::Amd64],
    };
    let loaded = load_text(text).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let images = BTreeMap::from([
        ("attacker".to_owned(), image(REPOSITORY, Some(facts(&[("shell", AccessKind::Terminal)])))),
        ("builder".to_owned(), image("registry.example/labs/builder", None)),
        ("target".to_owned(), image("registry.example/app", None)),
    ]);
    loaded.lock(images).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn options() -> Options {
    Options::new(KubevirtVersion::V1_7, "two-host-pentest")
}

fn full_bundle() -> (Config, Tree) {
    let (text, locked) = (full(), locked(&full()));
    let config = Config::new(&locked, REPOSITORY, &BTreeMap::new(), "0.1.0");
    let dir = here().join("tests/full");
    let source = Source { text: &text, files: &Disk, dir: &dir };
    (config, bundle(&locked, &source, &options()).unwrap())
}

fn text<'a>(tree: &'a Tree, path: &str) -> &'a str {
    std::str::from_utf8(tree.get(path).unwrap_or_else(|| panic!("{path} is not in {:?}", tree.keys()))).unwrap()
}

#[test]
fn a_bundle_has_what_each_tool_looks_for() {
    let (config, tree) = full_bundle();
    insta::assert_snapshot!("bundle-files", tree.keys().cloned().collect::<Vec<_>>().join("\n"));
    for path in [
        "kustomization.yaml",
        ".imgpkg/images.yml",
        "secrets/secrets.yaml",
        "routes/gateway/kustomization.yaml",
        "routes/gateway/routes.yaml",
        "README.md",
    ] {
        insta::assert_snapshot!(format!("bundle-{}", path.replace(['/', '.'], "-")), text(&tree, path));
    }
    insta::assert_json_snapshot!("bundle-config", config);
    assert_eq!(Config::parse(&config.to_bytes()).unwrap(), config);
    assert_eq!(full_bundle().1, tree, "the same lab gives the same files");
}

#[test]
fn neither_solve_scripts_nor_recipes_nor_values_are_published() {
    let (_, tree) = full_bundle();
    let chart = chart(&locked(&full()), &options(), "0.1.0").unwrap();
    for (path, bytes) in tree.iter().chain(&chart.files) {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(!path.contains("solve") && !path.contains("images/attacker"), "{path}");
        assert!(!text.contains("touch /root/port"), "the solve script is in {path}");
    }
    assert!(tree.contains_key("lab/tasks/port.sh") && tree.contains_key("lab/tasks/port.hint.md"));
}

#[test]
fn a_bundle_is_opened_as_the_lab_that_it_was_made_of() {
    let (config, tree) = full_bundle();
    let original = locked(&full());
    let opened = open(&config, &tree, None).unwrap();
    assert_eq!(opened.images(), original.images());
    // Where the recipe lay is no part of a bundle; as JSON, paths are as the author wrote them.
    let json = |lab: &LockedLab| serde_json::to_value(&lab.lab().machines).unwrap();
    assert_eq!(json(&opened), json(&original));
    let moved = open(&config, &tree, Some("mirror.example/x")).unwrap();
    assert!(moved.images().values().all(|image| image.repository == "mirror.example/x"));
}

#[test]
fn variables_that_were_set_are_in_the_bundle() {
    let text = full();
    let (_, tree) = full_bundle();
    let variables = BTreeMap::from([("user".to_owned(), "alice".to_owned())]);
    let config = Config::new(&locked(&text), REPOSITORY, &variables, "0.1.0");
    let opened = open(&config, &tree, None).unwrap();
    assert_eq!(opened.lab().outputs[0].value.as_plain(), Some("alice"));
}

/// What a stranger may write into a bundle, and a word of the refusal.
#[test]
fn hostile_bundles_are_refused() {
    let (config, tree) = full_bundle();
    let put = |path: &str, text: &str| {
        let mut tree = tree.clone();
        tree.insert(path.to_owned(), text.as_bytes().to_vec());
        tree
    };
    let object = |version: &str, kind: &str, namespace: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x, namespace: {namespace}}}\n")
    };
    let own = "two-host-pentest";
    let kustomization =
        |line: &str| format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n{line}\n");
    let lab = |from: &str, to: &str| put("lab/lab.yaml", &full().replace(from, to));
    let mut none = tree.clone();
    none.remove("lab/lab.yaml");
    for (tree, word) in [
        (none, "no lab/lab.yaml"),
        (put("lab/lab.yaml", "kind: ["), "mistakes"),
        (lab("name: two-host-pentest", "name: other"), "config"),
        (lab("  - name: target\n", "  - name: tarGet\n"), "mistakes"),
        (lab("access: [shell,", "access: [desktop,"), "mistakes"),
        (put("manifests/99.yaml", &object("v1", "Secret", "kube-system")), "kube-system"),
        (
            put("manifests/99.yaml", &object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", own)),
            "ClusterRoleBinding",
        ),
        (put("all.yaml", &object("apps/v1", "DaemonSet", own)), "DaemonSet"),
        (
            put("routes/gateway/y.yaml", &object("v1", "Namespace", own).replace("name: x", "name: kube-system")),
            "kube-system",
        ),
        (put("routes/x/y.yaml", &object("v1", "Pod", own)), "no file of a bundle"),
        (
            put(
                "Kustomization",
                "resources: [https://x.example/y]
",
            ),
            "no file of a bundle",
        ),
        (
            put(
                "manifests/kustomization",
                "resources: [https://x.example/y]
",
            ),
            "no file of a bundle",
        ),
        (
            put("kustomizeconfig.yaml", &object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", own)),
            "other settings",
        ),
        (put("kustomization.yaml", &kustomization("resources: [lab/evil.yaml]")), "lab/evil.yaml"),
        (put("kustomization.yaml", &kustomization("resources: [manifests/evil.txt]")), "evil.txt"),
        (put("kustomization.yaml", &kustomization("resources: [kustomizeconfig.yaml]")), "kustomizeconfig"),
        (put("kustomization.yaml", &kustomization("configurations: [manifests/x.yaml]")), "manifests/x.yaml"),
        (put("manifests/99.yaml", "apiVersion: v1\nkind: List\nitems: []\n"), "List"),
        (put("more.json", "{}"), "no file of a bundle"),
        (put("manifests/99.yaml", "a: [\n"), "not YAML"),
        (
            put(
                "kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [https://x.example/y]\n",
            ),
            "https",
        ),
        (
            put(
                "kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../etc]\n",
            ),
            "../../etc",
        ),
        (
            put(
                "kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nhelmCharts: [{name: x}]\n",
            ),
            "helmCharts",
        ),
        (
            put(
                "kustomization.yaml",
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\npatches: [{patch: x}]\n",
            ),
            "names",
        ),
    ] {
        let error = open(&config, &tree, None).expect_err(word);
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn hostile_configs_are_refused() {
    let (config, _) = full_bundle();
    let json = String::from_utf8(config.to_bytes()).unwrap();
    for (from, to, word) in [
        ("\"version\":1", "\"version\":2", "version 2"),
        ("two-host-pentest\",\"labVersion", "kube-system\",\"labVersion", "cannot be a lab"),
        ("two-host-pentest\",\"labVersion", "\\u001b[2J\",\"labVersion", "cannot be a lab"),
        ("registry.example/app", "app", "not in a registry"),
        ("registry.example/app", "oci:/etc", "not in a registry"),
        ("registry.example/app", "registry.example/app:1", "not in a registry"),
        ("registry.example/app", "registry.example/../app", "not in a registry"),
        ("\"machines\":", "\"machine\":", "not one of a lab"),
    ] {
        let changed = json.replace(from, to);
        assert_ne!(changed, json, "{from}");
        let error = Config::parse(changed.as_bytes()).expect_err(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn a_chart_makes_and_keeps_what_a_session_needs() {
    let Chart { name, version, files, metadata } = chart(&locked(&full()), &options(), "0.1.0").unwrap();
    assert_eq!((name.as_str(), version.as_str()), ("two-host-pentest", "1.2.0"));
    insta::assert_snapshot!("chart-files", files.keys().cloned().collect::<Vec<_>>().join("\n"));
    for path in [
        "Chart.yaml",
        "values.yaml",
        "templates/45-secrets.yaml",
        "templates/30-policies.yaml",
        "templates/50-attacker.yaml",
        "templates/50-target.yaml",
        "templates/60-routes-gateway.yaml",
    ] {
        insta::assert_snapshot!(format!("chart-{}", path.replace(['/', '.'], "-")), text(&files, path));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!((&metadata["apiVersion"], &metadata["name"]), (&"v2".into(), &"two-host-pentest".into()));
    for (path, bytes) in &files {
        assert!(!std::str::from_utf8(bytes).unwrap().contains("@{"), "{path} has a mark that nothing replaced");
    }
}

#[test]
fn an_authors_braces_are_no_template() {
    let text = full().replace("args: [--port, \"8080\"]", "args: [\"{{ .Values.x }}\", \"8080\"]");
    let files = chart(&locked(&text), &options(), "0.1.0").unwrap().files;
    let pod = std::str::from_utf8(&files["templates/50-target.yaml"]).unwrap();
    assert!(pod.contains("{{ \"{{\" }} .Values.x }}"), "{pod}");
}

#[test]
fn an_operators_secrets_are_not_given_to_a_machine() {
    let locked = locked(&full());
    assert_eq!(forbidden(&locked, &options()), Vec::<String>::new());
    let with = Options { pull_secret: Some("lab-keys".to_owned()), ..options() };
    assert_eq!(
        forbidden(&locked, &with),
        ["machine `attacker` would be given the Secret `lab-keys`, which is the operator's"]
    );
}
