//! From a checked lab to one whose images are known.

use std::collections::BTreeMap;

use labwright_core::{AccessKind, Arch, Digest, ImageFacts};

use crate::resolved::{AccessSpec, Lab, Machine};
use crate::value::Value;

/// The image that a machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedImage {
    /// `HOST[:PORT]/REPOSITORY`, from which a cluster pulls it.
    pub repository: String,
    /// The digest of its index or manifest.
    pub digest: Digest,
    /// What its builder says of it; `None` for an image that Labwright did not build.
    pub facts: Option<ImageFacts>,
    /// The architectures that it is for, where it says so.
    pub archs: Vec<Arch>,
}

impl LockedImage {
    /// `HOST[:PORT]/REPOSITORY@DIGEST`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// A lab of which every machine's image is known by digest. Only the loader makes one.
#[derive(Debug, Clone)]
pub struct LockedLab {
    lab: Lab,
    images: BTreeMap<String, LockedImage>,
}

/// A way into a machine, whoever says so: the lab or the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// A name that is unique in the machine.
    pub name: String,
    /// What it is.
    pub kind: AccessKind,
    /// The TCP port in the machine; terminals and desktops share the front door's.
    pub port: u16,
    /// The path on that port, with a slash at both ends.
    pub path: String,
}

impl LockedLab {
    /// `images` has one image for each machine, and each access of the lab that is the image's is in its facts.
    pub(crate) fn new(lab: Lab, images: BTreeMap<String, LockedImage>) -> Self {
        debug_assert!(lab.machines.iter().all(|machine| images.contains_key(&machine.name)), "an image per machine");
        Self { lab, images }
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The image of a machine of this lab.
    pub fn image(&self, machine: &Machine) -> &LockedImage {
        &self.images[&machine.name]
    }

    /// All images by machine.
    pub fn images(&self) -> &BTreeMap<String, LockedImage> {
        &self.images
    }

    /// The ways into a machine that go by HTTP, in the lab's order. The console and the screen are KubeVirt's and no part of it.
    pub fn doors(&self, machine: &Machine) -> Vec<Door> {
        let facts = self.image(machine).facts.as_ref();
        let offered = |name: &str| facts.and_then(|facts| facts.access.iter().find(|access| access.name == name));
        let door = |access: &crate::resolved::Access| match access.spec {
            AccessSpec::Image => offered(&access.name).map(|fact| Door {
                name: access.name.clone(),
                kind: fact.kind,
                port: fact.port,
                path: fact.path.clone(),
            }),
            AccessSpec::Http { port } => {
                Some(Door { name: access.name.clone(), kind: AccessKind::Http, port, path: "/".to_owned() })
            }
            AccessSpec::Console | AccessSpec::Screen => None,
        };
        machine.access.iter().filter_map(door).collect()
    }

    /// The port of the machine's front door, if a terminal or desktop of the lab is behind one.
    pub fn front_door(&self, machine: &Machine) -> Option<u16> {
        let doors = self.doors(machine);
        doors.iter().find(|door| door.kind != AccessKind::Http).map(|door| door.port)
    }

    /// What opens the machine's front door: the first user that the session gives a password.
    pub fn credential<'a>(&self, machine: &'a Machine) -> Option<(&'a str, &'a Value)> {
        machine.vm()?.users.iter().find_map(|user| Some((user.name.as_str(), user.password.as_ref()?)))
    }
}
