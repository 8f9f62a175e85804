//! The images of a lab's machines: built, or found where the lab says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use labwright_base_images::Lock;
use labwright_core::{Arch, Digest, ImageFacts, ImageRef};
use labwright_lab::resolved::ImageSource;
use labwright_lab::{LockedImage, LockedLab};
use labwright_registry::Images;
use serde::Serialize;

use super::base::LOCK_NAME;
use super::lab_file::{LabFile, load_lab};
use super::{build, build_secrets, documents, image, plan, recipe_file};
use crate::args::{Build, Plan, Registries};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// What to do where the store lacks the image of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    /// Build it.
    Missing,
    /// Fail: whoever asked wants what was built.
    Nothing,
}

/// An image that a machine of a lab runs.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Where it can be read.
    pub(super) at: ImageRef,
    /// The digest of its index or manifest.
    pub(super) digest: Digest,
    facts: Option<ImageFacts>,
    archs: Vec<Arch>,
    unchanged: bool,
}

/// The answer of `build` for a lab. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The lab's name.
    lab: String,
    /// Its version.
    version: String,
    /// Its machines, in its order.
    machines: Vec<MachineAnswer>,
}

#[derive(Debug, Serialize)]
struct MachineAnswer {
    name: String,
    /// Where the image is.
    image: String,
    digest: String,
    /// Whether nothing had to be done for it.
    unchanged: bool,
}

/// Builds and looks up all images of a lab, and locks it to them.
pub(super) fn build(args: &Build, file: &Path, context: &Context<'_>) -> Result<(), CommandError> {
    for (given, option) in [(args.output.is_some(), "--output"), (args.from.is_some(), "--from")] {
        if given {
            let text = format!("{option} is for one recipe, and {} is a lab", file.display());
            return Err(CommandError::sentence(Kind::Usage, text).hint("build the recipe of that machine by its path"));
        }
    }
    let lab = load_lab(file, &args.set)?;
    super::show_warnings(&lab.warnings, context);
    build_secrets::known(&lab.build_secrets, &args.secret)?;
    let images = gather(&lab, args, Make::Missing, context)?;
    let answer = Answer {
        lab: lab.loaded.lab.name.clone(),
        version: lab.loaded.lab.version.clone(),
        machines: lab.loaded.lab.machines.iter().map(|machine| answer(&machine.name, &images[&machine.name])).collect(),
    };
    write_lock(&lab, args.locked, &images)?;
    // What the lab wants of its images is known to hold only now.
    let name = format!("{} {}", lab.loaded.lab.name, lab.loaded.lab.version);
    locked(lab, &images, "registry.invalid/unpublished")?;
    context.ui.note(format!("{name}: the images of all machines are there; `labwright push` publishes the lab"));
    context.ui.result(&answer, || {
        answer
            .machines
            .iter()
            .map(|one| format!("{}\t{}@{}", one.name, one.image, one.digest))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn answer(name: &str, found: &Found) -> MachineAnswer {
    MachineAnswer {
        name: name.to_owned(),
        image: undigested(&found.at).to_string(),
        digest: found.digest.to_string(),
        unchanged: found.unchanged,
    }
}

/// The reference without a digest.
fn undigested(reference: &ImageRef) -> ImageRef {
    match reference {
        ImageRef::Registry(registry) => {
            ImageRef::Registry(labwright_core::Registry { digest: None, ..registry.clone() })
        }
        other => other.clone(),
    }
}

/// The lab's lock file.
fn lock_path(lab: &LabFile) -> PathBuf {
    documents::dir(&lab.file).join(LOCK_NAME)
}

/// Writes the digests of the images down. With `--locked` only a name without a digest must have been there before: what a
/// build makes is not the same bytes on every machine.
fn write_lock(lab: &LabFile, is_locked: bool, images: &BTreeMap<String, Found>) -> Result<(), CommandError> {
    if is_locked {
        return Ok(());
    }
    let machines: Vec<(String, Digest)> =
        images.iter().map(|(name, found)| (name.clone(), found.digest.clone())).collect();
    Lock::update(&lock_path(lab), |lock| {
        for (reference, digest) in unpinned(lab, images) {
            lock.set_image(&reference, digest);
        }
        lock.set_lab(&lab.loaded.lab.name, machines);
    })?;
    Ok(())
}

/// References without a digest, with what they mean.
fn unpinned<'a>(lab: &'a LabFile, images: &'a BTreeMap<String, Found>) -> impl Iterator<Item = (String, Digest)> + 'a {
    lab.loaded.lab.machines.iter().filter_map(|machine| match &machine.image {
        ImageSource::Reference(reference) if pinned(reference).is_none() => {
            Some((reference.to_string(), images.get(&machine.name)?.digest.clone()))
        }
        _ => None,
    })
}

fn pinned(reference: &ImageRef) -> Option<&Digest> {
    match reference {
        ImageRef::Registry(registry) => registry.digest.as_ref(),
        _ => None,
    }
}

/// The image of every machine: recipes are built, references looked up. `args` says how.
pub(super) fn gather(
    lab: &LabFile,
    args: &Build,
    make: Make,
    context: &Context<'_>,
) -> Result<BTreeMap<String, Found>, CommandError> {
    let references: Vec<ImageRef> = lab
        .loaded
        .lab
        .machines
        .iter()
        .filter_map(|machine| match &machine.image {
            ImageSource::Reference(reference) => Some(reference.clone()),
            ImageSource::Recipe(_) => None,
        })
        .collect();
    // The option may be meant for where the lab is published.
    let plain_http = args.registries.plain_http && references.iter().any(|one| matches!(one, ImageRef::Registry(_)));
    let images = image::images(context, &Registries { plain_http, ..args.registries.clone() }, &references)?;
    let lock = Lock::load(&lock_path(lab))?;
    let mut built: BTreeMap<PathBuf, Found> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for machine in &lab.loaded.lab.machines {
        let image = match &machine.image {
            ImageSource::Recipe(path) => {
                if let Some(image) = built.get(&path.path) {
                    image.clone()
                } else {
                    let image = from_recipe(&path.path, args, make, &images, context)
                        .map_err(|error| error.context(format!("the image of the machine `{}`", machine.name)))?;
                    built.insert(path.path.clone(), image.clone());
                    image
                }
            }
            ImageSource::Reference(reference) => look_up(reference, lab, &lock, (args, make), &images, context)
                .map_err(|error| error.context(format!("the image of the machine `{}`", machine.name)))?,
        };
        found.insert(machine.name.clone(), image);
    }
    Ok(found)
}

fn from_recipe(
    path: &Path,
    args: &Build,
    make: Make,
    images: &Images,
    context: &Context<'_>,
) -> Result<Found, CommandError> {
    // Values are for the variables of the lab that was named; those of its recipes have their defaults.
    let (path, set) = (path.to_owned(), Vec::new());
    let (image, unchanged) = match make {
        Make::Missing => {
            let secret = build_secrets::of_recipe(&recipe_file::load_chain(&path, &[])?, &args.secret);
            let answer = build::recipe(&Build { path, set, secret, ..args.clone() }, context)?;
            (answer.image, answer.unchanged)
        }
        Make::Nothing => {
            let plan = plan::recipe(&Plan { path: path.clone(), set, locked: false }, context)?;
            if !plan.up_to_date {
                let text = format!("the store has no image {} of what {} says now", plan.image, path.display());
                return Err(CommandError::sentence(Kind::Input, text).hint("`labwright build` makes it"));
            }
            (plan.image, true)
        }
    };
    let at: ImageRef = image.parse().map_err(|error| CommandError::new(Kind::Bug, error))?;
    let mut found = inspected(&at, images, context)?;
    found.unchanged = unchanged;
    Ok(found)
}

/// What a reference means: its own digest, else the one that is locked, else what is there now.
fn look_up(
    reference: &ImageRef,
    lab: &LabFile,
    lock: &Lock,
    (args, make): (&Build, Make),
    images: &Images,
    context: &Context<'_>,
) -> Result<Found, CommandError> {
    let name = reference.to_string();
    let locked = lock.image(&name).filter(|_| !args.update);
    if pinned(reference).is_none() && locked.is_none() && (args.locked || make == Make::Nothing) {
        let text = format!("labwright.lock has nothing for `{name}`");
        return Err(CommandError::sentence(Kind::Lock, text)
            .hint("`labwright build` without --locked looks the image up and writes its digest there"));
    }
    let at = match (reference, locked) {
        (ImageRef::Registry(registry), Some(digest)) if registry.digest.is_none() => {
            ImageRef::Registry(labwright_core::Registry { digest: Some(digest.clone()), ..registry.clone() })
        }
        // Paths in a lab are relative to it.
        (ImageRef::Layout { dir, tag }, _) => {
            ImageRef::Layout { dir: documents::dir(&lab.file).join(dir), tag: tag.clone() }
        }
        (ImageRef::Archive { file, tag }, _) => {
            ImageRef::Archive { file: documents::dir(&lab.file).join(file), tag: tag.clone() }
        }
        _ => reference.clone(),
    };
    let found = inspected(&at, images, context)?;
    match locked {
        // A layout or the local store has no names by digest.
        Some(digest) if *digest != found.digest && pinned(reference).is_none() => {
            let text = format!("labwright.lock has `{name}` at {digest}, and it is {} now", found.digest);
            Err(CommandError::sentence(Kind::Lock, text).hint("`labwright build --update` takes what is there now"))
        }
        _ => Ok(found),
    }
}

fn inspected(at: &ImageRef, images: &Images, context: &Context<'_>) -> Result<Found, CommandError> {
    let inspection = context.runtime.block_on(images.inspect(at, context.cancel))?;
    let archs: Vec<Arch> =
        inspection.platforms.iter().filter_map(|platform| platform.architecture.parse().ok()).collect();
    let facts = inspection.platforms.into_iter().find_map(|platform| platform.facts);
    Ok(Found { at: at.clone(), digest: inspection.digest, facts, archs, unchanged: true })
}

/// The lab locked to these images. Those that are in no registry are, or will be, in `repository`.
pub(super) fn locked(
    lab: LabFile,
    images: &BTreeMap<String, Found>,
    repository: &str,
) -> Result<LockedLab, CommandError> {
    let image = |found: &Found| LockedImage {
        repository: match &found.at {
            ImageRef::Registry(registry) => format!("{}/{}", registry.host, registry.repository),
            _ => repository.to_owned(),
        },
        digest: found.digest.clone(),
        facts: found.facts.clone(),
        archs: found.archs.clone(),
    };
    let images = images.iter().map(|(name, found)| (name.clone(), image(found))).collect();
    Ok(lab.loaded.lock(images)?)
}

/// Whether an image is in no registry yet.
pub(super) fn is_local(found: &Found) -> bool {
    !matches!(found.at, ImageRef::Registry(_))
}
