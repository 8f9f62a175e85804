//! Finds the image that a reference names, where it is on this machine.

use labwright_core::ImageRef;
use labwright_registry::{Descriptor, Layout};

use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// An image in a layout.
#[derive(Debug)]
pub(super) struct Found {
    /// The layout.
    pub(super) layout: Layout,
    /// The image's index or manifest.
    pub(super) image: Descriptor,
    /// What it is called there.
    pub(super) name: String,
}

/// Looks an image up in the local store or in another layout.
pub(super) fn find(reference: &ImageRef, context: &Context<'_>) -> Result<Found, CommandError> {
    match reference {
        ImageRef::Local { name, tag } => {
            let store = context.settings.store();
            if !store.exists() {
                return Err(CommandError::sentence(
                    Kind::Input,
                    format!("there is no image `{reference}`: nothing was built yet"),
                )
                .hint("`labwright build` makes images, `labwright inspect` lists them"));
            }
            let layout = Layout::open(store)?;
            let found = match tag {
                Some(tag) => {
                    let name = format!("{name}:{tag}");
                    layout.resolve(&name).map(|image| (name, image))
                }
                None => layout.resolve_newest(name),
            };
            let (name, image) =
                found.map_err(|error| CommandError::from(error).hint("`labwright inspect` lists the images"))?;
            Ok(Found { layout, image, name })
        }
        ImageRef::Layout { dir, tag } => {
            let layout = Layout::open(dir)?;
            let image = match tag {
                Some(tag) => layout.resolve(tag),
                None => layout.resolve_only(),
            }?;
            Ok(Found { layout, image, name: reference.to_string() })
        }
        ImageRef::Registry(_) | ImageRef::Archive { .. } => {
            Err(CommandError::sentence(Kind::Usage, format!("`{reference}` is not on this machine as an image layout"))
                .hint("this version works on images of the local store (NAME:TAG) and of layouts (oci:DIR:TAG)"))
        }
    }
}
