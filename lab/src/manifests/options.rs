use ipnet::IpNet;

use crate::resolved::KubevirtVersion;

/// What an operator decides about a session of a lab. Any text may be a placeholder that is filled in later
/// (`${namespace}`, `{{ .Release.Namespace }}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// No field that this version lacks is written.
    pub version: KubevirtVersion,
    /// The session's namespace, which is the session's alone.
    pub namespace: String,
    /// How browsers come to the front doors by name; `None` leaves it to the operator or to port-forwards.
    pub routes: Option<Routes>,
    /// What the Services of the front doors are.
    pub service: ServiceKind,
    /// A Secret of type `kubernetes.io/dockerconfigjson` in the session's namespace, for images that are not public.
    pub pull_secret: Option<String>,
    /// When nodes ask the registry.
    pub pull_policy: PullPolicy,
    /// What the namespace refuses to run.
    pub pod_security: PodSecurity,
    /// The cluster's name servers.
    pub dns: Dns,
    /// Where virt-api runs, which port-forwards to virtual machines come from.
    pub kubevirt_namespace: String,
    /// Where CDI's controller runs, which asks an import for its progress.
    pub cdi_namespace: String,
}

impl Options {
    /// What suits most clusters: front doors by port-forward only, public images, the `baseline` of pod security.
    pub fn new(version: KubevirtVersion, namespace: impl Into<String>) -> Self {
        Self {
            version,
            namespace: namespace.into(),
            routes: None,
            service: ServiceKind::ClusterIp,
            pull_secret: None,
            pull_policy: PullPolicy::IfNotPresent,
            pod_security: PodSecurity::Baseline,
            dns: Dns::KubeDns,
            kubevirt_namespace: "kubevirt".to_owned(),
            cdi_namespace: "cdi".to_owned(),
        }
    }
}

/// How browsers come to the front doors by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The session's host name (`alice.labs.example.org`). Each machine has a name beside it
    /// (`attacker-alice.labs.example.org`): a front door gives out cookies for its whole host and knows of no path
    /// before its own, so machines must not share one; and one wildcard in DNS and in the certificate
    /// (`*.labs.example.org`) is enough for all machines of all sessions.
    pub host: String,
    /// Whose pods carry the requests: the namespace of the gateway's or ingress controller's own pods, which may not
    /// be that of the Gateway.
    pub namespace: String,
    /// Who routes.
    pub router: Router,
}

/// Who routes requests to the front doors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Router {
    /// A Gateway, by HTTPRoutes. Its listener must admit routes of the session's namespace.
    Gateway {
        /// The Gateway's name.
        name: String,
        /// The Gateway's namespace.
        namespace: String,
        /// One of its listeners; all of them if `None`.
        section: Option<String>,
    },
    /// An ingress controller, by Ingresses.
    Ingress {
        /// Which one; the cluster's default if `None`.
        class: Option<String>,
        /// Whether it speaks HTTPS.
        tls: Tls,
    },
    /// Traefik, by IngressRoutes.
    Traefik {
        /// The entry point's name (`websecure`).
        entry_point: String,
        /// Whether it speaks HTTPS.
        tls: Tls,
    },
}

/// Where the certificate of a route comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Nowhere: plain HTTP.
    Off,
    /// The router has one.
    Default,
    /// A Secret of type `kubernetes.io/tls` in the session's namespace.
    Secret(String),
}

/// What the Services of the front doors are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// Reachable within the cluster.
    ClusterIp,
    /// A port on every node, for these clients. Their addresses must arrive unchanged, so only the node on which the
    /// machine runs answers.
    NodePort {
        /// Who may connect; nobody if empty.
        clients: Vec<IpNet>,
    },
    /// An address of a load balancer, for these clients.
    LoadBalancer {
        /// Who may connect; nobody if empty.
        clients: Vec<IpNet>,
    },
}

impl ServiceKind {
    /// Who may connect from outside of the cluster, where that is a question of addresses.
    pub(super) fn clients(&self) -> Option<&[IpNet]> {
        match self {
            Self::ClusterIp => None,
            Self::NodePort { clients } | Self::LoadBalancer { clients } => Some(clients),
        }
    }
}

/// When a node asks the registry for an image. Images are named by digest, so nothing changes under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// When it does not have it.
    IfNotPresent,
    /// At each start, so that the registry's permissions are asked each time.
    Always,
    /// Never: images are brought to the nodes in another way.
    Never,
}

impl PullPolicy {
    /// Kubernetes' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// The level of the Pod Security Standards that the namespace enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodSecurity {
    /// No known way from a pod to its node: virtual machines and ordinary images run.
    Baseline,
    /// Also no root and no capability: virtual machines run where KubeVirt sets a seccomp profile, and only images
    /// that do not need root.
    Restricted,
}

impl PodSecurity {
    /// Kubernetes' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Where machines reach the cluster's name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// Pods labelled `k8s-app: kube-dns` in `kube-system`: CoreDNS as kubeadm, k3s and the clouds install it.
    KubeDns,
    /// Those and a cache on each node (NodeLocal DNSCache), at this address.
    NodeLocal(std::net::IpAddr),
    /// OpenShift's, in `openshift-dns` on port 5353.
    OpenShift,
}

impl Dns {
    /// The address that NodeLocal DNSCache has if nobody chose another.
    pub const NODE_LOCAL: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10));
}
