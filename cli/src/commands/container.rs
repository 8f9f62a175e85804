//! From the built disk of a recipe to a container image.

use labwright_builder::{Artifact, Builder, DiskFormat, FinishedDisk, Runner};
use labwright_core::{AccessKind, Event};
use labwright_recipes::resolved::Container;
use labwright_registry::document::ContainerConfig;
use labwright_registry::{Layout, Packed, container};
use serde_json::json;

use crate::commands::Context;
use crate::error::CommandError;

/// What the tree is called in the build's directory.
const TREE: &str = "tree.tar";

/// Takes the tree from a built disk and packs it.
pub(super) fn pack(
    store: &Layout,
    builder: &Builder,
    artifact: &Artifact,
    how: &Container,
    runner: &Runner,
    context: &Context<'_>,
) -> Result<Packed, CommandError> {
    let (reporter, facts) = (context.ui.reporter(), &artifact.facts);
    let disk =
        FinishedDisk { path: artifact.disk.clone(), format: DiskFormat::Qcow2, size: artifact.facts.virtual_size };
    let tree = artifact.disk.with_file_name(TREE);
    let step = "tree".to_owned();
    reporter.event(Event::Started { step: step.clone() });
    builder.archive(&disk, runner, &tree, reporter, context.cancel)?;
    let ports = facts.access.iter().filter(|access| access.kind == AccessKind::Http);
    let config = ContainerConfig {
        cmd: how.args.clone(),
        entrypoint: how.command.clone(),
        env: how.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        exposed_ports: ports.map(|access| (format!("{}/tcp", access.port), json!({}))).collect(),
        user: how.user.clone().unwrap_or_default(),
        working_dir: how.working_dir.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..ContainerConfig::default()
    };
    let packed = container::pack(store, &tree, facts, config, context.settings.created, reporter, context.cancel)?;
    reporter.event(Event::Finished { step, outcome: format!("layer {}", packed.layer.digest.short()) });
    Ok(packed)
}
