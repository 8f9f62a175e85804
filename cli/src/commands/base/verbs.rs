use std::path::Path;

use labwright_base_images::{Base as Disk, Cache, DiskFormat, Lock, Origin, catalog, find_entry};
use labwright_core::{Arch, ByteSize, Digest};
use labwright_recipes::resolved::Base as Wanted;
use serde::Serialize;

use super::{Bases, Pins, bootstrap_of, lock_of};
use crate::args::{Base, BasePull, BaseRefresh};
use crate::commands::runner::Wish;
use crate::commands::{Context, build, image, recipe_file};
use crate::error::{CommandError, Kind};

/// The answer of `base ls`. Fields are only ever added.
#[derive(Debug, Serialize)]
struct List {
    catalogue: Vec<Named>,
    cache: Vec<Cached>,
}

/// A name of the catalogue.
#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    title: &'static str,
    architectures: Vec<Arch>,
    /// Whether the vendor signs its list of digests.
    signed: bool,
}

/// A disk in the cache.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    name: String,
    digest: Digest,
    format: DiskFormat,
    virtual_size: u64,
    path: std::path::PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// What `base refresh` found. Fields are only ever added.
#[derive(Debug, Default, Serialize)]
struct Refreshed {
    changes: Vec<Change>,
}

/// A name that means something else than before, or is new in the lock file.
#[derive(Debug, Serialize)]
struct Change {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<Arch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<Digest>,
    now: Digest,
}

/// Carries out a verb of `base`.
pub(in crate::commands) fn run(verb: &Base, context: &Context<'_>) -> Result<(), CommandError> {
    match verb {
        Base::Ls => list(context),
        Base::Pull(args) => pull(args, context),
        Base::Refresh(args) => refresh(args, context),
    }
}

fn list(context: &Context<'_>) -> Result<(), CommandError> {
    let names = catalog().iter().map(|entry| Named {
        name: &entry.name,
        title: &entry.title,
        architectures: entry.images.keys().copied().collect(),
        signed: entry.signature.is_some(),
    });
    let dir = context.settings.home.join("bases");
    // A list must not make a home where there is none.
    let disks = if dir.exists() { Cache::open(dir)?.list()? } else { Vec::new() };
    let list = List {
        catalogue: names.collect(),
        cache: disks.into_iter().map(|(disk, origin)| cached(disk, Some(origin))).collect(),
    };
    context.ui.result(&list, || text(&list))
}

fn cached(disk: Disk, origin: Option<Origin>) -> Cached {
    Cached {
        name: disk.name,
        digest: disk.digest,
        format: disk.format,
        virtual_size: disk.virtual_size.bytes(),
        path: disk.path,
        origin,
    }
}

fn text(list: &List) -> String {
    let mut lines = vec!["Catalogue".to_owned()];
    for name in &list.catalogue {
        let archs: Vec<&str> = name.architectures.iter().map(|arch| arch.as_str()).collect();
        let signed = if name.signed { "signed" } else { "over https" };
        lines.push(format!("  {:<14} {:<14} {:<11} {}", name.name, archs.join(", "), signed, name.title));
    }
    lines.push(String::new());
    lines.push("Cache".to_owned());
    for disk in &list.cache {
        let size = ByteSize::from_bytes(disk.virtual_size).human();
        lines.push(format!("  {}  {} {size}  {}", disk.digest.short(), disk.format, disk.name));
    }
    if list.cache.is_empty() {
        lines.push("  nothing yet".to_owned());
    }
    lines.join("\n")
}

fn pull(args: &BasePull, context: &Context<'_>) -> Result<(), CommandError> {
    let images = image::images(context, &args.registries, &[])?;
    let bases = Bases::open(&images, context)?;
    let host = || args.arch.or(Arch::host());
    let unknown = || CommandError::sentence(Kind::Usage, "this machine is neither amd64 nor arm64: give --arch");
    let pins = if args.locked { Pins::Locked } else { Pins::Keep };
    let name = args.base.to_string_lossy();
    let disk = match find_entry(&name) {
        Ok(_) if args.locked => {
            return Err(CommandError::sentence(Kind::Usage, "--locked is for recipes: a name alone has no lock file"));
        }
        Ok(entry) => bases.catalogue(entry, host().ok_or_else(unknown)?, &mut Lock::default(), pins)?,
        Err(error) if looks_like_a_name(&args.base) => {
            return Err(CommandError::new(Kind::Input, error).hint("`labwright base ls` lists the names"));
        }
        Err(_) => {
            // Of recipes on recipes, the lowest has the base.
            let loaded = recipe_file::load_chain(&args.base, &[])?.remove(0);
            build::refuse(&loaded)?;
            let images = image::images(context, &args.registries, &base_image(&loaded.recipe.base))?;
            let arch = match args.arch {
                Some(arch) => arch,
                None => build::architecture(&loaded)?,
            };
            let wish = Wish { choice: args.runner, kernel: context.settings.kernel(args.appliance_kernel.as_deref()) };
            Bases::open(&images, context)?.fetch(&loaded, arch, pins, wish)?
        }
    };
    let answer = cached(disk, None);
    context.ui.result(&answer, || answer.path.display().to_string())
}

fn looks_like_a_name(path: &Path) -> bool {
    !path.exists() && path.components().count() == 1 && path.extension().is_none_or(|extension| extension != "yaml")
}

/// The image that a base is taken from.
pub(in crate::commands) fn base_image(base: &Wanted) -> Vec<labwright_core::ImageRef> {
    match base {
        Wanted::Image(image) => vec![image.clone()],
        _ => Vec::new(),
    }
}

fn refresh(args: &BaseRefresh, context: &Context<'_>) -> Result<(), CommandError> {
    let loaded = recipe_file::load_chain(&args.path, &[])?.remove(0);
    build::refuse(&loaded)?;
    let images = image::images(context, &args.registries, &base_image(&loaded.recipe.base))?;
    let bases = Bases::open(&images, context)?;
    let (path, mut lock) = lock_of(&loaded)?;
    let before = lock.clone();
    let mut found = Refreshed::default();
    match &loaded.recipe.base {
        Wanted::Catalogue(name) => {
            let entry = find_entry(name)?;
            for &arch in &loaded.recipe.architectures {
                let was = lock.get(name, arch).map(|pin| pin.digest.clone());
                let refresh = entry.refresh(arch, &mut lock, &bases.fetcher, context.cancel);
                context.runtime.block_on(refresh)?;
                let now = lock.get(name, arch).map(|pin| pin.digest.clone());
                if let Some(now) = now.filter(|now| Some(now) != was.as_ref()) {
                    found.changes.push(Change { name: name.clone(), arch: Some(arch), was, now });
                }
            }
            lock.save_pins(&path, &before)?;
        }
        Wanted::Image(image) if is_pinned(image) => {
            let (name, now) =
                (image.to_string(), context.runtime.block_on(images.resolve(image, context.cancel))?.digest);
            let was = lock.set_image(&name, now.clone());
            if was.as_ref() != Some(&now) {
                found.changes.push(Change { name, arch: None, was, now });
            }
            lock.save_pins(&path, &before)?;
        }
        Wanted::Bootstrap { suite, variant, .. } => {
            for &arch in &loaded.recipe.architectures {
                bootstrap_of(suite, *variant, arch)?.forget(&bases.cache)?;
            }
            context.ui.note("the next build makes the base anew from today's packages");
        }
        Wanted::Url(_) | Wanted::File { .. } | Wanted::Image(_) | Wanted::Recipe(_) => {
            context.ui.note("the recipe has the digest of its base: there is nothing to refresh");
        }
    }
    context.ui.result(&found, || {
        let line = |change: &Change| {
            let arch = change.arch.map_or_else(String::new, |arch| format!(" for {arch}"));
            let was = change.was.as_ref().map_or_else(|| "not pinned".to_owned(), ToString::to_string);
            format!("{}{arch}: {was} -> {}", change.name, change.now)
        };
        found.changes.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

/// Whether the lock file says what an image means.
pub(super) fn is_pinned(image: &labwright_core::ImageRef) -> bool {
    !matches!(image, labwright_core::ImageRef::Registry(registry) if registry.digest.is_some())
}
