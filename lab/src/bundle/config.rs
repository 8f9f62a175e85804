//! What a bundle says of itself in its config: enough to show, copy and render it without its layer.

use std::collections::BTreeMap;

use labwright_core::{Arch, Digest, ImageFacts};
use labwright_document::rules;
use serde::{Deserialize, Serialize};

use crate::lock::LockedImage;
use crate::resolved::{AccessSpec, Lab};
use crate::rules::is_reserved_namespace;
use crate::{LockedLab, load::Loaded};

/// The version of the config's form.
const VERSION: u32 = 1;

/// A bundle's config. Fields are only ever added; what is not known is left aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    version: u32,
    /// The lab's name.
    pub name: String,
    /// The lab's version.
    pub lab_version: String,
    /// The title for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    /// An SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Where the bundle was first published; its manifests name the lab's own images there.
    pub repository: String,
    /// The version of Labwright that made it.
    pub tool_version: String,
    /// Values of the lab's variables that are not their defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The machines in the lab's order.
    pub machines: Vec<MachineConfig>,
    /// The labels of what a learner is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// The names of the tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
    /// The titles of the pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<String>,
}

/// A machine in a bundle's config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfig {
    /// Its name.
    pub name: String,
    /// `vm` or `container`.
    pub kind: String,
    /// `HOST[:PORT]/REPOSITORY` of its image.
    pub repository: String,
    /// The digest of its image's index or manifest.
    pub digest: Digest,
    /// The architectures that the image is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<Arch>,
    /// The ways in that the learner has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<String>,
    /// Not shown to the learner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// What the image's builder says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ImageFacts>,
}

impl MachineConfig {
    /// `HOST[:PORT]/REPOSITORY@DIGEST`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// A config that is no lab's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// It is not the JSON that it should be.
    #[error("the bundle's config is not one of a lab")]
    Syntax(#[from] serde_json::Error),
    /// It was made by a later version of Labwright.
    #[error("the bundle's config has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// The lab is called what no lab may be.
    #[error("`{name}` of version `{version}` cannot be a lab")]
    Name {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
    },
    /// A machine's image is nowhere.
    #[error("the image of the machine `{machine}` is not in a registry: `{repository}`")]
    Repository {
        /// The machine.
        machine: String,
        /// What stands in the place of HOST/REPOSITORY.
        repository: String,
    },
}

impl Config {
    /// What a locked lab says of itself. `variables` are values that are not the defaults.
    pub fn new(locked: &LockedLab, repository: &str, variables: &BTreeMap<String, String>, tool_version: &str) -> Self {
        let lab: &Lab = locked.lab();
        let machines = lab.machines.iter().map(|machine| {
            let image = locked.image(machine);
            MachineConfig {
                name: machine.name.clone(),
                kind: if machine.vm().is_some() { "vm" } else { "container" }.to_owned(),
                repository: image.repository.clone(),
                digest: image.digest.clone(),
                architectures: image.archs.clone(),
                access: machine.access.iter().map(|access| access.name.clone()).collect(),
                hidden: machine.hidden,
                facts: image.facts.clone(),
            }
        });
        Self {
            version: VERSION,
            name: lab.name.clone(),
            lab_version: lab.version.clone(),
            title: lab.title.clone(),
            description: lab.description.clone(),
            authors: lab.authors.clone(),
            license: lab.license.clone(),
            repository: repository.to_owned(),
            tool_version: tool_version.to_owned(),
            variables: variables.clone(),
            machines: machines.collect(),
            outputs: lab.outputs.iter().map(|output| output.label.clone()).collect(),
            tasks: lab.tasks.iter().map(|task| task.name.clone()).collect(),
            instructions: lab.instructions.iter().map(|page| page.title.clone()).collect(),
        }
    }

    /// Reads a config that may come from anyone.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidConfig> {
        /// Enough of any version to tell which one it is.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(InvalidConfig::Version(version));
        }
        let config: Self = serde_json::from_slice(bytes)?;
        let named = rules::name(&config.name).is_ok() && rules::version(&config.lab_version).is_ok();
        if !named || is_reserved_namespace(&config.name) {
            return Err(InvalidConfig::Name { name: config.name, version: config.lab_version });
        }
        for machine in &config.machines {
            let is_registry = matches!(
                machine.reference().parse(),
                Ok(labwright_core::ImageRef::Registry(found)) if found.tag.is_none()
            );
            if !is_registry {
                let (machine, repository) = (machine.name.clone(), machine.repository.clone());
                return Err(InvalidConfig::Repository { machine, repository });
            }
        }
        Ok(config)
    }

    /// The bytes of the config: the same for the same lab on any day.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has texts and lists only")
    }

    /// The images by machine, as a lab is locked to them. Those that lie in the repository in which the bundle was
    /// published are taken from `here`, where it was found, if there is such a place.
    pub fn images(&self, here: Option<&str>) -> BTreeMap<String, LockedImage> {
        let image = |machine: &MachineConfig| LockedImage {
            repository: here.unwrap_or(&machine.repository).to_owned(),
            digest: machine.digest.clone(),
            facts: machine.facts.clone(),
            archs: machine.architectures.clone(),
        };
        self.machines.iter().map(|machine| (machine.name.clone(), image(machine))).collect()
    }

    /// Whether this is the config of a lab that says the same of itself.
    pub(super) fn fits(&self, loaded: &Loaded) -> bool {
        let lab = &loaded.lab;
        self.name == lab.name
            && self.lab_version == lab.version
            && self.machines.len() == lab.machines.len()
            && lab
                .machines
                .iter()
                .zip(&self.machines)
                .all(|(machine, config)| machine.name == config.name && (config.kind == "vm") == machine.vm().is_some())
    }
}

/// The ways into a machine that need no port.
pub(super) fn is_kubevirts(spec: &AccessSpec) -> bool {
    matches!(spec, AccessSpec::Console | AccessSpec::Screen)
}
