use labwright_core::{ByteSize, ImageFacts, ImageForm, ImageRef};
use labwright_registry::{Images, Inspection, Layout, PlatformInspection, ReferrerInspection, annotations, media_type};
use serde::Serialize;

use labwright_lab::bundle::Config;

use super::image;
use super::published::{self, Published};
use crate::args::Inspect;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// A line of the list of images.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    image: String,
    digest: String,
}

/// Shows what is in an image, or which images there are.
pub(super) fn run(args: &Inspect, context: &Context<'_>) -> Result<(), CommandError> {
    match &args.image {
        Some(reference) => one(reference, args, context),
        None => list(context),
    }
}

fn one(reference: &ImageRef, args: &Inspect, context: &Context<'_>) -> Result<(), CommandError> {
    let images = image::images(context, &args.registries, std::slice::from_ref(reference))?;
    image::needs_store(reference, context)?;
    if args.tags {
        let tags = context.runtime.block_on(images.tags(reference, context.cancel))?;
        return context.ui.result(&tags, || tags.join("\n"));
    }
    if args.sbom {
        return document(reference, media_type::CYCLONEDX, "list of its packages", &images, context);
    }
    if args.provenance {
        return document(reference, media_type::IN_TOTO, "statement of its provenance", &images, context);
    }
    if let Some(lab) = published::look(reference, &images, context)? {
        return context.ui.result(&LabAnswer::new(&lab), || lab_text(&lab));
    }
    let inspection = context.runtime.block_on(images.inspect(reference, context.cancel))?;
    context.ui.result(&inspection, || text(&inspection))
}

/// The answer of `inspect` for a lab. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LabAnswer<'a> {
    /// The reference as given.
    reference: &'a str,
    digest: String,
    /// What the lab says of itself.
    lab: &'a Config,
    #[serde(skip_serializing_if = "Option::is_none")]
    chart: Option<String>,
    /// The digest of the manifest for imgpkg.
    #[serde(skip_serializing_if = "Option::is_none")]
    imgpkg: Option<String>,
    referrers: &'a [ReferrerInspection],
}

impl<'a> LabAnswer<'a> {
    fn new(lab: &'a Published) -> Self {
        let found = &lab.inspection;
        Self {
            reference: &found.reference,
            digest: found.digest.to_string(),
            lab: &lab.config,
            chart: found.chart.as_ref().map(ToString::to_string),
            imgpkg: found.imgpkg.as_ref().map(ToString::to_string),
            referrers: &found.referrers,
        }
    }
}

fn lab_text(lab: &Published) -> String {
    let (found, config) = (&lab.inspection, &lab.config);
    let mut lines = vec![
        format!("lab:       {} {}", config.name, config.lab_version),
        format!("reference: {}", crate::ui::printable(&found.reference)),
        format!("digest:    {}", found.digest),
    ];
    let mut say = |name: &str, value: String| lines.push(format!("{name:<11}{}", crate::ui::printable(&value)));
    if let Some(title) = &config.title {
        say("title:", title.clone());
    }
    if !config.authors.is_empty() {
        say("authors:", config.authors.join(", "));
    }
    if let Some(license) = &config.license {
        say("license:", license.clone());
    }
    say("made by:", format!("labwright {}", config.tool_version));
    for machine in &config.machines {
        let hidden = if machine.hidden { ", hidden" } else { "" };
        say("machine:", format!("{} ({}{hidden})", machine.name, machine.kind));
        say("  image:", machine.reference());
        if let Some(facts) = &machine.facts {
            match facts.form {
                ImageForm::ContainerDisk => {
                    say("  disk:", format!("{}, {} {}", facts.virtual_size.human(), facts.name, facts.version));
                }
                ImageForm::Container => say("  recipe:", format!("{} {}", facts.name, facts.version)),
            }
        }
        if !machine.access.is_empty() {
            say("  access:", machine.access.join(", "));
        }
    }
    for task in &config.tasks {
        say("task:", task.clone());
    }
    for page in &config.instructions {
        say("page:", page.clone());
    }
    if let Some(chart) = &found.chart {
        say("chart:", chart.to_string());
    }
    lines.join("\n")
}

/// Prints a document that was stored with the image, byte for byte.
fn document(
    reference: &ImageRef,
    kind: &str,
    what: &str,
    images: &Images,
    context: &Context<'_>,
) -> Result<(), CommandError> {
    let found = context.runtime.block_on(images.attached(reference, None, kind, context.cancel))?;
    let Some(bytes) = found else {
        let text = format!("the image `{reference}` comes without a {what}");
        return Err(CommandError::sentence(Kind::Input, text)
            .hint("images built by this version of Labwright have one; it is lost where referrers are not copied"));
    };
    context.ui.data(&String::from_utf8_lossy(&bytes))
}

fn text(inspection: &Inspection) -> String {
    let mut lines = vec![format!("image:     {}", inspection.image), format!("digest:    {}", inspection.digest)];
    for platform in &inspection.platforms {
        lines.push(String::new());
        lines.extend(platform_text(platform));
    }
    lines.join("\n")
}

fn platform_text(platform: &PlatformInspection) -> Vec<String> {
    let size = ByteSize::from_bytes(platform.size).human();
    let mut lines =
        vec![format!("{}/{}, {size} to transfer, {}", platform.os, platform.architecture, platform.manifest)];
    match &platform.facts {
        Some(facts) => lines.extend(facts_text(facts)),
        None => lines.push("made by another program than labwright".to_owned()),
    }
    lines.extend(platform.referrers.iter().map(referrer_text));
    lines
}

fn referrer_text(referrer: &ReferrerInspection) -> String {
    let kind = referrer.artifact_type.as_deref().unwrap_or("unknown");
    match kind {
        media_type::CYCLONEDX => format!("sbom:      {}", referrer.digest),
        media_type::IN_TOTO => format!("origin:    {}", referrer.digest),
        _ => format!("with it:   {} ({})", referrer.digest, crate::ui::printable(kind)),
    }
}

/// What an image says of itself, which anyone may have written.
fn facts_text(facts: &ImageFacts) -> Vec<String> {
    facts_lines(facts).iter().map(|line| crate::ui::printable(line)).collect()
}

fn facts_lines(facts: &ImageFacts) -> Vec<String> {
    let mut lines = vec![format!("name:      {} {}", facts.name, facts.version)];
    lines.extend(facts.title.iter().map(|title| format!("title:     {title}")));
    lines.push(match facts.form {
        ImageForm::ContainerDisk => format!("disk:      {}", facts.virtual_size.human()),
        ImageForm::Container => "form:      container image".to_owned(),
    });
    lines.push(format!("base:      {} ({})", facts.base, facts.base_digest));
    lines.push(format!("recipe:    {}", facts.recipe_digest));
    lines.push(format!("built by:  labwright {}", facts.tool_version));
    for access in &facts.access {
        let user = access.user.as_ref().map_or_else(String::new, |user| format!(" as {user}"));
        let kind = access.kind.as_str();
        lines.push(format!("access:    {} ({kind}) at port {}{}{user}", access.name, access.port, access.path));
    }
    for package in &facts.extra_packages {
        let version = if package.version.is_empty() { String::new() } else { format!(" {}", package.version) };
        lines.push(format!("extra:     {}{version} from {} ({})", package.name, package.source, package.digest));
    }
    lines
}

fn list(context: &Context<'_>) -> Result<(), CommandError> {
    let store = context.settings.store();
    let tags = if store.exists() { Layout::open(store)?.tags()? } else { Vec::new() };
    if tags.is_empty() {
        context.ui.note("there is no image yet; `labwright build` makes one");
    }
    // The images and the chart of a lab are shown with it.
    let lines: Vec<Line> = tags
        .into_iter()
        .filter(|(_, found)| !found.annotations.contains_key(annotations::LAB_PART))
        .map(|(image, found)| Line { image, digest: found.digest.to_string() })
        .collect();
    context.ui.result(&lines, || {
        lines.iter().map(|line| format!("{}\t{}", line.image, line.digest)).collect::<Vec<_>>().join("\n")
    })
}
