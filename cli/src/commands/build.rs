use std::path::{Path, PathBuf};

use labwright_builder::{Artifact, BuildOptions, Builder, Plan, Resolve, recall};
use labwright_core::{Arch, Digest, ImageFacts, ImageForm};
use labwright_recipes::resolved::Output;
use labwright_recipes::{Feature, Loaded};
use labwright_registry::{Descriptor, Layout, Packed, artifacts, attach, container_disk, media_type, rfc3339};
use serde::Serialize;

use super::base::{self, Bases, Pins};
use super::documents::{self, Document};
use super::package_locks::PackageLocks;
use super::runner::Wish;
use super::terminal::Terminal;
use super::{build_secrets, container, disk_cache, image, lab_images, recipe_file, runner};
use crate::args::{Build, OnError};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The answer of `build`. Fields are only ever added.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// `NAME:VERSION` in the local store.
    pub(super) image: String,
    /// The digest of the image index.
    pub(super) digest: String,
    /// Whether the store had it already.
    pub(super) unchanged: bool,
    /// Bytes of the qcow2 file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
    /// Bytes of the disk that hold something.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_size: Option<u64>,
    /// Steps and whether each came from the cache.
    steps: Vec<StepAnswer>,
    /// The build's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<PathBuf>,
}

/// One step of a build.
#[derive(Debug, Clone, Serialize)]
struct StepAnswer {
    name: String,
    cached: bool,
}

/// Builds the disk of a recipe, or of each machine of a lab, and packs it.
pub(super) fn run(args: &Build, context: &Context<'_>) -> Result<(), CommandError> {
    match documents::find(&args.path)? {
        Document::Lab(file) => lab_images::build(args, &file, context),
        Document::Recipe => {
            let answer = recipe(args, context)?;
            context.ui.result(&answer, || answer.image.clone())
        }
    }
}

/// Builds the disk of a recipe and packs it.
pub(super) fn recipe(args: &Build, context: &Context<'_>) -> Result<Answer, CommandError> {
    let terminal = match args.on_error {
        OnError::Fail => None,
        OnError::Shell => Some(Terminal::take()?),
    };
    let recipes = recipe_file::load_chain(&args.path, &args.set)?;
    for loaded in &recipes {
        super::show_warnings(&loaded.warnings, context);
        refuse(loaded)?;
    }
    let mut wanted: Vec<String> = Vec::new();
    for name in recipes.iter().flat_map(|loaded| &loaded.recipe.build_secrets) {
        if !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    let secrets = build_secrets::gather(&wanted, &args.secret)?;
    let (loaded, uppers) = recipes.split_first().expect("a chain has a recipe");
    let named = uppers.last().unwrap_or(loaded);
    if args.output.is_some() && named.recipe.output.form() == ImageForm::Container {
        let text = format!("--output is for disks, and {} makes a container image", named.file.name);
        return Err(CommandError::sentence(Kind::Usage, text).hint("`labwright pull IMAGE oci:DIR` writes the image"));
    }
    let arch = architecture(loaded)?;
    let store = Layout::open_or_create(context.settings.store())?;
    let images = image::images(context, &args.registries, &base::base_image(&loaded.recipe.base))?;
    let bases = Bases::open(&images, context)?;
    let pins = match (args.locked, args.update) {
        (true, _) => Pins::Locked,
        (false, true) => Pins::Update,
        (false, false) => Pins::Keep,
    };
    let wish = Wish { choice: args.runner, kernel: context.settings.kernel(args.appliance_kernel.as_deref()) };
    let base = bases.fetch(loaded, arch, pins, wish)?;
    let mut recipe = loaded.recipe.clone();
    bases.bring_ttyd(&mut recipe, arch)?;
    let mut plan = Plan::new(recipe, arch, base)?;
    for upper in uppers {
        let mut recipe = upper.recipe.clone();
        bases.bring_ttyd(&mut recipe, arch)?;
        plan = Plan::on(recipe, plan)?;
    }
    let locks = PackageLocks::apply(&recipes, &mut plan, pins, context.ui)?;
    if pins == Pins::Keep {
        recall(&context.settings.home, &mut plan)?;
    }
    if pins != Pins::Locked {
        locks.prepare(&plan)?;
    }

    let anew = args.from.is_some() || args.no_cache || args.force;
    if let Some(built) = already_built(&plan, &store, arch).filter(|_| !anew) {
        let kept = disk_cache::kept(&built.manifest, context.settings)?;
        // A file that is asked for and not kept has to be made.
        if args.output.is_none() || kept.is_some() {
            if let (Some(output), Some(disk)) = (&args.output, kept) {
                write_disk(&disk, output, context)?;
            }
            Builder::new(&context.settings.home, "/proc/self/exe")?.remember(&plan)?;
            return Ok(report_unchanged(built, context));
        }
    }

    let builder = Builder::new(&context.settings.home, "/proc/self/exe")?;
    let runner = runner::choose(args.runner, context.settings.kernel(args.appliance_kernel.as_deref()), arch, context)?;
    let mut options = BuildOptions {
        from: args.from,
        everything: args.no_cache,
        terminal: terminal.as_ref().map(|terminal| terminal.path().to_owned()),
        environment: context.settings.proxies.clone(),
        runner,
        resolve: match pins {
            Pins::Keep => Resolve::Missing,
            Pins::Update => Resolve::Anew,
            Pins::Locked => Resolve::Never,
        },
        secrets,
    };
    let build = |plan, options: &_| builder.build(plan, options, &locks, context.ui.reporter(), context.cancel);
    let artifact = match build(plan.clone(), &options) {
        Ok(artifact) => artifact,
        Err(error) => {
            let kernel = context.settings.kernel(args.appliance_kernel.as_deref());
            let instead = |reason| runner::instead(args.runner, reason, kernel, arch, context);
            options.runner = error.needs_machine().map(instead).transpose()?.flatten().ok_or(error)?;
            build(plan, &options)?
        }
    };
    let packed = match &artifact.plan.recipe().output {
        Output::Disk { .. } => container_disk::pack(
            &store,
            &artifact.disk,
            &artifact.facts,
            context.settings.created,
            context.ui.reporter(),
            context.cancel,
        )?,
        Output::Container(container) => {
            container::pack(&store, &builder, &artifact, container, &options.runner, context)?
        }
    };
    describe(&store, &artifact, &packed, context)?;
    if artifact.facts.form == ImageForm::ContainerDisk {
        if let Some(output) = &args.output {
            write_disk(&artifact.disk, output, context)?;
        }
        disk_cache::keep(&artifact.disk, &packed.manifest.digest, context.settings)?;
    }
    report(artifact, &packed, context)
}

fn write_disk(disk: &Path, output: &Path, context: &Context<'_>) -> Result<(), CommandError> {
    disk_cache::copy(disk, output)?;
    context.ui.note(format!("wrote {}", output.display()));
    Ok(())
}

/// Stores with the image what is in it and how it came to be.
fn describe(store: &Layout, artifact: &Artifact, packed: &Packed, context: &Context<'_>) -> Result<(), CommandError> {
    let created = context.settings.created.map(rfc3339);
    let sbom = artifact.sbom(&packed.manifest.digest, created.as_deref());
    attach(store, &packed.manifest, media_type::CYCLONEDX, &sbom)?;
    let provenance = artifact.plan.provenance(&artifact.facts, &packed.manifest.digest, created.as_deref());
    attach(store, &packed.manifest, media_type::IN_TOTO, &provenance)?;
    Ok(())
}

fn report_unchanged(built: Built, context: &Context<'_>) -> Answer {
    let Built { image, digest, .. } = built;
    context.ui.note(format!("{image} is up to date"));
    Answer { image, digest, unchanged: true, file_size: None, data_size: None, steps: Vec::new(), log: None }
}

fn report(artifact: Artifact, packed: &Packed, context: &Context<'_>) -> Result<Answer, CommandError> {
    context.ui.note(format!(
        "{}: {} of data in {}",
        packed.tag,
        artifact.data_size.human(),
        artifact.file_size.human()
    ));
    let answer = Answer {
        image: packed.tag.clone(),
        digest: packed.index.digest.to_string(),
        unchanged: false,
        file_size: Some(artifact.file_size.bytes()),
        data_size: Some(artifact.data_size.bytes()),
        steps: artifact.steps.iter().map(|(step, cached)| StepAnswer { name: step.clone(), cached: *cached }).collect(),
        log: Some(artifact.log.clone()),
    };
    let fail = |source| CommandError::new(Kind::Host, source).context("could not remove the build's directory");
    artifact.close().map_err(fail)?;
    Ok(answer)
}

/// An image in the store that a plan would make again.
pub(super) struct Built {
    /// `NAME:VERSION`.
    pub(super) image: String,
    /// The digest of the image index.
    digest: String,
    /// The digest of the manifest for the plan's architecture.
    manifest: Digest,
}

/// The image in the store that this plan would make again, if there is one.
pub(super) fn already_built(plan: &Plan, store: &Layout, arch: Arch) -> Option<Built> {
    let tag = format!("{}:{}", plan.recipe().name, plan.recipe().version);
    let image: Descriptor = store.resolve(&tag).ok()?;
    // An image that cannot be read is built again.
    let facts: ImageFacts = container_disk::facts(store, &image, Some(arch)).ok()?;
    // A build that was ended before it stored what goes with the image did not come to its end.
    let manifest = container_disk::manifest(store, &image, Some(arch)).ok()?.digest;
    let kinds = artifacts(store, &manifest).ok()?;
    let described =
        [media_type::CYCLONEDX, media_type::IN_TOTO].iter().all(|kind| kinds.iter().any(|found| found == kind));
    // What recipes below say of ports and of their versions is in no key and in no digest of this recipe. Another version of
    // this program would say the same, and where ttyd came from is known by who installed it only.
    let said = facts.clone();
    let same = described && said == ImageFacts { tool_version: facts.tool_version, ..plan.facts(facts.extra_packages) };
    same.then(|| Built { image: tag, digest: image.digest.to_string(), manifest })
}

/// What to build for: this machine's own architecture.
pub(super) fn architecture(loaded: &Loaded) -> Result<Arch, CommandError> {
    let host =
        Arch::host().ok_or_else(|| CommandError::sentence(Kind::Host, "this machine is neither amd64 nor arm64"))?;
    if loaded.recipe.architectures.contains(&host) {
        return Ok(host);
    }
    let wanted: Vec<&str> = loaded.recipe.architectures.iter().map(|arch| arch.as_str()).collect();
    Err(CommandError::sentence(
        Kind::Host,
        format!("the recipe is for {}, and this machine is {host}", wanted.join(" and ")),
    )
    .hint(format!("add {host} to `architectures`, or build on a machine of that kind")))
}

/// Refuses what the checker knows and this version cannot build.
pub(super) fn refuse(loaded: &Loaded) -> Result<(), CommandError> {
    let mut refused = loaded.refuse(|feature| {
        let what = match feature {
            Feature::Architecture(arch) if Arch::host() == Some(arch) && arch == Arch::Amd64 => return None,
            // Another architecture beside one that works is simply not built here.
            Feature::Architecture(_) if loaded.recipe.architectures.contains(&Arch::Amd64) => return None,
            Feature::Architecture(_) => "disks for arm64",
            Feature::Desktop => "desktops",
            Feature::BaseRecipe
            | Feature::BaseCatalogue
            | Feature::BaseUrl
            | Feature::BaseImage
            | Feature::BuildSecrets
            | Feature::OwnTtyd => return None,
        };
        Some(format!("this version of Labwright cannot build {what} yet"))
    });
    refused.0.extend(base::unknown_name(loaded));
    if refused.0.is_empty() { Ok(()) } else { Err(refused.into()) }
}

/// The directory that a file will be in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}
