//! Media types of OCI and Docker objects. We write the OCI ones and read both.
//!
//! Source: image-spec, media-types.md; distribution, docs/spec/manifest-v2-2.md.

/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A gzip-compressed layer.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The empty JSON object, the config of an artifact that is no image.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// A software bill of materials in CycloneDX's JSON.
pub const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
/// An in-toto statement: who vouches for what, here how an image was built.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's gzip-compressed layer, the only kind that imgpkg takes for a bundle.
///
/// Source: imgpkg, pkg/imgpkg/bundle/locations_configs.go; go-containerregistry, pkg/v1/types/types.go.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// What kind of artifact a lab bundle is.
pub const LAB: &str = "application/vnd.labwright.lab.v1";
/// The config of a lab bundle.
pub const LAB_CONFIG: &str = "application/vnd.labwright.lab.config.v1+json";
/// What all versions of [`LAB`] begin with.
pub(crate) const LAB_FAMILY: &str = "application/vnd.labwright.lab.";
/// The config of a Helm chart: its `Chart.yaml` as JSON.
///
/// Source: helm, pkg/registry/constants.go.
pub const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
/// The files of a Helm chart.
pub const HELM_CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// Whether objects of this type list manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether objects of this type are manifests of one image or artifact.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}
