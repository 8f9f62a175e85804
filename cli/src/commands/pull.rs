use labwright_core::ImageRef;
use labwright_registry::CopyOptions;

use super::image::{self, report, tag_of};
use super::published::{self, Published};
use crate::args::Pull;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Brings an image, or a lab with its images, into the local store.
pub(super) fn run(args: &Pull, context: &Context<'_>) -> Result<(), CommandError> {
    if let ImageRef::Local { .. } = &args.image {
        let text = format!("`{}` is the name of an image in the local store already", args.image);
        return Err(CommandError::sentence(Kind::Usage, text).hint("write HOST/REPOSITORY[:TAG]"));
    }
    if let Some(other) = args.name.as_ref().filter(|name| !matches!(name, ImageRef::Local { .. })) {
        return Err(no_name(other));
    }
    let images = image::images(context, &args.registries, std::slice::from_ref(&args.image))?;
    if let Some(Published { inspection, config }) = published::look(&args.image, &images, context)? {
        if args.arch.is_some() {
            return Err(CommandError::sentence(Kind::Usage, "a lab is pulled whole: --arch is for images"));
        }
        let tag = Some(config.lab_version.clone());
        let target = match &args.name {
            Some(ImageRef::Local { name, tag: given }) => {
                ImageRef::Local { name: name.clone(), tag: given.clone().or(tag) }
            }
            Some(other) => return Err(no_name(other)),
            None => ImageRef::Local { name: config.name.clone(), tag },
        };
        return published::copy(
            &args.image,
            &inspection.digest,
            &target,
            &published::images(&config)?,
            &images,
            context,
        );
    }
    let target = match &args.name {
        Some(name @ ImageRef::Local { tag: Some(_), .. }) => name.clone(),
        Some(ImageRef::Local { name, tag: None }) => local(name.clone(), &args.image),
        Some(other) => return Err(no_name(other)),
        None => local(own_name(args, &images, context)?, &args.image),
    };
    let options = CopyOptions { arch: args.arch, ..CopyOptions::default() };
    let reporter = context.ui.shared_reporter();
    let copied = context.runtime.block_on(images.copy(&args.image, &target, &options, &reporter, context.cancel))?;
    // The image says itself where it was found; the full tag is what was written.
    let target = copied.tag.as_ref().and_then(|tag| tag.parse().ok()).unwrap_or(target);
    report(&target, &copied, context)
}

fn no_name(other: &ImageRef) -> CommandError {
    CommandError::sentence(Kind::Usage, format!("`{other}` is not a name for the local store; write NAME[:TAG]"))
}

fn local(name: String, image: &ImageRef) -> ImageRef {
    ImageRef::Local { name, tag: tag_of(image).map(str::to_owned) }
}

/// What to call an image: by its repository, else by what its maker called it.
fn own_name(args: &Pull, images: &labwright_registry::Images, context: &Context<'_>) -> Result<String, CommandError> {
    if let ImageRef::Registry(registry) = &args.image {
        let last = registry.repository.rsplit('/').next().unwrap_or(&registry.repository);
        return Ok(last.to_owned());
    }
    let found = image::find(&args.image, images, context)?;
    found.platform.facts.map(|facts| facts.name).ok_or_else(|| {
        CommandError::sentence(Kind::Usage, format!("`{}` does not say what it is called", args.image))
            .hint("give it a name with --as NAME:TAG")
    })
}
