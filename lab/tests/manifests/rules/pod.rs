//! Container machines.

use std::collections::BTreeSet;

use serde_json::Value;

use super::common::{is_label, quantity};
use super::vm::probe;
use super::{items, of_kind, text};

pub(super) fn check(pod: &Value, objects: &[Value], say: &mut impl FnMut(String)) {
    let spec = &pod["spec"];
    if !is_label(text(&spec["hostname"])) {
        say("has no host name".to_owned());
    }
    for off in ["automountServiceAccountToken", "enableServiceLinks"] {
        if spec[off] != false {
            say(format!("`{off}` is on"));
        }
    }
    // Multus reads it as JSON: what it cannot read, it refuses to start.
    let networks = &pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"];
    if !networks.is_null() {
        let selections: Vec<Value> = serde_json::from_str(text(networks)).unwrap_or_default();
        let address = |address: &Value| text(address).parse::<ipnet::IpNet>().is_ok();
        let good = |one: &Value| is_label(text(&one["name"])) && items(&one["ips"]).iter().all(address);
        if selections.is_empty() || !selections.iter().all(good) {
            say(format!("networks {networks}"));
        }
    }
    let [container] = items(&spec["containers"]) else {
        say("is one container".to_owned());
        return;
    };
    if !is_label(text(&container["name"])) || !text(&container["image"]).contains("@sha256:") {
        say(format!("container {container}"));
    }
    if container["securityContext"]["allowPrivilegeEscalation"] != false
        || spec["securityContext"]["seccompProfile"]["type"] != "RuntimeDefault"
    {
        say("may get more rights".to_owned());
    }
    let memory = |what: &str| quantity(&container["resources"][what]["memory"]);
    if memory("requests").is_none() || memory("requests") > memory("limits") {
        say(format!("resources {}", container["resources"]));
    }
    probe(&container["readinessProbe"], say);
    environment(container, objects, say);
}

fn environment(container: &Value, objects: &[Value], say: &mut impl FnMut(String)) {
    let mut names = BTreeSet::new();
    for variable in items(&container["env"]) {
        if !names.insert(text(&variable["name"])) {
            say(format!("variable {variable} is there twice"));
        }
        let reference = &variable["valueFrom"]["secretKeyRef"];
        if reference.is_null() {
            // A reference that Kubernetes would expand: ours are whole in Secrets.
            let value = text(&variable["value"]).replace("$$", "");
            if !variable["value"].is_string() || value.contains("$(") {
                say(format!("variable {variable}"));
            }
            continue;
        }
        let found = of_kind(objects, "Secret")
            .into_iter()
            .find(|secret| secret["metadata"]["name"] == reference["name"])
            .map(|secret| &secret["stringData"][text(&reference["key"])]);
        if !found.is_some_and(Value::is_string) {
            say(format!("no Secret has {reference}"));
        }
    }
}
