//! Virtual machines.

use labwright_document::yaml::Map;

use super::context::{Context, own};
use super::interfaces::Interfaces;
use super::object::Object;
use super::{probe, volumes};
use crate::resolved::{ClusterType, Machine, Resources, TypeKind, Vm};

/// How long a guest may take to shut down, in seconds.
const GRACE: u16 = 30;

pub(super) fn virtual_machine(context: Context<'_>, machine: &Machine, vm: &Vm) -> Object {
    let settings = &vm.settings;
    let named = |what: &ClusterType, cluster: &str, namespace: &str| {
        let kind = match what.kind {
            TypeKind::Cluster => cluster,
            TypeKind::Namespace => namespace,
        };
        Map::new().with("kind", kind).with("name", &what.name)
    };
    let spec = Map::new()
        .with("runStrategy", settings.run_strategy.as_str())
        .with_some(
            "instancetype",
            settings
                .instancetype
                .as_ref()
                .map(|what| named(what, "VirtualMachineClusterInstancetype", "VirtualMachineInstancetype")),
        )
        .with_some(
            "preference",
            settings
                .preference
                .as_ref()
                .map(|what| named(what, "VirtualMachineClusterPreference", "VirtualMachinePreference")),
        )
        .with_filled("dataVolumeTemplates", volumes::data_volumes(context, machine, settings))
        .with("template", template(context, machine, vm));
    let metadata = context
        .metadata(&machine.name)
        .with("labels", context.machine_labels(machine).with(own("machine"), &machine.name));
    let why = match settings.storage {
        Some(_) => "A virtual machine that keeps its disk: the image is copied to it once.",
        None => "A virtual machine that starts from its image each time: to restart it is to reset it.",
    };
    Object::new("kubevirt.io/v1", "VirtualMachine", metadata, why).with("spec", spec)
}

fn template(context: Context<'_>, machine: &Machine, vm: &Vm) -> Map {
    let settings = &vm.settings;
    let interfaces = Interfaces::of(context, machine);
    // An instancetype says them, and KubeVirt refuses both.
    let resources = settings.instancetype.is_none().then(|| machine.resources.unwrap_or_default());
    let devices = Map::new()
        .with("disks", volumes::disks(settings))
        .with("interfaces", interfaces.devices())
        .with("rng", Map::new());
    let domain = Map::new()
        .with_some("cpu", resources.map(|Resources { cpus, .. }| Map::new().with("cores", cpus)))
        .with_some("memory", resources.map(|Resources { memory, .. }| Map::new().with("guest", memory.to_string())))
        .with("devices", devices);
    let spec = Map::new()
        .with_some("architecture", context.arch(machine).map(labwright_core::Arch::as_str))
        .with("evictionStrategy", "LiveMigrateIfPossible")
        .with("terminationGracePeriodSeconds", GRACE)
        .with("domain", domain)
        .with("networks", interfaces.networks())
        .with_some("readinessProbe", probe::readiness(context, machine))
        .with("volumes", volumes::volumes(context, machine, settings));
    Map::new().with("metadata", Map::new().with("labels", context.pod_labels(machine))).with("spec", spec)
}
