//! What a person finds who opens a bundle.

use std::fmt::Write as _;

use super::placeholders::Placeholders;
use super::{config, has_doors};
use crate::LockedLab;
use crate::manifests::{Manifests, Options};

/// What is filled in.
pub(super) struct Filled {
    pub(super) placeholders: Placeholders,
    /// Whether a quotation mark is.
    pub(super) quoted: bool,
    /// Whether there are Secrets at all.
    pub(super) secrets: bool,
}

pub(super) fn text(locked: &LockedLab, options: &Options, manifests: &Manifests, filled: &Filled) -> String {
    let lab = locked.lab();
    let mut out = format!("# {} {}\n\n", lab.title.as_ref().unwrap_or(&lab.name), lab.version);
    if let Some(description) = &lab.description {
        push(&mut out, format_args!("{}\n\n", description.trim()));
    }
    push(
        &mut out,
        format_args!(
            "A lab for a cluster with KubeVirt {} or later. Every image is named by its digest. One namespace is one\n\
             learner's session; here it is called `{}`.\n\n",
            options.version, options.namespace
        ),
    );
    out.push_str("| machine | image | ways in |\n| --- | --- | --- |\n");
    for machine in &lab.machines {
        let ways: Vec<String> = machine
            .access
            .iter()
            .map(|access| {
                let by = if config::is_kubevirts(&access.spec) { " (virtctl)" } else { "" };
                format!("{}{by}", access.name)
            })
            .collect();
        push(
            &mut out,
            format_args!("| {} | `{}` | {} |\n", machine.name, locked.image(machine).reference(), ways.join(", ")),
        );
    }
    if !manifests.warnings.is_empty() {
        out.push_str("\nWhat the cluster needs, and what to know:\n\n");
        for warning in &manifests.warnings {
            push(&mut out, format_args!("- {warning}\n"));
        }
    }
    let Filled { placeholders, quoted, secrets } = filled;
    let mut names: Vec<String> = lab.secrets.keys().map(|name| placeholders.secret(name)).collect();
    if *secrets {
        out.push_str(if lab.secrets.is_empty() { NO_VALUES } else { SECRETS });
        for name in lab.secrets.keys() {
            push(&mut out, format_args!("- `{}`\n", placeholders.variable(name)));
        }
    }
    if *quoted {
        let quote = placeholders.operator("quote");
        push(&mut out, format_args!("- `{}`, which is always `\"`: it keeps values texts\n", name_of(&quote)));
        names.push(quote);
    }
    out.push_str(&how(locked, filled, &names));
    out
}

/// Behind what the lab's author wrote: how it is applied.
fn how(locked: &LockedLab, filled: &Filled, names: &[String]) -> String {
    let Filled { placeholders, quoted, secrets } = filled;
    let lab = locked.lab();
    let mut out = "\n## Apply it\n\n".to_owned();
    out.push_str(match (secrets, names.is_empty()) {
        (false, _) => "With kubectl alone:\n\n    kubectl apply -f all.yaml\n",
        (true, true) => "With kubectl alone:\n\n    kubectl apply -f all.yaml -f secrets/secrets.yaml\n",
        (true, false) => KUBECTL,
    });
    out.push_str(if *secrets { KUSTOMIZE } else { KUSTOMIZE_ALONE });
    out.push_str(CONTROLLERS);
    if *quoted {
        out.push_str(&FLUX_QUOTE.replace("QUOTE", name_of(&placeholders.operator("quote"))));
    }
    if has_doors(locked) {
        let operator = |text: String, name: &str| text.replace(&format!("${{{name}}}"), &placeholders.operator(name));
        let names =
            ["host", "gateway", "gateway_namespace", "ingress_class", "tls_secret", "entry_point", "router_namespace"];
        out.push_str(&names.into_iter().fold(ROUTES.to_owned(), operator));
    } else {
        out = out.replace("components: [./bundle/secrets, ./bundle/routes/gateway]", "components: [./bundle/secrets]");
        out = out.replace("    components: [./bundle/routes/gateway]\n", "").replace(" ${host} …'", "'");
    }
    out.push_str(RELOCATE);
    let kept: Vec<_> =
        lab.machines.iter().filter(|machine| machine.vm().is_some_and(|vm| vm.settings.storage.is_some())).collect();
    if !kept.is_empty() {
        out.push_str(KEPT);
    }
    for machine in kept {
        let digest = &locked.image(machine).digest;
        push(
            &mut out,
            format_args!(
                "      - target: {{kind: VirtualMachine, name: {}}}\n        patch: '[{{\"op\": \"replace\", \"path\": \
                 \"/spec/dataVolumeTemplates/0/spec/source/registry/url\", \"value\": \"docker://NEW/REPOSITORY@{digest}\"}}]'\n",
                machine.name
            ),
        );
    }
    out.replace("NAMES", &names.join(" ")).replace("${host} …", &format!("{} …", placeholders.operator("host")))
}

/// The name in a placeholder.
fn name_of(placeholder: &str) -> &str {
    placeholder.trim_start_matches("${").trim_end_matches('}')
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}

const SECRETS: &str = "
## Secrets

The machines wait for the Secrets in `secrets/`, which have a placeholder for each of these values. They are a learner's own:
make them anew for each session, from printable ASCII without quotes, `\\` and `$`.

";

const NO_VALUES: &str = "
## Secrets

The machines wait for the Secrets in `secrets/`. No value of a learner's own is in them.
";

const KUBECTL: &str = "\
With kubectl alone (the values are in the environment; `envsubst` is told the names, since scripts have dollars of their own):

    kubectl apply -f all.yaml
    envsubst 'NAMES' < secrets/secrets.yaml | kubectl apply -f -
";

const KUSTOMIZE: &str = "
With kustomize, in a namespace of your own (each session has an overlay like this):

    # kustomization.yaml
    namespace: lab-alice
    resources: [./bundle]
    components: [./bundle/secrets, ./bundle/routes/gateway]

    kustomize build . | envsubst 'NAMES ${host} …' | kubectl apply -f -
";

const KUSTOMIZE_ALONE: &str = "
With kustomize, in a namespace of your own (each session has an overlay like this):

    # kustomization.yaml
    namespace: lab-alice
    resources: [./bundle]
    components: [./bundle/routes/gateway]

    kustomize build . | envsubst '${host} …' | kubectl apply -f -
";

const CONTROLLERS: &str = "
With Flux: an `OCIRepository` of this artifact, and a `Kustomization` with `path: ./`, `targetNamespace`, `components`, and
the values in `postBuild.substituteFrom`. With Argo CD: an application of the `oci://` source with `path: .`; its kustomize
options set namespace and components, but nothing there fills values in: bring the Secrets in another way, or take the chart and
give it all values. With Helm: the chart in `charts/` of the same repository makes and keeps the values.
";

const FLUX_QUOTE: &str = "
Flux gets the quotation mark from the Kustomization itself:

    postBuild: {substitute: {QUOTE: '\"'}}
";

const ROUTES: &str = "
## Browsers

Without a route, `kubectl port-forward` leads to a machine's Service. The components in `routes/` add host names
(`MACHINE-${host}`), for a Gateway (`${gateway}` in `${gateway_namespace}`), an ingress controller (`${ingress_class}`,
certificate in `${tls_secret}`) or Traefik (`${entry_point}`); `${router_namespace}` is the namespace of the pods that carry the
requests.
";

const RELOCATE: &str = "
## Another registry

`labwright copy` and `imgpkg copy` (the tag that ends with `-imgpkg`) bring the lab and all of its images to another registry, or
into one archive, with unchanged digests. Then let kustomize name the images there:

    images: [{name: OLD/REPOSITORY, newName: NEW/REPOSITORY}]
";

const KEPT: &str = "
A disk that is kept is copied from `docker://…`, which kustomize takes for no image:

    patches:
";
