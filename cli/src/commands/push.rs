use labwright_core::ImageRef;
use labwright_registry::CopyOptions;
use serde::Serialize;

use super::image;
use crate::args::Push;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The answer of `push`. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Where the image is now.
    image: String,
    digest: String,
    /// Bytes that were transferred.
    bytes: u64,
    /// Blobs that were transferred, that the target had, and that its registry took over from another repository.
    sent: u64,
    existed: u64,
    mounted: u64,
}

/// Copies an image to a registry, a layout or an archive.
pub(super) fn run(args: &Push, context: &Context<'_>) -> Result<(), CommandError> {
    let plain = match &args.target {
        ImageRef::Registry(registry) if args.plain_http => vec![registry.host.clone()],
        _ if args.plain_http => {
            return Err(CommandError::sentence(Kind::Usage, "--plain-http is for registries only"));
        }
        _ => Vec::new(),
    };
    let images = image::images(context, plain)?;
    // Says in one sentence what is wrong with the name, before anything is transferred.
    let found = image::find(&args.image, &images, context)?;
    let target = with_tag(&args.target, &found.name);
    let (options, reporter) = (CopyOptions::default(), context.ui.shared_reporter());
    let copy = images.copy(&args.image, &target, &options, &reporter, context.cancel);
    let copied = context.runtime.block_on(copy)?;
    let answer = Answer {
        image: target.to_string(),
        digest: copied.image.digest.to_string(),
        bytes: copied.bytes,
        sent: copied.sent,
        existed: copied.existed,
        mounted: copied.mounted,
    };
    context.ui.result(&answer, || format!("{}@{}", answer.image, answer.digest))
}

/// The target with the image's own tag where it has none.
fn with_tag(target: &ImageRef, image: &str) -> ImageRef {
    let own = image.rsplit_once(':').map(|(_, tag)| tag.to_owned()).filter(|tag| !tag.contains('/'));
    let mut target = target.clone();
    match &mut target {
        ImageRef::Registry(registry) if registry.digest.is_some() => {}
        ImageRef::Registry(registry) => registry.tag = registry.tag.take().or(own),
        ImageRef::Local { tag, .. } | ImageRef::Layout { tag, .. } | ImageRef::Archive { tag, .. } => {
            *tag = tag.take().or(own);
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_own_tag_is_the_default() {
        for (target, image, expected) in [
            ("oci:out", "shell:1.0.0", "oci:out:1.0.0"),
            ("oci:out:2", "shell:1.0.0", "oci:out:2"),
            ("registry.example/labs/shell", "shell:1.0.0", "registry.example/labs/shell:1.0.0"),
            ("oci:out", "oci:/a:b/dir", "oci:out"),
        ] {
            assert_eq!(with_tag(&target.parse().unwrap(), image).to_string(), expected);
        }
    }
}
