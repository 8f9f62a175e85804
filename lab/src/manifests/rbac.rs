//! What learners and operators may do through the API, on the lab's machines only.

use labwright_document::yaml::{Map, Yaml};

use super::context::Context;
use super::object::Object;
use crate::resolved::{AccessSpec, Machine};

const SUBRESOURCES: &str = "subresources.kubevirt.io";
const KUBEVIRT: &str = "kubevirt.io";

const LEARNER: &str = "learner";
const OPERATOR: &str = "session-operator";

pub(super) fn rbac(context: Context<'_>) -> Vec<Object> {
    let mut objects = image_puller(context);
    objects.extend(learner(context));
    objects.extend(operator(context));
    objects
}

/// CDI has no field for a pull secret where the node pulls, so its pods get it through their account, unless CDI's own
/// configuration has pull secrets for all of them. Only CDI 1.65 and newer let a DataVolume name another account.
///
/// Source: CDI `pkg/controller/import-controller.go`, `makeImporterPodSpec`.
fn image_puller(context: Context<'_>) -> Vec<Object> {
    let Some(secret) = &context.options.pull_secret else { return Vec::new() };
    if super::volumes::claims(context).imports == 0 {
        return Vec::new();
    }
    let account = Object::new(
        "v1",
        "ServiceAccount",
        context.metadata("default"),
        "Imports of root disks run as this account; it is how CDI finds the pull secret when nodes pull.",
    )
    .with("imagePullSecrets", [Map::new().with("name", secret)])
    .with("automountServiceAccountToken", false);
    vec![account]
}

/// The console and the screen go through the API server, where only RBAC protects them.
fn learner(context: Context<'_>) -> Vec<Object> {
    let with = |spec: &AccessSpec| -> Vec<&str> {
        shown(context)
            .filter(|machine| machine.access.iter().any(|access| access.spec == *spec))
            .map(|machine| machine.name.as_str())
            .collect()
    };
    let rules: Vec<Map> = [("console", AccessSpec::Console), ("vnc", AccessSpec::Screen)]
        .into_iter()
        .map(|(subresource, spec)| (format!("virtualmachineinstances/{subresource}"), with(&spec)))
        .filter(|(_, machines)| !machines.is_empty())
        .map(|(resource, machines)| rule(SUBRESOURCES, [resource], machines, ["get"]))
        .collect();
    if rules.is_empty() {
        return Vec::new();
    }
    let account = Object::new(
        "v1",
        "ServiceAccount",
        context.metadata(LEARNER),
        "Who opens consoles and screens for the learner.",
    )
    .with("automountServiceAccountToken", false);
    let role = Object::new(
        "rbac.authorization.k8s.io/v1",
        "Role",
        context.metadata(LEARNER),
        "The consoles and screens that the lab gives to the learner, and nothing else.",
    )
    .with("rules", rules);
    let subject =
        Map::new().with("kind", "ServiceAccount").with("name", LEARNER).with("namespace", &context.options.namespace);
    let reference = Map::new().with("apiGroup", "rbac.authorization.k8s.io").with("kind", "Role").with("name", LEARNER);
    let binding = Object::new(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        context.metadata(LEARNER),
        "Gives that role to that account.",
    )
    .with("subjects", [subject])
    .with("roleRef", reference);
    vec![account, role, binding]
}

/// Bound to nobody: an operator gives it to whoever looks after sessions.
fn operator(context: Context<'_>) -> Option<Object> {
    let machines: Vec<&str> = context
        .lab()
        .machines
        .iter()
        .filter(|machine| machine.vm().is_some())
        .map(|machine| machine.name.as_str())
        .collect();
    if machines.is_empty() {
        return None;
    }
    let power = ["start", "stop", "restart"].map(|action| format!("virtualmachines/{action}"));
    let running = ["pause", "unpause", "reset", "softreboot"].map(|action| format!("virtualmachineinstances/{action}"));
    let rules = [
        rule(SUBRESOURCES, power, machines.clone(), ["update"]),
        rule(SUBRESOURCES, running, machines.clone(), ["update"]),
        rule(KUBEVIRT, ["virtualmachines", "virtualmachineinstances"], machines, ["get", "list", "watch"]),
    ];
    let role = Object::new(
        "rbac.authorization.k8s.io/v1",
        "Role",
        context.metadata(OPERATOR),
        "For who looks after the session: to start, stop, restart and pause its machines. It is bound to nobody.",
    )
    .with("rules", rules);
    Some(role)
}

/// The virtual machines that the learner sees.
fn shown(context: Context<'_>) -> impl Iterator<Item = &Machine> {
    context.lab().machines.iter().filter(|machine| machine.vm().is_some() && !machine.hidden)
}

fn rule(group: &str, resources: impl Into<Yaml>, names: impl Into<Yaml>, verbs: impl Into<Yaml>) -> Map {
    Map::new().with("apiGroups", [group]).with("resources", resources).with("resourceNames", names).with("verbs", verbs)
}
