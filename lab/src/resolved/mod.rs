//! The resolved lab: plain data, every reference checked, all variables filled in.

mod kubevirt;
mod machine;
mod secret;

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::Ipv4Net;
use labwright_document::LocalPath;
use serde::{Serialize, Serializer};

pub use kubevirt::{
    ClusterType, KubevirtVersion, ParseVersionError, RunStrategy, Storage, TypeKind, VmSettings, Volume, VolumeSource,
};
pub use machine::{
    Access, AccessSpec, Container, ImageSource, Interface, Machine, MachineKind, Ready, Resources, User, Vm,
};
pub use secret::{Random, RandomKind, SecretPart, SecretSpec};

use crate::value::Value;

/// A lab whose every reference is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lab {
    /// A DNS label of at most 32 characters; what the lab is called in registries and, at first, its namespace.
    pub name: String,
    /// semver; the bundle's tag.
    pub version: String,
    /// For people, on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// For people, longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    /// An SPDX expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What holds for a learner's session.
    pub session: Session,
    /// Who may talk to whom; in the order of the file.
    pub networks: Vec<Network>,
    /// What is made anew for every session.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// In the order of the file; at least one.
    pub machines: Vec<Machine>,
    /// What the learner is shown, in this order.
    pub outputs: Vec<Output>,
    /// What the learner has to do, in the order of the file.
    pub tasks: Vec<Task>,
    /// What the learner reads, in this order.
    pub instructions: Vec<Page>,
    /// The KubeVirt that the lab is written for, where its author says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubevirt_version: Option<KubevirtVersion>,
}

impl Lab {
    /// The machine of this name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// The network of this name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }
}

/// What holds for a learner's session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Session {
    /// How long a session may live, from its beginning; `None` leaves it to the operator.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub expires: Option<Duration>,
}

#[expect(clippy::ref_option, reason = "serde hands a reference to the field")]
fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs()).serialize(serializer)
}

/// Machines that may talk to each other.
///
/// Without `attachment` it is a set of policies over the cluster's pod network: names work, fixed addresses do not.
/// With one it is a network of its own, by Multus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// A DNS label of at most 32 characters.
    pub name: String,
    /// The range of its addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Ipv4Net>,
    /// Whether its machines reach what is outside of the lab.
    pub internet: bool,
    /// `[NAMESPACE/]NAME` of a NetworkAttachmentDefinition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<String>,
}

/// A line for the learner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// What it is.
    pub label: String,
    /// The value.
    pub value: Value,
}

/// Something that the learner has to reach, and how it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// A DNS label of at most 32 characters.
    pub name: String,
    /// The virtual machine that the scripts run in.
    pub machine: String,
    /// A script that ends with 0 once the task is done.
    pub check: LocalPath,
    /// Markdown for who is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<LocalPath>,
    /// A script that does the task, for tests; never published.
    #[serde(skip)]
    pub solve: Option<LocalPath>,
}

/// A page of the instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Its title.
    pub title: String,
    /// Markdown.
    pub file: LocalPath,
    /// The tasks that belong to it.
    pub tasks: Vec<String>,
}
