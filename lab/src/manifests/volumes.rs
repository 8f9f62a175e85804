//! Disks of virtual machines: the root disk, cloud-init's, and further ones.

use std::collections::BTreeSet;

use labwright_core::ByteSize;
use labwright_document::yaml::Map;

use super::context::{Context, cloud_init_secret, root_volume};
use crate::resolved::{KubevirtVersion, Machine, VmSettings, Volume, VolumeSource};

const GIB: u64 = 1 << 30;

/// The volumes that every virtual machine has; the loader keeps a lab's own from having these names.
const ROOT: &str = "root";
const CLOUD_INIT: &str = "cloudinit";

/// A root disk's size where neither the lab nor the image says one.
pub(super) const UNKNOWN_SIZE: ByteSize = ByteSize::from_bytes(20 * GIB);

/// What CDI adds to a disk on a file system, in hundredths.
///
/// Source: CDI `doc/cdi-config.md`, `filesystemOverhead`.
const FILE_SYSTEM_OVERHEAD: u64 = 6;

/// What the session's namespace will hold of PersistentVolumeClaims.
pub(super) struct Claims {
    /// Root disks that CDI fills.
    pub(super) imports: usize,
    /// Claims of the operator's that the lab names.
    pub(super) others: usize,
    /// For the root disks, while they are filled.
    pub(super) storage: ByteSize,
}

impl Claims {
    /// While CDI fills a claim, there is a second one of the same size beside it.
    ///
    /// Source: CDI `pkg/controller/populators/populator-base.go`, `createPVCPrime`.
    const COPIES: usize = 2;

    pub(super) fn count(&self) -> usize {
        Self::COPIES * self.imports + self.others
    }
}

pub(super) fn claims(context: Context<'_>) -> Claims {
    let mut claims = Claims { imports: 0, others: 0, storage: ByteSize::from_bytes(0) };
    let mut others = BTreeSet::new();
    let mut bytes = 0;
    for machine in &context.lab().machines {
        let Some(vm) = machine.vm() else { continue };
        if vm.settings.storage.is_some() {
            claims.imports += 1;
            let size = root_size(context, machine).bytes();
            // Storage gives whole gibibytes as a rule.
            let claim = (size + (size * FILE_SYSTEM_OVERHEAD).div_ceil(100)).next_multiple_of(GIB);
            bytes += claim * Claims::COPIES as u64;
        }
        for volume in &vm.settings.volumes {
            if let VolumeSource::Claim(name) | VolumeSource::Ephemeral(name) = &volume.source {
                others.insert(name);
            }
        }
    }
    claims.others = others.len();
    claims.storage = ByteSize::from_bytes(bytes);
    claims
}

/// The size of a persistent root disk.
pub(super) fn root_size(context: Context<'_>, machine: &Machine) -> ByteSize {
    let wanted = machine.vm().and_then(|vm| vm.settings.storage.as_ref()?.size);
    wanted.or_else(|| image_size(context, machine)).unwrap_or(UNKNOWN_SIZE)
}

/// What the guest sees of the image.
pub(super) fn image_size(context: Context<'_>, machine: &Machine) -> Option<ByteSize> {
    context.locked.image(machine).facts.as_ref().map(|facts| facts.virtual_size)
}

/// `spec.domain.devices.disks`, one for each volume.
pub(super) fn disks(settings: &VmSettings) -> Vec<Map> {
    // A preference says what suits the guest, but only where the machine does not.
    let disk = || match settings.preference {
        Some(_) => Map::new(),
        None => Map::new().with("bus", "virtio"),
    };
    let root = Map::new().with("name", ROOT).with("bootOrder", 1_u16).with("disk", disk());
    let others = settings.volumes.iter().map(|volume| volume.name.as_str()).chain([CLOUD_INIT]);
    std::iter::once(root).chain(others.map(|name| Map::new().with("name", name).with("disk", disk()))).collect()
}

/// `spec.volumes`.
pub(super) fn volumes(context: Context<'_>, machine: &Machine, settings: &VmSettings) -> Vec<Map> {
    let options = context.options;
    let root = Map::new().with("name", ROOT);
    let root = match settings.storage {
        Some(_) => root.with("dataVolume", Map::new().with("name", root_volume(machine))),
        None => root.with(
            "containerDisk",
            Map::new()
                .with("image", context.locked.image(machine).reference())
                .with("imagePullPolicy", options.pull_policy.as_str())
                .with_some("imagePullSecret", options.pull_secret.as_ref()),
        ),
    };
    // In a Secret, because KubeVirt takes no more than 2048 bytes in the machine itself, and because of what is in it.
    let secret = || Map::new().with("name", cloud_init_secret(machine));
    let seed = Map::new().with("secretRef", secret()).with("networkDataSecretRef", secret());
    let seed = Map::new().with("name", CLOUD_INIT).with("cloudInitNoCloud", seed);
    std::iter::once(root).chain(settings.volumes.iter().map(further)).chain([seed]).collect()
}

fn further(volume: &Volume) -> Map {
    let one = |key: &str, value: &str| Map::new().with(key, value);
    let (kind, source) = match &volume.source {
        VolumeSource::EmptyDisk(size) => ("emptyDisk", one("capacity", &size.to_string())),
        VolumeSource::Ephemeral(claim) => {
            ("ephemeral", Map::new().with("persistentVolumeClaim", one("claimName", claim)))
        }
        VolumeSource::Claim(claim) => ("persistentVolumeClaim", one("claimName", claim)),
        VolumeSource::ConfigMap(name) => ("configMap", one("name", name)),
        VolumeSource::Secret(name) => ("secret", one("secretName", name)),
        VolumeSource::ServiceAccount(name) => ("serviceAccount", one("serviceAccountName", name)),
    };
    Map::new().with("name", &volume.name).with(kind, source)
}

/// `spec.dataVolumeTemplates`: the root disk of a machine that keeps it.
///
/// The node pulls the image, not CDI's pod: it uses the cache, the mirrors and the credentials that containerDisks use
/// as well, needs no scratch space, and the pod needs no way to the registry. The size is that of the disk: CDI adds what
/// a file system takes, where the StorageClass has one.
pub(super) fn data_volumes(context: Context<'_>, machine: &Machine, settings: &VmSettings) -> Vec<Map> {
    let Some(storage) = &settings.storage else { return Vec::new() };
    let arch = context.arch(machine).filter(|_| context.options.version >= KubevirtVersion::V1_7);
    let registry = Map::new()
        .with("url", format!("docker://{}", context.locked.image(machine).reference()))
        .with("pullMethod", "node")
        .with_some("platform", arch.map(|arch| Map::new().with("architecture", arch.as_str())));
    let size = Map::new().with("storage", root_size(context, machine).to_string());
    let storage = Map::new()
        .with("resources", Map::new().with("requests", size))
        .with_some("storageClassName", storage.class.as_ref());
    // CDI's pods get these labels too, so none of them may be one that a Service or a policy selects.
    let metadata = Map::new().with("name", root_volume(machine)).with("labels", context.labels());
    let spec = Map::new().with("source", Map::new().with("registry", registry)).with("storage", storage);
    vec![Map::new().with("metadata", metadata).with("spec", spec)]
}
