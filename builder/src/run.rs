//! One run of a build: from the layers that are there to the flattened disk.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::Scope;

use labwright_base_images::{DiskFormat, PackageLock};
use labwright_core::{ByteSize, Cancel, Event, PackageFact, Reporter};
use labwright_guest::audit::Finding;
use labwright_guest::inventory::Inventory;
use labwright_guest::protocol::{Bind, Report, Request, Terminal};
use labwright_recipes::resolved::{Compression, Output};

use crate::build_error::BuildError;
use crate::chroot::{Leak, SessionError, wire};
use crate::engine::{BuildOptions, Resolve};
use crate::layers::{Finished, KeyLock, Layer, Layers, file_name, random_id};
use crate::log::Log;
use crate::packages::{LockState, Packages};
use crate::plan::{Plan, Step, StepKind};
use crate::runner::Session;
use crate::workdir::Workdir;

/// Writes down in which versions the packages of a recipe were installed.
pub trait LockKeeper {
    /// Keeps the versions of the recipe at `level`, counted from the lowest.
    fn keep(&self, level: usize, lock: &PackageLock) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// One try at a build: what is needed all the way through.
pub(crate) struct Run<'a> {
    pub(crate) plan: &'a mut Plan,
    pub(crate) keeper: &'a dyn LockKeeper,
    pub(crate) options: &'a BuildOptions,
    pub(crate) layers: &'a Layers,
    pub(crate) log: &'a Log<'a>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) program: &'a Path,
    pub(crate) apt_cache: PathBuf,
}

/// The file name of the flattened disk in the work directory.
pub(crate) const DISK: &str = "disk.qcow2";

impl<'a> Run<'a> {
    fn base_id(&self) -> String {
        self.plan.base.digest.to_string()
    }

    /// Forgets the layers that are to be made anew.
    pub(crate) fn forget(&self) -> Result<(), BuildError> {
        let BuildOptions { from, everything, .. } = self.options;
        let anew = |step: &&Step| *everything || (step.of.is_none() && from.is_some_and(|from| step.kind >= from));
        for step in self.plan.steps.iter().filter(anew) {
            let _lock = self.lock(step)?;
            self.layers.remove(&step.key)?;
        }
        Ok(())
    }

    /// The layers to start from. Those that are damaged are forgotten: new work must not stand on them.
    pub(crate) fn found(&self) -> Result<Vec<Layer>, BuildError> {
        let mut found = self.layers.longest_prefix(&self.plan.keys(), &self.base_id())?;
        let mut whole = 0;
        for layer in &found {
            if !self.layers.verify(layer, self.cancel)? {
                self.log.event(Event::Warning(format!(
                    "the cached layer of step `{}` is damaged; it is built anew",
                    layer.step
                )));
                self.layers.remove(&layer.key)?;
                break;
            }
            self.layers.touch(layer)?;
            whole += 1;
        }
        found.truncate(whole);
        Ok(found)
    }

    fn lock(&self, step: &Step) -> Result<KeyLock, BuildError> {
        Ok(self.layers.lock(&step.key, self.cancel, || {
            self.log.event(Event::Note(format!(
                "another build is at step `{}` with the same inputs; waiting for its result",
                step.label()
            )));
        })?)
    }

    /// Builds on top of `found` up to the end of a level. Returns none if that is not the last one, or if somebody else
    /// built the next step meanwhile: then a new try starts from there.
    pub(crate) fn attempt(
        &mut self,
        work: &Workdir,
        found: &[Layer],
        level: usize,
    ) -> Result<Option<wire::Flattened>, BuildError> {
        // Finished layers are hashed and written through while the next steps run.
        std::thread::scope(|scope| self.attempt_storing(scope, work, found, level))
    }

    fn attempt_storing<'scope, 'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        work: &Workdir,
        found: &[Layer],
        level: usize,
    ) -> Result<Option<wire::Flattened>, BuildError>
    where
        'a: 'env,
    {
        let (layers, cancel): (&'a Layers, &'a Cancel) = (self.layers, self.cancel);
        let mut storing = Vec::new();
        let mut number = 0;
        let mut top = overlay_name(number);
        for (step, layer) in self.plan.steps.iter().zip(found) {
            let step = step.label();
            self.log.event(Event::Started { step: step.clone() });
            self.log.event(Event::Finished { step, outcome: format!("cached {}", layer.key.short()) });
        }
        let mut parent = found.last().map_or_else(|| self.base_id(), |layer| layer.id.clone());
        let mut session = self.open(work, found, &top, self.plan.levels[level].size)?;
        for at in found.len()..self.plan.levels[level].end {
            let mut locks = vec![self.lock(&self.plan.steps[at])?];
            if self.recall(at)? || self.layers.find(&self.plan.steps[at].key, &parent)?.is_some() {
                return Ok(None);
            }
            let (name, kind) = (self.plan.steps[at].label(), self.plan.steps[at].kind);
            self.log.event(Event::Started { step: name.clone() });
            let reports = self.run_step(&mut session, &self.plan.steps[at])?;
            self.tell(&reports);
            if self.settle(at, &reports)? {
                // Whoever waits for the first one looks for this layer.
                locks.push(self.lock(&self.plan.steps[at])?);
                if self.layers.find(&self.plan.steps[at].key, &parent)?.is_some() {
                    return Ok(None);
                }
            }
            let key = self.plan.steps[at].key.clone();
            number += 1;
            let next = overlay_name(number);
            session
                .commit(Path::new(&next), file_name(&key), self.log, self.cancel)
                .map_err(|source| self.failed(kind, source))?;
            let file = work.path().join(&top);
            let outcome = ByteSize::from_bytes(fs_err::metadata(&file)?.len()).human();
            let id = random_id();
            let finished = Finished {
                key,
                step: kind.as_str(),
                id: id.clone(),
                parent: std::mem::replace(&mut parent, id),
                file,
                reports,
            };
            storing.push(scope.spawn(move || {
                let _until_it_is_a_layer = locks;
                layers.store(finished, cancel)
            }));
            top = next;
            self.log.event(Event::Finished { step: name, outcome });
        }
        if level + 1 < self.plan.levels.len() {
            session.close(self.log).map_err(|source| self.broken(source))?;
            for stored in storing {
                stored.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            return Ok(None);
        }
        let leaks = self.search(&mut session)?;
        if !leaks.is_empty() {
            // A layer that is stored only now would stay.
            for stored in storing {
                stored.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            for step in self.plan.steps.iter().skip_while(|step| step.secrets.is_empty()) {
                self.layers.remove(&step.key)?;
            }
            return Err(BuildError::Leaked { leaks, log: self.log.path().to_owned() });
        }
        self.log.event(Event::Started { step: "compress".to_owned() });
        let compression = match self.plan.recipe.output {
            Output::Disk { compression: Compression::Zstd } => wire::Compression::Zstd,
            Output::Disk { compression: Compression::Zlib } => wire::Compression::Zlib,
            // The tree is read from it once more, and then nobody needs it.
            Output::Disk { compression: Compression::None } | Output::Container(_) => wire::Compression::None,
        };
        let flattened = session
            .flatten(&work.path().join(DISK), compression, self.log, self.cancel)
            .map_err(|source| self.broken(source))?;
        session.close(self.log).map_err(|source| self.broken(source))?;
        for stored in storing {
            stored.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        let size = ByteSize::from_bytes(flattened.file_size).human();
        let data = ByteSize::from_bytes(flattened.data).human();
        let outcome = format!("{data} of data in {size}");
        self.log.event(Event::Finished { step: "compress".to_owned(), outcome });
        Ok(Some(flattened))
    }

    /// Gives the packages of a step the versions in which somebody else installed them here meanwhile, if they have none.
    /// Returns whether it did.
    fn recall(&mut self, at: usize) -> Result<bool, BuildError> {
        if self.options.resolve == Resolve::Anew || !recall(self.plan, at, self.layers)? {
            return Ok(false);
        }
        self.keep(at)?;
        Ok(true)
    }

    /// Locks the packages of a step in the versions that were installed. Returns whether that gives the step another key.
    fn settle(&mut self, at: usize, reports: &[serde_json::Value]) -> Result<bool, BuildError> {
        let key = self.plan.steps[at].key.clone();
        if self.plan.steps[at].packages.is_none() {
            return Ok(false);
        }
        let came = |report: &serde_json::Value| match serde_json::from_value(report.clone()) {
            Ok(Report::Installed(packages)) => packages,
            _ => Vec::new(),
        };
        let installed = reports.iter().flat_map(came).collect();
        self.plan.change_packages(at, |packages| packages.installed(installed));
        let step = &self.plan.steps[at];
        if step.key == key {
            return Ok(false);
        }
        if let Some(lock) = step.packages.as_ref().and_then(Packages::lock) {
            self.layers.note_locked(&key, &step.key, &lock)?;
        }
        self.keep(at)?;
        Ok(true)
    }

    /// Has the versions of a step's packages written down.
    fn keep(&self, at: usize) -> Result<(), BuildError> {
        match self.plan.steps[at].packages.as_ref().and_then(Packages::lock) {
            Some(lock) => self.keeper.keep(self.plan.level_of(at), &lock).map_err(BuildError::Lock),
            None => Ok(()),
        }
    }

    fn open(&self, work: &Workdir, found: &[Layer], top: &str, size: ByteSize) -> Result<Session, BuildError> {
        let base = &self.plan.base;
        let open = wire::Open {
            work: work.path().to_owned(),
            base: wire::BaseFile { path: base.path.clone(), qcow2: base.format == DiskFormat::Qcow2 },
            layers: found.iter().map(|layer| self.layers.path(&layer.key)).collect(),
            top: PathBuf::from(top),
            backing: found.last().map_or_else(|| "base".to_owned(), |layer| file_name(&layer.key)),
            size,
        };
        let (session, opened) = Session::open(&self.options.runner, self.program, open, self.log, self.cancel)
            .map_err(|source| self.broken(source))?;
        tracing::debug!(root = %opened.root, "the disk is open");
        Ok(session)
    }

    /// Warns of what an audit found on the sealed disk.
    fn tell(&self, reports: &[serde_json::Value]) {
        for report in reports {
            if let Ok(Report::Finding(finding)) = serde_json::from_value(report.clone()) {
                let Finding { path, what, remedy, id, .. } = finding;
                self.log.event(Event::Warning(format!("{path} has {what} [{id}]; {remedy}")));
            }
        }
    }

    /// Where the finished disk holds any of the secrets.
    fn search(&self, session: &mut Session) -> Result<Vec<Leak>, BuildError> {
        const SEARCH: &str = "search for secrets";
        if self.options.secrets.is_empty() {
            return Ok(Vec::new());
        }
        self.log.event(Event::Started { step: SEARCH.to_owned() });
        let leaks = session
            .search(self.options.secrets.clone(), self.log, self.cancel)
            .map_err(|source| self.broken(source))?;
        if leaks.is_empty() {
            self.log.event(Event::Finished { step: SEARCH.to_owned(), outcome: "none found".to_owned() });
        }
        Ok(leaks)
    }

    fn run_step(&self, session: &mut Session, step: &Step) -> Result<Vec<serde_json::Value>, BuildError> {
        if step.kind == StepKind::Disk {
            session.grow(self.log, self.cancel).map_err(|source| self.failed(step.kind, source))?;
            return Ok(Vec::new());
        }
        let mut request = Request::new("", step.actions.clone());
        request.network = step.network;
        request.terminal = self.options.terminal.clone().map(Terminal::Device);
        request.time_limit_seconds = Some(step.time_limit.as_secs());
        request.secrets = step.secrets.iter().filter_map(|name| self.options.secret(name).cloned()).collect();
        if step.network {
            request.dns = crate::dns::servers();
            request.environment.clone_from(&self.options.environment);
            request.apt_options = crate::apt::host_options(self.cancel);
        }
        request.locked = step.packages.as_ref().and_then(|packages| packages.order(self.options.frozen()));
        if step.kind == StepKind::Packages {
            // Packages that were fetched once need not be fetched again. apt believes a file of the right size there, so who
            // builds strangers' recipes as root gives them this cache; the vm runner checks digests each time.
            request.binds.push(Bind {
                host: self.apt_cache.clone(),
                guest: "/var/cache/apt/archives".parse().expect("a constant that is a path"),
                read_only: false,
            });
        }
        let step_order = wire::Step { request, sources: step.sources.clone() };
        session.step(step_order, self.log, self.cancel).map_err(|source| self.failed(step.kind, source))
    }

    /// What the layers reported: packages from elsewhere, and all packages that the sealed disk has.
    pub(crate) fn reported(&self) -> Result<(Vec<PackageFact>, Inventory), BuildError> {
        let (mut packages, mut inventory) = (Vec::new(), Inventory::default());
        for report in
            self.layers.longest_prefix(&self.plan.keys(), &self.base_id())?.into_iter().flat_map(|it| it.reports)
        {
            match serde_json::from_value(report) {
                Ok(Report::Package(fact)) => packages.push(fact),
                // A recipe on top seals again; the last one is true.
                Ok(Report::Inventory(found)) => inventory = found,
                _ => {}
            }
        }
        Ok((packages, inventory))
    }

    fn failed(&self, step: StepKind, source: SessionError) -> BuildError {
        match source {
            SessionError::Cancelled(cancelled) => cancelled.into(),
            source => BuildError::Step { step, log: self.log.path().to_owned(), tail: self.log.tail(), source },
        }
    }

    fn broken(&self, source: SessionError) -> BuildError {
        match source {
            SessionError::Cancelled(cancelled) => cancelled.into(),
            source => BuildError::Disk { log: self.log.path().to_owned(), source },
        }
    }
}

/// Gives the packages of a step the versions in which they were installed here, if they have none and the layer is still
/// there. Returns whether it did.
pub(crate) fn recall(plan: &mut Plan, at: usize, layers: &Layers) -> io::Result<bool> {
    let step = &plan.steps[at];
    if step.packages.as_ref().is_none_or(|packages| packages.state() == LockState::Locked) {
        return Ok(false);
    }
    let Some(lock) = layers.noted_lock(&step.key)? else { return Ok(false) };
    plan.change_packages(at, |packages| packages.use_lock(&lock));
    Ok(true)
}

fn overlay_name(number: usize) -> String {
    format!("t{number}.qcow2")
}
