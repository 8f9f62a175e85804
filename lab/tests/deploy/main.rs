//! Labs that are deployed without Labwright: what kustomize with envsubst or Flux, and what Helm makes of a bundle and a
//! chart is what Labwright itself would apply. There is no cluster: the proof is the objects.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod chart;
#[path = "../manifests/labs.rs"]
#[expect(dead_code, reason = "the tests of manifests need more of it")]
mod labs;
mod plain;
#[path = "../support/schema_checker.rs"]
mod schema_checker;
mod tools;

use std::collections::BTreeMap;

use labwright_lab::LockedLab;
use labwright_lab::manifests::{Options, Router, Routes, Tls, render, session_secrets};
use labwright_lab::resolved::KubevirtVersion;
use serde_json::Value;

/// A session's namespace.
const NAMESPACE: &str = "lab-alice";
/// Where an operator has brought all images.
const MIRROR: &str = "mirror.example:5000/labs/all";

/// The texts of labs.
const LABS: [(&str, &str); 4] = [
    ("everything", include_str!("../manifests/everything.yaml")),
    ("awkward", include_str!("awkward.yaml")),
    (
        "no secrets and no doors",
        "apiVersion: labwright/v1alpha1\nkind: Lab\nmetadata: {name: small, version: 1.0.0}\n\
         machines: [{name: only, image: registry.example.org/only:1}]\n",
    ),
    (
        "one container",
        "apiVersion: labwright/v1alpha1\nkind: Lab\nmetadata: {name: box, version: 1.0.0}\n\
         machines: [{name: only, kind: container, image: registry.example.org/only:1, env: {A: '${b}'}}]\n",
    ),
];

/// What an operator decides.
#[derive(Debug, Clone, Copy)]
struct Choice {
    routes: Option<&'static str>,
    pull_secret: Option<&'static str>,
    repository: Option<&'static str>,
}

fn choices(lab: &LockedLab) -> Vec<Choice> {
    let has_doors = lab.lab().machines.iter().any(|machine| !machine.hidden && !lab.doors(machine).is_empty());
    let routes: &[Option<&str>] =
        if has_doors { &[None, Some("gateway"), Some("ingress"), Some("traefik")] } else { &[None] };
    let mut choices = Vec::new();
    for routes in routes {
        for pull_secret in [None, Some("registry")] {
            for repository in [None, Some(MIRROR)] {
                choices.push(Choice { routes: *routes, pull_secret, repository });
            }
        }
    }
    choices
}

/// What an operator knows, by the word that the bundle has for it.
const OPERATORS: [(&str, &str); 8] = [
    ("host", "alice.labs.example.org"),
    ("router_namespace", "routers"),
    ("gateway", "labs"),
    ("gateway_namespace", "gateways"),
    ("ingress_class", "nginx"),
    ("tls_secret", "labs-tls"),
    ("entry_point", "websecure"),
    ("quote", "\""),
];

fn known(name: &str) -> String {
    OPERATORS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}")).1.to_owned()
}

impl Choice {
    fn options(self) -> Options {
        let tls = || Tls::Secret(known("tls_secret"));
        let router = |kind| match kind {
            "gateway" => {
                Router::Gateway { name: known("gateway"), namespace: known("gateway_namespace"), section: None }
            }
            "ingress" => Router::Ingress { class: Some(known("ingress_class")), tls: tls() },
            _ => Router::Traefik { entry_point: known("entry_point"), tls: tls() },
        };
        Options {
            routes: self.routes.map(|kind| Routes {
                host: known("host"),
                namespace: known("router_namespace"),
                router: router(kind),
            }),
            pull_secret: self.pull_secret.map(str::to_owned),
            ..Options::new(KubevirtVersion::V1_9, NAMESPACE)
        }
    }

    /// The lab with its images where this operator has them.
    fn lab(self, text: &str) -> LockedLab {
        match self.repository {
            Some(repository) => labs::locked_in(text, |_| repository.to_owned()),
            None => labs::locked(text),
        }
    }
}

/// Values of all secrets, of their lab's form; `begin` is a digit that makes them others.
fn values(lab: &LockedLab, begin: usize) -> BTreeMap<String, String> {
    let mut next = begin;
    let mut below = |n: usize| {
        next += 7;
        next % n
    };
    lab.lab().secrets.iter().map(|(name, spec)| (name.clone(), spec.make(&mut below))).collect()
}

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Value>;

/// What Labwright would apply.
fn expected(lab: &LockedLab, options: &Options, values: &BTreeMap<String, String>) -> Objects {
    let secrets = session_secrets(lab, options, &|name| values[name].clone()).unwrap();
    let manifests = render(lab, options);
    objects(manifests.objects().chain(&secrets).map(|object| serde_json::to_value(object).unwrap()))
}

fn objects(found: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::new();
    for mut object in found {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{object}")).to_owned();
        let key = (text(&object["kind"]), text(&object["metadata"]["name"]));
        // YAML in YAML: which escapes it has is nothing to cloud-init.
        for name in ["userdata", "networkdata"] {
            if let Some(text) = object["stringData"].get(name).and_then(Value::as_str) {
                object["stringData"][name] = serde_saphyr::from_str(text).unwrap();
            }
        }
        assert!(objects.insert(key.clone(), object).is_none(), "{key:?} is there twice");
    }
    objects
}

/// The documents of a YAML text.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

#[track_caller]
fn assert_same(found: &Objects, expected: &Objects, what: &str) {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (key, object) in expected {
        assert_eq!(found[key], *object, "{what}: {key:?}");
    }
}

/// Lets the schemas of Kubernetes judge texts, which its checker reads as YAML 1.1: what is a text to one reader and a
/// number to the other does not pass.
fn assert_valid(texts: &[String]) {
    let Some(checker) = schema_checker::checker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut command = tools::command("python3");
    command.arg(checker);
    for (at, text) in texts.iter().enumerate() {
        let path = dir.path().join(format!("{at}.yaml"));
        // Traefik's own kind is not among the schemas.
        let known: Vec<&str> =
            text.split("\n---\n").filter(|document| !document.contains("kind: IngressRoute")).collect();
        fs_err::write(&path, known.join("\n---\n")).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with(" 0 findings\n"), "{said}");
}
