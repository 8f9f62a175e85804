use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use labwright_core::{ByteSize, ImageRef};
use labwright_document::LocalPath;
use serde::{Serialize, Serializer};

use super::VmSettings;
use crate::value::Value;

/// A machine of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// A DNS label of at most 32 characters: by this name the other machines find it.
    pub name: String,
    /// What it is, and what only such machines have.
    #[serde(flatten)]
    pub kind: MachineKind,
    /// What it runs.
    pub image: ImageSource,
    /// What it needs of a node; `None` for a VM whose instancetype says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The networks that it is on, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// The ways in that the learner has.
    pub access: Vec<Access>,
    /// When it counts as ready.
    pub ready: Ready,
    /// Not shown to the learner.
    pub hidden: bool,
}

impl Machine {
    /// The settings that only virtual machines have.
    pub fn vm(&self) -> Option<&Vm> {
        match &self.kind {
            MachineKind::Vm(vm) => Some(vm),
            MachineKind::Container(_) => None,
        }
    }
}

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum MachineKind {
    /// A KubeVirt virtual machine, from a containerDisk.
    Vm(Box<Vm>),
    /// A pod with one container, from any image as it is.
    Container(Container),
}

/// What only virtual machines have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Accounts of the image, with what the session gives them.
    pub users: Vec<User>,
    /// How KubeVirt runs it.
    #[serde(rename = "kubevirt")]
    pub settings: VmSettings,
}

/// What only container machines have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Container {
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Value>,
    /// In place of the image's entrypoint; empty keeps that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// In place of the image's arguments; empty keeps those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

/// An account of the machine's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The account's name.
    pub name: String,
    /// The password that the session gives it. The first user that has one opens the machine's front door.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Value>,
    /// Lines of `authorized_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_authorized_keys: Vec<String>,
}

/// Where a machine's image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A recipe of ours, beside the lab.
    Recipe(LocalPath),
    /// An image that is there already.
    Reference(ImageRef),
}

/// As the author wrote it.
impl Serialize for ImageSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Recipe(path) => path.serialize(serializer),
            Self::Reference(reference) => reference.serialize(serializer),
        }
    }
}

/// What a machine needs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Whole processors.
    pub cpus: u16,
    /// What the guest sees, or a container may use.
    pub memory: ByteSize,
}

impl Default for Resources {
    /// One processor and a gibibyte: enough for a shell.
    fn default() -> Self {
        Self { cpus: 1, memory: ByteSize::from_bytes(1 << 30) }
    }
}

/// A machine's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The network.
    pub network: String,
    /// The machine's address there, inside the network's range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// A way in that the learner has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Access {
    /// A name that is unique in the machine.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub spec: AccessSpec,
}

/// What a way in is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum AccessSpec {
    /// One that the image offers under this name; what it is stands in the image.
    Image,
    /// A web server of the machine's own, on this port.
    Http {
        /// The TCP port in the machine.
        port: u16,
    },
    /// The serial console, by KubeVirt.
    Console,
    /// The graphics card's screen, by KubeVirt.
    Screen,
}

/// When a machine counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// How long it may take from its start.
    pub timeout: Duration,
}

impl Default for Ready {
    /// Three minutes: a machine without KVM needs two.
    fn default() -> Self {
        Self { timeout: Duration::from_mins(3) }
    }
}

impl Serialize for Ready {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut ready = serializer.serialize_struct("Ready", 1)?;
        ready.serialize_field("timeout", &self.timeout.as_secs())?;
        ready.end()
    }
}
