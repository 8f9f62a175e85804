//! Copying a whole lab: its images, its chart and its bundle, bytes and digests unchanged.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use labwright_core::{Cancel, Digest, Event, ImageRef, Registry, Reporter};

use super::copy::{add_documents, finish_archive, list_referrers, put, work_dir};
use super::lab::{lab_manifest, named_parts};
use super::source::{MAX_DOCUMENTS, Parts, Place, Source};
use super::transfer::{Job, Sink};
use super::{Copied, Images, ImagesError, LabError};
use crate::bundle::{ChartRef, chart_tag, check_tags, imgpkg_tag, machine_tag, tag_lab};
use crate::document::{Descriptor, Document};
use crate::layout::{Layout, WriteGuard};
use crate::media_type::LAB;
use crate::remote::{Repository, size_warnings};

/// An image that a lab names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabImage {
    /// The machine that runs it.
    pub machine: String,
    /// Where it is, if it is not beside the bundle.
    pub reference: ImageRef,
    /// Its digest, which decides.
    pub digest: Digest,
}

/// What the copy of a lab did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedLab {
    /// The bundle and its tag; the counts are those of all parts together.
    pub bundle: Copied,
    /// Everything else: its name in the target, and its digest.
    pub parts: Vec<(String, Digest)>,
}

/// Where a lab is written to.
enum Target {
    Layout { layout: Layout, store: bool, guard: WriteGuard },
    Archive { file: PathBuf, layout: Layout, work: tempfile::TempDir },
    Registry { repository: Box<Repository>, charts: Option<Box<Repository>> },
}

impl Target {
    /// Where the blobs of a part go.
    fn sink(&self, part: &Part) -> Sink {
        match self {
            Self::Layout { layout, .. } => Sink::Layout(layout.clone()),
            Self::Archive { layout, .. } => Sink::Archive(layout.clone()),
            Self::Registry { .. } => {
                Sink::Registry(Box::new(self.repository(part).expect("this target is a registry").clone()))
            }
        }
    }

    /// The repository of a part, in a registry.
    fn repository(&self, part: &Part) -> Option<&Repository> {
        match self {
            Self::Registry { charts: Some(charts), .. } if part.is_chart => Some(charts),
            Self::Registry { repository, .. } => Some(repository),
            Self::Layout { .. } | Self::Archive { .. } => None,
        }
    }
}

/// One part of a lab that was found.
struct Part {
    source: Source,
    parts: Parts,
    /// Its tag in the target, whole.
    tag: String,
    is_chart: bool,
}

/// The tags of a lab in its target.
struct Tags {
    bundle: String,
    imgpkg: String,
    chart: Option<String>,
    machines: Vec<String>,
}

impl Images {
    /// Copies a lab with everything that it needs: push, pull, and everything between.
    ///
    /// `bundle` is the digest of its manifest, as [`inspect_lab`](Self::inspect_lab) gave it, and `images` is what its
    /// config names. Each image is taken from beside the bundle, else from where its reference says. The manifest for
    /// imgpkg and the chart come along; where the source lacks them, there is a warning. So does what refers to any of
    /// them (signatures, lists of contents). Where things are in the target says [`bundle`](crate::bundle); without a
    /// tag, it is the source's. An archive is replaced, and holds this lab only.
    ///
    /// All digests stay. Blobs that the target has are not transferred; all blobs come before the documents that name
    /// them, and the bundle's tag comes last, so that a copy that breaks off leaves no bundle that lacks anything. No tag
    /// is taken away from an image or from another lab. Progress is told as in [`copy`](Self::copy).
    pub async fn copy_lab(
        &self,
        source: &ImageRef,
        bundle: &Digest,
        target: &ImageRef,
        images: &[LabImage],
        reporter: &Arc<dyn Reporter>,
        cancel: &Cancel,
    ) -> Result<CopiedLab, ImagesError> {
        let home = self.open_lab(source, bundle, cancel).await?;
        let manifest = lab_manifest(&home, home.document(&home.root, cancel).await?.1)?;
        let (imgpkg, chart) = named_parts(&home, &manifest)?;
        let tags = tags(target, &home, chart.as_ref(), images)?;

        let mut found = Vec::new();
        for (image, tag) in images.iter().zip(&tags.machines) {
            let (source, parts) = self.lab_image(&home, image, cancel).await?;
            found.push(Part { source, parts, tag: tag.clone(), is_chart: false });
        }
        let mut optional = Vec::new();
        if let Some(digest) = &imgpkg {
            optional.push(("manifest for imgpkg", home.at(digest, cancel).await?, tags.imgpkg.clone(), false));
        }
        if let (Some(chart), Some(tag)) = (&chart, &tags.chart) {
            optional.push(("Helm chart", self.chart(&home, chart, cancel).await?, tag.clone(), true));
        }
        for (what, source, tag, is_chart) in optional {
            if let Some(source) = source {
                let parts = source.parts(true, cancel).await?;
                found.push(Part { source, parts, tag, is_chart });
            } else {
                reporter.event(Event::Warning(format!("`{}` lacks the lab's {what}: it is not copied", home.name)));
            }
        }
        // The bundle is the last of all.
        let parts = home.parts(true, cancel).await?;
        found.push(Part { source: home, parts, tag: tags.bundle.clone(), is_chart: false });
        let documents = found.iter().map(|part| part.parts.bytes).sum::<usize>();
        if documents > MAX_DOCUMENTS {
            return Err(ImagesError::TooManyDocuments { place: source.to_string() });
        }
        let target = self.lab_target(target, bundle, chart.as_ref())?;
        check_target(&target, &found, reporter, cancel).await?;

        let mut copied = Copied::new(found.last().expect("the bundle is in it").source.root.clone());
        let jobs = jobs(&target, &found);
        if let Target::Registry { repository, .. } = &target {
            for warning in size_warnings(repository.registry(), jobs.iter().map(|job| job.blob.size)) {
                reporter.event(Event::Warning(warning));
            }
        }
        let outside = self.transfers(jobs, &mut copied, reporter, cancel).await?;
        let mut parts: Vec<_> =
            found.iter().map(|part| (name(&target, part), part.source.root.digest.clone())).collect();
        parts.pop();
        match target {
            Target::Layout { layout, store, guard } => {
                for part in &found {
                    add_documents(&layout, &part.parts)?;
                    if store {
                        list_referrers(&layout, &part.parts)?;
                    }
                }
                tag_all(&layout, &found)?;
                guard.close();
            }
            Target::Archive { file, layout, work } => {
                for part in &found {
                    add_documents(&layout, &part.parts)?;
                }
                tag_all(&layout, &found)?;
                finish_archive(layout, work, file, outside, cancel).await?;
            }
            Target::Registry { .. } => put_all(&target, &found, cancel).await?,
        }
        copied.tag = Some(tags.bundle);
        Ok(CopiedLab { bundle: copied, parts })
    }

    /// Opens exactly this bundle, though the tag may name another one by now.
    async fn open_lab(&self, lab: &ImageRef, bundle: &Digest, cancel: &Cancel) -> Result<Source, ImagesError> {
        let home = self.open(&with_digest(lab, bundle), cancel).await?;
        let tag = home.tag.clone();
        let place = home.name.clone();
        let found = if home.root.digest == *bundle { Some(home) } else { home.at(bundle, cancel).await? };
        let mut home = found.ok_or_else(|| LabError::Gone { place, digest: bundle.clone() })?;
        home.tag = tag;
        home.name = lab.to_string();
        home.root = Descriptor { artifact_type: Some(LAB.to_owned()), ..home.root.bare() };
        Ok(home)
    }

    /// Finds an image of a lab, whole.
    async fn lab_image(
        &self,
        home: &Source,
        image: &LabImage,
        cancel: &Cancel,
    ) -> Result<(Source, Parts), ImagesError> {
        if let Some(mut beside) = home.at(&image.digest, cancel).await?
            && let Some(parts) = beside.whole(cancel).await?
        {
            beside.root = beside.root.bare();
            return Ok((beside, parts));
        }
        let missing = |source| LabError::NoImage {
            machine: image.machine.clone(),
            digest: image.digest.clone(),
            place: home.name.clone(),
            reference: image.reference.to_string(),
            source,
        };
        let elsewhere = match self.open(&with_digest(&image.reference, &image.digest), cancel).await {
            Ok(source) if source.root.digest == image.digest => Some(source),
            Ok(source) => source.at(&image.digest, cancel).await?,
            Err(error) => {
                cancel.check()?;
                return Err(missing(Some(Box::new(error))).into());
            }
        };
        let mut source = elsewhere.ok_or_else(|| missing(None))?;
        source.root = source.root.bare();
        let parts = source.whole(cancel).await?.ok_or_else(|| missing(None))?;
        Ok((source, parts))
    }

    /// Finds the chart of a lab: beside the bundle, in a registry in the repository of its own.
    async fn chart(&self, home: &Source, chart: &ChartRef, cancel: &Cancel) -> Result<Option<Source>, ImagesError> {
        match &home.place {
            Place::Registry(repository) => {
                let charts = Place::Registry(repository.below(&charts_path(&chart.name)));
                home.with_place(charts).at(&chart.digest, cancel).await
            }
            Place::Layout(_) | Place::Archive(_) => home.at(&chart.digest, cancel).await,
        }
    }

    fn lab_target(&self, target: &ImageRef, bundle: &Digest, chart: Option<&ChartRef>) -> Result<Target, ImagesError> {
        let open = |layout: Layout, store| -> Result<Target, ImagesError> {
            let guard = layout.begin_write()?;
            Ok(Target::Layout { layout, store, guard })
        };
        match target {
            ImageRef::Local { .. } => open(Layout::open_or_create(&self.store)?, true),
            ImageRef::Layout { dir, .. } => open(Layout::open_or_create(dir)?, false),
            ImageRef::Archive { file, .. } => {
                let work = work_dir(file)?;
                Ok(Target::Archive { file: file.clone(), layout: Layout::open_or_create(work.path())?, work })
            }
            ImageRef::Registry(registry) => {
                if let Some(wanted) = &registry.digest
                    && wanted != bundle
                {
                    return Err(ImagesError::TargetDigest { wanted: wanted.clone(), found: bundle.clone() });
                }
                let repository = Box::new(self.remote.repository(registry));
                let charts = chart.map(|chart| Box::new(repository.below(&charts_path(&chart.name))));
                Ok(Target::Registry { repository, charts })
            }
        }
    }
}

/// Where a chart is, below the repository of its lab.
fn charts_path(name: &str) -> String {
    format!("charts/{name}")
}

/// The same reference, with this digest in place of what it names now, where references can say that.
fn with_digest(reference: &ImageRef, digest: &Digest) -> ImageRef {
    match reference {
        ImageRef::Registry(registry) => {
            ImageRef::Registry(Registry { digest: Some(digest.clone()), ..registry.clone() })
        }
        other => other.clone(),
    }
}

/// Makes the tags of all parts and refuses what cannot be a tag, or is one twice.
fn tags(target: &ImageRef, home: &Source, chart: Option<&ChartRef>, images: &[LabImage]) -> Result<Tags, LabError> {
    let (prefix, wanted) = match target {
        ImageRef::Local { name, tag } => (format!("{name}:"), tag),
        ImageRef::Layout { tag, .. } | ImageRef::Archive { tag, .. } => (String::new(), tag),
        ImageRef::Registry(registry) => (String::new(), &registry.tag),
    };
    let bundle = wanted.as_ref().or(home.tag.as_ref()).map_or("latest", String::as_str);
    let imgpkg = imgpkg_tag(bundle);
    let machines: Vec<_> = images.iter().map(|image| machine_tag(bundle, &image.machine)).collect();
    let mut beside = HashSet::from([bundle, &imgpkg]);
    for tag in &machines {
        if !beside.insert(tag) {
            return Err(LabError::SameTag { tag: tag.clone() });
        }
    }
    let chart = match (chart, target) {
        (None, _) => None,
        (Some(chart), ImageRef::Registry(registry)) => {
            check_name(&format!("{}/{}/{}", registry.host, registry.repository, charts_path(&chart.name)), "")?;
            Some(chart.tag.clone())
        }
        (Some(_), _) => {
            let tag = chart_tag(bundle);
            if beside.contains(tag.as_str()) {
                return Err(LabError::SameTag { tag });
            }
            Some(tag)
        }
    };
    // The longest reference that there can be must do in all of the places, so it does not depend on the target.
    for tag in machines.iter().chain([&imgpkg]).chain(&chart) {
        check_name("lab", tag)?;
    }
    let whole = |tag: String| format!("{prefix}{tag}");
    Ok(Tags {
        bundle: whole(bundle.to_owned()),
        imgpkg: whole(imgpkg),
        chart: chart.map(whole),
        machines: machines.into_iter().map(whole).collect(),
    })
}

/// Whether there can be such a repository, or such a tag in it.
fn check_name(repository: &str, tag: &str) -> Result<(), LabError> {
    let text = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
    match text.parse::<ImageRef>() {
        Ok(_) => Ok(()),
        Err(source) => Err(LabError::Name { name: if tag.is_empty() { repository } else { tag }.to_owned(), source }),
    }
}

/// What a part is called in the target.
fn name(target: &Target, part: &Part) -> String {
    match target.repository(part) {
        Some(repository) => format!("{}/{}", repository.registry(), repository.full(&part.tag)),
        None => part.tag.clone(),
    }
}

/// Refuses to take a tag away from an image or another lab, before anything is transferred.
async fn check_target(
    target: &Target,
    found: &[Part],
    reporter: &Arc<dyn Reporter>,
    cancel: &Cancel,
) -> Result<(), ImagesError> {
    let (bundle, parts) = found.split_last().expect("the bundle is the last part");
    if let Target::Layout { layout, .. } = target {
        let tags = parts.iter().map(|part| part.tag.as_str());
        return Ok(check_tags(layout, &layout.index()?, &bundle.tag, tags)?);
    }
    for (at, part) in found.iter().enumerate() {
        let Some(repository) = target.repository(part) else { continue };
        let Some(there) = repository.head_manifest(&part.tag, cancel).await? else { continue };
        if there == part.source.root.digest.to_string() {
            continue;
        }
        let Some((descriptor, bytes)) = repository.manifest(&part.tag, cancel).await? else { continue };
        let is_lab = Document::parse(&descriptor.media_type, &bytes).is_ok_and(|document| document.is_lab());
        let is_bundle = at + 1 == found.len();
        if is_lab != is_bundle {
            let by = if is_lab { "another lab" } else { "an image" };
            return Err(LabError::TagTaken { name: name(target, part), by }.into());
        }
        if part.is_chart {
            // Its name and version are all that Helm knows, so another lab with both would lose its own.
            reporter.event(Event::Warning(format!("`{}` named another chart, which is replaced", name(target, part))));
        }
    }
    Ok(())
}

/// All blobs, each once for every place where it is wanted.
fn jobs(target: &Target, found: &[Part]) -> Vec<Job> {
    let mut seen = HashSet::new();
    let mut jobs = Vec::new();
    for part in found {
        let place = target.repository(part).map(|repository| repository.name().to_owned());
        for blob in &part.parts.blobs {
            if seen.insert((place.clone(), blob.digest.clone())) {
                jobs.push(Job { source: part.source.clone(), sink: target.sink(part), blob: blob.clone() });
            }
        }
    }
    jobs
}

/// Gives all parts their tags in a layout, in one step.
fn tag_all(layout: &Layout, found: &[Part]) -> Result<(), ImagesError> {
    let (bundle, parts) = found.split_last().expect("the bundle is the last part");
    let parts: Vec<_> = parts.iter().map(|part| (part.tag.clone(), part.source.root.clone())).collect();
    Ok(tag_lab(layout, &bundle.tag, &bundle.source.root, &parts)?)
}

/// Stores all documents in the registry, each part before its tag and the bundle's tag last of all.
async fn put_all(target: &Target, found: &[Part], cancel: &Cancel) -> Result<(), ImagesError> {
    let mut stored: HashMap<&str, HashSet<&Digest>> = HashMap::new();
    for part in found {
        let repository = target.repository(part).expect("this target is a registry");
        let stored = stored.entry(repository.name()).or_default();
        let mut root = None;
        for (descriptor, bytes, document) in &part.parts.documents {
            if descriptor.digest == part.source.root.digest {
                root = Some((descriptor, bytes));
            }
            if stored.insert(&descriptor.digest) {
                put(repository, &descriptor.digest.to_string(), descriptor, bytes, document, cancel).await?;
            }
        }
        let (descriptor, bytes) = root.expect("the root is one of the documents");
        if !repository.has_manifest(&part.tag, &descriptor.digest, cancel).await? {
            repository.put_manifest(&part.tag, &descriptor.media_type, bytes, cancel).await?;
        }
    }
    Ok(())
}
