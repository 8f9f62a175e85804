//! How machines find each other, and how others come to their doors.

use labwright_document::yaml::{Map, Yaml};

use super::context::{Context, Doors, machine_selector};
use super::object::Object;
use super::{Router, ServiceKind};
use crate::resolved::Machine;

/// What Gateway API calls a backend that speaks WebSocket; some gateways pass an upgrade on only then.
///
/// Source: gateway-api GEP-1911.
const WEBSOCKET: &str = "kubernetes.io/ws";

pub(super) fn services(context: Context<'_>) -> Vec<Object> {
    let names = context.lab().machines.iter().map(|machine| name(context, machine));
    let doors = context.doors();
    names.chain(doors.iter().map(|doors| service(context, doors))).collect()
}

/// The name of a door's port.
pub(super) fn port_name(port: u16) -> String {
    format!("http-{port}")
}

/// A headless Service resolves to the pod itself, so every port of the machine is under its name and it needs none itself.
fn name(context: Context<'_>, machine: &Machine) -> Object {
    let spec = Map::new()
        .with("clusterIP", "None")
        // A machine has a name as long as it is there, also before its door opens.
        .with("publishNotReadyAddresses", true)
        .with("selector", machine_selector(machine));
    let metadata = context.metadata(&machine.name).with("labels", context.machine_labels(machine));
    Object::new("v1", "Service", metadata, "The name by which the other machines find this one.").with("spec", spec)
}

fn service(context: Context<'_>, doors: &Doors<'_>) -> Object {
    let gateway = matches!(&context.options.routes, Some(routes) if matches!(routes.router, Router::Gateway { .. }));
    let ports: Yaml = doors
        .ports
        .iter()
        .map(|port| {
            // Terminals and desktops are WebSockets; what a web server of the lab speaks is not ours to say.
            let websocket = gateway && doors.front_door == Some(*port);
            Map::new()
                .with("name", port_name(*port))
                .with("protocol", "TCP")
                .with("port", *port)
                .with("targetPort", *port)
                .with_some("appProtocol", websocket.then_some(WEBSOCKET))
        })
        .collect();
    let ranges = |clients: &[ipnet::IpNet]| -> Yaml { clients.iter().map(ToString::to_string).collect() };
    let spec = match &context.options.service {
        ServiceKind::ClusterIp => Map::new().with("type", "ClusterIP"),
        ServiceKind::NodePort { .. } => Map::new().with("type", "NodePort"),
        ServiceKind::LoadBalancer { clients } => {
            Map::new().with("type", "LoadBalancer").with_filled("loadBalancerSourceRanges", ranges(clients))
        }
    };
    // Policies see who connects only where nodes do not pass connections on under their own address.
    let local = context.options.service.clients().map(|_| "Local");
    let spec = spec
        .with_some("externalTrafficPolicy", local)
        .with("selector", machine_selector(doors.machine))
        .with("ports", ports);
    let metadata =
        context.metadata(context.doors_service(doors.machine)).with("labels", context.machine_labels(doors.machine));
    Object::new("v1", "Service", metadata, "The doors of this machine, for who brings learners to them.")
        .with("spec", spec)
}
