//! What a build would do: which steps are cached, why the others are not, and how large things become. Writes nothing.

use std::fmt;
use std::path::Path;

use labwright_core::Digest;
use serde::Serialize;

use crate::build_error::BuildError;
use crate::guest_program;
use crate::history::{History, PastStep};
use crate::home;
use crate::inputs::{Difference, Input, differences};
use crate::key::Key;
use crate::layers::{Layers, Look};
use crate::packages::{LockState, is_input};
use crate::plan::{Plan, Step, StepKind};
use crate::run;

/// What a build would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// The steps, in order.
    pub steps: Vec<StepForecast>,
    /// Bytes of the qcow2 file, from the last finished build.
    pub file_size: Option<u64>,
}

/// What a build would do about one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepForecast {
    /// The kind of step.
    pub kind: StepKind,
    /// What people call it.
    pub label: String,
    /// Its key; none while an input is not there.
    pub key: Option<Key>,
    /// Why it has to be built; empty if it is cached.
    pub reasons: Vec<Reason>,
    /// Bytes of its layer.
    pub size: Option<Size>,
}

impl StepForecast {
    /// Whether the step's result is there already.
    pub fn is_cached(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// A number of bytes and where it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// The number.
    pub bytes: u64,
    /// Where it is from.
    pub from: SizeFrom,
}

/// Where a size is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SizeFrom {
    /// It is the size of what is cached.
    Cache,
    /// It was so large when the recipe was last built: an estimate.
    LastBuild,
}

/// Why a step has to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Reason {
    /// The step has an input that it had not at the last build.
    Added {
        /// Its name.
        input: String,
    },
    /// The step lacks an input that it had at the last build.
    Removed {
        /// Its name.
        input: String,
    },
    /// An input has another value than at the last build.
    Changed {
        /// Its name.
        input: String,
    },
    /// The inputs stand in another order.
    Reordered,
    /// The base is another one.
    Base {
        /// Its digest at the last build.
        was: Digest,
    },
    /// This version of Labwright does the step in another way.
    Program,
    /// An earlier step has other inputs than at the last build.
    Earlier {
        /// That step.
        step: String,
    },
    /// The step before has to be built.
    StepBefore {
        /// That step.
        step: String,
    },
    /// The recipe was never built here.
    FirstBuild,
    /// The last build did not have this step.
    NewStep,
    /// The last build ended before this step was done.
    Unfinished,
    /// The result was there and is gone.
    Evicted,
    /// The result is there with another length than it had.
    Damaged,
    /// The layer below was made anew since, and the result does not fit on it.
    OtherParent,
    /// The base is not there yet, and every key depends on it.
    BaseMissing,
    /// A file that is not there yet is an input.
    InputMissing,
    /// No lock file has the versions of its packages; the key depends on them.
    NotLocked,
    /// The lock file has versions for other packages or package sources; those that can stay are kept.
    LockOutdated,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { input } => write!(f, "+ {input}"),
            Self::Removed { input } => write!(f, "- {input}"),
            Self::Changed { input } => write!(f, "{input} changed"),
            Self::Reordered => f.write_str("the order changed"),
            Self::Base { was } => write!(f, "the base changed (it was {})", was.short()),
            Self::Program => f.write_str("this version of Labwright does it in another way"),
            Self::Earlier { step } => write!(f, "step `{step}` changed"),
            Self::StepBefore { step } => write!(f, "after `{step}`"),
            Self::FirstBuild => f.write_str("never built here"),
            Self::NewStep => f.write_str("a new step"),
            Self::Unfinished => f.write_str("the last build did not come to its end"),
            Self::Evicted => f.write_str("its layer was removed (gc)"),
            Self::Damaged => f.write_str("its layer is damaged"),
            Self::OtherParent => f.write_str("the layer below was made anew since"),
            Self::BaseMissing => f.write_str("the base is not here yet"),
            Self::InputMissing => f.write_str("a download is not here yet"),
            Self::NotLocked => f.write_str("its packages are not locked yet"),
            Self::LockOutdated => f.write_str("what is locked is for other packages or sources"),
        }
    }
}

/// How much of a plan can be believed: some inputs may not be there yet, and stand-ins were planned with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Everything.
    All,
    /// The base is not there.
    NoBase,
    /// Something that this step needs is not there.
    Before(StepKind),
}

impl Known {
    fn missing(self, step: &Step) -> Option<Reason> {
        match self {
            Self::NoBase => Some(Reason::BaseMissing),
            Self::Before(first) if step.kind >= first || step.of.is_none() => Some(Reason::InputMissing),
            Self::All | Self::Before(_) => None,
        }
    }
}

/// What a build of `plan` below the home directory `home` would do. Changes nothing, also where there is no home.
pub fn forecast(home: &Path, plan: &Plan, known: Known) -> Result<Forecast, BuildError> {
    let history = History::load(&home::history(home), &plan.recipe.name);
    let layers = Layers::at(home::layers(home));
    // What the next layer must stand on; none once a layer is missing.
    let mut parent = Some(plan.base.digest.to_string());
    let mut before: Option<String> = None;
    let mut steps = Vec::new();
    // Behind packages of unknown versions no key is known.
    let mut open = false;
    for step in &plan.steps {
        let past = history.as_ref().and_then(|history| history.step(step));
        let mut reasons = Vec::new();
        let mut size = past.and_then(|past| past.size).map(|bytes| Size { bytes, from: SizeFrom::LastBuild });
        let missing = known.missing(step);
        let unlocked = step.packages.as_ref().and_then(|packages| match packages.state() {
            LockState::Locked => None,
            LockState::Outdated => Some(Reason::LockOutdated),
            LockState::Missing => Some(Reason::NotLocked),
        });
        match (&missing, &parent) {
            (Some(missing), _) => reasons.push(missing.clone()),
            _ if unlocked.is_some() => {
                reasons.extend(before.take().filter(|_| parent.is_none()).map(|step| Reason::StepBefore { step }));
                reasons.extend(own(step, past));
                reasons.extend(unlocked.clone());
            }
            (None, None) => {
                reasons.extend(before.take().map(|step| Reason::StepBefore { step }));
                reasons.extend(own(step, past));
            }
            (None, Some(below)) => match layers.look(&step.key, below)? {
                Look::Here(layer) => {
                    size = Some(Size { bytes: layer.size, from: SizeFrom::Cache });
                    parent = Some(layer.id);
                }
                Look::Damaged => reasons.push(Reason::Damaged),
                Look::OtherParent => reasons.push(Reason::OtherParent),
                Look::Absent => reasons.extend(why(plan, step, history.as_ref())),
            },
        }
        if !reasons.is_empty() {
            parent = None;
        }
        before = Some(step.label());
        open |= unlocked.is_some();
        let key = (missing.is_none() && !open).then(|| step.key.clone());
        steps.push(StepForecast { kind: step.kind, label: step.label(), key, reasons, size });
    }
    Ok(Forecast { steps, file_size: history.and_then(|history| history.file_size) })
}

/// Gives packages without locked versions those in which they were installed here last, as a build does. Changes nothing
/// below `home`.
pub fn recall(home: &Path, plan: &mut Plan) -> Result<(), BuildError> {
    let layers = Layers::at(home::layers(home));
    for at in 0..plan.steps.len() {
        run::recall(plan, at, &layers)?;
    }
    Ok(())
}

/// What changed in the step's own inputs.
fn own(step: &Step, past: Option<&PastStep>) -> Vec<Reason> {
    let Some(past) = past else { return Vec::new() };
    // Versions say something only where they were known and are.
    let (then, now) = (&past.inputs, &step.inputs);
    let both = then.iter().any(is_input) && now.iter().any(is_input);
    let kept = |inputs: &[Input]| inputs.iter().filter(|input| both || !is_input(input)).cloned().collect::<Vec<_>>();
    let reason = |difference| match difference {
        Difference::Added(input) => Reason::Added { input },
        Difference::Removed(input) => Reason::Removed { input },
        Difference::Changed(input) => Reason::Changed { input },
        Difference::Reordered => Reason::Reordered,
    };
    differences(&kept(then), &kept(now)).into_iter().map(reason).collect()
}

/// Why the first step that has no layer has none.
fn why(plan: &Plan, step: &Step, history: Option<&History>) -> Vec<Reason> {
    let Some(history) = history else { return vec![Reason::FirstBuild] };
    let past = history.step(step);
    if let Some(past) = past.filter(|past| past.key == step.key) {
        return vec![if past.done { Reason::Evicted } else { Reason::Unfinished }];
    }
    let mut reasons = own(step, past);
    if history.base != plan.base.digest {
        reasons.push(Reason::Base { was: history.base.clone() });
    }
    if history.program != *guest_program::digest() {
        reasons.push(Reason::Program);
    }
    if past.is_none() {
        reasons.push(Reason::NewStep);
    }
    let before: Vec<&Step> = plan.steps.iter().take_while(|other| other.key != step.key).collect();
    let changed = before.iter().find(|now| history.step(now).is_none_or(|past| past.inputs != now.inputs));
    let gone = history
        .steps
        .iter()
        .take_while(|past| past.step != step.kind || past.of != step.of)
        .find(|past| before.iter().all(|now| now.kind != past.step || now.of != past.of));
    let earlier = changed.map(|step| step.label()).or_else(|| gone.map(|past| past.step.as_str().to_owned()));
    reasons.extend(earlier.map(|step| Reason::Earlier { step }));
    if reasons.is_empty() {
        // Another key from the same inputs: the way of making it has another number.
        reasons.push(Reason::Program);
    }
    reasons
}
