//! From a resolved recipe to a plan: steps as data, each with its key.

mod actions;

use std::time::Duration;

use labwright_base_images::{Base, PackageLock};
use labwright_cloud_init::{InvalidFrontDoor, front_door};
use labwright_core::{AccessFact, AccessKind, Arch, ByteSize, Digest, ImageFacts, ImageForm, PackageFact};
use labwright_guest::protocol::Action;
use labwright_recipes::resolved::{self, AccessSpec, FRONT_DOOR_PORT, Recipe};
use serde::{Deserialize, Serialize};

use crate::chroot::wire::Source;
use crate::guest_program;
use crate::inputs::{self, Input};
use crate::key::Key;
use crate::packages::{self, Packages};
use crate::sources::{Inputs, SourceError};

/// Raised whenever the same actions lead to another disk than before.
const STEP_VERSION: u32 = 3;

/// How long a step may take if the recipe does not say.
const TIME_LIMIT: Duration = Duration::from_hours(1);

/// What will be done to make a recipe's disk, in which order, and by which key each result is found.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) recipe: Recipe,
    pub(crate) arch: Arch,
    pub(crate) base: Base,
    pub(crate) size: ByteSize,
    pub(crate) steps: Vec<Step>,
    pub(crate) recipe_digest: Digest,
    /// One for each recipe, the lowest first.
    pub(crate) levels: Vec<Level>,
    /// All ways in, those of the recipes below included.
    access: Vec<resolved::Access>,
    /// What the recipe right below is called.
    below: Option<String>,
    secrets: Vec<String>,
}

/// The steps of one of the recipes that stand on one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// How many steps there are up to and with this recipe's.
    pub(crate) end: usize,
    /// The size of its disk.
    pub(crate) size: ByteSize,
}

/// A kind of step. Their order here is the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Grows the disk.
    Disk,
    /// Package sources and packages, those for access included.
    Packages,
    /// Host name, time zone, locale.
    Settings,
    /// Accounts.
    Users,
    /// Files.
    Files,
    /// The front door.
    Access,
    /// The recipe's commands.
    Commands,
    /// Removes what must not be in an image.
    Seal,
}

impl StepKind {
    /// All kinds, in order.
    pub const ALL: [Self; 8] = [
        Self::Disk,
        Self::Packages,
        Self::Settings,
        Self::Users,
        Self::Files,
        Self::Access,
        Self::Commands,
        Self::Seal,
    ];

    /// The key below `timeouts` in a recipe that says how long the step may take; none where nothing does.
    pub const fn timeout_key(self) -> Option<&'static str> {
        match self {
            Self::Packages => Some("packages"),
            Self::Users => Some("users"),
            Self::Files => Some("files"),
            Self::Access => Some("access"),
            Self::Commands => Some("runcmd"),
            Self::Disk | Self::Settings | Self::Seal => None,
        }
    }

    /// The name by which people know the step.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Packages => "packages",
            Self::Settings => "settings",
            Self::Users => "users",
            Self::Files => "files",
            Self::Access => "access",
            Self::Commands => "commands",
            Self::Seal => "seal",
        }
    }
}

/// One step of a plan.
#[derive(Debug, Clone)]
pub struct Step {
    /// The name of the recipe below that it belongs to; none for the plan's own.
    pub(crate) of: Option<String>,
    pub(crate) kind: StepKind,
    pub(crate) key: Key,
    /// What the key is made of besides the key before and the versions of packages.
    text: String,
    pub(crate) actions: Vec<Action>,
    pub(crate) sources: Vec<Source>,
    /// Everything that the key depends on besides the key before, by name.
    pub(crate) inputs: Vec<Input>,
    /// The packages that it installs, if that is what it does.
    pub(crate) packages: Option<Packages>,
    /// The names of the secrets that it may read.
    pub(crate) secrets: Vec<String>,
    pub(crate) network: bool,
    pub(crate) time_limit: Duration,
}

impl Step {
    /// What kind of step it is.
    pub fn kind(&self) -> StepKind {
        self.kind
    }

    /// What people call it: its kind (`files`), with the recipe's name in front where that is one below (`shell: files`).
    pub fn label(&self) -> String {
        match &self.of {
            Some(recipe) => format!("{recipe}: {}", self.kind.as_str()),
            None => self.kind.as_str().to_owned(),
        }
    }

    /// The key of its result.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// Why a recipe cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The disk would have to shrink.
    #[error("the base `{base}` has a disk of {base_size}, and the recipe asks for {size}: disks never shrink")]
    Shrink {
        /// The base.
        base: String,
        /// Its size.
        base_size: ByteSize,
        /// The size in the recipe.
        size: ByteSize,
    },
    /// A file that the recipe names cannot be used.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The front door cannot be built like this.
    #[error("the recipe's access cannot be built")]
    FrontDoor(#[from] InvalidFrontDoor),
    /// Something that this version cannot build yet.
    #[error("{0} cannot be built by this version of Labwright")]
    Unsupported(&'static str),
}

impl Plan {
    /// Plans `recipe` on a base that is there. Reads the files that the recipe names, and writes nothing.
    pub fn new(recipe: Recipe, arch: Arch, base: Base) -> Result<Self, PlanError> {
        let start = Start {
            name: base.name.clone(),
            size: base.virtual_size,
            steps: Vec::new(),
            levels: Vec::new(),
            access: Vec::new(),
            below: None,
            secrets: Vec::new(),
        };
        Self::on_start(recipe, arch, base, start)
    }

    /// Plans `recipe` on the sealed disk of another plan, whose steps come first and are shared with it.
    pub fn on(recipe: Recipe, below: Self) -> Result<Self, PlanError> {
        let mut steps = below.steps;
        for step in &mut steps {
            step.of.get_or_insert_with(|| below.recipe.name.clone());
        }
        let name = format!("recipe {} {}", below.recipe.name, below.recipe.version);
        let start = Start {
            below: Some(name.clone()),
            name,
            size: below.size,
            steps,
            levels: below.levels,
            access: below.access,
            secrets: below.secrets,
        };
        Self::on_start(recipe, below.arch, below.base, start)
    }

    fn on_start(recipe: Recipe, arch: Arch, base: Base, start: Start) -> Result<Self, PlanError> {
        let size = match recipe.disk_size {
            Some(size) if size < start.size => {
                return Err(PlanError::Shrink { base: start.name, base_size: start.size, size });
            }
            Some(size) => size,
            None => start.size,
        };
        let mut chain = Chain { steps: start.steps, inputs: Vec::new() };
        if size > start.size {
            chain.steps.push(Step {
                of: None,
                kind: StepKind::Disk,
                key: Key::first(&base.digest),
                text: size.to_string(),
                packages: None,
                actions: Vec::new(),
                sources: Vec::new(),
                inputs: vec![Input::new("disk size", size.to_string().as_bytes())],
                secrets: Vec::new(),
                network: false,
                time_limit: TIME_LIMIT,
            });
        }
        let replaced = |access: &&resolved::Access| recipe.access.iter().any(|own| own.name == access.name);
        let mut ways: Vec<resolved::Access> = start.access.iter().filter(|way| !replaced(way)).cloned().collect();
        ways.extend(recipe.access.iter().cloned());
        let (door_below, door) = (actions::door(&start.access)?, actions::door(&ways)?);
        // The door of the disk below is the right one unless this recipe has terminals too.
        let config = door.filter(|door| door_below.as_ref() != Some(door)).as_ref().map(front_door);
        let added = config.as_ref().filter(|_| door_below.is_none());
        chain.add(StepKind::Packages, actions::packages(&recipe, added)?, true, recipe.timeouts.packages);
        chain.add(StepKind::Settings, actions::settings(&recipe), false, None);
        chain.add(StepKind::Users, actions::users(&recipe), false, recipe.timeouts.users);
        chain.add(StepKind::Files, actions::files(&recipe)?, false, recipe.timeouts.files);
        chain.add(StepKind::Access, actions::access(&recipe, config)?, false, recipe.timeouts.access);
        chain.add(StepKind::Commands, actions::commands(&recipe), true, recipe.timeouts.runcmd);
        chain.add(StepKind::Seal, Inputs::of(vec![Action::Seal]), false, None);
        let recipe_digest = recipe_digest(&recipe, &chain.inputs);
        let mut levels = start.levels;
        levels.push(Level { end: chain.steps.len(), size });
        let mut secrets = start.secrets;
        for name in &recipe.build_secrets {
            if !secrets.contains(name) {
                secrets.push(name.clone());
            }
        }
        let (steps, below) = (chain.steps, start.below);
        let mut plan = Self { recipe, arch, base, size, steps, recipe_digest, levels, access: ways, below, secrets };
        plan.make_keys();
        Ok(plan)
    }

    /// Gives every step its key.
    fn make_keys(&mut self) {
        let mut key = Key::first(&self.base.digest);
        for step in &mut self.steps {
            let packages = step.packages.as_ref().map_or_else(String::new, Packages::describe);
            key = key.next(step.kind.as_str(), STEP_VERSION, &format!("{}{packages}", step.text));
            step.key = key.clone();
        }
    }

    /// The key of the last step of a level.
    fn key_of_level(&self, level: usize) -> Digest {
        let steps = &self.steps[..self.levels[level].end];
        steps.last().map_or_else(|| Key::first(&self.base.digest), |step| step.key.clone()).digest()
    }

    /// What is known about the packages of each recipe, the lowest first; none where a recipe installs nothing.
    pub fn packages(&self) -> Vec<Option<&Packages>> {
        let mut start = 0;
        let of_level = |level: &Level| {
            let steps = &self.steps[std::mem::replace(&mut start, level.end)..level.end];
            steps.iter().find_map(|step| step.packages.as_ref())
        };
        self.levels.iter().map(of_level).collect()
    }

    /// Has a recipe's packages installed in the versions of a lock file: all of them if it asks for the same as when they
    /// were locked, else those that can stay. `level` counts the recipes from the lowest.
    pub fn use_lock(&mut self, level: usize, lock: &PackageLock) {
        if let Some(at) = self.packages_step(level) {
            self.change_packages(at, |packages| packages.use_lock(lock));
        }
    }

    /// Which step installs the packages of a level.
    fn packages_step(&self, level: usize) -> Option<usize> {
        let start = level.checked_sub(1).map_or(0, |below| self.levels[below].end);
        (start..self.levels[level].end).find(|at| self.steps[*at].packages.is_some())
    }

    /// The level that a step belongs to.
    pub(crate) fn level_of(&self, step: usize) -> usize {
        self.levels.iter().position(|level| step < level.end).unwrap_or(self.levels.len() - 1)
    }

    /// Changes what is known about the packages of a step, and with that its key and all behind it.
    pub(crate) fn change_packages(&mut self, step: usize, change: impl FnOnce(&mut Packages)) {
        let step = &mut self.steps[step];
        if let Some(packages) = &mut step.packages {
            change(packages);
            step.inputs.retain(|input| !packages::is_input(input));
            step.inputs.extend(packages.inputs());
            self.make_keys();
        }
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The keys of the steps, in order.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.steps.iter().map(|step| step.key.clone()).collect()
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The base.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The key of the last step: equal keys mean equal images.
    pub fn key(&self) -> Digest {
        self.key_of_level(self.levels.len() - 1)
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The names of the secrets that the steps may read, those of the recipes below included.
    pub fn build_secrets(&self) -> &[String] {
        &self.secrets
    }

    /// The facts about the image that this plan makes.
    pub fn facts(&self, extra_packages: Vec<PackageFact>) -> ImageFacts {
        let recipe = &self.recipe;
        let form = recipe.output.form();
        // Of what a disk below offers, a container starts nothing.
        let ways = self.access.iter().filter(|way| form == ImageForm::ContainerDisk || way.kind() == AccessKind::Http);
        let access: Vec<AccessFact> = ways.map(access_fact).collect();
        let (base, base_digest) = match &self.below {
            Some(below) => (below.clone(), self.key_of_level(self.levels.len() - 2)),
            None => (self.base.name.clone(), self.base.digest.clone()),
        };
        let has_door = access.iter().any(|access| access.kind != AccessKind::Http);
        ImageFacts {
            name: recipe.name.clone(),
            version: recipe.version.clone(),
            title: recipe.title.clone(),
            form,
            arch: self.arch,
            virtual_size: self.size,
            base,
            base_digest,
            recipe_digest: self.recipe_digest.clone(),
            build_key: self.key(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            access,
            front_door: has_door.then_some(FRONT_DOOR_PORT),
            extra_packages,
        }
    }
}

/// What a recipe starts from.
struct Start {
    name: String,
    size: ByteSize,
    steps: Vec<Step>,
    levels: Vec<Level>,
    access: Vec<resolved::Access>,
    below: Option<String>,
    secrets: Vec<String>,
}

/// Collects steps.
struct Chain {
    steps: Vec<Step>,
    inputs: Vec<String>,
}

impl Chain {
    /// Adds a step, unless there is nothing to do in it.
    fn add(&mut self, kind: StepKind, inputs: Inputs, network: bool, time_limit: Option<Duration>) {
        if inputs.actions.is_empty() {
            return;
        }
        // The guest program does the work, so another one may leave another disk.
        let text = inputs.describe();
        let keyed = format!("{}\n{text}", guest_program::digest());
        self.inputs.push(text);
        let named = inputs::named(&inputs);
        let packages = Packages::of(&inputs);
        self.steps.push(Step {
            of: None,
            kind,
            // The plan gives it when it is whole.
            key: Key::first(guest_program::digest()),
            text: keyed,
            packages,
            actions: inputs.actions,
            sources: inputs.sources,
            inputs: named,
            secrets: inputs.secrets,
            network,
            time_limit: time_limit.unwrap_or(TIME_LIMIT),
        });
    }
}

fn recipe_digest(recipe: &Recipe, inputs: &[String]) -> Digest {
    // Time limits decide whether a build ends, not what it makes.
    let recipe = Recipe { timeouts: resolved::Timeouts::default(), ..recipe.clone() };
    let text = serde_json::to_string(&(&recipe, inputs)).expect("a recipe has no maps with odd keys");
    Digest::sha256(text.as_bytes())
}

fn access_fact(access: &resolved::Access) -> AccessFact {
    let (port, path) = match access.spec {
        AccessSpec::Http { port } => (port, "/".to_owned()),
        AccessSpec::Terminal { .. } | AccessSpec::Desktop { .. } => (FRONT_DOOR_PORT, format!("/{}/", access.name)),
    };
    AccessFact { name: access.name.clone(), kind: access.kind(), port, path, user: access.user().map(str::to_owned) }
}

#[cfg(test)]
mod tests;
