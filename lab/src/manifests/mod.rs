//! Kubernetes manifests of one session of a lab: plain data of plain data, the same on any day.
//!
//! [`render`] gives everything but the session's secrets, so that what it gives may lie in a repository or a bundle.
//! [`session_secrets`] gives those, with values or with placeholders. What is applied first is first.

mod context;
mod interfaces;
mod namespace;
mod object;
mod options;
mod pod;
mod policies;
mod probe;
mod quota;
mod rbac;
mod routes;
mod secrets;
mod services;
mod vm;
mod volumes;
mod warnings;

pub use object::{ManifestFile, Object, to_yaml};
pub use options::{Dns, Options, PodSecurity, PullPolicy, Router, Routes, ServiceKind, Tls};
pub use routes::Address;
pub use secrets::InvalidSession;

use crate::LockedLab;
use crate::resolved::MachineKind;
use context::Context;

/// The manifests of a session, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifests {
    /// In the order in which they are applied, which is that of their names.
    pub files: Vec<ManifestFile>,
    /// What the cluster must have for them, and what of the lab they cannot say.
    pub warnings: Vec<String>,
}

impl Manifests {
    /// All objects, in the order in which they are applied.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.files.iter().flat_map(|file| &file.objects)
    }
}

/// The manifests of a session of a lab. No secret's value is in them: they name the Secrets that [`session_secrets`]
/// gives.
pub fn render(lab: &LockedLab, options: &Options) -> Manifests {
    let context = Context { locked: lab, options };
    let file = |name: &str, objects: Vec<Object>| ManifestFile { name: name.to_owned(), objects };
    let machines = lab.lab().machines.iter().map(|machine| {
        let object = match &machine.kind {
            MachineKind::Vm(vm) => vm::virtual_machine(context, machine, vm),
            MachineKind::Container(container) => pod::pod(context, machine, container),
        };
        file(&format!("50-{}.yaml", machine.name), vec![object])
    });
    let mut files = vec![
        file("00-namespace.yaml", vec![namespace::namespace(context)]),
        file("10-rbac.yaml", rbac::rbac(context)),
        file("20-quota.yaml", vec![quota::quota(context)]),
        file("30-policies.yaml", policies::policies(context)),
        file("40-services.yaml", services::services(context)),
    ];
    files.extend(machines);
    files.push(file("60-routes.yaml", routes::routes(context)));
    files.retain(|file| !file.objects.is_empty());
    Manifests { files, warnings: warnings::warnings(context) }
}

/// The Secrets of a session: what cloud-init gives each virtual machine, and the variables of containers in which secrets
/// stand. They go between the services and the machines (`45-secrets.yaml`).
///
/// `value` gives the value of the secret of a name, or a placeholder for it (`${flag}`, `{{ .Values.flag }}`). The texts
/// are written for YAML around it, so a placeholder needs to be printable ASCII without `"` and `\`, and what replaces it too.
pub fn session_secrets(
    lab: &LockedLab,
    options: &Options,
    value: &dyn Fn(&str) -> String,
) -> Result<Vec<Object>, InvalidSession> {
    secrets::secrets(Context { locked: lab, options }, value)
}

/// What a lab must not be given with these options: the operator's own Secrets, which its author could read in a machine.
pub fn forbidden(lab: &LockedLab, options: &Options) -> Vec<String> {
    let tls = options.routes.as_ref().and_then(|routes| match &routes.router {
        Router::Ingress { tls: Tls::Secret(secret), .. } | Router::Traefik { tls: Tls::Secret(secret), .. } => {
            Some(secret)
        }
        _ => None,
    });
    let own: Vec<&String> = options.pull_secret.iter().chain(tls).collect();
    let mut found = Vec::new();
    for machine in &lab.lab().machines {
        for volume in machine.vm().map(|vm| vm.settings.volumes.as_slice()).unwrap_or_default() {
            if let crate::resolved::VolumeSource::Secret(secret) = &volume.source
                && own.contains(&secret)
            {
                found.push(format!(
                    "machine `{}` would be given the Secret `{secret}`, which is the operator's",
                    machine.name
                ));
            }
        }
    }
    found
}

/// Where browsers find the doors of the machines, if there are routes; in the order of the lab, each machine's front door
/// before its other ports.
pub fn addresses(lab: &LockedLab, options: &Options) -> Vec<Address> {
    routes::addresses(Context { locked: lab, options })
}
