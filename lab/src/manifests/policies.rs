//! Who may talk to whom: nobody, but for what the lab and its doors need.

use labwright_document::yaml::{Map, Yaml};

use super::context::{Context, Doors, machine_selector, network_label};
use super::object::Object;
use super::{Dns, volumes};
use crate::resolved::Network;

/// What is not the internet: private, shared and link-local ranges, in which clusters, nodes and clouds' metadata are, and
/// two more that are nowhere on the internet and that clusters take for pods (RFC 2544's, and class E).
const NOT_INTERNET_4: [&str; 8] = [
    // Azure's platform, a public address only by its looks.
    "168.63.129.16/32",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "198.18.0.0/15",
    "240.0.0.0/4",
];
/// Also what leads to private IPv4 addresses, by NAT64 and 6to4.
const NOT_INTERNET_6: [&str; 4] = ["fc00::/7", "fe80::/10", "64:ff9b::/96", "2002::/16"];

/// Where CDI's importer tells its progress.
const IMPORTER_METRICS: u16 = 8443;

pub(super) fn policies(context: Context<'_>) -> Vec<Object> {
    let mut objects = vec![default_deny(context), dns(context)];
    let networks = &context.lab().networks;
    objects.extend(networks.iter().map(|network| within(context, network)));
    objects.extend(networks.iter().filter(|network| network.internet).map(|network| internet(context, network)));
    objects.extend(context.doors().iter().filter_map(|doors| door(context, doors)));
    if volumes::claims(context).imports > 0 {
        objects.push(importer(context));
    }
    objects
}

fn policy(context: Context<'_>, name: impl Into<String>, why: &'static str, spec: Map) -> Object {
    Object::new("networking.k8s.io/v1", "NetworkPolicy", context.metadata(name), why).with("spec", spec)
}

fn selecting(labels: Map, types: &[&str]) -> Map {
    let selector = if labels.is_empty() { Map::new() } else { match_labels(labels) };
    Map::new().with("podSelector", selector).with("policyTypes", types.to_vec())
}

fn match_labels(labels: Map) -> Map {
    Map::new().with("matchLabels", labels)
}

fn namespace_named(name: &str) -> Map {
    match_labels(Map::new().with("kubernetes.io/metadata.name", name))
}

fn port(protocol: &str, port: u16) -> Map {
    Map::new().with("protocol", protocol).with("port", port)
}

fn default_deny(context: Context<'_>) -> Object {
    policy(
        context,
        "default-deny",
        "Nothing in, nothing out, but for what the other policies allow.",
        selecting(Map::new(), &["Ingress", "Egress"]),
    )
}

fn dns(context: Context<'_>) -> Object {
    let pods = |namespace: &str, key: &str, value: &str| {
        Map::new()
            .with("namespaceSelector", namespace_named(namespace))
            .with("podSelector", match_labels(Map::new().with(key, value)))
    };
    let kube_dns = || pods("kube-system", "k8s-app", "kube-dns");
    let (peers, number): (Vec<Map>, u16) = match context.options.dns {
        Dns::KubeDns => (vec![kube_dns()], 53),
        Dns::NodeLocal(address) => {
            let range = ipnet::IpNet::from(address).to_string();
            (vec![kube_dns(), Map::new().with("ipBlock", Map::new().with("cidr", range))], 53)
        }
        Dns::OpenShift => (vec![pods("openshift-dns", "dns.operator.openshift.io/daemonset-dns", "default")], 5353),
    };
    let rule = Map::new().with("to", peers).with("ports", [port("UDP", number), port("TCP", number)]);
    policy(
        context,
        "dns",
        "Machines ask the cluster's name servers, by which they find each other.",
        selecting(Map::new(), &["Egress"]).with("egress", [rule]),
    )
}

/// Also where the network is one of its own: names are those of the pod network.
fn within(context: Context<'_>, network: &Network) -> Object {
    let members = || Map::new().with(network_label(&network.name), "member");
    let peer = || [Map::new().with("podSelector", match_labels(members()))];
    policy(
        context,
        format!("network-{}", network.name),
        "The machines of this network talk to each other.",
        selecting(members(), &["Ingress", "Egress"])
            .with("ingress", [Map::new().with("from", peer())])
            .with("egress", [Map::new().with("to", peer())]),
    )
}

fn internet(context: Context<'_>, network: &Network) -> Object {
    let block = |range: &str, except: &[&str]| {
        Map::new().with("ipBlock", Map::new().with("cidr", range).with("except", except.to_vec()))
    };
    let peers = [block("0.0.0.0/0", &NOT_INTERNET_4), block("::/0", &NOT_INTERNET_6)];
    policy(
        context,
        format!("internet-{}", network.name),
        "The machines of this network reach the internet, but neither the cluster nor what is around it.",
        selecting(Map::new().with(network_label(&network.name), "member"), &["Egress"])
            .with("egress", [Map::new().with("to", peers)]),
    )
}

/// Who comes to a machine's doors.
fn door(context: Context<'_>, doors: &Doors<'_>) -> Option<Object> {
    let options = context.options;
    let mut peers: Vec<Map> = Vec::new();
    if let Some(routes) = &options.routes {
        peers.push(Map::new().with("namespaceSelector", namespace_named(&routes.namespace)));
    }
    if doors.machine.vm().is_some() {
        // A port-forward to a virtual machine is a connection from virt-api to the pod's address; one to a pod comes from
        // its node, which no policy stops. Source: kubevirt `pkg/virt-api/rest/dialers.go`, `netDial`.
        peers.push(
            Map::new()
                .with("namespaceSelector", namespace_named(&options.kubevirt_namespace))
                .with("podSelector", match_labels(Map::new().with("kubevirt.io", "virt-api"))),
        );
    }
    for range in options.service.clients().unwrap_or_default() {
        peers.push(Map::new().with("ipBlock", Map::new().with("cidr", range.to_string())));
    }
    if peers.is_empty() {
        return None;
    }
    let ports: Yaml = doors.ports.iter().map(|number| port("TCP", *number)).collect();
    Some(policy(
        context,
        format!("doors-{}", doors.machine.name),
        "Who brings learners to this machine reaches its doors and no other port.",
        selecting(machine_selector(doors.machine), &["Ingress"])
            .with("ingress", [Map::new().with("from", peers).with("ports", ports)]),
    ))
}

/// The node pulls the image and the pod copies it from a container beside it, so nothing goes out.
fn importer(context: Context<'_>) -> Object {
    let labels = Map::new().with("app", "containerized-data-importer").with("cdi.kubevirt.io", "importer");
    let peer = Map::new().with("namespaceSelector", namespace_named(&context.options.cdi_namespace));
    let rule = Map::new().with("from", [peer]).with("ports", [port("TCP", IMPORTER_METRICS)]);
    policy(
        context,
        "importer",
        "CDI asks the imports of root disks how far they are.",
        selecting(labels, &["Ingress"]).with("ingress", [rule]),
    )
}
