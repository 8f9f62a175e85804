//! What the last build of a recipe was made of: kept so that `plan` can say what changed and how large things become.

use std::io;
use std::path::{Path, PathBuf};

use labwright_core::Digest;
use serde::{Deserialize, Serialize};

use crate::guest_program;
use crate::inputs::Input;
use crate::key::Key;
use crate::plan::{Plan, Step, StepKind};

/// The version of the file; one of another version counts as none.
const VERSION: u32 = 1;

/// The last build of a recipe, finished or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct History {
    version: u32,
    /// The digest of the guest program, which is part of every key.
    pub(crate) program: Digest,
    pub(crate) base: Digest,
    pub(crate) steps: Vec<PastStep>,
    /// Bytes of the finished qcow2 file, of this build or the last finished one before.
    #[serde(default)]
    pub(crate) file_size: Option<u64>,
}

/// A step of the last build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PastStep {
    pub(crate) step: StepKind,
    /// The recipe below that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<String>,
    pub(crate) key: Key,
    pub(crate) inputs: Vec<Input>,
    /// Whether the step came to its end.
    pub(crate) done: bool,
    /// Bytes of its layer, of this build or of the last one before that came to the end of this step.
    #[serde(default)]
    pub(crate) size: Option<u64>,
}

impl History {
    /// The history of a recipe; none if there is none that can be read.
    pub(crate) fn load(dir: &Path, recipe: &str) -> Option<Self> {
        let text = fs_err::read(path(dir, recipe)).ok()?;
        serde_json::from_slice::<Self>(&text).ok().filter(|history| history.version == VERSION)
    }

    /// What is known when a build of `plan` begins; sizes are those of the build before.
    pub(crate) fn begin(plan: &Plan, before: Option<&Self>) -> Self {
        let steps = plan.steps.iter().map(|step| PastStep {
            step: step.kind,
            of: step.of.clone(),
            key: step.key.clone(),
            inputs: step.inputs.clone(),
            done: before.and_then(|before| before.step(step)).is_some_and(|past| past.done && past.key == step.key),
            size: before.and_then(|before| before.step(step)).and_then(|past| past.size),
        });
        Self {
            version: VERSION,
            program: guest_program::digest().clone(),
            base: plan.base.digest.clone(),
            steps: steps.collect(),
            file_size: before.and_then(|before| before.file_size),
        }
    }

    /// The same step at that time.
    pub(crate) fn step(&self, step: &Step) -> Option<&PastStep> {
        self.steps.iter().find(|past| past.step == step.kind && past.of == step.of)
    }

    /// Notes that every step came to its end.
    pub(crate) fn all_finished(&mut self) {
        for past in &mut self.steps {
            past.done = true;
        }
    }

    /// Notes that a step has a layer of so many bytes.
    pub(crate) fn finished(&mut self, step: &Step, size: u64) {
        if let Some(past) = self.steps.iter_mut().find(|past| past.step == step.kind && past.of == step.of) {
            past.done = true;
            past.size = Some(size);
        }
    }

    /// Writes it whole or not at all, and only if it differs from what is there.
    pub(crate) fn save(&self, dir: &Path, recipe: &str) -> io::Result<()> {
        if Self::load(dir, recipe).as_ref() == Some(self) {
            return Ok(());
        }
        fs_err::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer_pretty(&mut file, self).map_err(io::Error::from)?;
        file.persist(path(dir, recipe)).map_err(|error| error.error)?;
        Ok(())
    }
}

fn path(dir: &Path, recipe: &str) -> PathBuf {
    dir.join(format!("{recipe}.json"))
}
