//! Names in the browser's address bar, and what leads from them to the doors.

use std::collections::BTreeSet;

use labwright_document::yaml::Map;

use super::context::{Context, free_name};
use super::object::Object;
use super::{Router, Routes, Tls};

/// A host name that leads to one port of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The machine.
    pub machine: String,
    /// The port in the machine, which is the one of its Service as well.
    pub port: u16,
    /// The host name, if there are routes.
    pub host: String,
    /// Whether the front door is there, which asks for a credential; what else a machine serves is the lab's own affair.
    pub guarded: bool,
    /// Whether the router speaks HTTPS there. A Gateway's listeners are not known here, and are taken for HTTPS.
    pub https: bool,
}

/// Which host name leads to which port, each under a name that is unique in the lab: `MACHINE` for the first port of a
/// machine (its front door, where it has one) and `MACHINE-PORT` for others, in front of the session's host. Two ports never
/// share a host name, because what learners can change behind one must not read the cookies of another.
fn named(context: Context<'_>, routes: &Routes) -> Vec<(String, Address)> {
    let https = match &routes.router {
        Router::Gateway { .. } => true,
        Router::Ingress { tls, .. } | Router::Traefik { tls, .. } => *tls != Tls::Off,
    };
    let doors = context.doors();
    // All machines' own names first: another's port must not take one.
    let first = doors.iter().map(|doors| (doors, doors.ports[0], doors.machine.name.clone()));
    let others = doors.iter().flat_map(|doors| {
        doors.ports[1..].iter().map(move |port| (doors, *port, format!("{}-{port}", doors.machine.name)))
    });
    let mut taken = BTreeSet::new();
    let mut named: Vec<(String, Address)> = first
        .chain(others)
        .map(|(doors, port, name)| {
            let name = free_name(&name, |name| taken.contains(name));
            taken.insert(name.clone());
            let host = format!("{name}-{}", routes.host);
            let guarded = doors.front_door == Some(port);
            (name, Address { machine: doors.machine.name.clone(), port, host, guarded, https })
        })
        .collect();
    // In the order of the lab, which the sort keeps within a machine.
    named.sort_by_key(|(_, address)| doors.iter().position(|doors| doors.machine.name == address.machine));
    named
}

pub(super) fn addresses(context: Context<'_>) -> Vec<Address> {
    let routes = context.options.routes.as_ref();
    routes.map_or_else(Vec::new, |routes| named(context, routes).into_iter().map(|(_, address)| address).collect())
}

pub(super) fn routes(context: Context<'_>) -> Vec<Object> {
    let Some(routes) = &context.options.routes else { return Vec::new() };
    named(context, routes).into_iter().map(|(name, address)| route(context, routes, name, &address)).collect()
}

fn route(context: Context<'_>, routes: &Routes, name: String, address: &Address) -> Object {
    let machine = context.lab().machine(&address.machine).expect("an address is of a machine of the lab");
    let service = context.doors_service(machine);
    let metadata = context.metadata(name).with("labels", context.machine_labels(machine));
    match &routes.router {
        Router::Gateway { name, namespace, section } => {
            let parent =
                Map::new().with("name", name).with("namespace", namespace).with_some("sectionName", section.as_ref());
            // A terminal is one request that lasts as long as it is open.
            let endless = Map::new().with("request", "0s").with("backendRequest", "0s");
            let path = Map::new().with("type", "PathPrefix").with("value", "/");
            let rule = Map::new()
                .with("matches", [Map::new().with("path", path)])
                .with("backendRefs", [Map::new().with("name", service).with("port", address.port)])
                .with("timeouts", endless);
            let spec =
                Map::new().with("parentRefs", [parent]).with("hostnames", [&*address.host]).with("rules", [rule]);
            Object::new("gateway.networking.k8s.io/v1", "HTTPRoute", metadata, "This machine's name in the browser.")
                .with("spec", spec)
        }
        Router::Ingress { class, tls } => {
            let backend = Map::new().with(
                "service",
                Map::new().with("name", service).with("port", Map::new().with("number", address.port)),
            );
            let path = Map::new().with("path", "/").with("pathType", "Prefix").with("backend", backend);
            let rule = Map::new().with("host", &address.host).with("http", Map::new().with("paths", [path]));
            let hosts = Map::new().with("hosts", [&*address.host]);
            let tls = match tls {
                Tls::Off => None,
                Tls::Default => Some(vec![hosts]),
                Tls::Secret(secret) => Some(vec![hosts.with("secretName", secret)]),
            };
            let spec =
                Map::new().with_some("ingressClassName", class.as_ref()).with_some("tls", tls).with("rules", [rule]);
            // ingress-nginx closes a terminal after a minute of silence, whatever its class is called; other controllers do
            // not know the keys.
            let annotations: Map = ["read", "send"]
                .map(|way| (format!("nginx.ingress.kubernetes.io/proxy-{way}-timeout"), "86400"))
                .into_iter()
                .collect();
            let metadata = metadata.with("annotations", annotations);
            Object::new("networking.k8s.io/v1", "Ingress", metadata, "This machine's name in the browser.")
                .with("spec", spec)
        }
        Router::Traefik { entry_point, tls } => {
            let backend = Map::new().with("name", service).with("port", address.port);
            let rule = Map::new()
                .with("match", format!("Host(`{}`)", address.host))
                .with("kind", "Rule")
                .with("services", [backend]);
            let tls = match tls {
                Tls::Off => None,
                Tls::Default => Some(Map::new()),
                Tls::Secret(secret) => Some(Map::new().with("secretName", secret)),
            };
            let spec = Map::new().with("entryPoints", [&**entry_point]).with("routes", [rule]).with_some("tls", tls);
            Object::new("traefik.io/v1alpha1", "IngressRoute", metadata, "This machine's name in the browser.")
                .with("spec", spec)
        }
    }
}
