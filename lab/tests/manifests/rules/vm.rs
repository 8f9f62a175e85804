//! Virtual machines.

use std::collections::BTreeSet;

use labwright_lab::resolved::KubevirtVersion;
use serde_json::Value;

use super::common::{is_label, is_subdomain, quantity};
use super::{items, of_kind, present, text};

const BINDINGS: [&str; 7] = ["bridge", "masquerade", "sriov", "slirp", "macvtap", "passt", "binding"];
const TARGETS: [&str; 4] = ["disk", "cdrom", "lun", "floppy"];
const SOURCES: [&str; 12] = [
    "cloudInitConfigDrive",
    "cloudInitNoCloud",
    "configMap",
    "containerDisk",
    "dataVolume",
    "downwardMetrics",
    "emptyDisk",
    "ephemeral",
    "hostDisk",
    "persistentVolumeClaim",
    "secret",
    "serviceAccount",
];
const HANDLERS: [&str; 4] = ["httpGet", "tcpSocket", "exec", "guestAgentPing"];

/// Fields with the version that they came with.
const NEW: [(&str, KubevirtVersion); 6] = [
    ("/spec/template/spec/domain/devices/video", KubevirtVersion::V1_6),
    ("/spec/template/spec/domain/devices/panicDevices", KubevirtVersion::V1_6),
    ("/spec/dataVolumeTemplates/0/spec/source/registry/platform", KubevirtVersion::V1_7),
    ("/spec/template/spec/domain/rebootPolicy", KubevirtVersion::V1_8),
    ("/spec/template/spec/serviceAccountName", KubevirtVersion::V1_9),
    ("/spec/template/spec/domain/devices/interfaces/0/portRanges", KubevirtVersion::V1_9),
];

pub(super) fn check(machine: &Value, objects: &[Value], version: KubevirtVersion, say: &mut impl FnMut(String)) {
    let spec = &machine["spec"];
    let guest = &spec["template"]["spec"];
    let domain = &guest["domain"];
    if present(spec, &["running", "runStrategy"]).len() != 1 {
        say("one of running and runStrategy".to_owned());
    }
    match (spec["instancetype"].is_null(), present(domain, &["cpu", "memory", "resources"]).as_slice()) {
        (true, ["cpu", "memory"]) | (false, []) => {}
        (_, found) => say(format!("sizes beside or without an instancetype: {found:?}")),
    }
    for (pointer, since) in NEW {
        if version < since && machine.pointer(pointer).is_some() {
            say(format!("`{pointer}` came with {since}"));
        }
    }
    // GRUB waits for a graphics card.
    if domain["devices"]["autoattachGraphicsDevice"] == false {
        say("has no graphics card".to_owned());
    }
    cards(guest, say);
    disks(machine, objects, say);
    probe(&guest["readinessProbe"], say);
    data_volumes(machine, say);
}

fn cards(guest: &Value, say: &mut impl FnMut(String)) {
    let networks = items(&guest["networks"]);
    let interfaces = items(&guest["domain"]["devices"]["interfaces"]);
    let names = |list: &[Value]| list.iter().map(|one| text(&one["name"]).to_owned()).collect::<Vec<_>>();
    let unique: BTreeSet<String> = names(networks).into_iter().collect();
    if names(networks) != names(interfaces) || unique.len() != networks.len() {
        say(format!("networks {:?}, interfaces {:?}", names(networks), names(interfaces)));
    }
    if networks.iter().filter(|network| !network["pod"].is_null()).count() != 1 {
        say("one network is the pod network".to_owned());
    }
    let mut macs = BTreeSet::new();
    for (interface, network) in interfaces.iter().zip(networks) {
        let name = text(&interface["name"]);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            say(format!("interface `{name}`"));
        }
        let bindings = present(interface, &BINDINGS);
        let pod = !network["pod"].is_null();
        if bindings != [if pod { "masquerade" } else { "bridge" }] {
            say(format!("interface `{name}`: {bindings:?}"));
        }
        // With a list, nothing else is forwarded.
        if !interface["ports"].is_null() {
            say(format!("interface `{name}` has a list of ports"));
        }
        if present(network, &["pod", "multus"]).len() != 1 || !pod && text(&network["multus"]["networkName"]).is_empty()
        {
            say(format!("network `{name}`: {network}"));
        }
        if let Some(mac) = interface["macAddress"].as_str() {
            let bytes: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
            let good = bytes.len() == 6 && bytes[0] & 3 == 2 && bytes != [2, 0, 0, 0, 0, 0];
            if !good || !macs.insert(mac) {
                say(format!("interface `{name}`: {mac}"));
            }
        }
    }
}

fn disks(machine: &Value, objects: &[Value], say: &mut impl FnMut(String)) {
    let guest = &machine["spec"]["template"]["spec"];
    let volumes = items(&guest["volumes"]);
    let disks = items(&guest["domain"]["devices"]["disks"]);
    let names = |list: &[Value]| list.iter().map(|one| text(&one["name"]).to_owned()).collect::<Vec<_>>();
    let unique: BTreeSet<String> = names(volumes).into_iter().collect();
    if names(volumes) != names(disks) || unique.len() != volumes.len() || !unique.iter().all(|name| is_label(name)) {
        say(format!("volumes {:?}, disks {:?}", names(volumes), names(disks)));
    }
    let mut orders = BTreeSet::new();
    for disk in disks {
        if present(disk, &TARGETS).len() != 1 {
            say(format!("disk {disk}"));
        }
        if let Some(order) = disk["bootOrder"].as_u64()
            && (order == 0 || !orders.insert(order))
        {
            say(format!("bootOrder {order}"));
        }
    }
    if disks.first().is_none_or(|first| first["bootOrder"] != 1) {
        say("boots from something else than its first disk".to_owned());
    }
    for volume in volumes {
        if present(volume, &SOURCES).len() != 1 {
            say(format!("volume {volume}"));
        }
        let image = &volume["containerDisk"];
        let pull = ["Always", "IfNotPresent", "Never"].contains(&text(&image["imagePullPolicy"]));
        if !image.is_null() && (!pull || !text(&image["image"]).contains("@sha256:")) {
            say(format!("image {image}"));
        }
        seed(&volume["cloudInitNoCloud"], objects, say);
    }
    if volumes.iter().filter(|volume| !volume["cloudInitNoCloud"].is_null()).count() != 1 {
        say("one volume is cloud-init's".to_owned());
    }
    if volumes.iter().filter(|volume| !volume["serviceAccount"].is_null()).count() > 1 {
        say("several volumes with a ServiceAccount".to_owned());
    }
}

/// Everything that cloud-init reads is in Secrets that are there, under the keys that KubeVirt looks for.
fn seed(seed: &Value, objects: &[Value], say: &mut impl FnMut(String)) {
    if seed.is_null() {
        return;
    }
    if let [inline, ..] = present(seed, &["userData", "userDataBase64", "networkData", "networkDataBase64"])[..] {
        say(format!("`{inline}` is no Secret"));
    }
    let has = |reference: &Value, key: &str| {
        let secrets = of_kind(objects, "Secret");
        secrets
            .iter()
            .any(|secret| secret["metadata"]["name"] == reference["name"] && secret["stringData"][key].is_string())
    };
    if !has(&seed["secretRef"], "userdata") {
        say("no Secret has its user-data".to_owned());
    }
    let network = &seed["networkDataSecretRef"];
    if !network.is_null() && !has(network, "networkdata") {
        say("no Secret has its network-config".to_owned());
    }
}

pub(super) fn probe(probe: &Value, say: &mut impl FnMut(String)) {
    if probe.is_null() {
        return;
    }
    let positive = |key: &str| probe[key].as_i64().is_some_and(|number| (1..=i32::MAX.into()).contains(&number));
    if present(probe, &HANDLERS).len() != 1
        || !["periodSeconds", "timeoutSeconds", "failureThreshold"].into_iter().all(positive)
    {
        say(format!("probe {probe}"));
    }
}

fn data_volumes(machine: &Value, say: &mut impl FnMut(String)) {
    let templates = items(&machine["spec"]["dataVolumeTemplates"]);
    let names: Vec<&Value> = templates.iter().map(|template| &template["metadata"]["name"]).collect();
    let volumes = items(&machine["spec"]["template"]["spec"]["volumes"]);
    let used: Vec<&Value> =
        volumes.iter().map(|volume| &volume["dataVolume"]["name"]).filter(|name| !name.is_null()).collect();
    if names != used {
        say(format!("templates make {names:?}, volumes use {used:?}"));
    }
    for template in templates {
        let spec = &template["spec"];
        let registry = &spec["source"]["registry"];
        let url = text(&registry["url"]);
        if !is_subdomain(text(&template["metadata"]["name"]))
            || spec["source"].as_object().is_none_or(|source| source.len() != 1)
            || !url.starts_with("docker://")
            || !url.contains("@sha256:")
            || !["pod", "node"].contains(&text(&registry["pullMethod"]))
            // CDI's own kind of Secret, which only its pod reads.
            || (registry["pullMethod"] == "node" && !registry["secretRef"].is_null())
        {
            say(format!("DataVolume {template}"));
        }
        if present(spec, &["storage", "pvc"]) != ["storage"]
            || quantity(&spec["storage"]["resources"]["requests"]["storage"]).is_none_or(|size| size < 8 << 30)
        {
            say(format!("DataVolume smaller than the image: {spec}"));
        }
        // CDI gives them to its pods, which are no machines.
        let labels = template["metadata"]["labels"].as_object();
        if labels.into_iter().flatten().any(|(key, _)| key.starts_with("labwright.dev/")) {
            say("a DataVolume has labels that select machines".to_owned());
        }
    }
}
