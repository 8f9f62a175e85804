use labwright_core::ImageRef;
use labwright_registry::CopyOptions;

use super::image::{self, report, tag_of, with_tag};
use crate::args::Push;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Copies an image to a registry, a layout or an archive.
pub(super) fn run(args: &Push, context: &Context<'_>) -> Result<(), CommandError> {
    if let ImageRef::Local { name, .. } = &args.target {
        let text = format!("`{}` names no place outside of the local store", args.target);
        return Err(CommandError::sentence(Kind::Usage, text)
            .hint(format!("for a directory write `oci:{name}`, for a registry HOST/REPOSITORY")));
    }
    let images = image::images(context, &args.registries, &[args.image.clone(), args.target.clone()])?;
    // Says in one sentence what is wrong with the name, before anything is transferred.
    let found = image::find(&args.image, &images, context)?;
    let version = found.platform.facts.as_ref().map(|facts| facts.version.as_str());
    let target = with_tag(&args.target, tag_of(&args.image).or(version));
    let (options, reporter) = (CopyOptions::default(), context.ui.shared_reporter());
    let copy = images.copy(&args.image, &target, &options, &reporter, context.cancel);
    report(&target, &context.runtime.block_on(copy)?, context)
}
