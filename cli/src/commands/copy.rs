use labwright_core::ImageRef;
use labwright_registry::CopyOptions;

use super::image::{self, report, tag_of, with_tag};
use super::published::{self, Published};
use crate::args::Copy;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Copies an image, or a lab with its images, from anywhere to anywhere.
pub(super) fn run(args: &Copy, context: &Context<'_>) -> Result<(), CommandError> {
    let images = image::images(context, &args.registries, &[args.source.clone(), args.target.clone()])?;
    if let Some(Published { inspection, config }) = image::look_in_store(&args.source, &images, context)? {
        if args.arch.is_some() || args.no_referrers {
            let text = "a lab is copied whole: --arch and --no-referrers are for images";
            return Err(CommandError::sentence(Kind::Usage, text));
        }
        let target = with_tag(&args.target, tag_of(&args.source).or(Some(&config.lab_version)));
        return published::copy(
            &args.source,
            &inspection.digest,
            &target,
            &published::images(&config)?,
            &images,
            context,
        );
    }
    let mut own = tag_of(&args.source).map(str::to_owned);
    if let ImageRef::Local { .. } = &args.source {
        let found = image::find(&args.source, &images, context)?;
        own = own.or_else(|| found.platform.facts.map(|facts| facts.version));
    }
    let target = with_tag(&args.target, own.as_deref());
    let options = CopyOptions { arch: args.arch, referrers: !args.no_referrers };
    let reporter = context.ui.shared_reporter();
    let copy = images.copy(&args.source, &target, &options, &reporter, context.cancel);
    report(&target, &context.runtime.block_on(copy)?, context)
}
