//! What a lab asks of a cluster that not every cluster has.

use labwright_core::Arch;

use super::context::Context;
use super::{Dns, PodSecurity, Router, ServiceKind, Tls, routes, volumes};
use crate::resolved::{KubevirtVersion, Machine, TypeKind, Vm, VolumeSource};

/// The longest label of a host name, by DNS.
const LONGEST_LABEL: usize = 63;

pub(super) fn warnings(context: Context<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for machine in &context.lab().machines {
        match machine.vm() {
            Some(vm) => virtual_machine(context, machine, vm, &mut warnings),
            None => container(context, machine, &mut warnings),
        }
        any_machine(context, machine, &mut warnings);
    }
    networks(context, &mut warnings);
    session(context, &mut warnings);
    warnings
}

fn virtual_machine(context: Context<'_>, machine: &Machine, vm: &Vm, warnings: &mut Vec<String>) {
    let name = &machine.name;
    let settings = &vm.settings;
    for (what, word) in [(&settings.instancetype, "instancetype"), (&settings.preference, "preference")] {
        let Some(what) = what else { continue };
        let place = match what.kind {
            TypeKind::Cluster => "the cluster",
            TypeKind::Namespace => "the session's namespace",
        };
        warnings.push(format!("machine `{name}`: {place} must have the {word} `{}`", what.name));
    }
    if settings.instancetype.is_some() {
        warnings.push(format!(
            "machine `{name}`: what its instancetype takes is not known here, so the quota leaves out CPU and memory"
        ));
    }
    if let Some(storage) = &settings.storage {
        if storage.size.is_none() && volumes::image_size(context, machine).is_none() {
            warnings.push(format!(
                "machine `{name}`: neither the lab nor the image says how large the disk is, so {} is asked for",
                volumes::UNKNOWN_SIZE
            ));
        }
        warnings.push(format!("machine `{name}`: its disk needs CDI and a StorageClass in the cluster"));
    }
    for volume in &settings.volumes {
        let (kind, object) = match &volume.source {
            VolumeSource::EmptyDisk(_) => continue,
            VolumeSource::Ephemeral(object) | VolumeSource::Claim(object) => ("PersistentVolumeClaim", object),
            VolumeSource::ConfigMap(object) => ("ConfigMap", object),
            VolumeSource::Secret(object) => ("Secret", object),
            VolumeSource::ServiceAccount(object) => ("token of the ServiceAccount", object),
        };
        warnings.push(format!("machine `{name}`: it is given the {kind} `{object}` of the session's namespace"));
    }
    let accounts =
        settings.volumes.iter().filter(|volume| matches!(volume.source, VolumeSource::ServiceAccount(_))).count();
    if accounts > 1 {
        warnings.push(format!("machine `{name}`: KubeVirt takes one volume with a ServiceAccount, not {accounts}"));
    }
    let arch = context.arch(machine);
    if context.options.version < KubevirtVersion::V1_8 && arch.is_some_and(|arch| arch != Arch::Amd64) {
        warnings.push(format!(
            "machine `{name}`: before KubeVirt 1.8, the feature gate MultiArchitecture must be on where virt-api runs on \
             another architecture"
        ));
    }
}

fn container(context: Context<'_>, machine: &Machine, warnings: &mut Vec<String>) {
    let name = &machine.name;
    for attached in context.attached(machine).iter().filter(|attached| attached.address.is_some()) {
        warnings.push(format!(
            "machine `{name}`: its address on the network `{}` needs an attachment that declares the capability `ips`",
            attached.network
        ));
    }
    if context.options.pod_security == PodSecurity::Restricted {
        warnings.push(format!("machine `{name}`: under `restricted` its image must not need root"));
    }
}

fn any_machine(context: Context<'_>, machine: &Machine, warnings: &mut Vec<String>) {
    let name = &machine.name;
    for interface in &machine.interfaces {
        let Some(network) = context.lab().network(&interface.network) else { continue };
        let attached = network.attachment.is_some();
        match interface.address {
            Some(address) if !attached => warnings.push(format!(
                "machine `{name}`: on the network `{}` it has a name and not the address {address}: addresses need an \
                 attachment",
                network.name
            )),
            None if attached => warnings.push(format!(
                "machine `{name}`: on the network `{}` it has the address that the attachment gives",
                network.name
            )),
            _ => {}
        }
    }
}

fn networks(context: Context<'_>, warnings: &mut Vec<String>) {
    for network in &context.lab().networks {
        let Some(attachment) = &network.attachment else { continue };
        warnings.push(format!(
            "network `{}`: needs Multus and the NetworkAttachmentDefinition `{attachment}`; NetworkPolicies do not hold on \
             it, and sessions of this lab that share it have the same MAC addresses and fixed addresses there",
            network.name
        ));
    }
    let internet = context.lab().networks.iter().any(|network| network.internet);
    if internet && context.options.dns == Dns::KubeDns {
        warnings.push(
            "networks with internet access exclude link-local addresses: where nodes run NodeLocal DNSCache, choose that \
             name server"
                .to_owned(),
        );
    }
}

fn session(context: Context<'_>, warnings: &mut Vec<String>) {
    let options = context.options;
    let vms = context.lab().machines.iter().any(|machine| machine.vm().is_some());
    if options.pod_security == PodSecurity::Restricted && vms {
        warnings.push(
            "`restricted` lets virtual machines start only where KubeVirt has \
             seccompConfiguration.virtualMachineInstanceProfile set"
                .to_owned(),
        );
    }
    let kind = match options.service {
        ServiceKind::ClusterIp => None,
        ServiceKind::NodePort { .. } => Some("node ports"),
        ServiceKind::LoadBalancer { .. } => Some("load balancers"),
    };
    if let (Some(kind), Some([])) = (kind, options.service.clients()) {
        warnings.push(format!("{kind} without a range of clients: nobody comes to the doors by them"));
    }
    if let Some(expires) = context.lab().session.expires {
        warnings.push(format!(
            "nothing on the cluster ends the session after {} minutes by itself: delete the namespace, or let something read \
             its annotation labwright.dev/expires-after",
            expires.as_secs() / 60
        ));
    }
    let Some(routes) = &options.routes else { return };
    if let Router::Ingress { tls: Tls::Off, .. } | Router::Traefik { tls: Tls::Off, .. } = routes.router {
        warnings.push("without TLS, passwords of the front doors travel in clear".to_owned());
    }
    let addresses = routes::addresses(context);
    let open: Vec<String> =
        addresses.iter().filter(|address| !address.guarded).map(|address| address.host.clone()).collect();
    if !open.is_empty() {
        warnings.push(format!("no password of ours is in front of {}", open.join(", ")));
    }
    for address in addresses {
        let label = address.host.split('.').next().unwrap_or_default();
        // A placeholder's length says nothing.
        if label.len() > LONGEST_LABEL && !label.contains(['$', '{']) {
            warnings.push(format!("`{label}` is longer than the {LONGEST_LABEL} characters of a part of a host name"));
        }
    }
}
