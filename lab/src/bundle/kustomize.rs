//! What kustomize, Flux, Argo CD and imgpkg look for.

use labwright_document::yaml::{Map, write};

use super::placeholders::Placeholders;
use super::{Tree, has_doors, routed};
use crate::LockedLab;
use crate::manifests::{Manifests, Object, Options, render, to_yaml};

/// Where kustomize's own transformer for images finds none of KubeVirt's. Tested with kustomize 5.5: containerdisk.md, part 5.
const IMAGE_FIELDS: &str = "\
# Lets `images:` of a kustomization rewrite the images of virtual machines as well.
images:
  - kind: VirtualMachine
    path: spec/template/spec/volumes[]/containerDisk/image
  - kind: VirtualMachine
    path: spec/template/spec/domain/firmware/kernelBoot/container/image
";

pub(super) fn add(
    tree: &mut Tree,
    locked: &LockedLab,
    options: &Options,
    manifests: &Manifests,
    placeholders: &Placeholders,
) {
    let resources: Vec<String> = manifests.files.iter().map(|file| format!("manifests/{}", file.name)).collect();
    let root = Map::new()
        .with("apiVersion", "kustomize.config.k8s.io/v1beta1")
        .with("kind", "Kustomization")
        .with("resources", resources)
        .with("configurations", vec!["kustomizeconfig.yaml"])
        .with_filled("patches", unsubstituted(tree, manifests));
    tree.insert("kustomization.yaml".to_owned(), write(&root).into_bytes());
    tree.insert("kustomizeconfig.yaml".to_owned(), IMAGE_FIELDS.as_bytes().to_vec());
    tree.insert(".imgpkg/images.yml".to_owned(), images_lock(locked).into_bytes());
    if has_doors(locked) {
        for (name, with_routes) in routed(options, |name| placeholders.operator(name)) {
            component(tree, &format!("routes/{name}"), manifests, &render(locked, &with_routes));
        }
    }
}

/// Patches that keep Flux away from an author's dollars: to its postBuild every `${…}` is a variable, known or not, and
/// `$$` a dollar. What an operator fills in is never in the objects that have them.
///
/// Source: fluxcd/pkg `kustomize/kustomize_varsub.go`, `envsubst/parse/scan.go`.
fn unsubstituted(tree: &mut Tree, manifests: &Manifests) -> Vec<Map> {
    let mut named = Vec::new();
    for object in manifests.objects() {
        let text = write(object.body());
        if !text.contains("${") && !text.contains("$$") {
            continue;
        }
        let annotations = Map::new().with("kustomize.toolkit.fluxcd.io/substitute", "disabled");
        let metadata = Map::new()
            .with("name", object.name())
            .with_some("namespace", object.namespace())
            .with("annotations", annotations);
        let patch =
            Map::new().with("apiVersion", object.api_version()).with("kind", object.kind()).with("metadata", metadata);
        let file = format!("flux-{}-{}.yaml", object.kind().to_lowercase(), object.name());
        let why = "# Flux leaves the dollars of this machine as its author wrote them.\n";
        tree.insert(file.clone(), (why.to_owned() + &write(&patch)).into_bytes());
        named.push(Map::new().with("path", file));
    }
    named
}

/// A component that makes `plain` into `wanted`: what is new is a resource, what differs a patch.
fn component(tree: &mut Tree, dir: &str, plain: &Manifests, wanted: &Manifests) {
    let Difference { new, changed } = difference(plain, wanted);
    let mut patches = Vec::new();
    for object in changed {
        let name = format!("patch-{}-{}.yaml", object.kind().to_lowercase(), object.name());
        tree.insert(format!("{dir}/{name}"), to_yaml([object]).into_bytes());
        patches.push(Map::new().with("path", name));
    }
    let kustomization = Map::new()
        .with("apiVersion", "kustomize.config.k8s.io/v1alpha1")
        .with("kind", "Component")
        .with("resources", vec!["routes.yaml"])
        .with_filled("patches", patches);
    tree.insert(format!("{dir}/kustomization.yaml"), write(&kustomization).into_bytes());
    tree.insert(format!("{dir}/routes.yaml"), to_yaml(new).into_bytes());
}

/// What one rendering has that another has not.
pub(super) struct Difference<'a> {
    /// Objects that the other lacks.
    pub(super) new: Vec<&'a Object>,
    /// Objects that it has in another form.
    pub(super) changed: Vec<&'a Object>,
}

pub(super) fn difference<'a>(plain: &Manifests, wanted: &'a Manifests) -> Difference<'a> {
    let mut found = Difference { new: Vec::new(), changed: Vec::new() };
    for object in wanted.objects() {
        match plain.objects().find(|known| known.kind() == object.kind() && known.name() == object.name()) {
            None => found.new.push(object),
            Some(known) if known != object => found.changed.push(object),
            Some(_) => {}
        }
    }
    found
}

/// Every image by digest, for `imgpkg copy`.
///
/// Source: imgpkg `pkg/imgpkg/lockconfig/images_lock.go`.
fn images_lock(locked: &LockedLab) -> String {
    let mut references: Vec<String> = locked.images().values().map(crate::LockedImage::reference).collect();
    references.sort();
    references.dedup();
    let images: Vec<Map> = references.into_iter().map(|reference| Map::new().with("image", reference)).collect();
    let lock =
        Map::new().with("apiVersion", "imgpkg.carvel.dev/v1alpha1").with("kind", "ImagesLock").with("images", images);
    write(&lock)
}
