use labwright_core::{ImageFacts, ImageRef};
use labwright_registry::{Layout, container_disk};
use serde::Serialize;

use super::image;
use crate::args::Inspect;
use crate::commands::Context;
use crate::error::CommandError;

/// An image, for scripts. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    image: String,
    digest: String,
    facts: ImageFacts,
}

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
        Some(reference) => one(reference, context),
        None => list(context),
    }
}

fn one(reference: &ImageRef, context: &Context<'_>) -> Result<(), CommandError> {
    let found = image::find(reference, context)?;
    let facts = container_disk::facts(&found.layout, &found.image, None)?;
    let answer = Answer { image: found.name, digest: found.image.digest.to_string(), facts };
    context.ui.result(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let facts = &answer.facts;
    let mut lines = vec![
        format!("image:     {}", answer.image),
        format!("digest:    {}", answer.digest),
        format!("name:      {} {}", facts.name, facts.version),
    ];
    lines.extend(facts.title.iter().map(|title| format!("title:     {title}")));
    lines.push(format!("machine:   {}, disk of {}", facts.arch, facts.virtual_size.human()));
    lines.push(format!("base:      {} ({})", facts.base, facts.base_digest));
    lines.push(format!("recipe:    {}", facts.recipe_digest));
    lines.push(format!("built by:  labwright {}", facts.tool_version));
    for access in &facts.access {
        let user = access.user.as_ref().map_or_else(String::new, |user| format!(" as {user}"));
        lines.push(format!(
            "access:    {} ({}) at port {}{}{user}",
            access.name,
            access.kind.as_str(),
            access.port,
            access.path
        ));
    }
    for package in &facts.extra_packages {
        lines.push(format!(
            "extra:     {} {} from {} ({})",
            package.name, package.version, package.source, package.digest
        ));
    }
    lines.join("\n")
}

fn list(context: &Context<'_>) -> Result<(), CommandError> {
    let store = context.settings.store();
    let tags = if store.exists() { Layout::open(store)?.tags()? } else { Vec::new() };
    if tags.is_empty() {
        context.ui.note("there is no image yet; `labwright build` makes one");
    }
    let lines: Vec<Line> =
        tags.into_iter().map(|(image, found)| Line { image, digest: found.digest.to_string() }).collect();
    context.ui.result(&lines, || {
        lines.iter().map(|line| format!("{}\t{}", line.image, line.digest)).collect::<Vec<_>>().join("\n")
    })
}
