//! From a resolved recipe to a plan: steps as data, each with its key.

use std::time::Duration;

use labwright_base_images::Base;
use labwright_cloud_init::{FrontDoor, GuestConfig, InvalidFrontDoor, Terminal, front_door};
use labwright_core::{AccessFact, AccessKind, Arch, ByteSize, Digest, GuestPath, ImageFacts, PackageFact};
use labwright_guest::protocol::{Action, AptFile, Command, Fallback, Owner, User};
use labwright_recipes::resolved::{self, AccessSpec, AptKey, FRONT_DOOR_PORT, FileSource, Package, Recipe, Ttyd};
use serde::{Deserialize, Serialize};

use crate::chroot::wire::Source;
use crate::guest_program;
use crate::inputs::{self, Input};
use crate::key::Key;
use crate::sources::{self, Inputs, SourceError};

/// Raised whenever the same actions lead to another disk than before.
const STEP_VERSION: u32 = 3;

/// How long a step may take if the recipe does not say.
const TIME_LIMIT: Duration = Duration::from_hours(1);

/// Where ttyd comes from on a distribution that lacks it.
const TTYD_SUITE: &str = "unstable";

/// What will be done to make a recipe's disk, in which order, and by which key each result is found.
#[derive(Debug)]
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
    /// The recipe right below, with the key of its image.
    below: Option<(String, Digest)>,
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
#[derive(Debug)]
pub struct Step {
    /// The name of the recipe below that it belongs to; none for the plan's own.
    pub(crate) of: Option<String>,
    pub(crate) kind: StepKind,
    pub(crate) key: Key,
    pub(crate) actions: Vec<Action>,
    pub(crate) sources: Vec<Source>,
    /// Everything that the key depends on besides the key before, by name.
    pub(crate) inputs: Vec<Input>,
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
            key: Key::first(&base.digest),
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
        let key = steps.last().map_or_else(|| Key::first(&below.base.digest), |step| step.key.clone());
        let name = format!("recipe {} {}", below.recipe.name, below.recipe.version);
        let start = Start {
            below: Some((name.clone(), key.digest())),
            key,
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
        let mut chain = Chain { key: start.key, steps: start.steps, inputs: Vec::new() };
        if size > start.size {
            chain.key = chain.key.next(StepKind::Disk.as_str(), STEP_VERSION, &size.to_string());
            chain.steps.push(Step {
                of: None,
                kind: StepKind::Disk,
                key: chain.key.clone(),
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
        let (door_below, door) = (door(&start.access)?, door(&ways)?);
        // The door of the disk below is the right one unless this recipe has terminals too.
        let config = door.filter(|door| door_below.as_ref() != Some(door)).as_ref().map(front_door);
        let added = config.as_ref().filter(|_| door_below.is_none());
        chain.add(StepKind::Packages, packages(&recipe, added)?, true, recipe.timeouts.packages);
        chain.add(StepKind::Settings, settings(&recipe), false, None);
        chain.add(StepKind::Users, users(&recipe), false, recipe.timeouts.users);
        chain.add(StepKind::Files, files(&recipe)?, false, recipe.timeouts.files);
        chain.add(StepKind::Access, access(&recipe, config)?, false, recipe.timeouts.access);
        chain.add(StepKind::Commands, commands(&recipe), true, recipe.timeouts.runcmd);
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
        Ok(Self { recipe, arch, base, size, steps, recipe_digest, levels, access: ways, below, secrets })
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
        let key = self.steps.last().map_or_else(|| Key::first(&self.base.digest), |step| step.key.clone());
        key.digest()
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
        let access: Vec<AccessFact> = self.access.iter().map(access_fact).collect();
        let base = (self.base.name.clone(), self.base.digest.clone());
        let (base, base_digest) = self.below.clone().unwrap_or(base);
        let has_door = access.iter().any(|access| access.kind != AccessKind::Http);
        ImageFacts {
            name: recipe.name.clone(),
            version: recipe.version.clone(),
            title: recipe.title.clone(),
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
    key: Key,
    name: String,
    size: ByteSize,
    steps: Vec<Step>,
    levels: Vec<Level>,
    access: Vec<resolved::Access>,
    below: Option<(String, Digest)>,
    secrets: Vec<String>,
}

/// Collects steps, each with a key on top of the one before.
struct Chain {
    key: Key,
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
        self.key = self.key.next(kind.as_str(), STEP_VERSION, &keyed);
        self.inputs.push(text);
        let named = inputs::named(&inputs);
        self.steps.push(Step {
            of: None,
            kind,
            key: self.key.clone(),
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

fn door(access: &[resolved::Access]) -> Result<Option<FrontDoor>, PlanError> {
    let mut terminals = Vec::new();
    for access in access {
        match &access.spec {
            AccessSpec::Terminal { user, .. } => terminals.push(Terminal::new(&access.name, user)?),
            AccessSpec::Desktop { .. } => return Err(PlanError::Unsupported("access of the type desktop")),
            AccessSpec::Http { .. } => {}
        }
    }
    if terminals.is_empty() { Ok(None) } else { Ok(Some(FrontDoor::new(FRONT_DOOR_PORT, terminals)?)) }
}

fn packages(recipe: &Recipe, door: Option<&GuestConfig>) -> Result<Inputs, PlanError> {
    let mut inputs = Inputs::default();
    for source in &recipe.apt_sources {
        let key = match &source.key {
            Some(AptKey::File(path)) => Some(sources::read(path)?),
            Some(AptKey::Inline(text)) => Some(text.clone().into_bytes()),
            None => None,
        };
        inputs.actions.push(Action::AptSource { name: source.name.clone(), source: source.line.clone(), key });
    }
    let mut names: Vec<String> = Vec::new();
    let mut files = Vec::new();
    for package in &recipe.packages {
        match package {
            Package::Named(name) => names.push(name.clone()),
            Package::File(path) => {
                let (source, size) = sources::file(path)?;
                let name = path.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                files.push(AptFile { name, size });
                inputs.sources.push(source);
            }
        }
    }
    // What access and settings need is installed with the rest: their own steps then change in no time.
    names.extend(door.iter().flat_map(|door| door.packages.iter().cloned()));
    if recipe.locale.is_some() {
        names.push("locales".to_owned());
    }
    if recipe.timezone.is_some() {
        names.push("tzdata".to_owned());
    }
    let mut fallbacks = Vec::new();
    // A disk below that has terminals has their program too.
    let wants_ttyd = |access: &resolved::Access| matches!(access.spec, AccessSpec::Terminal { ttyd: None, .. });
    if door.is_some() && recipe.access.iter().any(wants_ttyd) {
        fallbacks.push(Fallback { package: "ttyd".to_owned(), suite: TTYD_SUITE.to_owned() });
    }
    if !names.is_empty() || !files.is_empty() || !fallbacks.is_empty() {
        // It fetches the lists itself.
        inputs.actions.push(Action::AptInstall { packages: names, files, fallbacks });
    } else if recipe.package_update {
        inputs.actions.push(Action::AptUpdate);
    }
    Ok(inputs)
}

fn settings(recipe: &Recipe) -> Inputs {
    let mut actions = Vec::new();
    actions.extend(recipe.hostname.clone().map(Action::Hostname));
    actions.extend(recipe.timezone.clone().map(Action::Timezone));
    actions.extend(recipe.locale.clone().map(Action::Locale));
    Inputs::of(actions)
}

fn users(recipe: &Recipe) -> Inputs {
    let user = |user: &resolved::User| {
        Action::User(User {
            name: user.name.clone(),
            uid: user.uid,
            gecos: user.gecos.clone(),
            home: user.homedir.clone(),
            shell: user.shell.clone(),
            primary_group: user.primary_group.clone(),
            groups: user.groups.clone(),
            system: user.system,
            no_create_home: user.no_create_home,
            lock_passwd: user.lock_passwd,
            ssh_authorized_keys: user.ssh_authorized_keys.clone(),
            sudo: user.sudo.clone(),
        })
    };
    Inputs::of(recipe.users.iter().map(user).collect())
}

fn files(recipe: &Recipe) -> Result<Inputs, PlanError> {
    let mut inputs = Inputs::default();
    for file in &recipe.files {
        let owner = file
            .owner
            .as_ref()
            .map_or_else(Owner::root, |owner| Owner { user: owner.user.clone(), group: owner.group.clone() });
        match &file.source {
            FileSource::Inline(bytes) => {
                inputs.write(&file.path, file.mode.unwrap_or(0o644), owner, file.append, bytes.clone());
            }
            FileSource::From(from) if file.path.is_directory() => {
                let tree = sources::tree(from, file.mode)?;
                inputs.actions.push(Action::Tree { destination: file.path.clone(), entries: tree.entries, owner });
                inputs.sources.extend(tree.sources);
            }
            FileSource::From(from) => {
                let (source, size) = sources::file(from)?;
                let mode = match file.mode {
                    Some(mode) => mode,
                    None => sources::mode(&from.path)?,
                };
                inputs.actions.push(Action::WriteFile {
                    path: file.path.clone(),
                    mode,
                    owner,
                    append: file.append,
                    size,
                });
                inputs.sources.push(source);
            }
        }
    }
    Ok(inputs)
}

fn access(recipe: &Recipe, door: Option<GuestConfig>) -> Result<Inputs, PlanError> {
    let mut inputs = Inputs::default();
    let Some(door) = door else { return Ok(inputs) };
    for access in &recipe.access {
        match &access.spec {
            AccessSpec::Terminal { ttyd: Some(Ttyd::File { path, digest }), .. } => {
                let (source, size) = sources::file_with_digest(path, digest)?;
                let target: GuestPath = "/usr/local/bin/ttyd".parse().expect("a constant that is a path");
                inputs.actions.push(Action::WriteFile {
                    path: target,
                    mode: 0o755,
                    owner: Owner::root(),
                    append: false,
                    size,
                });
                inputs.sources.push(source);
            }
            AccessSpec::Terminal { ttyd: Some(Ttyd::Url(_)), .. } => {
                return Err(PlanError::Unsupported("ttyd from an address"));
            }
            _ => {}
        }
    }
    for file in door.files {
        inputs.write(&file.path, file.mode, Owner::root(), false, file.content.into_bytes());
    }
    inputs.actions.extend(door.commands.into_iter().map(|words| Action::Run(Command::Exec(words))));
    inputs.actions.extend(door.enable.into_iter().map(Action::Enable));
    // An author who asks for nginx wants its own service too.
    let wanted = |unit: &str| {
        let name = unit.trim_end_matches(".service");
        recipe.packages.iter().any(|package| match package {
            Package::Named(package) => package.split(['=', '/', ':', '-']).next() == Some(name),
            Package::File(_) => false,
        })
    };
    inputs.actions.extend(door.disable.into_iter().filter(|unit| !wanted(unit)).map(Action::Disable));
    Ok(inputs)
}

fn commands(recipe: &Recipe) -> Inputs {
    let command = |command: &resolved::Command| {
        Action::Run(match command {
            resolved::Command::Shell(script) => Command::Shell(script.clone()),
            resolved::Command::Exec(words) => Command::Exec(words.clone()),
        })
    };
    let actions = recipe.run.iter().map(command).collect();
    Inputs { secrets: recipe.build_secrets.clone(), ..Inputs::of(actions) }
}

impl Inputs {
    fn write(&mut self, path: &GuestPath, mode: u32, owner: Owner, append: bool, bytes: Vec<u8>) {
        let size = bytes.len() as u64;
        self.actions.push(Action::WriteFile { path: path.clone(), mode, owner, append, size });
        self.sources.push(Source::Inline(bytes));
    }
}

#[cfg(test)]
mod tests;
