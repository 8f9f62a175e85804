//! Who reaches whom: the policies, evaluated as Kubernetes documents them.

use std::net::IpAddr;

use ipnet::IpNet;
use labwright_lab::LockedLab;
use labwright_lab::manifests::{Options, ServiceKind};
use serde_json::{Value, json};

use crate::goldens;
use crate::labs::{Session, everything};
use crate::rules::{machines, selected};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Peer<'v> {
    /// A pod of the session.
    Machine(&'v Value),
    /// A pod somewhere else: its namespace and its labels.
    Pod(&'v str, Value),
    /// An address that is no pod's.
    Address(IpAddr),
}

impl Peer<'_> {
    fn matches(&self, peer: &Value) -> bool {
        let pods =
            |labels: &Value| peer["podSelector"].is_null() || selected(labels, &peer["podSelector"]["matchLabels"]);
        match self {
            Self::Address(address) => {
                let block = &peer["ipBlock"];
                let within = |range: &Value| {
                    range.as_str().is_some_and(|range| range.parse::<IpNet>().unwrap().contains(address))
                };
                within(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(within)
            }
            Self::Machine(labels) => peer["ipBlock"].is_null() && peer["namespaceSelector"].is_null() && pods(labels),
            Self::Pod(namespace, labels) => {
                let wanted = &peer["namespaceSelector"]["matchLabels"];
                let there = json!({"kubernetes.io/metadata.name": namespace});
                peer["ipBlock"].is_null() && !wanted.is_null() && selected(&there, wanted) && pods(labels)
            }
        }
    }
}

/// Whether the policies let a pod with these labels talk to a peer, or be talked to.
pub(crate) fn allowed(objects: &[Value], pod: &Value, direction: &str, peer: &Peer<'_>, port: u16) -> bool {
    let (rules, peers) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy").map(|policy| &policy["spec"]);
    let applying: Vec<&Value> = policies
        .filter(|spec| selected(pod, &spec["podSelector"]["matchLabels"]))
        .filter(|spec| spec["policyTypes"].as_array().unwrap().iter().any(|one| one == direction))
        .collect();
    assert!(!applying.is_empty(), "a pod without a policy may do anything");
    applying.iter().flat_map(|spec| spec[rules].as_array().into_iter().flatten()).any(|rule| {
        let to_port =
            rule["ports"].is_null() || rule["ports"].as_array().unwrap().iter().any(|one| one["port"] == port);
        to_port && rule[peers].as_array().unwrap().iter().any(|one| peer.matches(one))
    })
}

/// What of the lab's and the operator's wishes the policies do not say.
pub(crate) fn wrong(lab: &LockedLab, options: &Options, objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let pods = machines(objects);
    let mut expect = |what: String, wanted: bool, is: bool| {
        if wanted != is {
            found.push(format!("{what}: {is}"));
        }
    };
    let labels = |name: &str| pods.iter().find(|(known, _)| *known == name).unwrap().1;
    let address = |text: &str| Peer::Address(text.parse().unwrap());
    for machine in &lab.lab().machines {
        let name = &machine.name;
        let pod = labels(name);
        let networks: Vec<&str> = machine.interfaces.iter().map(|interface| interface.network.as_str()).collect();
        for other in lab.lab().machines.iter().filter(|other| other.name != *name) {
            let shared = other.interfaces.iter().any(|interface| networks.contains(&interface.network.as_str()));
            let there = labels(&other.name);
            let open = allowed(objects, pod, "Egress", &Peer::Machine(there), 22)
                && allowed(objects, there, "Ingress", &Peer::Machine(pod), 22);
            expect(format!("{name} → {}", other.name), shared, open);
        }
        let internet = networks.iter().any(|network| lab.lab().network(network).unwrap().internet);
        for public in ["93.184.215.14", "2606:2800::1"] {
            expect(format!("{name} → {public}"), internet, allowed(objects, pod, "Egress", &address(public), 443));
        }
        for private in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.19.0.1",
            "240.0.0.1",
            "fd00::1",
            "fe80::1",
        ] {
            expect(format!("{name} → {private}"), false, allowed(objects, pod, "Egress", &address(private), 443));
        }
        let stranger = Peer::Pod("default", json!({}));
        expect(format!("{name} ← stranger"), false, allowed(objects, pod, "Ingress", &stranger, 8080));
        expect(format!("{name} → stranger"), false, allowed(objects, pod, "Egress", &stranger, 8080));
        let ports: Vec<u16> = lab.doors(machine).iter().map(|door| door.port).filter(|_| !machine.hidden).collect();
        let gateway = options.routes.as_ref().map(|routes| Peer::Pod(&routes.namespace, json!({"any": "pod"})));
        let forward = Peer::Pod("kubevirt", json!({"kubevirt.io": "virt-api"}));
        let outside = !matches!(options.service, ServiceKind::ClusterIp);
        for port in [22, 3000, 8080, 8200, 9090] {
            let door = ports.contains(&port);
            if let Some(gateway) = &gateway {
                expect(format!("{name}:{port} ← gateway"), door, allowed(objects, pod, "Ingress", gateway, port));
            }
            let wanted = door && machine.vm().is_some();
            expect(format!("{name}:{port} ← virt-api"), wanted, allowed(objects, pod, "Ingress", &forward, port));
            for client in ["192.0.2.7", "2001:db8::7"] {
                let client = address(client);
                let declared = match &options.service {
                    ServiceKind::NodePort { clients } | ServiceKind::LoadBalancer { clients } => {
                        matches!(client, Peer::Address(client) if clients.iter().any(|range| range.contains(&client)))
                    }
                    ServiceKind::ClusterIp => false,
                };
                let open = allowed(objects, pod, "Ingress", &client, port);
                expect(format!("{name}:{port} ← {client:?}"), door && outside && declared, open);
            }
        }
    }
    found
}

#[test]
fn machines_reach_what_the_lab_says() {
    let lab = everything();
    for options in [goldens::gateway(), goldens::ingress(), goldens::traefik()] {
        assert_eq!(wrong(&lab, &options, &Session::of(&lab, &options).objects()), Vec::<String>::new());
    }
}

#[test]
fn imports_go_nowhere_and_tell_cdi_how_far_they_are() {
    let objects = Session::of(&everything(), &goldens::gateway()).objects();
    let importer = json!({"app": "containerized-data-importer", "cdi.kubevirt.io": "importer"});
    let cdi = Peer::Pod("cdi", json!({}));
    assert!(allowed(&objects, &importer, "Ingress", &cdi, 8443));
    assert!(!allowed(&objects, &importer, "Ingress", &cdi, 8100));
    assert!(!allowed(&objects, &importer, "Egress", &Peer::Address("93.184.215.14".parse().unwrap()), 443));
}

#[test]
fn machines_reach_the_name_servers_that_the_cluster_has() {
    let lab = everything();
    let kube_dns = Peer::Pod("kube-system", json!({"k8s-app": "kube-dns"}));
    let open_shift = Peer::Pod("openshift-dns", json!({"dns.operator.openshift.io/daemonset-dns": "default"}));
    let cache = Peer::Address("169.254.20.10".parse().unwrap());
    for (options, kube, node, other) in [
        (goldens::gateway(), true, false, false),
        (goldens::ingress(), true, true, false),
        (goldens::traefik(), false, false, true),
    ] {
        let objects = Session::of(&lab, &options).objects();
        for (name, labels) in machines(&objects) {
            let reaches = |peer: &Peer<'_>, port| allowed(&objects, labels, "Egress", peer, port);
            let found = (reaches(&kube_dns, 53), reaches(&cache, 53), reaches(&open_shift, 5353));
            assert_eq!(found, (kube, node, other), "{name}");
        }
    }
}
