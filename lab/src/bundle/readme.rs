//! What a person finds who opens a bundle.

use std::fmt::Write as _;

use super::{config, has_doors};
use crate::LockedLab;
use crate::manifests::{Manifests, Options};

pub(super) fn text(locked: &LockedLab, options: &Options, manifests: &Manifests) -> String {
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
    out.push_str(SECRETS);
    for name in lab.secrets.keys() {
        push(&mut out, format_args!("- `{name}`\n"));
    }
    if lab.secrets.is_empty() {
        out.push_str("- none: `secrets/` can be applied as it is\n");
    }
    let placeholders: Vec<String> = lab.secrets.keys().map(|name| format!("${{{name}}}")).collect();
    out.push_str(&APPLY.replace("NAMES", &placeholders.join(" ")));
    if has_doors(locked) {
        out.push_str(ROUTES);
    }
    out.push_str(RELOCATE);
    out
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}

const SECRETS: &str = "
## Secrets

The machines wait for the Secrets in `secrets/`, which have a placeholder for each of these values. They are a learner's own:
make them anew for each session.

";

const APPLY: &str = "
## Apply it

With kubectl alone (the values are in the environment; `envsubst` is told the names, since scripts have dollars of their own):

    kubectl apply -f all.yaml
    envsubst 'NAMES' < secrets/secrets.yaml | kubectl apply -f -

With kustomize, in a namespace of your own (each session has an overlay like this):

    # kustomization.yaml
    namespace: lab-alice
    resources: [./bundle]
    components: [./bundle/secrets, ./bundle/routes/gateway]

    kustomize build . | envsubst 'NAMES ${host} …' | kubectl apply -f -

With Flux: an `OCIRepository` of this artifact, and a `Kustomization` with `path: ./`, `targetNamespace`, `components`, and
the values in `postBuild.substituteFrom`. With Argo CD: an application of the `oci://` source with `path: .`; its kustomize
options set namespace and components. With Helm: the chart in `charts/` of the same repository makes and keeps the values.
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
