use std::collections::BTreeMap;

use labwright_core::Digest;

use super::names::InvalidName;
use super::tarball::{Tarball, TarballError};
use super::{ChartRef, chart_tag, imgpkg_tag, machine_tag, tarball};
use crate::annotations::{CREATED, IMGPKG_BUNDLE, LAB_CHART, LAB_IMGPKG, LAB_PART, TITLE, VERSION};
use crate::document::{ContainerConfig, Descriptor, ImageConfig, Index, Manifest, RootFs, to_bytes};
use crate::layout::{Layout, LayoutError, find_tag, set_tag};
use crate::media_type::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, HELM_CHART, HELM_CONFIG, LAB, LAB_CONFIG, OCI_LAYER_GZIP,
    OCI_MANIFEST,
};
use crate::time::rfc3339;

/// What a bundle is made of.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The tag in the layout; `NAME:VERSION` in the local store.
    pub tag: &'a str,
    /// The config, JSON that names the images.
    pub config: &'a [u8],
    /// The files by their paths.
    pub files: &'a BTreeMap<String, Vec<u8>>,
    /// The file name that `oras pull` gives to the layer (`web-101-1.0.0.tar.gz`).
    pub file_name: &'a str,
    /// Annotations of the bundle's manifest; the time of making and ours are added.
    pub annotations: &'a BTreeMap<String, String>,
    /// When it was made, in seconds since 1970; also the time of all files. Default 0.
    pub created: Option<u64>,
    /// A Helm chart of the lab.
    pub chart: Option<Chart<'a>>,
    /// The machines and the digests of their images; those that the layout has get a tag beside the bundle's.
    pub images: &'a [(String, Digest)],
}

/// What a Helm chart is made of.
#[derive(Debug, Clone, Copy)]
pub struct Chart<'a> {
    /// Its name: what its files lie below, and the last part of its repository.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// `Chart.yaml` as JSON.
    pub config: &'a [u8],
    /// The files by their paths, all below `NAME/`.
    pub files: &'a BTreeMap<String, Vec<u8>>,
    /// Annotations of its manifest; name, version and the time of making are added.
    pub annotations: &'a BTreeMap<String, String>,
}

/// A bundle in a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBundle {
    /// The bundle's manifest.
    pub bundle: Descriptor,
    /// The manifest over the same layer for imgpkg.
    pub imgpkg: Descriptor,
    /// The chart's manifest.
    pub chart: Option<Descriptor>,
    /// The layer with the files.
    pub layer: Descriptor,
}

/// A bundle could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum BundlePackError {
    /// A name that a file must not have.
    #[error("the name `{}` cannot be used in {archive}", name.escape_default())]
    Name {
        /// `the bundle` or `the chart`.
        archive: &'static str,
        /// The file.
        name: String,
        /// What is wrong.
        source: InvalidName,
    },
    /// More members than readers accept.
    #[error("{archive} has {count} files and directories; at most {} are allowed", super::MAX_MEMBERS)]
    TooManyMembers {
        /// `the bundle` or `the chart`.
        archive: &'static str,
        /// How many there are.
        count: usize,
    },
    /// More bytes than readers accept.
    #[error("{archive} has more than {limit} bytes")]
    TooLarge {
        /// `the bundle` or `the chart`.
        archive: &'static str,
        /// The most bytes that are allowed.
        limit: u64,
    },
    /// A file of the chart that is not below its name.
    #[error("the chart's file `{name}` is not below `{chart}/`")]
    OutsideChart {
        /// The file.
        name: String,
        /// The chart.
        chart: String,
    },
    /// The name or version cannot be part of a reference.
    #[error("`{name}` of version `{version}` cannot be the name of a chart in a registry")]
    ChartName {
        /// The chart's name.
        name: String,
        /// Its version.
        version: String,
    },
    /// The layout failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Packs a bundle with its manifest for imgpkg and its chart, and tags all of them in one step.
///
/// The digests depend on the contents, annotations and `created`, and on nothing else; `tag` and `images` do not count.
pub fn pack(layout: &Layout, contents: &Contents<'_>) -> Result<PackedBundle, BundlePackError> {
    let created = contents.created.unwrap_or(0);
    let files = archive("the bundle", contents.files, created)?;
    let chart = contents.chart.map(|chart| Ok::<_, BundlePackError>((chart_archive(&chart, created)?, chart)));
    let chart = chart.transpose()?;

    let guard = layout.begin_write()?;
    let layer = layout.add_bytes(OCI_LAYER_GZIP, &files.bytes)?;
    let imgpkg = add_imgpkg(layout, &layer, files.diff_id)?;
    let mut annotations = contents.annotations.clone();
    annotations.insert(CREATED.to_owned(), rfc3339(created));
    annotations.insert(LAB_IMGPKG.to_owned(), imgpkg.digest.to_string());
    let chart = match chart {
        None => None,
        Some(((archive, mut reference), chart)) => {
            let descriptor = add_chart(layout, &chart, &archive, created)?;
            reference.digest = descriptor.digest.clone();
            annotations.insert(LAB_CHART.to_owned(), reference.to_string());
            Some(descriptor)
        }
    };
    let mut named = layer.clone();
    named.annotations.insert(TITLE.to_owned(), contents.file_name.to_owned());
    let manifest = Manifest {
        annotations,
        artifact_type: Some(LAB.to_owned()),
        config: layout.add_bytes(LAB_CONFIG, contents.config)?,
        layers: vec![named],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    let mut bundle = layout.add_bytes(OCI_MANIFEST, &to_bytes(&manifest))?;
    bundle.artifact_type = Some(LAB.to_owned());

    let mut parts = vec![(imgpkg_tag(contents.tag), imgpkg.clone())];
    parts.extend(chart.iter().map(|chart| (chart_tag(contents.tag), chart.clone())));
    for (machine, digest) in contents.images {
        if let Some(image) = layout.find(digest)? {
            parts.push((machine_tag(contents.tag, machine), image));
        }
    }
    tag_lab(layout, contents.tag, &bundle, &parts)?;
    guard.close();
    Ok(PackedBundle { bundle, imgpkg, chart, layer })
}

/// Names a bundle and its parts in a layout, all in one step. Parts of a bundle that had the tag before lose theirs.
pub(crate) fn tag_lab(
    layout: &Layout,
    tag: &str,
    bundle: &Descriptor,
    parts: &[(String, Descriptor)],
) -> Result<(), LayoutError> {
    layout.update_index(|index| {
        check_tags(layout, index, tag, parts.iter().map(|(part, _)| part.as_str()))?;
        index.manifests.retain(|entry| entry.annotations.get(LAB_PART).is_none_or(|of| of != tag));
        for (part, descriptor) in parts {
            let mut descriptor = descriptor.clone();
            descriptor.annotations.insert(LAB_PART.to_owned(), tag.to_owned());
            set_tag(index, part, &descriptor);
        }
        set_tag(index, tag, bundle);
        Ok(())
    })?
}

/// Refuses tags whose use would take something away from an image or from another lab.
pub(crate) fn check_tags<'a>(
    layout: &Layout,
    index: &Index,
    tag: &str,
    parts: impl IntoIterator<Item = &'a str>,
) -> Result<(), LayoutError> {
    let is_lab = |entry: &Descriptor| {
        entry.artifact_type.as_deref() == Some(LAB) || layout.document(entry).is_ok_and(|document| document.is_lab())
    };
    let taken = |tag: &str, by| LayoutError::TagTaken { dir: layout.dir().to_owned(), tag: tag.to_owned(), by };
    if find_tag(index, tag).is_some_and(|entry| !is_lab(entry)) {
        return Err(taken(tag, "an image"));
    }
    for part in parts {
        if find_tag(index, part).is_some_and(is_lab) {
            return Err(taken(part, "another lab"));
        }
    }
    Ok(())
}

fn archive(archive: &'static str, files: &BTreeMap<String, Vec<u8>>, mtime: u64) -> Result<Tarball, BundlePackError> {
    tarball::write(files, mtime).map_err(|error| match error {
        TarballError::Name(name, source) => BundlePackError::Name { archive, name, source },
        TarballError::TooManyMembers(count) => BundlePackError::TooManyMembers { archive, count },
        TarballError::TooLarge(limit) => BundlePackError::TooLarge { archive, limit },
    })
}

/// The archive of a chart, and its reference with a digest that is not yet known.
fn chart_archive(chart: &Chart<'_>, mtime: u64) -> Result<(Tarball, ChartRef), BundlePackError> {
    let below = format!("{}/", chart.name);
    if let Some(name) = chart.files.keys().find(|name| !name.starts_with(&below)) {
        return Err(BundlePackError::OutsideChart { name: name.clone(), chart: chart.name.to_owned() });
    }
    // Helm writes `+`, which tags cannot have, as `_`.
    let tag = chart.version.replace('+', "_");
    let reference = ChartRef::parse(&format!("{}:{tag}@{}", chart.name, Digest::sha256(b"")));
    let reference = reference
        .ok_or_else(|| BundlePackError::ChartName { name: chart.name.to_owned(), version: chart.version.to_owned() })?;
    Ok((archive("the chart", chart.files, mtime)?, reference))
}

/// Source: imgpkg, pkg/imgpkg/bundle/bundle.go and locations_configs.go: a label, and one layer of Docker's type.
fn add_imgpkg(layout: &Layout, layer: &Descriptor, diff_id: Digest) -> Result<Descriptor, LayoutError> {
    let config = ImageConfig {
        // Nothing runs in it, but tools that unpack images want a platform to be named.
        architecture: "amd64".to_owned(),
        config: ContainerConfig {
            labels: [(IMGPKG_BUNDLE.to_owned(), "true".to_owned())].into(),
            ..ContainerConfig::default()
        },
        created: Some(rfc3339(0)),
        history: Vec::new(),
        os: "linux".to_owned(),
        rootfs: RootFs { diff_ids: vec![diff_id], kind: "layers".to_owned() },
    };
    let manifest = Manifest {
        annotations: BTreeMap::new(),
        artifact_type: None,
        config: layout.add_bytes(DOCKER_CONFIG, &to_bytes(&config))?,
        layers: vec![Descriptor::new(DOCKER_LAYER_GZIP, layer.digest.clone(), layer.size)],
        media_type: Some(DOCKER_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    layout.add_bytes(DOCKER_MANIFEST, &to_bytes(&manifest))
}

/// Source: helm, pkg/registry/client.go, `Push`.
fn add_chart(layout: &Layout, chart: &Chart<'_>, archive: &Tarball, created: u64) -> Result<Descriptor, LayoutError> {
    let mut annotations = chart.annotations.clone();
    annotations.insert(CREATED.to_owned(), rfc3339(created));
    annotations.insert(TITLE.to_owned(), chart.name.to_owned());
    annotations.insert(VERSION.to_owned(), chart.version.to_owned());
    let manifest = Manifest {
        annotations,
        artifact_type: None,
        config: layout.add_bytes(HELM_CONFIG, chart.config)?,
        layers: vec![layout.add_bytes(HELM_CHART, &archive.bytes)?],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    layout.add_bytes(OCI_MANIFEST, &to_bytes(&manifest))
}
