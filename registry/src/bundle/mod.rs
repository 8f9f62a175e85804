//! Lab bundles: the files of a lab as one layer, under a manifest of our own and under those that other tools want.
//!
//! A bundle is one OCI image manifest whose `artifactType` is [`media_type::LAB`](crate::media_type::LAB). Its config is
//! JSON that this crate does not look into; its only layer is a gzip-compressed tar archive of regular files and their
//! directories. The same layer stands under a second manifest with Docker's media types, for imgpkg, and a Helm chart
//! may go with it. The bundle's manifest names both by digest, so what belongs together can be told wherever it is.
//!
//! In a layout and in a repository everything stands beside the bundle, whose tag is `TAG`: the image of each machine
//! as `TAG.MACHINE`, the manifest for imgpkg as `TAG-imgpkg`, and in a layout the chart as `TAG-chart`. In a registry
//! the chart is `REPOSITORY/charts/NAME:VERSION`, where Helm looks for it.
//!
//! No digest depends on where a bundle is.

mod names;
mod pack;
mod tarball;
mod unpack;

pub use names::InvalidName;
pub use pack::{BundlePackError, Chart, Contents, PackedBundle, pack};
pub(crate) use pack::{check_tags, tag_lab};
pub use unpack::{UnpackError, unpack};

use labwright_core::{Digest, ImageRef};

/// The most bytes of a bundle's layer, and of a chart's: 16 MiB.
pub const MAX_LAYER: u64 = 16 << 20;

/// The most bytes that such a layer may unpack to: 16 MiB.
pub const MAX_UNPACKED: u64 = 16 << 20;

/// The most files and directories in such a layer.
pub const MAX_MEMBERS: usize = 1000;

/// The tag of a machine's image beside a bundle.
pub fn machine_tag(tag: &str, machine: &str) -> String {
    format!("{tag}.{machine}")
}

/// The tag of a bundle's manifest for imgpkg.
pub fn imgpkg_tag(tag: &str) -> String {
    format!("{tag}-imgpkg")
}

/// The tag of a bundle's chart in a layout.
pub fn chart_tag(tag: &str) -> String {
    format!("{tag}-chart")
}

/// A Helm chart as the bundle's manifest names it: `NAME:TAG@DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChartRef {
    /// The chart's name, the last part of its repository.
    pub name: String,
    /// Its version as a tag, with `_` in the place of `+`.
    pub tag: String,
    /// The digest of its manifest.
    pub digest: Digest,
}

impl ChartRef {
    /// Reads `NAME:TAG@DIGEST`; `None` if it is something else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The name must do as the last part of a repository, and a stranger may have written it.
        let ImageRef::Registry(reference) = format!("localhost/{text}").parse().ok()? else { return None };
        let name = reference.repository;
        (!name.contains('/')).then_some(())?;
        Some(Self { name, tag: reference.tag?, digest: reference.digest? })
    }
}

impl std::fmt::Display for ChartRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}@{}", self.name, self.tag, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_named_in_one_way_only() {
        let digest = Digest::sha256(b"");
        let text = format!("web-101:1.0.0_build@{digest}");
        assert_eq!(ChartRef::parse(&text).unwrap().to_string(), text);
        for bad in [
            "web:1".to_owned(),
            format!("web@{digest}"),
            format!("../web:1@{digest}"),
            format!("a/web:1@{digest}"),
            format!("Web:1@{digest}"),
            format!("web:1/2@{digest}"),
            String::new(),
        ] {
            assert_eq!(ChartRef::parse(&bad), None, "{bad}");
        }
    }
}
