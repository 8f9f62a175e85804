//! What a session may take of the cluster at most.

use labwright_core::ByteSize;
use labwright_document::yaml::Map;

use super::context::Context;
use super::object::Object;
use super::volumes;
use super::{ServiceKind, volumes::Claims};
use crate::resolved::Machine;

const MIB: u64 = 1 << 20;

/// What KubeVirt asks for beside the guest's memory, without what depends on the guest: its own processes, QEMU's,
/// video memory and, on arm64, firmware.
///
/// Source: kubevirt `pkg/hypervisor/kvm/hypervisorbackend.go`, rounded up.
const FIXED_OVERHEAD: u64 = 448 * MIB;

/// QEMU's threads, for each processor; same source.
const OVERHEAD_PER_CPU: u64 = 8 * MIB;

/// A byte of page tables for so many of the guest; same source.
const GUEST_PER_PAGE_TABLE: u64 = 512;

pub(super) fn quota(context: Context<'_>) -> Object {
    let lab = context.lab();
    let vms: Vec<&Machine> = lab.machines.iter().filter(|machine| machine.vm().is_some()).collect();
    let claims = volumes::claims(context);
    // Room for one migration, or for one machine that starts anew while its old pod still ends; and for the imports.
    let pods = lab.machines.len() + usize::from(!vms.is_empty()) + claims.imports;
    let hard = sizes(context, &vms)
        .with("pods", pods.to_string())
        .with("services", (lab.machines.len() + context.doors().len()).to_string())
        .with("services.loadbalancers", exposed(context, false).to_string())
        .with("services.nodeports", exposed(context, true).to_string())
        .with("persistentvolumeclaims", claims.count().to_string())
        .with_some("requests.storage", storage(&claims))
        .with("count/virtualmachines.kubevirt.io", vms.len().to_string())
        .with("count/virtualmachineinstances.kubevirt.io", vms.len().to_string());
    Object::new(
        "v1",
        "ResourceQuota",
        context.metadata("session"),
        "What this session may take at most. Only requests are counted: a quota on limits would make KubeVirt set limits \
         on virtual machines, and QEMU would be killed at them.",
    )
    .with("spec", Map::new().with("hard", hard))
}

/// CPU and memory, unless an instancetype says them in the cluster.
fn sizes(context: Context<'_>, vms: &[&Machine]) -> Map {
    let mut needs = Vec::new();
    for machine in &context.lab().machines {
        match (machine.vm(), machine.resources) {
            (Some(vm), _) if vm.settings.instancetype.is_some() => return Map::new(),
            (Some(_), resources) => {
                let resources = resources.unwrap_or_default();
                let cpus = u64::from(resources.cpus);
                let guest = resources.memory.bytes();
                let overhead = FIXED_OVERHEAD + cpus * OVERHEAD_PER_CPU + guest / GUEST_PER_PAGE_TABLE;
                needs.push((cpus, guest + overhead, true));
            }
            (None, resources) => {
                let resources = resources.unwrap_or_default();
                needs.push((resources.cpus.into(), resources.memory.bytes(), false));
            }
        }
    }
    let spare =
        |need: fn(&(u64, u64, bool)) -> u64| needs.iter().filter(|(_, _, vm)| *vm).map(need).max().unwrap_or_default();
    let cpus: u64 = needs.iter().map(|need| need.0).sum::<u64>() + spare(|need| need.0);
    let memory: u64 = needs.iter().map(|need| need.1).sum::<u64>() + spare(|need| need.1);
    debug_assert!(vms.len() <= needs.len(), "every machine has needs");
    let memory = memory.next_multiple_of(64 * MIB);
    Map::new().with("requests.cpu", cpus.to_string()).with("requests.memory", ByteSize::from_bytes(memory).to_string())
}

/// Storage, where all of it is ours.
fn storage(claims: &Claims) -> Option<String> {
    (claims.imports > 0 && claims.others == 0).then(|| claims.storage.to_string())
}

/// How many ports are open on nodes, or how many load balancers there are.
fn exposed(context: Context<'_>, node_ports: bool) -> usize {
    let doors = context.doors();
    let ports = doors.iter().map(|doors| doors.ports.len()).sum();
    match (&context.options.service, node_ports) {
        (ServiceKind::ClusterIp, _) | (ServiceKind::NodePort { .. }, false) => 0,
        (ServiceKind::NodePort { .. } | ServiceKind::LoadBalancer { .. }, true) => ports,
        (ServiceKind::LoadBalancer { .. }, false) => doors.len(),
    }
}
