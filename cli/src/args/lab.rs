use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use labwright_lab::resolved::KubevirtVersion;

use super::Registries;

/// Arguments of `render`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright render --repository registry.example/labs/scan scan
  labwright render -o manifests --namespace lab-alice --routes gateway --host alice.labs.example.org \\
      --gateway gateway-system/labs --router-namespace envoy-gateway-system registry.example/labs/scan:0.1.0
  labwright render --secrets new registry.example/labs/scan:0.1.0 | kubectl apply -f -

Every image is named by digest. Nothing is asked of a cluster, and the same lab gives the same text,
apart from values that `--secrets new` makes.")]
pub struct Render {
    /// A lab or the directory that holds one, built before; or a published lab
    #[arg(default_value = ".", value_name = "PATH|REF")]
    pub lab: String,
    /// Writes a file for each machine and concern into this directory instead of all to stdout
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Where the lab's images are or will be: HOST/REPOSITORY
    #[arg(long, value_name = "HOST/REPOSITORY")]
    pub repository: Option<String>,
    /// The session's namespace; the lab's name if not given
    #[arg(long)]
    pub namespace: Option<String>,
    /// The cluster's KubeVirt, from 1.5 to 1.9; what the lab says, else 1.5
    #[arg(long, value_name = "VERSION")]
    pub kubevirt: Option<KubevirtVersion>,
    /// What to do about the session's secrets
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub secrets: WithSecrets,
    /// Gives a variable of the lab another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::recipe::assignment)]
    pub set: Vec<(String, String)>,
    /// What the cluster is like.
    #[command(flatten)]
    pub cluster: Cluster,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// What to do about a session's secrets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum WithSecrets {
    /// Nothing: the machines wait for them
    #[default]
    None,
    /// Add them with placeholders, `${NAME}`
    Template,
    /// Make values and add them: the output is a session's own, and secret
    New,
}

/// What an operator says of the cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct Cluster {
    /// How browsers come to the machines
    #[arg(long, value_enum, value_name = "KIND")]
    pub routes: Option<RouteKind>,
    /// The session's host name; a machine's is MACHINE-HOST
    #[arg(long, value_name = "HOST", requires = "routes")]
    pub host: Option<String>,
    /// The Gateway (--routes gateway), with the listener if only one is meant
    #[arg(long, value_name = "NAMESPACE/NAME[/LISTENER]")]
    pub gateway: Option<String>,
    /// The namespace of the pods that carry the requests
    #[arg(long, value_name = "NAMESPACE")]
    pub router_namespace: Option<String>,
    /// The ingress controller (--routes ingress); the cluster's default if not given
    #[arg(long, value_name = "CLASS")]
    pub ingress_class: Option<String>,
    /// The entry point (--routes traefik)
    #[arg(long, value_name = "NAME", default_value = "websecure")]
    pub entry_point: String,
    /// The certificate (--routes ingress or traefik): `off`, `default` for the router's own, or a Secret in the namespace
    #[arg(long, value_name = "off|default|SECRET", default_value = "default")]
    pub tls: String,
    /// What the Services of the doors are
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    pub service: ServiceChoice,
    /// Who may connect to node ports or the load balancer (repeat)
    #[arg(long = "client-range", value_name = "CIDR")]
    pub client_ranges: Vec<IpNet>,
    /// A Secret in the namespace for images that are not public
    #[arg(long, value_name = "SECRET")]
    pub pull_secret: Option<String>,
    /// Asks the registry at each start of a machine, so that its permissions are asked each time
    #[arg(long)]
    pub pull_always: bool,
    /// Lets the namespace refuse what pod security calls restricted, not only baseline
    #[arg(long)]
    pub restricted: bool,
    /// The cluster's name servers: `kube-dns`, `node-local` (with its address if it is another), or `openshift`
    #[arg(long, value_name = "KIND", default_value = "kube-dns", value_parser = dns)]
    pub dns: Dns,
    /// Where KubeVirt runs
    #[arg(long, value_name = "NAMESPACE", default_value = "kubevirt")]
    pub kubevirt_namespace: String,
    /// Where CDI runs
    #[arg(long, value_name = "NAMESPACE", default_value = "cdi")]
    pub cdi_namespace: String,
}

/// Who routes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RouteKind {
    /// A Gateway, by HTTPRoutes
    Gateway,
    /// An ingress controller
    Ingress,
    /// Traefik, by IngressRoutes
    Traefik,
}

/// The kinds of Service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ServiceChoice {
    /// Reachable within the cluster
    #[default]
    ClusterIp,
    /// A port on every node
    NodePort,
    /// A load balancer
    LoadBalancer,
}

/// The cluster's name servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dns {
    /// kube-dns or CoreDNS.
    KubeDns,
    /// A cache on each node.
    NodeLocal(IpAddr),
    /// OpenShift's.
    OpenShift,
}

fn dns(text: &str) -> Result<Dns, String> {
    match text.split_once('=') {
        None if text == "kube-dns" => Ok(Dns::KubeDns),
        None if text == "openshift" => Ok(Dns::OpenShift),
        None if text == "node-local" => Ok(Dns::NodeLocal(labwright_lab::manifests::Dns::NODE_LOCAL)),
        Some(("node-local", address)) => {
            address.parse().map(Dns::NodeLocal).map_err(|_| format!("`{address}` is no address"))
        }
        _ => Err("write kube-dns, node-local, node-local=ADDRESS or openshift".to_owned()),
    }
}
