//! Carries out a plan: starts from the longest cached prefix and stores what it makes, step by step.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use labwright_base_images::{DiskFormat, SecondStage};
use labwright_core::{ByteSize, Cancel, Event, ImageFacts, Mask, NamedSecret, Reporter};
use labwright_guest::audit::Finding;
use labwright_guest::inventory::Inventory;

use crate::build_error::{BuildError, InstallError, ReadError};
use crate::chroot::session::Session as ChrootSession;
use crate::chroot::wire;
use crate::history::History;
use crate::home::{Home, HomeError};
use crate::layers::{Collected, Layers};
use crate::log::Log;
use crate::packages::Frozen;
use crate::plan::{Plan, StepKind};
use crate::run::{DISK, LockKeeper, Run};
use crate::runner::Runner;
use crate::sbom;
use crate::vm::VmRunner;
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
    /// Where the versions of packages come from.
    pub resolve: Resolve,
    /// The values of the recipe's `build_secrets`: kept out of the image, of the keys and of everything that is told.
    pub secrets: Vec<NamedSecret>,
}

/// Where a build gets the versions of packages from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resolve {
    /// From the plan; where it has none, from the last build of the same here, else from the package sources.
    #[default]
    Missing,
    /// From the plan; where it has none, from the package sources.
    Anew,
    /// From the plan alone: packages that it does not have are refused.
    Never,
}

impl BuildOptions {
    /// Whether packages that are not locked are refused.
    pub(crate) fn frozen(&self) -> Frozen {
        if self.resolve == Resolve::Never { Frozen::Yes } else { Frozen::No }
    }

    /// The secret of that name.
    pub(crate) fn secret(&self, name: &str) -> Option<&NamedSecret> {
        self.secrets.iter().find(|secret| secret.name == name)
    }
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
    /// What was carried out; the versions of packages are all known now.
    pub plan: Plan,
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

/// A disk that was built, before it is told.
struct Built {
    work: Workdir,
    flattened: wire::Flattened,
    steps: Vec<(String, bool)>,
    facts: ImageFacts,
    inventory: Inventory,
}

/// A disk that nobody writes to any more, for [`Builder::audit`] and [`Builder::archive`].
#[derive(Debug, Clone)]
pub struct FinishedDisk {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The size of the disk that a guest sees.
    pub size: ByteSize,
}

impl FinishedDisk {
    fn file(&self) -> io::Result<wire::BaseFile> {
        Ok(wire::BaseFile { path: std::path::absolute(&self.path)?, qcow2: self.format == DiskFormat::Qcow2 })
    }
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

    /// Builds the disk of a plan. `keeper` is told as soon as packages are installed in versions that the plan did not have.
    pub fn build(
        &self,
        mut plan: Plan,
        options: &BuildOptions,
        keeper: &dyn LockKeeper,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Artifact, BuildError> {
        let missing = plan.build_secrets().iter().find(|name| options.secret(name).is_none());
        if let Some(name) = missing {
            return Err(BuildError::NoSecret { name: name.clone() });
        }
        let mask = Mask::new(options.secrets.iter().map(|secret| &secret.value));
        let log = Log::create(&self.home.logs(&plan.recipe.name), reporter, mask)?;
        let layers = self.home.layers()?;
        let _in_use = layers.hold()?;
        let (dir, name) = (self.home.history(), plan.recipe.name.clone());
        History::begin(&plan, History::load(&dir, &name).as_ref()).save(&dir, &name)?;
        let result = self.build_logged(&mut plan, options, keeper, &layers, &log, cancel);
        // Packages may have got their versions meanwhile, which are inputs too.
        let mut history = History::begin(&plan, History::load(&dir, &name).as_ref());
        for (step, layer) in plan.steps.iter().zip(layers.longest_prefix(&plan.keys(), &plan.base.digest.to_string())?)
        {
            history.finished(step, layer.size);
        }
        if let Ok(built) = &result {
            history.file_size = Some(built.flattened.file_size);
        }
        if let Err(error) = history.save(&dir, &name) {
            // It only helps people; a built disk is worth more.
            log.event(Event::Warning(format!("could not write down what was built: {error}")));
        }
        let Built { work, flattened, steps, facts, inventory } = result?;
        Ok(Artifact {
            disk: work.path().join(DISK),
            facts,
            file_size: ByteSize::from_bytes(flattened.file_size),
            data_size: ByteSize::from_bytes(flattened.data),
            steps,
            log: log.path().to_owned(),
            plan,
            inventory,
            work,
        })
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
        plan: &mut Plan,
        options: &BuildOptions,
        keeper: &dyn LockKeeper,
        layers: &Layers,
        log: &Log<'_>,
        cancel: &Cancel,
    ) -> Result<Built, BuildError> {
        let apt_cache = self.home.apt_cache()?;
        let mut run = Run { plan, keeper, options, layers, log, cancel, program: &self.program, apt_cache };
        run.forget()?;
        let mut cached = None;
        loop {
            cancel.check()?;
            let work = Workdir::create(&self.home.work())?;
            let found = run.found()?;
            // What was there at the first look came from the cache; what others build meanwhile is news.
            let first = *cached.get_or_insert(found.len());
            // Each disk of a recipe below is made to its end before anything is built on it: it may be smaller.
            let level = run.plan.level_of(found.len());
            if let Some(flattened) = run.attempt(&work, &found, level)? {
                let steps = run.plan.steps.iter().enumerate().map(|(at, step)| (step.label(), at < first)).collect();
                let (packages, inventory) = run.reported()?;
                let facts = run.plan.facts(packages);
                if let Some(lack) = sbom::lack(&inventory) {
                    log.event(Event::Note(lack));
                }
                return Ok(Built { work, flattened, steps, facts, inventory });
            }
        }
    }

    /// Looks for what must not be in an image on a disk whose header was checked, and changes nothing. `secrets` must
    /// not be on it either. The chroot runner mounts the disk on the host: a stranger's belongs into the vm runner.
    pub fn audit(
        &self,
        disk: &FinishedDisk,
        runner: &Runner,
        secrets: &[NamedSecret],
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<Finding>, ReadError> {
        let work = Workdir::create(&self.home.work())?;
        let order = wire::Audit {
            work: work.path().to_owned(),
            disk: disk.file()?,
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

    /// Writes the tree of a disk to `destination` as a tar archive, in the form of a layer of a container image. The disk is
    /// one of ours: the chroot runner mounts it on the host.
    pub fn archive(
        &self,
        disk: &FinishedDisk,
        runner: &Runner,
        destination: &Path,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), ReadError> {
        let work = Workdir::create(&self.home.work())?;
        let order = wire::Archive {
            work: work.path().to_owned(),
            disk: disk.file()?,
            size: disk.size,
            destination: std::path::absolute(destination)?,
        };
        match runner {
            Runner::Chroot => ChrootSession::archive(&self.program, order, reporter, cancel)?,
            Runner::Vm(runner) => VmSession::archive(runner, order, reporter, cancel)?,
        }
        work.close()?;
        Ok(())
    }

    /// Does the part of a bootstrap that needs root in a machine, which has no network.
    pub fn install(
        &self,
        stage: &SecondStage<'_>,
        runner: &VmRunner,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), InstallError> {
        let work = Workdir::create(&self.home.work())?;
        VmSession::bootstrap(runner, stage, work.path(), reporter, cancel)?;
        work.close()?;
        Ok(())
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
