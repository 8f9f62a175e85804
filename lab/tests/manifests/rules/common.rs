//! Names, labels, references and quotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{World, items, of_kind, text};

/// RFC 1123: what most names are.
pub(super) fn is_label(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63 && edge(name.bytes().next()) && edge(name.bytes().last()) && name.bytes().all(inside)
}

pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_label_value(value: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    value.len() <= 63 && edge(value.bytes().next()) && edge(value.bytes().last()) && value.bytes().all(inside)
}

fn is_qualified(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_subdomain)
}

/// Bytes, or thousandths of a processor.
pub(super) fn quantity(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    if let Some((number, shift)) = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift))) {
        return Some(number.parse::<u64>().ok()? << shift);
    }
    text.parse().ok()
}

pub(super) fn check(objects: &[Value], world: &World, say: &mut impl FnMut(&Value, String)) {
    let mut seen = BTreeSet::new();
    for object in objects {
        let metadata = &object["metadata"];
        let (kind, name) = (text(&object["kind"]), text(&metadata["name"]));
        if !seen.insert((kind, name)) {
            say(object, "is there twice".to_owned());
        }
        let good = match kind {
            // RFC 1035 wants a letter first.
            "Service" => is_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase()),
            // KubeVirt makes a label of a machine's name.
            "Namespace" | "VirtualMachine" => is_label(name),
            _ => is_subdomain(name),
        };
        if !good {
            say(object, "has a name that Kubernetes refuses".to_owned());
        }
        let expected = (kind != "Namespace").then_some(world.namespace.as_str());
        if metadata["namespace"].as_str() != expected {
            say(object, format!("is in the namespace {}", metadata["namespace"]));
        }
        labels(object, &object["metadata"]["labels"], say);
        labels(object, &object["spec"]["template"]["metadata"]["labels"], say);
        for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
            if !is_qualified(key) || !value.is_string() {
                say(object, format!("annotation `{key}`: {value}"));
            }
        }
    }
    if objects.first().is_none_or(|first| first["kind"] != "Namespace") || of_kind(objects, "Namespace").len() != 1 {
        say(&objects[0], "the namespace comes first, once".to_owned());
    }
    roles(objects, say);
    quota(objects, say);
}

fn labels(object: &Value, labels: &Value, say: &mut impl FnMut(&Value, String)) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !is_qualified(key) || !value.as_str().is_some_and(is_label_value) {
            say(object, format!("label `{key}`: {value}"));
        }
    }
}

/// Roles are about machines that exist; who has a role, exists.
fn roles(objects: &[Value], say: &mut impl FnMut(&Value, String)) {
    let machines: Vec<&str> =
        of_kind(objects, "VirtualMachine").iter().map(|machine| text(&machine["metadata"]["name"])).collect();
    for role in of_kind(objects, "Role") {
        for rule in items(&role["rules"]) {
            let names = items(&rule["resourceNames"]);
            if names.is_empty() || !names.iter().all(|name| machines.contains(&text(name))) {
                say(role, format!("is about {names:?}"));
            }
            if ["apiGroups", "resources", "verbs"].iter().any(|key| items(&rule[*key]).is_empty()) {
                say(role, "has an empty rule".to_owned());
            }
            if rule.to_string().contains('*') {
                say(role, "is about everything".to_owned());
            }
        }
    }
    for binding in of_kind(objects, "RoleBinding") {
        let named =
            |kind: &str, name: &Value| of_kind(objects, kind).iter().any(|object| object["metadata"]["name"] == *name);
        if !named("Role", &binding["roleRef"]["name"]) {
            say(binding, "binds no role".to_owned());
        }
        for subject in items(&binding["subjects"]) {
            if !named("ServiceAccount", &subject["name"]) {
                say(binding, format!("binds to {subject}"));
            }
        }
    }
}

/// What the quota must leave room for, as far as it is known without a cluster.
fn quota(objects: &[Value], say: &mut impl FnMut(&Value, String)) {
    let vms = of_kind(objects, "VirtualMachine");
    let pods = of_kind(objects, "Pod");
    for quota in of_kind(objects, "ResourceQuota") {
        let hard = &quota["spec"]["hard"];
        let mut need = |key: &str, wanted: u64| match quantity(&hard[key]) {
            Some(room) if room >= wanted => {}
            room => say(quota, format!("`{key}` is {room:?} for {wanted}")),
        };
        need("pods", (vms.len() + pods.len()) as u64 + u64::from(!vms.is_empty()));
        need("services", of_kind(objects, "Service").len() as u64);
        need("count/virtualmachines.kubevirt.io", vms.len() as u64);
        let templates = vms.iter().flat_map(|machine| items(&machine["spec"]["dataVolumeTemplates"]));
        let disks: Vec<u64> =
            templates.filter_map(|one| quantity(&one["spec"]["storage"]["resources"]["requests"]["storage"])).collect();
        need("persistentvolumeclaims", 2 * disks.len() as u64);
        if !hard["requests.storage"].is_null() {
            // On a file system, and with the second claim that CDI fills.
            need("requests.storage", disks.iter().map(|disk| 2 * (disk + disk * 6 / 100)).sum());
        }
        let types = vms.iter().filter(|machine| !machine["spec"]["instancetype"].is_null()).count();
        if types > 0 {
            if !hard["requests.memory"].is_null() {
                say(quota, "says memory for an instancetype that it cannot know".to_owned());
            }
            continue;
        }
        let guest = |machine: &&Value| quantity(&machine["spec"]["template"]["spec"]["domain"]["memory"]["guest"]);
        let guests: u64 = vms.iter().filter_map(guest).sum();
        let containers: u64 = pods
            .iter()
            .filter_map(|pod| quantity(&pod["spec"]["containers"][0]["resources"]["requests"]["memory"]))
            .sum();
        let mut need = |key: &str, wanted: u64| match quantity(&hard[key]) {
            Some(room) if room >= wanted => {}
            room => say(quota, format!("`{key}` is {room:?} for {wanted}")),
        };
        // What KubeVirt 1.9 adds to a guest on amd64 with one processor: 288 MiB and page tables.
        need("requests.memory", guests + guests / 512 + containers + vms.len() as u64 * (288 << 20));
        need("requests.cpu", (vms.len() + pods.len()) as u64);
    }
}
