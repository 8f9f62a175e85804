use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use labwright_base_images::Cache;
use labwright_builder::Builder;
use labwright_core::ByteSize;
use labwright_registry::document::Document;
use labwright_registry::{Descriptor, Layout};
use serde::Serialize;

use super::{disk_cache, machine_dir};
use crate::args::Gc;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// Blobs that other tools may be adding right now stay so long.
const GRACE: Duration = Duration::from_hours(1);

/// What was removed. Fields are only ever added.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    removed_images: Vec<String>,
    damaged_steps: Vec<String>,
    steps: u64,
    blobs: u64,
    disks: u64,
    left_by_killed_runs: u64,
    freed: u64,
    kept_steps: u64,
}

/// Removes what nothing needs, and what killed runs left behind.
pub(super) fn run(args: &Gc, context: &Context<'_>) -> Result<(), CommandError> {
    let settings = context.settings;
    let mut answer = Answer::default();
    if !settings.home.exists() {
        context.ui.note(format!("{} does not exist; there is nothing to remove", settings.home.display()));
        return context.ui.result(&answer, String::new);
    }
    remove_images(&args.remove, context, &mut answer)?;
    let builder = Builder::new(&settings.home, "/proc/self/exe")?;
    if args.verify {
        answer.damaged_steps = builder.verify(context.cancel)?;
    }
    let age = Duration::from_secs(args.max_age.saturating_mul(24 * 60 * 60));
    match builder.collect(Some(age), args.max_size)? {
        Some(collected) => {
            answer.steps = collected.removed as u64;
            answer.freed += collected.freed;
            answer.kept_steps = collected.kept;
        }
        None => context.ui.warning("a build is running; cached steps are left as they are"),
    }
    // Opening it sweeps what killed runs left.
    Cache::open(settings.home.join("bases"))?;
    answer.left_by_killed_runs = machine_dir::sweep(&settings.machines()).map_err(io_failed)?;
    if settings.store().exists() {
        let store = Layout::open(settings.store())?;
        let freed = store.gc(GRACE)?;
        answer.blobs = freed.blobs;
        answer.freed += freed.bytes;
        remove_disks(&settings.disks(), &manifests(&store)?, &mut answer)?;
    }
    context.ui.result(&answer, || text(&answer))
}

fn io_failed(source: std::io::Error) -> CommandError {
    CommandError::new(Kind::Host, source).context("could not clean up")
}

fn remove_images(names: &[String], context: &Context<'_>, answer: &mut Answer) -> Result<(), CommandError> {
    if names.is_empty() {
        return Ok(());
    }
    let store = Layout::open(context.settings.store())?;
    for name in names {
        if !store.remove_tag(name)? {
            return Err(CommandError::sentence(Kind::Input, format!("there is no image `{name}`"))
                .hint("`labwright inspect` lists the images; write NAME:TAG"));
        }
        answer.removed_images.push(name.clone());
    }
    Ok(())
}

/// The hexadecimal digests of all manifests that the store's tags reach.
fn manifests(store: &Layout) -> Result<BTreeSet<String>, CommandError> {
    let mut open: Vec<Descriptor> = store.tags()?.into_iter().map(|(_, image)| image).collect();
    let mut manifests = BTreeSet::new();
    while let Some(next) = open.pop() {
        match store.document(&next)? {
            Document::Index(index) => open.extend(index.manifests),
            Document::Manifest(_) => drop(manifests.insert(next.digest.hex().to_owned())),
        }
    }
    Ok(manifests)
}

/// Removes unpacked disks whose image is not in the store any more, or that were written before the host started anew.
fn remove_disks(dir: &Path, manifests: &BTreeSet<String>, answer: &mut Answer) -> Result<(), CommandError> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs_err::read_dir(dir).map_err(io_failed)? {
        let path = entry.map_err(io_failed)?.path();
        if path.is_file() && !disk_cache::is_current(&path, manifests)? {
            answer.freed += fs_err::metadata(&path).map_err(io_failed)?.len();
            // A machine that runs from it keeps it open until it ends.
            fs_err::remove_file(&path).map_err(io_failed)?;
            answer.disks += 1;
        }
    }
    Ok(())
}

fn text(answer: &Answer) -> String {
    let mut lines: Vec<String> = answer.removed_images.iter().map(|image| format!("removed {image}")).collect();
    lines.extend(answer.damaged_steps.iter().map(|step| format!("damaged, removed: {step}")));
    lines.push(format!(
        "freed {}: {} cached steps, {} blobs, {} unpacked disks, {} directories of killed runs; cached steps keep {}",
        ByteSize::from_bytes(answer.freed).human(),
        answer.steps,
        answer.blobs,
        answer.disks,
        answer.left_by_killed_runs,
        ByteSize::from_bytes(answer.kept_steps).human()
    ));
    lines.join("\n")
}
