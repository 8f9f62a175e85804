//! Services, routes and policies.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::common::{is_label, is_subdomain};
use super::{items, of_kind, present, text};

/// The labels of the pods that the session's machines run in, with their names.
pub(crate) fn machines(objects: &[Value]) -> Vec<(&str, &Value)> {
    let vms = of_kind(objects, "VirtualMachine");
    let vms = vms.into_iter().map(|vm| (text(&vm["metadata"]["name"]), &vm["spec"]["template"]["metadata"]["labels"]));
    let pods = of_kind(objects, "Pod");
    vms.chain(pods.into_iter().map(|pod| (text(&pod["metadata"]["name"]), &pod["metadata"]["labels"]))).collect()
}

/// Whether labels have all that a selector wants.
pub(crate) fn selected(labels: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(key, value)| labels[key] == *value)
}

pub(super) fn check(objects: &[Value], say: &mut impl FnMut(&Value, String)) {
    for service in of_kind(objects, "Service") {
        check_service(service, objects, &mut |what| say(service, what));
    }
    for policy in of_kind(objects, "NetworkPolicy") {
        check_policy(policy, &mut |what| say(policy, what));
    }
    let mut hosts = BTreeSet::new();
    for route in objects {
        let spec = &route["spec"];
        let (host, backend, port) = match text(&route["kind"]) {
            "HTTPRoute" => {
                let backend = &spec["rules"][0]["backendRefs"][0];
                (text(&spec["hostnames"][0]).to_owned(), &backend["name"], &backend["port"])
            }
            "Ingress" => {
                let rule = &spec["rules"][0];
                let backend = &rule["http"]["paths"][0]["backend"]["service"];
                (text(&rule["host"]).to_owned(), &backend["name"], &backend["port"]["number"])
            }
            "IngressRoute" => {
                let backend = &spec["routes"][0]["services"][0];
                let host = text(&spec["routes"][0]["match"]).trim_start_matches("Host(`").trim_end_matches("`)");
                (host.to_owned(), &backend["name"], &backend["port"])
            }
            _ => continue,
        };
        if !is_subdomain(&host) || !hosts.insert(host.clone()) {
            say(route, format!("host name `{host}`"));
        }
        let services = of_kind(objects, "Service");
        let found = services.iter().find(|service| service["metadata"]["name"] == *backend);
        if !found.is_some_and(|service| items(&service["spec"]["ports"]).iter().any(|one| one["port"] == *port)) {
            say(route, format!("leads to {backend} {port}"));
        }
    }
}

fn check_service(service: &Value, objects: &[Value], say: &mut impl FnMut(String)) {
    let spec = &service["spec"];
    let ports = items(&spec["ports"]);
    if ports.is_empty() && spec["clusterIP"] != "None" {
        say("only a headless Service has no ports".to_owned());
    }
    let names: BTreeSet<&str> = ports.iter().map(|port| text(&port["name"])).collect();
    let numbers = ports.iter().all(|port| port["port"].as_u64().is_some_and(|port| (1..=65_535).contains(&port)));
    if names.len() != ports.len() || !names.iter().all(|name| is_label(name)) || !numbers {
        say(format!("ports {ports:?}"));
    }
    let machines = machines(objects);
    if machines.iter().filter(|(_, labels)| selected(labels, &spec["selector"])).count() != 1 {
        say(format!("selects other than one machine: {}", spec["selector"]));
    }
    let outside = ["NodePort", "LoadBalancer"].contains(&text(&spec["type"]));
    if outside != (spec["externalTrafficPolicy"] == "Local") {
        say(format!("externalTrafficPolicy {}", spec["externalTrafficPolicy"]));
    }
    if !spec["loadBalancerSourceRanges"].is_null() && spec["type"] != "LoadBalancer" {
        say("has source ranges".to_owned());
    }
}

fn check_policy(policy: &Value, say: &mut impl FnMut(String)) {
    let spec = &policy["spec"];
    if !spec["podSelector"].is_object() {
        say("selects no pods".to_owned());
    }
    for (direction, rules, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        let typed = items(&spec["policyTypes"]).iter().any(|one| one == direction);
        if !spec[rules].is_null() && !typed {
            say(format!("has rules for {direction} without the type"));
        }
        for rule in items(&spec[rules]) {
            // An empty list is everybody.
            if items(&rule[peers]).is_empty() {
                say(format!("lets everybody {peers}"));
            }
            for peer in items(&rule[peers]) {
                let kinds = present(peer, &["ipBlock", "podSelector", "namespaceSelector"]);
                if kinds.is_empty() || kinds.contains(&"ipBlock") && kinds.len() > 1 {
                    say(format!("peer {peer}"));
                }
                if kinds.contains(&"ipBlock") {
                    check_block(&peer["ipBlock"], say);
                }
            }
            for port in items(&rule["ports"]) {
                if !["TCP", "UDP"].contains(&text(&port["protocol"])) || !port["port"].is_u64() {
                    say(format!("port {port}"));
                }
            }
        }
    }
}

fn check_block(block: &Value, say: &mut impl FnMut(String)) {
    let Ok(range) = text(&block["cidr"]).parse::<IpNet>() else {
        say(format!("range {block}"));
        return;
    };
    for except in items(&block["except"]) {
        // Kubernetes wants a true part.
        let inside = text(except).parse::<IpNet>().is_ok_and(|except| range.contains(&except) && range != except);
        if !inside {
            say(format!("{except} is no part of {range}"));
        }
    }
}
