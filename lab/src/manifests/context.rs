use ipnet::Ipv4Net;
use labwright_core::{AccessKind, Arch};
use labwright_document::yaml::Map;

use super::Options;
use crate::resolved::{Lab, Machine};
use crate::{Door, LockedLab};

/// The prefix of our own labels and annotations. Everything that has a word in Kubernetes' recommended labels
/// (`app.kubernetes.io/…`) uses that.
const PREFIX: &str = "labwright.dev";

/// What the parts of the manifests are made of.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) locked: &'a LockedLab,
    pub(super) options: &'a Options,
}

/// The ports of one machine that learners come to.
pub(super) struct Doors<'a> {
    pub(super) machine: &'a Machine,
    /// The front door's port first, then the others in the lab's order; at least one.
    pub(super) ports: Vec<u16>,
    /// The front door's port, if there is one.
    pub(super) front_door: Option<u16>,
}

/// A machine's place in a network of its own.
pub(super) struct Attached<'a> {
    /// The network's name in the lab.
    pub(super) network: &'a str,
    /// `[NAMESPACE/]NAME` of its NetworkAttachmentDefinition.
    pub(super) attachment: &'a str,
    /// The machine's address with the length of the network's prefix; without one it asks DHCP.
    pub(super) address: Option<Ipv4Net>,
}

/// A key of ours.
pub(super) fn own(name: &str) -> String {
    format!("{PREFIX}/{name}")
}

/// The label of pods on a network.
pub(super) fn network_label(network: &str) -> String {
    own(&format!("network-{network}"))
}

/// What selects the pods of a machine, and nothing else.
pub(super) fn machine_selector(machine: &Machine) -> Map {
    Map::new().with(own("machine"), &machine.name)
}

/// `base`, made longer until nothing else has it.
pub(super) fn free_name(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = base.to_owned();
    while taken(&name) {
        name.push_str("-x");
    }
    name
}

/// A version as the value of a label, if it can be one: it may be longer, or end with a `-`.
fn label_value(version: &str) -> Option<&str> {
    (version.len() <= 63 && version.ends_with(|last: char| last.is_ascii_alphanumeric())).then_some(version)
}

impl<'a> Context<'a> {
    pub(super) fn lab(&self) -> &'a Lab {
        self.locked.lab()
    }

    /// Labels of everything that belongs to the lab.
    pub(super) fn labels(&self) -> Map {
        Map::new().with("app.kubernetes.io/part-of", &self.lab().name).with("app.kubernetes.io/managed-by", "labwright")
    }

    /// The metadata of an object in the session's namespace.
    pub(super) fn metadata(&self, name: impl Into<String>) -> Map {
        let name: String = name.into();
        Map::new().with("name", name).with("namespace", &self.options.namespace).with("labels", self.labels())
    }

    /// Labels of a machine's object.
    pub(super) fn machine_labels(&self, machine: &Machine) -> Map {
        let component = if machine.vm().is_some() { "virtual-machine" } else { "container" };
        self.labels()
            .with("app.kubernetes.io/name", &machine.name)
            .with("app.kubernetes.io/component", component)
            .with_some("app.kubernetes.io/version", label_value(&self.lab().version))
    }

    /// Labels of a machine's pods: what Services and policies select.
    pub(super) fn pod_labels(&self, machine: &Machine) -> Map {
        let labels = self.machine_labels(machine).with(own("machine"), &machine.name);
        machine
            .interfaces
            .iter()
            .fold(labels, |labels, interface| labels.with(network_label(&interface.network), "member"))
    }

    /// The networks of a machine that are of their own, in the machine's order.
    pub(super) fn attached(&self, machine: &'a Machine) -> Vec<Attached<'a>> {
        let lab = self.lab();
        let attached = machine.interfaces.iter().filter_map(|interface| {
            let network = lab.network(&interface.network)?;
            let address = interface
                .address
                .zip(network.cidr)
                .and_then(|(address, range)| Ipv4Net::new(address, range.prefix_len()).ok());
            Some(Attached { network: &network.name, attachment: network.attachment.as_deref()?, address })
        });
        attached.collect()
    }

    /// The architecture of a machine's image, where it is for one only.
    pub(super) fn arch(&self, machine: &Machine) -> Option<Arch> {
        let image = self.locked.image(machine);
        match image.archs.as_slice() {
            [] => image.facts.as_ref().map(|facts| facts.arch),
            [only] => Some(*only),
            _ => None,
        }
    }

    /// The doors of all machines that learners see. A hidden machine may have an access too, but that only says when
    /// it is ready.
    pub(super) fn doors(&self) -> Vec<Doors<'a>> {
        let machines = self.lab().machines.iter().filter(|machine| !machine.hidden);
        machines
            .filter_map(|machine| {
                let doors: Vec<Door> = self.locked.doors(machine);
                let front_door = self.locked.front_door(machine);
                let mut ports: Vec<u16> = front_door.into_iter().collect();
                for door in doors.iter().filter(|door| door.kind == AccessKind::Http) {
                    if !ports.contains(&door.port) {
                        ports.push(door.port);
                    }
                }
                (!ports.is_empty()).then_some(Doors { machine, ports, front_door })
            })
            .collect()
    }

    /// The name of the Service of a machine's doors. The Service of its name is called as the machine is.
    pub(super) fn doors_service(&self, machine: &Machine) -> String {
        free_name(&format!("{}-doors", machine.name), |name| self.lab().machine(name).is_some())
    }
}

/// The Secret with a virtual machine's user-data.
pub(super) fn cloud_init_secret(machine: &Machine) -> String {
    format!("{}-cloud-init", machine.name)
}

/// The Secret with a container's secret environment.
pub(super) fn env_secret(machine: &Machine) -> String {
    format!("{}-env", machine.name)
}

/// The DataVolume of a virtual machine's root disk.
pub(super) fn root_volume(machine: &Machine) -> String {
    format!("{}-root", machine.name)
}
