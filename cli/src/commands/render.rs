//! The manifests of a lab.

use std::path::Path;

use labwright_core::ImageRef;
use labwright_lab::manifests::{
    self, Object, Options, PodSecurity, PullPolicy, Router, Routes, ServiceKind, Tls, session_secrets, to_yaml,
};
use labwright_lab::resolved::KubevirtVersion;
use labwright_lab::{LockedLab, is_label, is_reserved_namespace};
use rand::Rng as _;
use serde::Serialize;

use super::documents::{self, Document};
use super::lab_file::load_lab;
use super::lab_images::{Make, gather, is_local, locked};
use super::published;
use crate::args::{Build, Cluster, Dns, Render, RouteKind, ServiceChoice, WithSecrets};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The file of a session's secrets, between the services and the machines.
const SECRETS: &str = "45-secrets.yaml";

/// The answer of `render -o`. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Answer {
    /// The files, in the order in which they are applied.
    files: Vec<String>,
}

/// Writes the manifests of a lab.
pub(super) fn run(args: &Render, context: &Context<'_>) -> Result<(), CommandError> {
    let lab = find(args, context)?;
    let options = options(args, &lab)?;
    if let Some(found) = manifests::forbidden(&lab, &options).into_iter().next() {
        return Err(CommandError::sentence(Kind::Input, found)
            .hint("give the operator's Secret another name, or refuse the lab"));
    }
    let manifests = manifests::render(&lab, &options);
    for warning in &manifests.warnings {
        context.ui.warning(warning);
    }
    let secrets = secrets(args.secrets, &lab, &options)?;
    let mut files: Vec<(String, String, bool)> =
        manifests.files.iter().map(|file| (file.name.clone(), file.yaml(), false)).collect();
    if let Some(objects) = &secrets {
        files.push((SECRETS.to_owned(), to_yaml(objects), args.secrets == WithSecrets::New));
        files.sort();
    }
    let Some(dir) = &args.output else {
        let texts: Vec<&str> = files.iter().map(|(_, text, _)| text.as_str()).collect();
        return context.ui.data(texts.join("---\n").trim_end());
    };
    write(dir, &files)?;
    let answer = Answer { files: files.into_iter().map(|(name, ..)| name).collect() };
    context.ui.note(format!("wrote {} files into {}", answer.files.len(), dir.display()));
    context.ui.result(&answer, || answer.files.join("\n"))
}

/// The lab in a directory, or a published one.
fn find(args: &Render, context: &Context<'_>) -> Result<LockedLab, CommandError> {
    let path = Path::new(&args.lab);
    if !path.exists() {
        let reference: ImageRef = args.lab.parse().map_err(|error: labwright_core::InvalidImageRef| {
            CommandError::new(Kind::Usage, error)
                .context(format!("`{}` is neither there nor a reference to a published lab", args.lab))
        })?;
        if !args.set.is_empty() {
            let text = "a published lab has the values that it was published with";
            return Err(CommandError::sentence(Kind::Usage, text).hint("--set is for a lab in a directory"));
        }
        return published::open(&reference, args.repository.as_deref(), &args.registries, context);
    }
    let Document::Lab(file) = documents::find(path)? else {
        let text = format!("{} is a recipe, and only a lab has manifests", path.display());
        return Err(CommandError::sentence(Kind::Input, text));
    };
    let lab = load_lab(&file, &args.set)?;
    super::show_warnings(&lab.warnings, context);
    let images = gather(&lab, &Build::existing(path, &args.registries), Make::Nothing, context)?;
    if args.repository.is_none() && images.values().any(is_local) {
        let text = "the lab's images are in the local store, from which no cluster pulls";
        return Err(CommandError::sentence(Kind::Usage, text).hint(
            "say where they will be with --repository HOST/REPOSITORY, or `labwright push` the lab and render that",
        ));
    }
    let repository = args.repository.clone().unwrap_or_default();
    if !repository.is_empty() {
        published::repository(&repository)?;
    }
    locked(lab, &images, &repository)
}

fn secrets(what: WithSecrets, lab: &LockedLab, options: &Options) -> Result<Option<Vec<Object>>, CommandError> {
    let made: std::collections::BTreeMap<&str, String> = lab
        .lab()
        .secrets
        .iter()
        // Seeded by the system, and made for this: rand documents it as cryptographically secure.
        .map(|(name, spec)| (name.as_str(), spec.make(|below| rand::rng().random_range(0..below))))
        .collect();
    let objects = match what {
        WithSecrets::None => return Ok(None),
        WithSecrets::Template => session_secrets(lab, options, &|name| format!("${{{name}}}")),
        WithSecrets::New => session_secrets(lab, options, &|name| made[name].clone()),
    };
    objects.map(Some).map_err(|error| CommandError::new(Kind::Input, error))
}

/// Writes the files; those of an earlier rendering that are not among them are the user's to remove.
fn write(dir: &Path, files: &[(String, String, bool)]) -> Result<(), CommandError> {
    let fail = |source| CommandError::new(Kind::Host, source);
    fs_err::create_dir_all(dir).map_err(fail)?;
    for (name, text, is_secret) in files {
        let mode = if *is_secret { 0o600 } else { 0o644 };
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
            .tempfile_in(dir)
            .map_err(fail)?;
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(fail)?;
        file.persist(dir.join(name)).map_err(|error| fail(error.error))?;
    }
    Ok(())
}

/// What the command line says, as the lab's renderer takes it.
fn options(args: &Render, lab: &LockedLab) -> Result<Options, CommandError> {
    let cluster = &args.cluster;
    let version = args.kubevirt.or(lab.lab().kubevirt_version).unwrap_or(KubevirtVersion::ALL[0]);
    let namespace = args.namespace.clone().unwrap_or_else(|| lab.lab().name.clone());
    if !is_label(&namespace, 63) {
        let text = format!("`{namespace}` is not a name of a namespace (small letters, digits and `-`, at most 63)");
        return Err(CommandError::sentence(Kind::Usage, text));
    }
    let others = [&cluster.kubevirt_namespace, &cluster.cdi_namespace];
    if is_reserved_namespace(&namespace)
        || others.contains(&&namespace)
        || cluster.router_namespace.as_ref() == Some(&namespace)
    {
        let text = format!("`{namespace}` is a namespace of the cluster, and a session has one of its own");
        return Err(CommandError::sentence(Kind::Usage, text).hint("give the session's with --namespace"));
    }
    let clients = cluster.client_ranges.clone();
    if cluster.service == ServiceChoice::ClusterIp && !clients.is_empty() {
        return Err(CommandError::sentence(Kind::Usage, "--client-range is for node ports and load balancers")
            .hint("add --service node-port or --service load-balancer"));
    }
    Ok(Options {
        routes: routes(cluster)?,
        service: match cluster.service {
            ServiceChoice::ClusterIp => ServiceKind::ClusterIp,
            ServiceChoice::NodePort => ServiceKind::NodePort { clients },
            ServiceChoice::LoadBalancer => ServiceKind::LoadBalancer { clients },
        },
        pull_secret: cluster.pull_secret.clone(),
        pull_policy: if cluster.pull_always { PullPolicy::Always } else { PullPolicy::IfNotPresent },
        pod_security: if cluster.restricted { PodSecurity::Restricted } else { PodSecurity::Baseline },
        dns: match cluster.dns {
            Dns::KubeDns => manifests::Dns::KubeDns,
            Dns::NodeLocal(address) => manifests::Dns::NodeLocal(address),
            Dns::OpenShift => manifests::Dns::OpenShift,
        },
        kubevirt_namespace: cluster.kubevirt_namespace.clone(),
        cdi_namespace: cluster.cdi_namespace.clone(),
        ..Options::new(version, namespace)
    })
}

fn routes(cluster: &Cluster) -> Result<Option<Routes>, CommandError> {
    let Some(kind) = cluster.routes else { return Ok(None) };
    let needed = |value: &Option<String>, option: &str| {
        value.clone().ok_or_else(|| CommandError::sentence(Kind::Usage, format!("these routes need {option}")))
    };
    let host = needed(&cluster.host, "--host HOST")?;
    if host.len() > 253 - 38 || !host.split('.').all(|part| is_label(part, 63)) {
        return Err(CommandError::sentence(Kind::Usage, format!("`{host}` is not a host name")));
    }
    let tls = match cluster.tls.as_str() {
        "off" => Tls::Off,
        "default" => Tls::Default,
        secret => Tls::Secret(secret.to_owned()),
    };
    let router = match kind {
        RouteKind::Gateway => {
            let written = needed(&cluster.gateway, "--gateway NAMESPACE/NAME")?;
            let mut parts = written.splitn(3, '/');
            let (namespace, name, section) = (parts.next(), parts.next(), parts.next());
            let (Some(namespace), Some(name)) = (namespace, name) else {
                let text = format!("`{written}` is not a Gateway: write NAMESPACE/NAME or NAMESPACE/NAME/LISTENER");
                return Err(CommandError::sentence(Kind::Usage, text));
            };
            Router::Gateway {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                section: section.map(str::to_owned),
            }
        }
        RouteKind::Ingress => Router::Ingress { class: cluster.ingress_class.clone(), tls },
        RouteKind::Traefik => Router::Traefik { entry_point: cluster.entry_point.clone(), tls },
    };
    Ok(Some(Routes { host, namespace: needed(&cluster.router_namespace, "--router-namespace NAMESPACE")?, router }))
}
