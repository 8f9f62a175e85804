//! Carries out a plan: starts from the longest cached prefix and stores what it makes, step by step.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::Scope;
use std::time::Duration;

use labwright_base_images::DiskFormat;
use labwright_core::{ByteSize, Cancel, Cancelled, Event, ImageFacts, Mask, NamedSecret, PackageFact, Reporter};
use labwright_guest::audit::Finding;
use labwright_guest::inventory::Inventory;
use labwright_guest::protocol::{Bind, Report, Request};
use labwright_recipes::resolved::Compression;

use crate::chroot::session::Session as ChrootSession;
use crate::chroot::wire;
use crate::chroot::{Leak, SessionError};
use crate::history::History;
use crate::home::{Home, HomeError};
use crate::layers::{Collected, Finished, KeyLock, Layer, LayerError, Layers, file_name, random_id};
use crate::log::Log;
use crate::plan::{Plan, Step, StepKind};
use crate::runner::{Runner, Session};
use crate::sbom;
use crate::vm::session::Session as VmSession;
use crate::workdir::Workdir;

/// Builds disks below one home directory.
#[derive(Debug)]
pub struct Builder {
    home: Home,
    program: PathBuf,
}

/// How a build differs from the usual.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Runs this step and all behind it anew, whatever is cached.
    pub from: Option<StepKind>,
    /// Runs every step anew, those of the recipes below included.
    pub everything: bool,
    /// The terminal (`/dev/pts/3`) on which a person gets a shell when a step fails in the guest.
    pub terminal: Option<PathBuf>,
    /// Variables for package managers and commands (`http_proxy`), kept out of the image and of the keys.
    pub environment: Vec<(String, String)>,
    /// Where the steps run.
    pub runner: Runner,
    /// The values of the recipe's `build_secrets`: kept out of the image, of the keys and of everything that is told.
    pub secrets: Vec<NamedSecret>,
}

/// A built disk, in a directory that is removed with this value.
#[derive(Debug)]
pub struct Artifact {
    /// The qcow2 file.
    pub disk: PathBuf,
    /// What it is.
    pub facts: ImageFacts,
    /// The size of the file.
    pub file_size: ByteSize,
    /// Bytes of the disk that hold something, before compression.
    pub data_size: ByteSize,
    /// The steps, with whether each came from the cache.
    pub steps: Vec<(String, bool)>,
    /// The build's log.
    pub log: PathBuf,
    /// The packages on the disk; see [`Artifact::sbom`].
    pub(crate) inventory: Inventory,
    work: Workdir,
}

impl Artifact {
    /// Removes the disk's directory, and says why if that fails.
    pub fn close(self) -> io::Result<()> {
        self.work.close()
    }
}

/// A disk for [`Builder::audit`].
#[derive(Debug, Clone)]
pub struct DiskToAudit {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The size of the disk that a guest sees.
    pub size: ByteSize,
}

/// Why a disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A directory of the builder cannot be used; the source has the path.
    #[error("could not make a place for the audit")]
    Work(#[from] io::Error),
    /// The disk could not be opened, mounted or read.
    #[error("could not look at the disk")]
    Disk(#[from] SessionError),
}

/// Why a disk could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A step failed.
    #[error("step `{}` failed{}", step.as_str(), excerpt(tail))]
    Step {
        /// The step.
        step: StepKind,
        /// The build's log.
        log: PathBuf,
        /// The last lines that were printed in the guest.
        tail: Vec<String>,
        /// Why.
        source: SessionError,
    },
    /// A secret that the recipe names was not given.
    #[error("the recipe needs the secret `{name}`")]
    NoSecret {
        /// Its name.
        name: String,
    },
    /// The finished disk holds secrets of the build.
    #[error("the disk holds what must not be in an image: {}", list(leaks))]
    Leaked {
        /// Which, and where.
        leaks: Vec<Leak>,
        /// The build's log.
        log: PathBuf,
    },
    /// The disk could not be opened, mounted or written.
    #[error("could not build on the disk")]
    Disk {
        /// The build's log.
        log: PathBuf,
        /// Why.
        source: SessionError,
    },
    /// The cache failed.
    #[error(transparent)]
    Layers(#[from] LayerError),
    /// A directory of the builder cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

fn excerpt(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("; its last lines:\n    {}", tail.join("\n    ")) }
}

fn list(leaks: &[Leak]) -> String {
    /// So many are named.
    const NAMED: usize = 20;
    let mut lines: Vec<String> = leaks
        .iter()
        .take(NAMED)
        .map(|leak| format!("\n    the secret `{}` {} in {}", leak.secret, leak.encoding, leak.place))
        .collect();
    if leaks.len() > NAMED {
        lines.push(format!("\n    and {} more", leaks.len() - NAMED));
    }
    lines.concat()
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Layers(LayerError::Io(error))
    }
}

/// One try at a build: what is needed all the way through.
struct Run<'a> {
    plan: &'a Plan,
    options: &'a BuildOptions,
    layers: &'a Layers,
    log: &'a Log<'a>,
    cancel: &'a Cancel,
    program: &'a Path,
    apt_cache: PathBuf,
}

impl Builder {
    /// A builder that keeps everything below `home`. `program` is this program, which is started anew as a worker:
    /// its `main` calls [`crate::run_worker_if_asked`] first.
    pub fn new(home: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Result<Self, HomeError> {
        Ok(Self { home: Home::open(home.into())?, program: program.into() })
    }

    /// The directories.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Builds the disk of a plan.
    pub fn build(
        &self,
        plan: &Plan,
        options: &BuildOptions,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Artifact, BuildError> {
        let missing = plan.build_secrets().iter().find(|name| secret(options, name).is_none());
        if let Some(name) = missing {
            return Err(BuildError::NoSecret { name: name.clone() });
        }
        let mask = Mask::new(options.secrets.iter().map(|secret| &secret.value));
        let log = Log::create(&self.home.logs(&plan.recipe.name), reporter, mask)?;
        let layers = self.home.layers()?;
        let _in_use = layers.hold()?;
        let name = &plan.recipe.name;
        let mut history = History::begin(plan, History::load(&self.home.history(), name).as_ref());
        history.save(&self.home.history(), name)?;
        let result = self.build_logged(plan, options, &layers, &log, cancel);
        for (step, layer) in plan.steps.iter().zip(layers.longest_prefix(&keys(plan), &plan.base.digest.to_string())?) {
            history.finished(step, layer.size);
        }
        if let Ok(artifact) = &result {
            history.file_size = Some(artifact.file_size.bytes());
        }
        if let Err(error) = history.save(&self.home.history(), name) {
            // It only helps people; a built disk is worth more.
            log.event(Event::Warning(format!("could not write down what was built: {error}")));
        }
        result
    }

    /// Notes that the result of a plan is there, as if it had been built just now.
    pub fn remember(&self, plan: &Plan) -> Result<(), BuildError> {
        let (dir, name) = (self.home.history(), &plan.recipe.name);
        let mut history = History::begin(plan, History::load(&dir, name).as_ref());
        history.all_finished();
        Ok(history.save(&dir, name)?)
    }

    fn build_logged(
        &self,
        plan: &Plan,
        options: &BuildOptions,
        layers: &Layers,
        log: &Log<'_>,
        cancel: &Cancel,
    ) -> Result<Artifact, BuildError> {
        let run = Run { plan, options, layers, log, cancel, program: &self.program, apt_cache: self.home.apt_cache()? };
        run.forget()?;
        let mut cached = None;
        loop {
            cancel.check()?;
            let work = Workdir::create(&self.home.work())?;
            let found = run.found()?;
            // What was there at the first look came from the cache; what others build meanwhile is news.
            let first = *cached.get_or_insert(found.len());
            // Each disk of a recipe below is made to its end before anything is built on it: it may be smaller.
            let level = plan.levels.iter().position(|level| level.end > found.len()).unwrap_or(plan.levels.len() - 1);
            if let Some(flattened) = run.attempt(&work, &found, level)? {
                let steps = plan.steps.iter().enumerate().map(|(at, step)| (step.label(), at < first)).collect();
                let (packages, inventory) = run.reported()?;
                let facts = plan.facts(packages);
                if let Some(lack) = sbom::lack(&inventory) {
                    log.event(Event::Note(lack));
                }
                return Ok(Artifact {
                    disk: work.path().join(DISK),
                    facts,
                    file_size: ByteSize::from_bytes(flattened.file_size),
                    data_size: ByteSize::from_bytes(flattened.data),
                    steps,
                    log: log.path().to_owned(),
                    inventory,
                    work,
                });
            }
        }
    }

    /// Looks for what must not be in an image on a disk whose header was checked, and changes nothing. `secrets` must
    /// not be on it either. The chroot runner mounts the disk on the host: a stranger's belongs into the vm runner.
    pub fn audit(
        &self,
        disk: &DiskToAudit,
        runner: &Runner,
        secrets: &[NamedSecret],
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<Finding>, AuditError> {
        let work = Workdir::create(&self.home.work())?;
        let order = wire::Audit {
            work: work.path().to_owned(),
            disk: wire::BaseFile { path: std::path::absolute(&disk.path)?, qcow2: disk.format == DiskFormat::Qcow2 },
            size: disk.size,
            secrets: secrets.to_vec(),
        };
        let findings = match runner {
            Runner::Chroot => ChrootSession::audit(&self.program, order, reporter, cancel)?,
            Runner::Vm(runner) => VmSession::audit(runner, order, reporter, cancel)?,
        };
        work.close()?;
        Ok(findings)
    }

    /// Removes layers of the step cache by age and size; none while a build runs.
    pub fn collect(&self, age: Option<Duration>, size: Option<ByteSize>) -> Result<Option<Collected>, BuildError> {
        let layers = self.home.layers()?;
        let Some(_alone) = layers.hold_alone()? else { return Ok(None) };
        crate::workdir::sweep(&self.home.work())?;
        Ok(Some(layers.collect(age, size)?))
    }

    /// Reads every layer, removes those that have other bytes than were stored, and returns their steps' names.
    pub fn verify(&self, cancel: &Cancel) -> Result<Vec<String>, BuildError> {
        let layers = self.home.layers()?;
        let mut damaged = Vec::new();
        for layer in layers.all()? {
            if !layers.verify(&layer, cancel)? {
                layers.remove(&layer.key)?;
                damaged.push(format!("{} {}", layer.step, layer.key.short()));
            }
        }
        Ok(damaged)
    }
}

fn secret<'a>(options: &'a BuildOptions, name: &str) -> Option<&'a NamedSecret> {
    options.secrets.iter().find(|secret| secret.name == name)
}

/// The file name of the flattened disk in the work directory.
const DISK: &str = "disk.qcow2";

fn keys(plan: &Plan) -> Vec<crate::key::Key> {
    plan.steps.iter().map(|step| step.key.clone()).collect()
}

impl Run<'_> {
    fn base_id(&self) -> String {
        self.plan.base.digest.to_string()
    }

    /// Forgets the layers that are to be made anew.
    fn forget(&self) -> Result<(), BuildError> {
        let BuildOptions { from, everything, .. } = self.options;
        let anew = |step: &&Step| *everything || (step.of.is_none() && from.is_some_and(|from| step.kind >= from));
        for step in self.plan.steps.iter().filter(anew) {
            let _lock = self.lock(step)?;
            self.layers.remove(&step.key)?;
        }
        Ok(())
    }

    /// The layers to start from. Those that are damaged are forgotten: new work must not stand on them.
    fn found(&self) -> Result<Vec<Layer>, BuildError> {
        let mut found = self.layers.longest_prefix(&keys(self.plan), &self.base_id())?;
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
    fn attempt(&self, work: &Workdir, found: &[Layer], level: usize) -> Result<Option<wire::Flattened>, BuildError> {
        // Finished layers are hashed and written through while the next steps run.
        std::thread::scope(|scope| self.attempt_storing(scope, work, found, level))
    }

    fn attempt_storing<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        work: &Workdir,
        found: &[Layer],
        level: usize,
    ) -> Result<Option<wire::Flattened>, BuildError> {
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
        for step in &self.plan.steps[found.len()..self.plan.levels[level].end] {
            let lock = self.lock(step)?;
            if self.layers.find(&step.key, &parent)?.is_some() {
                return Ok(None);
            }
            let name = step.label();
            self.log.event(Event::Started { step: name.clone() });
            let reports = self.run_step(&mut session, step)?;
            self.tell(&reports);
            number += 1;
            let next = overlay_name(number);
            session
                .commit(Path::new(&next), file_name(&step.key), self.log, self.cancel)
                .map_err(|source| self.failed(step.kind, source))?;
            let file = work.path().join(&top);
            let outcome = ByteSize::from_bytes(fs_err::metadata(&file)?.len()).human();
            let id = random_id();
            let finished = Finished {
                key: step.key.clone(),
                step: step.kind.as_str(),
                id: id.clone(),
                parent: std::mem::replace(&mut parent, id),
                file,
                reports,
            };
            storing.push(scope.spawn(move || {
                let _until_it_is_a_layer = lock;
                self.layers.store(finished, self.cancel)
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
        let compression = match self.plan.recipe.compression {
            Compression::Zstd => wire::Compression::Zstd,
            Compression::Zlib => wire::Compression::Zlib,
            Compression::None => wire::Compression::None,
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
        request.terminal.clone_from(&self.options.terminal);
        request.time_limit_seconds = Some(step.time_limit.as_secs());
        request.secrets = step.secrets.iter().filter_map(|name| secret(self.options, name).cloned()).collect();
        if step.network {
            request.dns = crate::dns::servers();
            request.environment.clone_from(&self.options.environment);
            request.apt_options = crate::apt::host_options(self.cancel);
        }
        if step.kind == StepKind::Packages {
            // Packages that were fetched once need not be fetched again; apt checks their digests.
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
    fn reported(&self) -> Result<(Vec<PackageFact>, Inventory), BuildError> {
        let (mut packages, mut inventory) = (Vec::new(), Inventory::default());
        for report in
            self.layers.longest_prefix(&keys(self.plan), &self.base_id())?.into_iter().flat_map(|it| it.reports)
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

fn overlay_name(number: usize) -> String {
    format!("t{number}.qcow2")
}
