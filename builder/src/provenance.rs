//! How an image came to be: an in-toto statement with SLSA's predicate.

use labwright_core::{Digest, ImageFacts};
use serde_json::{Value, json};

use crate::plan::Plan;

/// What the fields below `buildDefinition` mean; whoever changes them changes this.
const BUILD_TYPE: &str = "https://labwright.dev/provenance/recipe/v1";

/// Who says so: this program, on a machine that it knows nothing about.
const BUILDER: &str = "https://labwright.dev/builder";

impl Plan {
    /// An in-toto statement (v1) with a provenance predicate of SLSA (v1) about the image that was made by this plan:
    /// the recipe, the steps with their keys, and the base. It is not signed.
    ///
    /// `manifest` is the image's, and `created` (RFC 3339) the only point in time that gets in; without it the statement
    /// has none. The same plan and manifest give the same bytes.
    pub fn provenance(&self, facts: &ImageFacts, manifest: &Digest, created: Option<&str>) -> Vec<u8> {
        let steps: Vec<Value> = self
            .steps()
            .iter()
            .map(|step| json!({"key": step.key().digest().to_string(), "name": step.label()}))
            .collect();
        let base = self.base();
        let definition = json!({
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "architecture": facts.arch.as_str(),
                "recipe": {"digest": set(&facts.recipe_digest), "name": facts.name, "version": facts.version},
            },
            "internalParameters": {"steps": steps},
            "resolvedDependencies": [{"digest": set(&base.digest), "name": base.name}],
        });
        let builder = json!({"id": BUILDER, "version": {"labwright": facts.tool_version}});
        let run = match created {
            Some(created) => json!({"builder": builder, "metadata": {"finishedOn": created}}),
            None => json!({"builder": builder}),
        };
        // Names are in sorted order everywhere, so the bytes do not depend on how `serde_json` was built.
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicate": {"buildDefinition": definition, "runDetails": run},
            "predicateType": "https://slsa.dev/provenance/v1",
            "subject": [{"digest": set(manifest), "name": format!("{}:{}", facts.name, facts.version)}],
        });
        serde_json::to_vec(&statement).expect("a JSON value has string keys and no failing parts")
    }
}

/// A digest as in-toto writes it.
fn set(digest: &Digest) -> Value {
    let mut set = serde_json::Map::new();
    set.insert(digest.algorithm().as_str().to_owned(), digest.hex().into());
    Value::Object(set)
}
