//! Network cards of virtual machines.

use labwright_cloud_init::Card;
use labwright_core::Digest;
use labwright_document::yaml::Map;

use super::context::{Context, free_name};
use crate::resolved::Machine;

/// The first byte of our MAC addresses: unicast, locally administered, and not the one of KubeVirt's own bridge
/// (`02:00:00:00:00:00`), which it refuses.
const MAC_PREFIX: &str = "06";

/// The cards of a virtual machine: first the one on the pod network, which has the doors, the names and the probe; then
/// one for each network of its own.
pub(super) struct Interfaces {
    pod: String,
    pod_mac: String,
    attached: Vec<Attached>,
}

struct Attached {
    name: String,
    attachment: String,
    card: Card,
}

impl Interfaces {
    pub(super) fn of(context: Context<'_>, machine: &Machine) -> Self {
        let lab = context.lab();
        let mac = |network: &str| mac(&lab.name, &machine.name, network);
        let attached: Vec<Attached> = context
            .attached(machine)
            .into_iter()
            .map(|attached| Attached {
                name: attached.network.to_owned(),
                attachment: attached.attachment.to_owned(),
                card: Card { mac: mac(attached.network), address: attached.address.map(|address| address.to_string()) },
            })
            .collect();
        // A space is in no network's name, so no network has this card's address.
        Self {
            pod: free_name("default", |name| attached.iter().any(|card| card.name == name)),
            pod_mac: mac("pod network"),
            attached,
        }
    }

    /// `spec.domain.devices.interfaces`.
    ///
    /// There is no list of ports: with one, KubeVirt forwards these only, and other machines of the lab would reach no
    /// other. NetworkPolicies say who reaches which.
    pub(super) fn devices(&self) -> Vec<Map> {
        let card = |name: &str, mac: &str| Map::new().with("name", name).with("macAddress", mac);
        let pod = card(&self.pod, &self.pod_mac).with("masquerade", Map::new());
        let attached = self.attached.iter();
        std::iter::once(pod).chain(attached.map(|on| card(&on.name, &on.card.mac).with("bridge", Map::new()))).collect()
    }

    /// `spec.networks`.
    pub(super) fn networks(&self) -> Vec<Map> {
        let pod = Map::new().with("name", &self.pod).with("pod", Map::new());
        let multus = |on: &Attached| {
            Map::new().with("name", &on.name).with("multus", Map::new().with("networkName", &on.attachment))
        };
        std::iter::once(pod).chain(self.attached.iter().map(multus)).collect()
    }

    /// The network-config for cloud-init: also with one card, so that names without a dot are found.
    pub(super) fn network_config(&self) -> String {
        let pod = Card { mac: self.pod_mac.clone(), address: None };
        let cards: Vec<Card> = std::iter::once(pod).chain(self.attached.iter().map(|on| on.card.clone())).collect();
        labwright_cloud_init::network_config_of(&cards)
    }
}

/// The same for the same lab, machine and network on any day, so that a machine that is made anew is the same to its
/// network.
fn mac(lab: &str, machine: &str, network: &str) -> String {
    let digest = Digest::sha256(format!("{lab}/{machine}/{network}").as_bytes());
    let bytes = digest.hex().as_bytes().chunks(2).take(5);
    let tail: Vec<&str> = bytes.map(|pair| std::str::from_utf8(pair).expect("hex is ASCII")).collect();
    format!("{MAC_PREFIX}:{}", tail.join(":"))
}
