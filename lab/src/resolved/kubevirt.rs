use std::fmt;
use std::str::FromStr;

use labwright_core::ByteSize;
use serde::{Serialize, Serializer};

/// A minor version of KubeVirt that manifests can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum KubevirtVersion {
    V1_5,
    V1_6,
    V1_7,
    V1_8,
    V1_9,
}

impl KubevirtVersion {
    /// All that are known, the oldest first.
    pub const ALL: [Self; 5] = [Self::V1_5, Self::V1_6, Self::V1_7, Self::V1_8, Self::V1_9];

    /// `1.5`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1_5 => "1.5",
            Self::V1_6 => "1.6",
            Self::V1_7 => "1.7",
            Self::V1_8 => "1.8",
            Self::V1_9 => "1.9",
        }
    }
}

impl fmt::Display for KubevirtVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no version of KubeVirt that manifests can be made for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a version of KubeVirt from 1.5 to 1.9, such as 1.7")]
pub struct ParseVersionError;

impl FromStr for KubevirtVersion {
    type Err = ParseVersionError;

    /// `1.7`, also as `v1.7` or with a patch level, which changes no field.
    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let minor = match text.splitn(3, '.').collect::<Vec<_>>()[..] {
            ["1", minor] => minor,
            ["1", minor, patch] if !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()) => minor,
            _ => return Err(ParseVersionError),
        };
        Self::ALL.into_iter().find(|known| known.as_str()[2..] == *minor).ok_or(ParseVersionError)
    }
}

impl Serialize for KubevirtVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// How KubeVirt runs a virtual machine: the machine's own settings over those of the lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VmSettings {
    /// In place of `resources`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instancetype: Option<ClusterType>,
    /// Devices that suit the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<ClusterType>,
    /// When the machine runs.
    pub run_strategy: RunStrategy,
    /// A disk that outlives a restart, through CDI; none means that each start is from the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Further disks, in the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
}

/// The name of an instancetype or preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterType {
    /// Where it is.
    pub kind: TypeKind,
    /// Its name.
    pub name: String,
}

/// Where an instancetype or preference is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TypeKind {
    /// In the whole cluster (`VirtualMachineClusterInstancetype`).
    #[default]
    Cluster,
    /// In the session's namespace (`VirtualMachineInstancetype`).
    Namespace,
}

/// When a virtual machine runs.
///
/// Source: KubeVirt user guide, `compute/run_strategies.md`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum RunStrategy {
    /// Started again whenever it ends.
    Always,
    /// Started again when it fails: a learner's `poweroff` stays off.
    #[default]
    RerunOnFailure,
    /// Started and stopped by request.
    Manual,
    /// Off.
    Halted,
    /// Run once.
    Once,
}

impl RunStrategy {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("Always", Self::Always),
        ("RerunOnFailure", Self::RerunOnFailure),
        ("Manual", Self::Manual),
        ("Halted", Self::Halted),
        ("Once", Self::Once),
    ];

    /// KubeVirt's word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, known)| *known == self).map_or("RerunOnFailure", |(word, _)| word)
    }
}

/// A root disk of its own for a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// Its size; what the image needs if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// A StorageClass; the cluster's default if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// A further disk of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// A DNS label, unique in the machine.
    pub name: String,
    /// What is on it.
    #[serde(flatten)]
    pub source: VolumeSource,
}

/// What is on a further disk. Objects are those of the session's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// An empty disk of this size, gone when the machine stops.
    EmptyDisk(ByteSize),
    /// A PersistentVolumeClaim under a layer that is gone when the machine stops.
    Ephemeral(String),
    /// A PersistentVolumeClaim.
    Claim(String),
    /// A ConfigMap as an ISO 9660 disk.
    ConfigMap(String),
    /// A Secret as an ISO 9660 disk.
    Secret(String),
    /// A ServiceAccount's token as an ISO 9660 disk.
    ServiceAccount(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, version) in
            [("1.5", KubevirtVersion::V1_5), ("v1.9", KubevirtVersion::V1_9), ("v1.7.2", KubevirtVersion::V1_7)]
        {
            assert_eq!(text.parse(), Ok(version), "{text}");
        }
        for text in ["", "1", "1.4", "1.10", "2.5", "1.5.", "1.5.x", "1.5-rc1", "1.05"] {
            assert_eq!(text.parse::<KubevirtVersion>(), Err(ParseVersionError), "{text}");
        }
        assert_eq!(RunStrategy::default().as_str(), "RerunOnFailure");
    }
}
