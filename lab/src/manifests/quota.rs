//! What a session may take of the cluster at most.

use labwright_core::ByteSize;
use labwright_document::yaml::Map;

use super::context::Context;
use super::object::Object;
use super::{ServiceKind, volumes};
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
    let vms = lab.machines.iter().filter(|machine| machine.vm().is_some()).count();
    let claims = volumes::claims(context);
    let doors = context.doors();
    let ports = doors.iter().map(|doors| doors.ports.len()).sum();
    let (load_balancers, node_ports) = match context.options.service {
        ServiceKind::ClusterIp => (0, 0),
        ServiceKind::NodePort { .. } => (0, ports),
        ServiceKind::LoadBalancer { .. } => (doors.len(), ports),
    };
    // Room for one migration, or for one machine that starts anew while its old pod still ends; and for the imports.
    let pods = lab.machines.len() + usize::from(vms > 0) + claims.imports;
    // A claim of the operator's has a size that is not known here.
    let storage = (claims.imports > 0 && claims.others == 0).then(|| claims.storage.to_string());
    let hard = sizes(context)
        .with("pods", pods.to_string())
        .with("services", (lab.machines.len() + doors.len()).to_string())
        .with("services.loadbalancers", load_balancers.to_string())
        .with("services.nodeports", node_ports.to_string())
        .with("persistentvolumeclaims", claims.count().to_string())
        .with_some("requests.storage", storage)
        .with("count/virtualmachines.kubevirt.io", vms.to_string())
        .with("count/virtualmachineinstances.kubevirt.io", vms.to_string());
    Object::new(
        "v1",
        "ResourceQuota",
        context.metadata("session"),
        "What this session may take at most. Only requests are counted: a quota on limits would make KubeVirt set limits \
         on virtual machines, and QEMU would be killed at them.",
    )
    .with("spec", Map::new().with("hard", hard))
}

/// CPU and memory, unless an instancetype in the cluster says those of a machine.
fn sizes(context: Context<'_>) -> Map {
    let machines = &context.lab().machines;
    let Some(needs) = machines.iter().map(need).collect::<Option<Vec<Need>>>() else { return Map::new() };
    let spare = |of: fn(&Need) -> u64| needs.iter().filter(|need| need.vm).map(of).max().unwrap_or_default();
    let with_spare = |of: fn(&Need) -> u64| needs.iter().map(of).sum::<u64>() + spare(of);
    let memory = with_spare(|need| need.memory).next_multiple_of(64 * MIB);
    Map::new()
        .with("requests.cpu", with_spare(|need| need.cpus).to_string())
        .with("requests.memory", ByteSize::from_bytes(memory).to_string())
}

/// What a machine's pod asks for.
struct Need {
    /// As many as KubeVirt asks for if it overcommits none; it asks for a tenth as a rule.
    cpus: u64,
    /// In bytes.
    memory: u64,
    vm: bool,
}

fn need(machine: &Machine) -> Option<Need> {
    let vm = machine.vm();
    if vm.is_some_and(|vm| vm.settings.instancetype.is_some()) {
        return None;
    }
    let resources = machine.resources.unwrap_or_default();
    let (cpus, guest) = (u64::from(resources.cpus), resources.memory.bytes());
    let overhead = match vm {
        Some(_) => FIXED_OVERHEAD + cpus * OVERHEAD_PER_CPU + guest / GUEST_PER_PAGE_TABLE,
        None => 0,
    };
    Some(Need { cpus, memory: guest + overhead, vm: vm.is_some() })
}
