//! What no schema knows: the rules of Kubernetes' validation and of KubeVirt's and CDI's admission webhooks, over any
//! objects of one session.
//!
//! Sources: kubevirt `pkg/virt-api/webhooks/validating-webhook/admitters`, `pkg/network/admitter`; Kubernetes' API
//! conventions.

mod common;
mod network;
mod pod;
mod vm;

use labwright_lab::resolved::KubevirtVersion;
use serde_json::Value;

pub(crate) use network::{machines, selected};

/// What the objects are measured against.
pub(crate) struct World {
    /// The namespace of the session.
    pub(crate) namespace: String,
    /// The KubeVirt that they are for.
    pub(crate) version: KubevirtVersion,
}

/// All objects of one kind.
fn of_kind<'v>(objects: &'v [Value], kind: &str) -> Vec<&'v Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The items of a list that may be absent.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The keys of a mapping that are there.
fn present<'k>(value: &Value, keys: &[&'k str]) -> Vec<&'k str> {
    keys.iter().copied().filter(|key| !value[*key].is_null()).collect()
}

/// What is wrong, each with the object that it is wrong in; nothing if all is well.
pub(crate) fn broken(objects: &[Value], world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |object: &Value, what: String| {
        found.push(format!("{} `{}`: {what}", text(&object["kind"]), text(&object["metadata"]["name"])));
    };
    common::check(objects, world, &mut say);
    for machine in of_kind(objects, "VirtualMachine") {
        vm::check(machine, objects, world.version, &mut |what| say(machine, what));
    }
    for machine in of_kind(objects, "Pod") {
        pod::check(machine, objects, &mut |what| say(machine, what));
    }
    network::check(objects, &mut say);
    found
}
