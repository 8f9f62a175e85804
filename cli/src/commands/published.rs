//! Labs as bundles, wherever they are.

use std::collections::BTreeMap;

use labwright_core::{Digest, ImageRef, Registry};
use labwright_lab::LockedLab;
use labwright_lab::bundle::{self, Config, MachineConfig};
use labwright_registry::{Images, LabImage, LabInspection};

use super::image;
use crate::args::Registries;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// What a published lab says of itself, and what its registry says of it.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) config: Config,
    pub(super) inspection: LabInspection,
}

/// Looks at a reference; `None` if it is no lab but an image.
pub(super) fn look(
    reference: &ImageRef,
    images: &Images,
    context: &Context<'_>,
) -> Result<Option<Published>, CommandError> {
    let found = context.runtime.block_on(images.inspect_lab(reference, context.cancel))?;
    let Some(inspection) = found else { return Ok(None) };
    let config = Config::parse(&inspection.config).map_err(|error| {
        CommandError::new(Kind::Input, error).context(format!("could not read the lab `{reference}`"))
    })?;
    Ok(Some(Published { config, inspection }))
}

/// The lab in a bundle, with its images where the bundle was found, or in `repository`.
pub(super) fn open(
    reference: &ImageRef,
    repository: Option<&str>,
    registries: &Registries,
    context: &Context<'_>,
) -> Result<LockedLab, CommandError> {
    image::needs_store(reference, context)?;
    let images = image::images(context, registries, std::slice::from_ref(reference))?;
    let Some(Published { config, .. }) = look(reference, &images, context)? else {
        let text = format!("`{reference}` is an image, and only a lab has manifests");
        return Err(CommandError::sentence(Kind::Input, text));
    };
    let files = context.runtime.block_on(images.lab_files(reference, context.cancel))?;
    let here = match repository {
        Some(given) => {
            self::repository(given)?;
            Some(given.to_owned())
        }
        None => moved(reference, &config, &images, context),
    };
    bundle::open(&config, &files, here.as_deref())
        .map_err(|error| CommandError::new(Kind::Input, error).context(format!("could not use the lab `{reference}`")))
}

/// The repository of the bundle, if it is another one than that in which it was published and has all of its images.
fn moved(reference: &ImageRef, config: &Config, images: &Images, context: &Context<'_>) -> Option<String> {
    let ImageRef::Registry(registry) = reference else { return None };
    let here = format!("{}/{}", registry.host, registry.repository);
    if here == config.repository {
        return None;
    }
    let has = |digest: &Digest| {
        let image = ImageRef::Registry(Registry { tag: None, digest: Some(digest.clone()), ..registry.clone() });
        context.runtime.block_on(images.inspect(&image, context.cancel)).is_ok()
    };
    config.machines.iter().all(|machine| has(&machine.digest)).then_some(here)
}

/// The images that a lab names.
pub(super) fn images(config: &Config) -> Result<Vec<LabImage>, CommandError> {
    let image = |machine: &MachineConfig| {
        let reference = machine.reference().parse().map_err(|error| CommandError::new(Kind::Input, error))?;
        Ok(LabImage { machine: machine.name.clone(), reference, digest: machine.digest.clone() })
    };
    config.machines.iter().map(image).collect()
}

/// Copies a lab, and says what that did.
pub(super) fn copy(
    source: &ImageRef,
    digest: &Digest,
    target: &ImageRef,
    images: &[LabImage],
    client: &Images,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let reporter = context.ui.shared_reporter();
    let copy = client.copy_lab(source, digest, target, images, &reporter, context.cancel);
    let copied = context.runtime.block_on(copy)?;
    image::report(target, &copied.bundle, context)
}

/// What the manifests in a registry say of a lab, in the words of the image specification.
pub(super) fn annotations(config: &Config) -> BTreeMap<String, String> {
    let some = |key: &str, value: Option<String>| value.map(|value| (format!("org.opencontainers.image.{key}"), value));
    let authors = (!config.authors.is_empty()).then(|| config.authors.join(", "));
    [
        some("title", Some(config.title.clone().unwrap_or_else(|| config.name.clone()))),
        some("version", Some(config.lab_version.clone())),
        some("description", config.description.clone()),
        some("authors", authors),
        some("licenses", config.license.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Checks that a text is HOST/REPOSITORY.
pub(super) fn repository(text: &str) -> Result<Registry, CommandError> {
    match text.parse() {
        Ok(ImageRef::Registry(registry)) if registry.tag.is_none() && registry.digest.is_none() => Ok(registry),
        Ok(_) => Err(CommandError::sentence(Kind::Usage, format!("`{text}` is not HOST/REPOSITORY without a tag"))),
        Err(error) => Err(CommandError::new(Kind::Usage, error).context(format!("`{text}` is not HOST/REPOSITORY"))),
    }
}
