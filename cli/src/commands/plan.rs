use labwright_base_images::{Base, Cache, DiskFormat};
use labwright_builder::{Forecast, Known, Plan, Reason, Size, SizeFrom, StepForecast, StepKind, forecast, recall};
use labwright_core::{Arch, ByteSize, Digest};
use labwright_recipes::Loaded;
use labwright_registry::Layout;
use serde::Serialize;

use super::base::{self, Looked, Missing, Pins};
use super::package_locks::PackageLocks;
use super::{build, recipe_file};
use crate::args;
use crate::commands::Context;
use crate::error::CommandError;

/// The answer of `plan`. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// `NAME:VERSION` in the local store.
    image: String,
    arch: Arch,
    /// Whether the store has the image that a build would make: then a build does nothing.
    up_to_date: bool,
    base: BaseAnswer,
    steps: Vec<StepAnswer>,
    /// What a build would fetch.
    downloads: Vec<Missing>,
    /// Bytes of the qcow2 file, from the last finished build.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_size: Option<Size>,
}

/// What a build would start from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BaseAnswer {
    name: String,
    /// None while it is not there and no digest is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// Whether it is there; otherwise no step has a key yet.
    present: bool,
}

/// One step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StepAnswer {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<Size>,
    /// Why it is not cached.
    reasons: Vec<ReasonAnswer>,
}

/// A reason, for programs and as the text for people.
#[derive(Debug, Serialize)]
struct ReasonAnswer {
    #[serde(flatten)]
    reason: Reason,
    text: String,
}

/// Says what a build would do.
pub(super) fn run(args: &args::Plan, context: &Context<'_>) -> Result<(), CommandError> {
    let recipes = recipe_file::load_chain(&args.path, &args.set)?;
    for loaded in &recipes {
        super::show_warnings(&loaded.warnings, context);
        build::refuse(loaded)?;
    }
    let (loaded, uppers) = recipes.split_first().expect("a chain has a recipe");
    let arch = build::architecture(loaded)?;
    let settings = context.settings;
    let cache = Cache::at(settings.home.join("bases"));
    let pins = if args.locked { Pins::Locked } else { Pins::Keep };
    let looked = base::look(loaded, arch, &cache, pins)?;
    let mut downloads = Vec::new();
    let mut on = |loaded: &Loaded| {
        let mut recipe = loaded.recipe.clone();
        downloads.extend(base::ttyd_missing(&mut recipe, arch, &cache)?);
        Ok::<_, CommandError>(recipe)
    };
    let recipe = on(loaded)?;
    let uppers = uppers.iter().map(on).collect::<Result<Vec<_>, _>>()?;
    let (base, mut known) = match looked {
        Looked::Here(base) => (base, Known::All),
        Looked::Away(missing) => {
            let base = stand_in(&missing);
            downloads.insert(0, missing);
            (base, Known::NoBase)
        }
    };
    if known == Known::All && !downloads.is_empty() {
        known = Known::Before(StepKind::Access);
    }
    let mut plan = Plan::new(recipe, arch, base)?;
    for upper in uppers {
        plan = Plan::on(upper, plan)?;
    }
    PackageLocks::apply(&recipes, &mut plan, pins, context.ui)?;
    if pins != Pins::Locked && known == Known::All {
        recall(&settings.home, &mut plan)?;
    }
    let forecast = forecast(&settings.home, &plan, known)?;
    let store = settings.store();
    let up_to_date =
        known == Known::All && store.exists() && build::already_built(&plan, &Layout::open(store)?, arch).is_some();
    if !up_to_date && forecast.steps.iter().any(|step| step.kind == StepKind::Packages && !step.is_cached()) {
        downloads.push(Missing {
            what: "packages".to_owned(),
            how: "by apt, with what they depend on; those that were fetched before are taken from the cache".to_owned(),
            bytes: None,
        });
    }
    let answer = answer(&plan, forecast, downloads, up_to_date, known);
    context.ui.result(&answer, || text(&answer))
}

/// Stands for a base that is not there, so that the steps can be listed; not a key of them is shown.
fn stand_in(missing: &Missing) -> Base {
    Base {
        path: std::path::PathBuf::new(),
        format: DiskFormat::Raw,
        digest: Digest::sha256(b""),
        virtual_size: ByteSize::from_bytes(0),
        name: missing.what.clone(),
    }
}

fn answer(plan: &Plan, forecast: Forecast, downloads: Vec<Missing>, up_to_date: bool, known: Known) -> Answer {
    let present = known != Known::NoBase;
    Answer {
        image: format!("{}:{}", plan.recipe().name, plan.recipe().version),
        arch: plan.arch(),
        up_to_date,
        base: BaseAnswer {
            name: plan.base().name.clone(),
            digest: present.then(|| plan.base().digest.clone()),
            present,
        },
        steps: forecast.steps.into_iter().map(step).collect(),
        downloads,
        image_size: forecast.file_size.map(|bytes| Size { bytes, from: SizeFrom::LastBuild }),
    }
}

fn step(step: StepForecast) -> StepAnswer {
    StepAnswer {
        name: step.label.clone(),
        cached: step.is_cached(),
        key: step.key.map(|key| key.to_string()),
        size: step.size,
        reasons: step.reasons.into_iter().map(|reason| ReasonAnswer { text: reason.to_string(), reason }).collect(),
    }
}

/// How many reasons a line of the table has room for.
const REASONS: usize = 4;

fn text(answer: &Answer) -> String {
    let digest = answer.base.digest.as_ref().map_or_else(
        || "not here yet; it is got first, and the key of every step depends on it".to_owned(),
        |digest| digest.short().to_string(),
    );
    let width = answer.steps.iter().map(|step| step.name.len()).max().unwrap_or_default().max(9);
    let mut lines = vec![
        format!("image:  {} for {}", answer.image, answer.arch),
        format!("base:   {}, {digest}", answer.base.name),
        String::new(),
        format!("{:<width$} {:<12} {:<7} {:>12}  {}", "STEP", "KEY", "STATE", "SIZE", "WHY"),
    ];
    lines.extend(answer.steps.iter().map(|step| line(step, width)));
    lines.push(String::new());
    for download in &answer.downloads {
        let size =
            download.bytes.map_or_else(|| "size unknown".to_owned(), |bytes| ByteSize::from_bytes(bytes).human());
        lines.push(format!("to get: {} ({size}): {}", download.what, download.how));
    }
    if let Some(size) = answer.image_size {
        lines.push(format!("image size: {} at the last build", ByteSize::from_bytes(size.bytes).human()));
    }
    if answer.steps.iter().any(|step| step.size.is_some_and(|size| size.from == SizeFrom::LastBuild)) {
        lines.push("sizes with ~ are those of the last build; where none is shown, nobody knows".to_owned());
    }
    let left = answer.steps.iter().filter(|step| !step.cached).count();
    lines.push(if answer.up_to_date {
        "the store has this image: a build would do nothing".to_owned()
    } else {
        format!("a build would run {left} of {} steps", answer.steps.len())
    });
    lines.join("\n")
}

fn line(step: &StepAnswer, width: usize) -> String {
    let key = step.key.as_deref().map_or("unknown", |key| &key[..12.min(key.len())]);
    let size = step.size.map_or_else(String::new, |size| {
        let tilde = if size.from == SizeFrom::LastBuild { "~" } else { "" };
        format!("{tilde}{}", ByteSize::from_bytes(size.bytes).human())
    });
    let mut why: Vec<&str> = step.reasons.iter().take(REASONS).map(|reason| reason.text.as_str()).collect();
    let more = format!("{} more", step.reasons.len().saturating_sub(REASONS));
    if step.reasons.len() > REASONS {
        why.push(&more);
    }
    let state = if step.cached { "cached" } else { "build" };
    format!("{:<width$} {key:<12} {state:<7} {size:>12}  {}", step.name, why.join(", ")).trim_end().to_owned()
}
