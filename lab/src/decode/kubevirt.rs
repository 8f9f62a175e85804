//! `kubevirt`, of the lab and of a machine.

use labwright_core::{ByteSize, Span};
use labwright_document::{Fields, Kind, Node, Text, expected, listed};

use super::networks::Networks;
use super::{Decoder, refer};
use crate::resolved::{ClusterType, KubevirtVersion, RunStrategy, Storage, TypeKind, VmSettings, Volume, VolumeSource};
use crate::rules;

const LAB_KEYS: [&str; 6] = ["version", "instancetype", "preference", "run_strategy", "storage", "networks"];
const MACHINE_KEYS: [&str; 5] = ["instancetype", "preference", "run_strategy", "storage", "volumes"];
/// What can be on a further disk.
const VOLUME_KINDS: [&str; 6] = ["empty_disk", "ephemeral", "claim", "config_map", "secret", "service_account"];
const VOLUME_KEYS: [&str; 7] = ["name", "empty_disk", "ephemeral", "claim", "config_map", "secret", "service_account"];
/// What the disks of every virtual machine are called.
const OWN_VOLUMES: [&str; 2] = ["root", "cloudinit"];

const MIN_DISK: ByteSize = ByteSize::from_bytes(1 << 20);
const MAX_DISK: ByteSize = ByteSize::from_bytes(64 << 40);

/// What the lab says for all of its machines.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    pub(super) version: Option<KubevirtVersion>,
    settings: VmSettings,
    size: Option<Span>,
}

impl Defaults {
    /// The settings of a machine that says nothing of its own, or something. What has a mistake keeps the default: the
    /// mistake was said.
    pub(super) fn settings(
        &self,
        decoder: &mut Decoder<'_>,
        fields: Option<&Fields<'_>>,
    ) -> (VmSettings, Option<Span>) {
        let mut settings = self.settings.clone();
        let mut size = self.size;
        let Some(fields) = fields else { return (settings, size) };
        for (key, target) in [("instancetype", &mut settings.instancetype), ("preference", &mut settings.preference)] {
            if let Some(found) = fields.get(key).and_then(|node| cluster_type(decoder, node, key)) {
                *target = Some(found);
            }
        }
        if let Some(node) = fields.get("run_strategy") {
            settings.run_strategy =
                decoder.choice(node, "a run strategy", &RunStrategy::ALL).unwrap_or(settings.run_strategy);
        }
        if let Some((storage, place)) = fields.get("storage").and_then(|node| storage(decoder, node)) {
            settings.storage = Some(storage);
            size = place;
        }
        if let Some(node) = fields.get("volumes") {
            settings.volumes = volumes(decoder, node);
        }
        (settings, size)
    }
}

/// `kubevirt` of the lab.
pub(super) fn lab(decoder: &mut Decoder<'_>, node: Option<&Node>, networks: &mut Networks) -> Defaults {
    let nothing = Defaults::default();
    let Some(fields) = node.and_then(|node| decoder.fields(node, "`kubevirt` of a lab", &LAB_KEYS)) else {
        return nothing;
    };
    let version = fields.get("version").and_then(|node| decoder.read(node, "`version`", rules::kubevirt_version));
    if let Some(node) = fields.get("networks") {
        attachments(decoder, node, networks);
    }
    let (settings, size) = nothing.settings(decoder, Some(&fields));
    Defaults { version, settings, size }
}

/// `kubevirt` of a machine, over that of the lab.
pub(super) fn machine(decoder: &mut Decoder<'_>, node: &Node, defaults: &Defaults) -> (VmSettings, Option<Span>) {
    let fields = decoder.fields(node, "`kubevirt` of a machine", &MACHINE_KEYS);
    defaults.settings(decoder, fields.as_ref())
}

/// `networks: {lan: labs/lan}`.
fn attachments(decoder: &mut Decoder<'_>, node: &Node, networks: &mut Networks) {
    let Kind::Mapping(entries) = &node.kind else {
        let message = expected("`networks` is a mapping from networks to attachments", node);
        decoder.push(decoder.error(node.span, message).hint("write `networks: {lan: NAMESPACE/NAME}`"));
        return;
    };
    for (key, value) in entries {
        let name = Text { value: key.name.clone(), span: key.span };
        let known = networks.names().to_vec();
        let name = refer(decoder, &name, "network", &known);
        let attachment = decoder.checked(value, "an attachment", rules::attachment);
        let (Some(name), Some(attachment)) = (name, attachment) else { continue };
        if let Some(network) = networks.declared.iter_mut().find(|network| network.name == name) {
            network.attachment = Some(attachment.value);
        }
    }
}

/// `u1.medium`, or `{name: small, kind: namespace}`.
fn cluster_type(decoder: &mut Decoder<'_>, node: &Node, key: &str) -> Option<ClusterType> {
    let what = format!("`{key}`");
    if let Kind::Scalar(_) = node.kind {
        let name = decoder.checked(node, &what, rules::object)?;
        return Some(ClusterType { kind: TypeKind::Cluster, name: name.value });
    }
    let fields = decoder.fields(node, &what, &["name", "kind"])?;
    let name = decoder.required(&fields, "name", &what).and_then(|node| decoder.checked(node, "`name`", rules::object));
    let kind = match fields.get("kind") {
        Some(node) => {
            let kinds = [("cluster", TypeKind::Cluster), ("namespace", TypeKind::Namespace)];
            decoder.choice(node, "a kind", &kinds)?
        }
        None => TypeKind::Cluster,
    };
    Some(ClusterType { kind, name: name?.value })
}

fn storage(decoder: &mut Decoder<'_>, node: &Node) -> Option<(Storage, Option<Span>)> {
    let fields = decoder.fields(node, "`storage`", &["size", "class"])?;
    let size = fields.get("size").map(|node| (node.span, decoder.size(node, "`size`", MIN_DISK..=MAX_DISK)));
    let class = fields.get("class").map(|node| decoder.checked(node, "`class`", rules::object));
    let (place, size) = match size {
        Some((span, size)) => (Some(span), Some(size?)),
        None => (None, None),
    };
    let class = match class {
        Some(class) => Some(class?.value),
        None => None,
    };
    Some((Storage { size, class }, place))
}

fn volumes(decoder: &mut Decoder<'_>, node: &Node) -> Vec<Volume> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`volumes`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a volume", &VOLUME_KEYS) else { continue };
        let name = decoder
            .required(&fields, "name", "a volume")
            .and_then(|node| decoder.checked(node, "`name`", rules::volume))
            .and_then(|name| {
                if !OWN_VOLUMES.contains(&name.value.as_str()) {
                    return Some(name);
                }
                let message = format!("every machine has a volume `{}` of its own", name.value);
                decoder.push(decoder.error(name.span, message));
                None
            });
        if let Some(name) = &name {
            decoder.unique(&mut seen, name, "volume");
        }
        let source = volume_source(decoder, item, &fields);
        if let (Some(name), Some(source)) = (name, source) {
            found.push(Volume { name: name.value, source });
        }
    }
    found
}

fn volume_source(decoder: &mut Decoder<'_>, node: &Node, fields: &Fields<'_>) -> Option<VolumeSource> {
    let given: Vec<_> = fields.iter().filter(|(key, ..)| VOLUME_KINDS.contains(key)).collect();
    let [(kind, _, source)] = given[..] else {
        let place = given.get(1).map_or_else(|| node.head(&decoder.file.text), |(_, span, _)| *span);
        let diagnostic = decoder.error(place, "a volume is one thing");
        decoder.push(diagnostic.hint(format!("one of {}", listed(&VOLUME_KINDS))));
        return None;
    };
    if kind == "empty_disk" {
        return decoder.size(source, "`empty_disk`", MIN_DISK..=MAX_DISK).map(VolumeSource::EmptyDisk);
    }
    let name = decoder.checked(source, &format!("`{kind}`"), rules::object)?.value;
    Some(match kind {
        "ephemeral" => VolumeSource::Ephemeral(name),
        "claim" => VolumeSource::Claim(name),
        "config_map" => VolumeSource::ConfigMap(name),
        "secret" => VolumeSource::Secret(name),
        _ => VolumeSource::ServiceAccount(name),
    })
}
