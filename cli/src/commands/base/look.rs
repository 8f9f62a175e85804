//! What a build would start from, found out without a download and without a trace.

use labwright_base_images::{Base, Cache, DiskFormat, InImage, Pinning, find_entry};
use labwright_core::{Arch, ByteSize, Digest, ImageRef, Registry};
use labwright_disk::inspect::{Limits, inspect};
use labwright_recipes::Loaded;
use labwright_recipes::resolved::{self, AccessSpec, LocalPath, Recipe, Ttyd};
use serde::Serialize;

use super::{LOCK_NAME, Pins, bootstrap_of, lock_of, no_arch, source};
use crate::error::{CommandError, Kind};

/// A base, or what a build would do to get it.
#[derive(Debug)]
pub(in crate::commands) enum Looked {
    /// It is there.
    Here(Base),
    /// It would have to be got first.
    Away(Missing),
}

/// Something that a build would have to get first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::commands) struct Missing {
    /// What it is.
    pub(in crate::commands) what: String,
    /// How it is got.
    pub(in crate::commands) how: String,
    /// Bytes to download; none where nobody knows before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) bytes: Option<u64>,
}

impl Missing {
    fn new(what: impl Into<String>, how: impl Into<String>, bytes: Option<u64>) -> Self {
        Self { what: what.into(), how: how.into(), bytes }
    }
}

/// Looks for the base of a recipe in a cache that need not exist.
pub(in crate::commands) fn look(
    loaded: &Loaded,
    arch: Arch,
    cache: &Cache,
    pins: Pins,
) -> Result<Looked, CommandError> {
    let found = |base: Option<Base>, missing: Missing| base.map_or(Looked::Away(missing), Looked::Here);
    Ok(match &loaded.recipe.base {
        resolved::Base::Bootstrap { suite, variant, .. } => {
            let spec = bootstrap_of(suite, *variant, arch)?;
            found(
                spec.find(cache),
                Missing::new(format!("debian {suite} {arch}"), "it is made from the distribution's packages", None),
            )
        }
        resolved::Base::File { path, digest } => Looked::Here(match cache.find(digest) {
            Some(base) => base,
            None => of_file(path, digest)?,
        }),
        resolved::Base::Url(remotes) => {
            let source = source(remotes.get(&arch).ok_or_else(|| no_arch("base", arch))?)?;
            let how = format!("it is downloaded from {}", source.url);
            found(source.find(cache), Missing::new(source.name, how, source.size))
        }
        resolved::Base::Catalogue(name) => {
            let (_, lock) = lock_of(loaded)?;
            let pinning = if pins == Pins::Locked { Pinning::Locked } else { Pinning::Extend };
            match find_entry(name)?.pinned(arch, &lock, pinning)? {
                Some(source) => {
                    let how = format!("it is downloaded from {}", source.url);
                    found(source.find(cache), Missing::new(source.name, how, source.size))
                }
                None => Looked::Away(Missing::new(
                    format!("{name} {arch}"),
                    format!("{LOCK_NAME} does not pin it: the vendor is asked what it is today, then it is downloaded"),
                    None,
                )),
            }
        }
        resolved::Base::Image(image) => {
            let name = image.to_string();
            let (_, lock) = lock_of(loaded)?;
            let digest = match image {
                ImageRef::Registry(Registry { digest: Some(digest), .. }) => Some(digest.clone()),
                _ => lock.image(&name).cloned(),
            };
            match digest {
                Some(digest) => {
                    let base = InImage { image: &name, digest: &digest, arch }.find(cache);
                    found(base, Missing::new(&name, format!("the image {} is read", digest.short()), None))
                }
                None if pins == Pins::Locked => {
                    let text = format!("{LOCK_NAME} has no digest for `{name}`");
                    return Err(CommandError::sentence(Kind::Input, text)
                        .hint("`labwright base refresh` for the recipe accepts what is there now"));
                }
                None => {
                    let how = format!("{LOCK_NAME} does not pin it: it is looked up, then read");
                    Looked::Away(Missing::new(name, how, None))
                }
            }
        }
        resolved::Base::Recipe(_) => {
            return Err(CommandError::sentence(Kind::Bug, "the base was not refused in time"));
        }
    })
}

/// A file that no build has taken into the cache yet: its digest is the recipe's word.
fn of_file(path: &LocalPath, digest: &Digest) -> Result<Base, CommandError> {
    let info = inspect(&path.path, &Limits::default())?;
    Ok(Base {
        path: path.path.clone(),
        format: DiskFormat::from(info.format),
        digest: digest.clone(),
        virtual_size: ByteSize::from_bytes(info.virtual_size),
        name: path.path.file_name().unwrap_or(path.path.as_os_str()).to_string_lossy().into_owned(),
    })
}

/// Puts the ttyd that a recipe names by its address in as a file; where it is not in the cache, an empty stand-in,
/// and returns what is missing.
pub(in crate::commands) fn ttyd_missing(
    recipe: &mut Recipe,
    arch: Arch,
    cache: &Cache,
) -> Result<Vec<Missing>, CommandError> {
    let mut missing = Vec::new();
    for access in &mut recipe.access {
        let AccessSpec::Terminal { ttyd: Some(ttyd), .. } = &mut access.spec else { continue };
        let Ttyd::Url(remotes) = ttyd else { continue };
        let remote = remotes.get(&arch).ok_or_else(|| no_arch("ttyd", arch))?;
        let (path, digest) = if let Some(path) = cache.find_file(&remote.digest) {
            (path, remote.digest.clone())
        } else {
            missing.push(Missing::new("ttyd", format!("it is downloaded from {}", remote.url), None));
            ("/dev/null".into(), Digest::sha256(b""))
        };
        *ttyd = Ttyd::File { path: LocalPath { written: remote.url.clone(), path }, digest };
    }
    missing.dedup();
    Ok(missing)
}
