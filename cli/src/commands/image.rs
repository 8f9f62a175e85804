//! Images wherever they are: the client, and which of an image's architectures is meant.

use labwright_core::{Arch, ImageRef};
use labwright_registry::{Credentials, Images, PlatformInspection, Remote, RemoteOptions};

use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// A client for images, with the user's logins and proxies.
pub(super) fn images(context: &Context<'_>, plain_http: Vec<String>) -> Result<Images, CommandError> {
    let proxy = |name: &str| {
        let found = context.settings.proxies.iter().find(|(known, _)| known == name || known == "all_proxy");
        found.map(|(_, value)| value.clone())
    };
    let options = RemoteOptions {
        plain_http,
        credentials: Credentials { files: context.settings.auth_files.clone(), login: None },
        https_proxy: proxy("https_proxy"),
        http_proxy: proxy("http_proxy"),
        no_proxy: context.settings.proxies.iter().find(|(name, _)| name == "no_proxy").map(|(_, value)| value.clone()),
        ..RemoteOptions::default()
    };
    Ok(Images::new(context.settings.store(), Remote::new(options)?))
}

/// An image for one architecture.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is.
    pub(super) reference: ImageRef,
    /// What it is called.
    pub(super) name: String,
    /// The architecture that was chosen.
    pub(super) arch: Arch,
    /// What is known about it.
    pub(super) platform: PlatformInspection,
}

/// Looks an image up and chooses this machine's architecture, else the first that Labwright knows.
pub(super) fn find(reference: &ImageRef, images: &Images, context: &Context<'_>) -> Result<Found, CommandError> {
    if let ImageRef::Local { .. } = reference
        && !context.settings.store().exists()
    {
        let text = format!("there is no image `{reference}`: nothing was built yet");
        return Err(CommandError::sentence(Kind::Input, text).hint("`labwright build` makes images"));
    }
    let inspection = context.runtime.block_on(images.inspect(reference, context.cancel)).map_err(|error| {
        let error = CommandError::from(error);
        match reference {
            ImageRef::Local { .. } => error.hint("`labwright inspect` lists the images"),
            _ => error,
        }
    })?;
    let mut known: Vec<(Arch, PlatformInspection)> = inspection
        .platforms
        .into_iter()
        .filter_map(|platform| Some((platform.architecture.parse().ok()?, platform)))
        .collect();
    let at = known.iter().position(|(arch, _)| Some(*arch) == Arch::host()).unwrap_or(0);
    if known.is_empty() {
        return Err(CommandError::sentence(Kind::Input, format!("`{reference}` has no image for amd64 or arm64")));
    }
    let (arch, platform) = known.swap_remove(at);
    Ok(Found { reference: reference.clone(), name: inspection.image, arch, platform })
}
