//! Images wherever they are: the client, and which of an image's architectures is meant.

use std::path::Path;

use labwright_core::{Arch, ByteSize, ImageRef, Registry};
use labwright_registry::{Copied, Credentials, Images, PlatformInspection, Remote, RemoteOptions, RemoteSetupError};

use serde::Serialize;

use super::published::{self, Published};
use crate::args::Registries;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// A client for images, with the user's logins and proxies. `used` are the references that plain HTTP is meant for.
pub(super) fn images(
    context: &Context<'_>,
    registries: &Registries,
    used: &[ImageRef],
) -> Result<Images, CommandError> {
    let hosts = used.iter().filter_map(|image| match image {
        ImageRef::Registry(registry) => Some(registry.host.clone()),
        _ => None,
    });
    let plain_http: Vec<String> = if registries.plain_http { hosts.collect() } else { Vec::new() };
    if registries.plain_http && plain_http.is_empty() && !used.is_empty() {
        return Err(CommandError::sentence(Kind::Usage, "--plain-http is for registries only"));
    }
    let unusable = |option: &str, file: &Path| format!("could not use {option} {}", file.display());
    let mut authorities = Vec::new();
    if let Some(file) = &registries.tls_ca {
        let pem = fs_err::read(file).map_err(|source| CommandError::new(Kind::Usage, source));
        authorities.push(pem.map_err(|error| error.context(unusable("--tls-ca", file)))?);
    }
    let files = match &registries.authfile {
        Some(file) if !file.is_file() => {
            let missing = CommandError::sentence(Kind::Usage, "there is no such file");
            return Err(missing.context(unusable("--authfile", file)));
        }
        Some(file) => vec![file.clone()],
        None => context.settings.auth_files.clone(),
    };
    let proxy = |name: &str| {
        let found = context.settings.proxies.iter().find(|(known, _)| known == name || known == "all_proxy");
        found.map(|(_, value)| value.clone())
    };
    let options = RemoteOptions {
        plain_http,
        authorities,
        credentials: Credentials { files, login: None },
        https_proxy: proxy("https_proxy"),
        http_proxy: proxy("http_proxy"),
        no_proxy: context.settings.proxies.iter().find(|(name, _)| name == "no_proxy").map(|(_, value)| value.clone()),
        ..RemoteOptions::default()
    };
    let remote = Remote::new(options).map_err(|error| {
        let bad_authority = matches!(error, RemoteSetupError::Authority { .. });
        let error = CommandError::from(error);
        match &registries.tls_ca {
            Some(file) if bad_authority => error.context(unusable("--tls-ca", file)),
            _ => error,
        }
    })?;
    Ok(Images::new(context.settings.store(), remote))
}

/// The answer of `push`, `pull` and `copy`. Fields are only ever added.
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

/// Says what a copy did.
pub(super) fn report(target: &ImageRef, copied: &Copied, context: &Context<'_>) -> Result<(), CommandError> {
    let mut text = match copied.sent {
        0 => "nothing had to be transferred".to_owned(),
        count => format!("transferred {} in {}", ByteSize::from_bytes(copied.bytes).human(), blobs(count)),
    };
    for (count, what) in [(copied.existed, "were there already"), (copied.mounted, "came from another repository")] {
        if count > 0 {
            text = format!("{text}; {} {what}", blobs(count));
        }
    }
    context.ui.note(text);
    let answer = Answer {
        image: target.to_string(),
        digest: copied.image.digest.to_string(),
        bytes: copied.bytes,
        sent: copied.sent,
        existed: copied.existed,
        mounted: copied.mounted,
    };
    context.ui.result(&answer, || match target {
        ImageRef::Registry(registry) if registry.digest.is_some() => answer.image.clone(),
        _ => format!("{}@{}", answer.image, answer.digest),
    })
}

fn blobs(count: u64) -> String {
    if count == 1 { "1 blob".to_owned() } else { format!("{count} blobs") }
}

/// The tag in a reference.
pub(super) fn tag_of(image: &ImageRef) -> Option<&str> {
    match image {
        ImageRef::Registry(registry) => registry.tag.as_deref(),
        ImageRef::Local { tag, .. } | ImageRef::Layout { tag, .. } | ImageRef::Archive { tag, .. } => tag.as_deref(),
    }
}

/// The target with the image's own tag where it has none.
pub(super) fn with_tag(target: &ImageRef, own: Option<&str>) -> ImageRef {
    let mut target = target.clone();
    match &mut target {
        ImageRef::Registry(registry) if registry.digest.is_some() => {}
        ImageRef::Registry(Registry { tag, .. })
        | ImageRef::Local { tag, .. }
        | ImageRef::Layout { tag, .. }
        | ImageRef::Archive { tag, .. } => *tag = tag.take().or(own.map(str::to_owned)),
    }
    target
}

/// Says that there is no local image before there is a store.
pub(super) fn needs_store(reference: &ImageRef, context: &Context<'_>) -> Result<(), CommandError> {
    if let ImageRef::Local { .. } = reference
        && !context.settings.store().exists()
    {
        let text = format!("there is no image `{reference}`: nothing was built yet");
        return Err(CommandError::sentence(Kind::Input, text).hint("`labwright build` makes images"));
    }
    Ok(())
}

/// What a reference names, if it is a lab. A name in a store that is not there yet names nothing.
pub(super) fn look_in_store(
    reference: &ImageRef,
    images: &Images,
    context: &Context<'_>,
) -> Result<Option<Published>, CommandError> {
    if let ImageRef::Local { .. } = reference
        && !context.settings.store().exists()
    {
        return Ok(None);
    }
    published::look(reference, images, context)
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
    needs_store(reference, context)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_own_tag_is_the_default() {
        for (target, own, expected) in [
            ("oci:out", Some("1.0.0"), "oci:out:1.0.0"),
            ("oci:out:2", Some("1.0.0"), "oci:out:2"),
            ("registry.example/labs/shell", Some("1.0.0"), "registry.example/labs/shell:1.0.0"),
            ("oci:out", None, "oci:out"),
        ] {
            assert_eq!(with_tag(&target.parse().unwrap(), own).to_string(), expected);
        }
    }
}
