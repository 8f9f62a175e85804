use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use labwright_core::{Arch, Diagnostic, Diagnostics, SourceFile, Span};
use labwright_document::{Files, parse, sorted};

use crate::below::Below;
use crate::decode::{self, Context, Decoder, WORDS};
use crate::resolved;

/// A recipe without errors, and what else its text says.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to build.
    pub recipe: resolved::Recipe,
    /// What works and is likely not meant.
    pub warnings: Diagnostics,
    /// The text, for further messages about it.
    pub file: Arc<SourceFile>,
    /// What the recipe asks for that not every builder has, with the place where it asks, in file order.
    pub features: Vec<(Feature, Span)>,
}

impl Loaded {
    /// The refusals of a builder: one error for each feature for which `refusal` has a plain sentence.
    pub fn refuse(&self, mut refusal: impl FnMut(Feature) -> Option<String>) -> Diagnostics {
        let refused = self.features.iter().filter_map(|(feature, span)| {
            refusal(*feature).map(|sentence| Diagnostic::error(&self.file, *span, sentence))
        });
        Diagnostics(refused.collect())
    }
}

/// Something that a recipe may ask for and a builder may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// A disk for this architecture.
    Architecture(Arch),
    /// A base by its name in the catalogue.
    BaseCatalogue,
    /// A base from an address.
    BaseUrl,
    /// A base out of a containerDisk.
    BaseImage,
    /// A base made by another recipe.
    BaseRecipe,
    /// Secrets while building.
    BuildSecrets,
    /// Access of the type `desktop`.
    Desktop,
    /// A ttyd that the recipe brings.
    OwnTtyd,
}

/// Reads, resolves and validates a recipe.
///
/// `name` is what messages call the file, `dir` the directory that its paths are relative to, and `overrides` the
/// values of variables that take the place of their defaults.
///
/// The error holds all mistakes of the file, and its warnings, in file order.
pub fn load(
    name: &str,
    text: &str,
    dir: &Path,
    files: &dyn Files,
    overrides: &BTreeMap<String, String>,
) -> Result<Loaded, Diagnostics> {
    load_on(name, text, dir, files, overrides, None)
}

/// The same for a recipe whose base is another recipe: what it names there is checked as well.
///
/// Without `below` (or by [`load`]) such a recipe may name any user. Which recipe is below stands in the result; who calls
/// this loads the upper recipe once to learn that, and once more to check it.
pub fn load_on(
    name: &str,
    text: &str,
    dir: &Path,
    files: &dyn Files,
    overrides: &BTreeMap<String, String>,
    below: Option<&Below>,
) -> Result<Loaded, Diagnostics> {
    let file = SourceFile::new(name, text);
    let mut found = Vec::new();
    let Some(root) = parse(&file, &WORDS, &mut found) else { return Err(sorted(found)) };
    let context = Context { features: Vec::new(), below };
    let mut decoder = Decoder::new(&file, (dir, files), found, WORDS, context);
    let recipe = decode::recipe(&mut decoder, &root, overrides);
    let mut features = decoder.context.features;
    features.sort_by_key(|(_, span)| *span);
    let found = sorted(decoder.found);
    match recipe {
        Some(recipe) if !found.has_errors() => Ok(Loaded { recipe, warnings: found, file, features }),
        _ => Err(found),
    }
}

/// The document of a recipe as JSON, by the core schema of YAML 1.2: what a JSON Schema validator looks at.
pub fn to_json(name: &str, text: &str) -> Result<serde_json::Value, Diagnostics> {
    labwright_document::to_json(name, text, &WORDS)
}
