//! What the steps of a recipe do.

use labwright_cloud_init::{FrontDoor, GuestConfig, Terminal};
use labwright_core::GuestPath;
use labwright_guest::protocol::{Action, AptFile, Command, Fallback, Owner, User};
use labwright_recipes::resolved::{self, AccessSpec, AptKey, FRONT_DOOR_PORT, FileSource, Package, Recipe, Ttyd};

use super::PlanError;
use crate::chroot::wire::Source;
use crate::sources::{self, Inputs};

/// Where ttyd comes from on a distribution that lacks it.
const TTYD_SUITE: &str = "unstable";

pub(super) fn door(access: &[resolved::Access]) -> Result<Option<FrontDoor>, PlanError> {
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

pub(super) fn packages(recipe: &Recipe, door: Option<&GuestConfig>) -> Result<Inputs, PlanError> {
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

pub(super) fn settings(recipe: &Recipe) -> Inputs {
    let mut actions = Vec::new();
    actions.extend(recipe.hostname.clone().map(Action::Hostname));
    actions.extend(recipe.timezone.clone().map(Action::Timezone));
    actions.extend(recipe.locale.clone().map(Action::Locale));
    Inputs::of(actions)
}

pub(super) fn users(recipe: &Recipe) -> Inputs {
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

pub(super) fn files(recipe: &Recipe) -> Result<Inputs, PlanError> {
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

pub(super) fn access(recipe: &Recipe, door: Option<GuestConfig>) -> Result<Inputs, PlanError> {
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

pub(super) fn commands(recipe: &Recipe) -> Inputs {
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
