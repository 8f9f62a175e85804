//! Container machines.

use std::fmt::Write as _;

use labwright_document::yaml::{Map, Yaml};

use super::PodSecurity;
use super::context::{Context, env_secret};
use super::object::Object;
use super::probe;
use crate::resolved::{Container, Machine};

/// The part of a processor that a container asks for, for each that it may use, in thousandths: the same as KubeVirt asks
/// for a virtual machine (`cpuAllocationRatio`), so that one scheduler's arithmetic holds for both.
const MILLICPUS: u32 = 100;

pub(super) fn pod(context: Context<'_>, machine: &Machine, container: &Container) -> Object {
    let options = context.options;
    let resources = machine.resources.unwrap_or_default();
    let memory = resources.memory.to_string();
    let requests =
        Map::new().with("cpu", format!("{}m", u32::from(resources.cpus) * MILLICPUS)).with("memory", &memory);
    let limits = Map::new().with("cpu", resources.cpus.to_string()).with("memory", memory);
    let literal = |words: &[String]| -> Yaml { words.iter().map(|word| escaped(word)).collect() };
    let container = Map::new()
        .with("name", &machine.name)
        .with("image", context.locked.image(machine).reference())
        .with("imagePullPolicy", options.pull_policy.as_str())
        .with_filled("command", literal(&container.command))
        .with_filled("args", literal(&container.args))
        .with_filled("env", env(machine, container))
        .with_some("readinessProbe", probe::readiness(context, machine))
        .with("resources", Map::new().with("requests", requests).with("limits", limits))
        .with("securityContext", security(options.pod_security));
    let spec = Map::new()
        .with("hostname", &machine.name)
        // The lab's machine is no part of the cluster: no token, and no list of the other Services.
        .with("automountServiceAccountToken", false)
        .with("enableServiceLinks", false)
        .with_some(
            "nodeSelector",
            context.arch(machine).map(|arch| Map::new().with("kubernetes.io/arch", arch.as_str())),
        )
        .with_some("imagePullSecrets", options.pull_secret.as_ref().map(|name| vec![Map::new().with("name", name)]))
        .with("securityContext", Map::new().with("seccompProfile", Map::new().with("type", "RuntimeDefault")))
        .with("containers", [container]);
    let annotations = Map::new().with_some("k8s.v1.cni.cncf.io/networks", attachments(context, machine));
    let metadata = context
        .metadata(&machine.name)
        .with("labels", context.pod_labels(machine))
        .with_filled("annotations", annotations);
    Object::new("v1", "Pod", metadata, "A machine that is a container, from its image as it is.").with("spec", spec)
}

/// The networks of its own that the container is on, as Multus reads them.
///
/// Source: Network Plumbing Working Group, "Kubernetes Network Custom Resource Definition De-facto Standard", 4.1.2.
fn attachments(context: Context<'_>, machine: &Machine) -> Option<String> {
    let networks: Vec<serde_json::Value> = context
        .attached(machine)
        .into_iter()
        .map(|attached| {
            let (namespace, name) = match attached.attachment.split_once('/') {
                Some((namespace, name)) => (Some(namespace), name),
                None => (None, attached.attachment),
            };
            let mut selection = serde_json::json!({"name": name});
            if let Some(namespace) = namespace {
                selection["namespace"] = namespace.into();
            }
            if let Some(address) = attached.address {
                selection["ips"] = serde_json::json!([address.to_string()]);
            }
            selection
        })
        .collect();
    (!networks.is_empty()).then(|| serde_json::Value::Array(networks).to_string())
}

/// What keeps a container from getting more rights than it begins with, and lets images run that expect root.
fn security(level: PodSecurity) -> Map {
    let context = Map::new().with("allowPrivilegeEscalation", false);
    match level {
        PodSecurity::Baseline => context,
        PodSecurity::Restricted => {
            context.with("runAsNonRoot", true).with("capabilities", Map::new().with("drop", ["ALL"]))
        }
    }
}

/// The variables, whose secret ones are whole in the session's Secret: Kubernetes could put a value together of `$(NAME)`s,
/// but then each secret would be a variable of its own in the container as well.
fn env(machine: &Machine, container: &Container) -> Vec<Map> {
    container
        .env
        .iter()
        .map(|(name, value)| {
            let variable = Map::new().with("name", name);
            if let Some(text) = value.as_plain() {
                return variable.with("value", escaped(text));
            }
            let reference = Map::new().with("name", env_secret(machine)).with("key", name);
            variable.with("valueFrom", Map::new().with("secretKeyRef", reference))
        })
        .collect()
}

/// A text that Kubernetes, which expands `$(NAME)` and takes `$$` for `$`, gives to the container as it is.
///
/// Source: kubernetes `third_party/forked/golang/expansion/expand.go`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let run = rest[at..].bytes().take_while(|byte| *byte == b'$').count();
        let (before, behind) = (&rest[..at], &rest[at + run..]);
        // A single one in front of something else means nothing to Kubernetes.
        let times = if run > 1 || behind.starts_with('(') { 2 * run } else { run };
        write!(out, "{before}{}", "$".repeat(times)).expect("writing to a string does not fail");
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::escaped;

    /// What Kubernetes makes of a text, where no variable has a name that stands in it.
    fn expanded(text: &str) -> String {
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        while let Some(character) = chars.next() {
            out.push(character);
            if character == '$' && chars.peek() == Some(&'$') {
                chars.next();
            }
        }
        out
    }

    #[test]
    fn a_dollar_stays_one() {
        for (text, written) in [
            ("plain", "plain"),
            ("$HOME/$x", "$HOME/$x"),
            ("echo $(hostname)", "echo $$(hostname)"),
            ("kill $$", "kill $$$$"),
            ("$$$(x) $", "$$$$$$(x) $"),
            ("${{ x }}", "${{ x }}"),
        ] {
            assert_eq!(escaped(text), written);
            assert_eq!(expanded(written), text);
        }
    }
}
