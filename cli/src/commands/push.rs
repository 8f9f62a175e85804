use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_core::ImageRef;
use labwright_lab::bundle::{self, Config, Source};
use labwright_lab::manifests::Options;
use labwright_lab::resolved::KubevirtVersion;
use labwright_registry::bundle as packing;
use labwright_registry::{CopyOptions, LabImage, Layout};

use super::documents::{self, Document, HostFiles};
use super::image::{self, report, tag_of, with_tag};
use super::lab_file::load_lab;
use super::lab_images::{Make, gather, is_local, locked};
use super::published::{self, Published};
use crate::args::{Build, Push};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Copies an image, or a lab with its images, to a registry, a layout or an archive.
pub(super) fn run(args: &Push, context: &Context<'_>) -> Result<(), CommandError> {
    if let ImageRef::Local { name, .. } = &args.target {
        let text = format!("`{}` names no place outside of the local store", args.target);
        return Err(CommandError::sentence(Kind::Usage, text)
            .hint(format!("for a directory write `oci:{name}`, for a registry HOST/REPOSITORY")));
    }
    if let Some(file) = lab_path(&args.image)? {
        return lab(args, &file, context);
    }
    let source: ImageRef = args
        .image
        .parse()
        .map_err(|error| CommandError::new(Kind::Usage, error).context(format!("`{}` is not an image", args.image)))?;
    let images = image::images(context, &args.registries, &[source.clone(), args.target.clone()])?;
    if let Some(Published { inspection, config }) = image::look_in_store(&source, &images, context)? {
        let target = with_tag(&args.target, tag_of(&source).or(Some(&config.lab_version)));
        return published::copy(&source, &inspection.digest, &target, &published::images(&config)?, &images, context);
    }
    // Says in one sentence what is wrong with the name, before anything is transferred.
    let found = image::find(&source, &images, context)?;
    let version = found.platform.facts.as_ref().map(|facts| facts.version.as_str());
    let target = with_tag(&args.target, tag_of(&source).or(version));
    let (options, reporter) = (CopyOptions::default(), context.ui.shared_reporter());
    let copy = images.copy(&source, &target, &options, &reporter, context.cancel);
    report(&target, &context.runtime.block_on(copy)?, context)
}

/// The lab's file, if the text is the path of one: it begins as a path does, or there is a directory with a lab.
fn lab_path(text: &str) -> Result<Option<PathBuf>, CommandError> {
    let path = Path::new(text);
    let is_document = path.extension().is_some_and(|extension| extension == "yaml") && path.is_file();
    if !text.starts_with(['.', '/']) && !is_document && !path.join(documents::LAB).is_file() {
        return Ok(None);
    }
    match documents::find(path)? {
        Document::Lab(file) => Ok(Some(file)),
        Document::Recipe => {
            let text = format!("{} is a recipe; what is pushed is its image", path.display());
            Err(CommandError::sentence(Kind::Usage, text)
                .hint("give the image's name, as `labwright build` and `labwright inspect` show it"))
        }
    }
}

/// Publishes the lab in a directory.
fn lab(args: &Push, file: &Path, context: &Context<'_>) -> Result<(), CommandError> {
    let lab = load_lab(file, &args.set)?;
    super::show_warnings(&lab.warnings, context);
    let found = gather(&lab, &Build::existing(file, &args.registries), Make::Nothing, context)?;
    let repository = match (&args.target, &args.repository) {
        (ImageRef::Registry(registry), None) => format!("{}/{}", registry.host, registry.repository),
        (_, Some(given)) => {
            published::repository(given)?;
            given.clone()
        }
        (target, None) => {
            let text = format!("`{target}` is no registry, and the lab's manifests name its images in one");
            return Err(CommandError::sentence(Kind::Usage, text)
                .hint("say where the lab will be published with --repository HOST/REPOSITORY"));
        }
    };
    let (name, version) = (lab.loaded.lab.name.clone(), lab.loaded.lab.version.clone());
    let text = lab.loaded.file.text.clone();
    let locked = locked(lab, &found, &repository)?;
    let options = Options::new(locked.lab().kubevirt_version.unwrap_or(KubevirtVersion::ALL[0]), name.clone());
    let dir = documents::dir(file);
    let source = Source { text: &text, files: &HostFiles, dir };
    let fail = |error| CommandError::new(Kind::Input, error).context(format!("could not bundle {}", file.display()));
    let files = bundle::bundle(&locked, &source, &options).map_err(fail)?;
    let tool = env!("CARGO_PKG_VERSION");
    let chart = bundle::chart(&locked, &options, tool).map_err(fail)?;
    let variables: BTreeMap<String, String> = args.set.iter().cloned().collect();
    let config = Config::new(&locked, &repository, &variables, tool);

    let store = Layout::open_or_create(context.settings.store())?;
    let in_chart: BTreeMap<String, Vec<u8>> =
        chart.files.iter().map(|(path, bytes)| (format!("{}/{path}", chart.name), bytes.clone())).collect();
    let digests: Vec<_> = found.iter().map(|(machine, found)| (machine.clone(), found.digest.clone())).collect();
    let packed = packing::pack(
        &store,
        &packing::Contents {
            tag: &format!("{name}:{version}"),
            config: &config.to_bytes(),
            files: &files,
            file_name: &format!("{name}-{version}.tar.gz"),
            annotations: &published::annotations(&config),
            created: context.settings.created,
            chart: Some(packing::Chart {
                name: &chart.name,
                version: &chart.version,
                config: &chart.metadata,
                files: &in_chart,
                annotations: &published::annotations(&config),
            }),
            images: &digests,
        },
    )
    .map_err(|error| CommandError::new(Kind::Input, error).context(format!("could not pack {name} {version}")))?;

    // What is in a registry stays there, unless everything goes into one place.
    let whole = !matches!(args.target, ImageRef::Registry(_));
    let images: Vec<LabImage> = found
        .iter()
        .filter(|(_, found)| whole || is_local(found))
        .map(|(machine, found)| LabImage {
            machine: machine.clone(),
            reference: found.at.clone(),
            digest: found.digest.clone(),
        })
        .collect();
    let used: Vec<ImageRef> = images.iter().map(|image| image.reference.clone()).chain([args.target.clone()]).collect();
    let client = image::images(context, &args.registries, &used)?;
    let target = with_tag(&args.target, Some(&version));
    let source = ImageRef::Local { name, tag: Some(version) };
    published::copy(&source, &packed.bundle.digest, &target, &images, &client, context)
}
