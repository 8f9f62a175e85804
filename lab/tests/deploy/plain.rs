//! kubectl, kustomize and envsubst, and Flux as far as its source tells.

use std::collections::BTreeMap;
use std::path::Path;

use labwright_lab::LockedLab;
use labwright_lab::bundle::{Config, Source, Tree, bundle, open};
use labwright_lab::manifests::Options;
use serde_json::{Value, json};

use crate::labs::{self, NoFiles};
use crate::tools::{command, have_kubectl, run};
use crate::{
    Choice, LABS, MIRROR, NAMESPACE, OPERATORS, Objects, assert_same, assert_valid, choices, documents, expected,
    objects, values,
};

fn files(text: &str, lab: &LockedLab, options: &Options) -> Tree {
    bundle(lab, &Source { text, files: &NoFiles, dir: Path::new("/") }, options).unwrap()
}

fn text<'a>(tree: &'a Tree, path: &str) -> &'a str {
    std::str::from_utf8(&tree[path]).unwrap()
}

/// The variables that a bundle wants, as its texts call them, with their values.
fn variables(tree: &Tree, secrets: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let names = |line: &str| line.split_once("${")?.1.split_once('}').map(|(name, _)| name.to_owned());
    let head = tree.get("secrets/secrets.yaml").map_or("", |_| text(tree, "secrets/secrets.yaml"));
    let described: Vec<String> = head.lines().take_while(|line| line.starts_with('#')).filter_map(names).collect();
    // The secrets are described in their order, and then what is no secret.
    variables.extend(described.iter().cloned().zip(secrets.values().cloned()));
    let routes =
        tree.iter().filter(|(path, _)| path.starts_with("routes/")).flat_map(|(path, _)| text(tree, path).lines());
    for name in described.into_iter().chain(routes.filter_map(names)) {
        let word = name.trim_end_matches('_');
        if let Some((_, value)) = OPERATORS.iter().find(|(known, _)| *known == word) {
            variables.entry(name).or_insert_with(|| (*value).to_owned());
        }
    }
    variables
}

/// GNU's envsubst, told the names.
fn envsubst(yaml: &str, variables: &BTreeMap<String, String>) -> String {
    let names: Vec<String> = variables.keys().map(|name| format!("${{{name}}}")).collect();
    run(command("envsubst").arg(names.join(" ")).env_clear().envs(variables), yaml)
}

/// What Flux's postBuild makes of one object's text.
///
/// Source: fluxcd/pkg `envsubst/parse` and `kustomize/kustomize_varsub.go`: `$$` is a dollar, `${name}` the variable's
/// value or nothing, a `$` before anything else is itself; what is annotated is left alone.
fn post_build(yaml: &str, variables: &BTreeMap<String, String>) -> String {
    let document = |document: &str| {
        if document.contains("kustomize.toolkit.fluxcd.io/substitute: disabled") {
            return document.to_owned();
        }
        let mut out = String::new();
        let mut rest = document;
        while let Some((before, behind)) = rest.split_once('$') {
            out.push_str(before);
            rest = if let Some(behind) = behind.strip_prefix('$') {
                out.push('$');
                behind
            } else if let Some(behind) = behind.strip_prefix('{') {
                let (name, behind) = behind.split_once('}').expect("Flux wants a closing brace");
                out.push_str(variables.get(name).map_or("", String::as_str));
                behind
            } else {
                out.push('$');
                behind
            };
        }
        out + rest
    };
    yaml.split("\n---\n").map(document).collect::<Vec<_>>().join("\n---\n")
}

/// The overlay of a session, as the README of the bundle says.
fn overlay(lab: &LockedLab, tree: &Tree, choice: Choice) -> String {
    let mut components: Vec<String> = choice.routes.map(|kind| format!("bundle/routes/{kind}")).into_iter().collect();
    if tree.contains_key("secrets/kustomization.yaml") {
        components.push("bundle/secrets".to_owned());
    }
    let mut overlay = json!({"namespace": NAMESPACE, "resources": ["bundle"], "components": components});
    if choice.repository.is_some() {
        let images = lab.images().values().map(|image| json!({"name": image.repository, "newName": MIRROR}));
        overlay["images"] = images.collect();
        overlay["configurations"] = json!(["bundle/kustomizeconfig.yaml"]);
        let readme = text(tree, "README.md").replace("NEW/REPOSITORY", MIRROR);
        if let Some((_, patches)) = readme.split_once("    patches:\n") {
            overlay["patches"] = serde_saphyr::from_str(patches).unwrap();
        }
    }
    overlay.to_string()
}

/// Takes what keeps Flux away from the objects, and says from which.
fn without_flux(mut objects: Objects) -> (Objects, Vec<String>) {
    let mut disabled = Vec::new();
    for object in objects.values_mut() {
        let Some(annotations) = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut) else {
            continue;
        };
        if annotations.remove("kustomize.toolkit.fluxcd.io/substitute").is_some() {
            let is_empty = annotations.is_empty();
            disabled.push(object["metadata"]["name"].as_str().unwrap().to_owned());
            if is_empty {
                object["metadata"].as_object_mut().unwrap().remove("annotations");
            }
        }
    }
    (objects, disabled)
}

#[test]
fn kustomize_with_envsubst_or_flux_gives_what_labwright_would_apply() {
    if !have_kubectl() {
        return;
    }
    let mut all = Vec::new();
    for (name, lab_text) in LABS {
        let lab = labs::locked(lab_text);
        let values = values(&lab, 3);
        for choice in choices(&lab) {
            let what = format!("{name}, {choice:?}");
            // The bundle is published once, for all namespaces.
            let published = Options { routes: None, namespace: lab.lab().name.clone(), ..choice.options() };
            let tree = files(lab_text, &lab, &published);
            let dir = tempfile::tempdir().unwrap();
            for (path, bytes) in &tree {
                let file = dir.path().join("bundle").join(path);
                fs_err::create_dir_all(file.parent().unwrap()).unwrap();
                fs_err::write(file, bytes).unwrap();
            }
            fs_err::write(dir.path().join("kustomization.yaml"), overlay(&lab, &tree, choice)).unwrap();
            let built = run(command("kubectl").arg("kustomize").arg(dir.path()), "");
            let expected = expected(&choice.lab(lab_text), &choice.options(), &values);
            let variables = variables(&tree, &values);
            for deployed in [envsubst(&built, &variables), post_build(&built, &variables)] {
                let (found, disabled) = without_flux(objects(documents(&deployed)));
                assert_same(&found, &expected, &what);
                // Only one lab has no dollar of its author's.
                assert_eq!(disabled.is_empty(), name == "no secrets and no doors", "{what}: {disabled:?}");
                if name == "everything" {
                    assert!(!deployed.contains("${") && !deployed.contains("@{"), "{what}: {deployed}");
                }
                // Another repository changes no type.
                if choice.repository.is_none() {
                    all.push(deployed);
                }
            }
        }
    }
    assert_valid(&all);
}

#[test]
fn one_file_and_the_secrets_give_what_labwright_would_apply() {
    if !have_kubectl() {
        return;
    }
    let mut all = Vec::new();
    for (name, lab_text) in LABS {
        let lab = labs::locked(lab_text);
        let values = values(&lab, 5);
        for pull_secret in [None, Some("registry".to_owned())] {
            let choice = Choice { routes: None, pull_secret: None, repository: None };
            let options = Options { pull_secret, namespace: lab.lab().name.clone(), ..choice.options() };
            let tree = files(lab_text, &lab, &options);
            // Labwright takes it for a lab's as well, whatever the author's texts made of its files.
            let config = Config::new(&lab, "registry.example.org/labs", &BTreeMap::new(), "0.1.0");
            open(&config, &tree, None).unwrap();
            let mut deployed = text(&tree, "all.yaml").to_owned();
            if tree.contains_key("secrets/secrets.yaml") {
                let secrets = envsubst(text(&tree, "secrets/secrets.yaml"), &variables(&tree, &values));
                deployed = format!("{deployed}---\n{secrets}");
            }
            assert_same(&objects(documents(&deployed)), &expected(&lab, &options, &values), name);
            all.push(deployed);
        }
    }
    assert_valid(&all);
}

/// The names that the README tells envsubst are those that the Secrets have.
#[test]
fn the_readme_names_every_variable() {
    let named = |lab_text: &str| -> Option<String> {
        let lab = labs::locked(lab_text);
        let choice = Choice { routes: None, pull_secret: None, repository: None };
        let readme = text(&files(lab_text, &lab, &choice.options()), "README.md").to_owned();
        Some(readme.split_once("    envsubst '")?.1.split_once('\'')?.0.to_owned())
    };
    let [everything, awkward, small, container] = LABS.map(|(_, lab_text)| named(lab_text));
    assert_eq!(everything.as_deref(), Some("${flag} ${student_password} ${quote}"));
    // The author has `$host`, `${host_}` and `${quote}` in texts of their own.
    assert_eq!(awkward.as_deref(), Some("${host__} ${host___} ${pin} ${quote_} ${quote__}"));
    assert_eq!((small, container), (None, None));
}
