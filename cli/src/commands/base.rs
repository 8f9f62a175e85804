//! The disks that recipes start from: got for a build, and the verbs of `base`.

mod look;
mod verbs;

use std::path::PathBuf;
use std::str::FromStr;

use labwright_base_images::{
    Base, Bootstrap, Cache, Entry, Fetcher, InImage, Installer, Limits, Lock, Pinning, Retry, SecondStage, Source,
    Suite, Variant, bootstrap, file_base, find_entry, image_base, url_base, url_file,
};
use labwright_builder::Builder;
use labwright_core::{Arch, Diagnostic, Digest, ImageRef, Registry};
use labwright_recipes::resolved::{self, AccessSpec, LocalPath, Recipe, Ttyd};
use labwright_recipes::{Feature, Loaded};
use labwright_registry::{ExtractLimits, Images};

use super::build::parent;
use super::runner::{self, Wish};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

pub(super) use look::{Looked, Missing, look, ttyd_missing};
pub(super) use verbs::{base_image, run};

/// The file beside a recipe that says what its base meant.
pub(super) const LOCK_NAME: &str = "labwright.lock";

/// What a build may do with what is pinned in the lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pins {
    /// What is pinned counts, what is not is looked up and pinned.
    Keep,
    /// Only what is pinned counts.
    Locked,
    /// Everything is looked up and pinned anew.
    Update,
}

/// Gets bases and other files from elsewhere.
pub(super) struct Bases<'a> {
    cache: Cache,
    fetcher: Fetcher,
    images: &'a Images,
    context: &'a Context<'a>,
}

impl<'a> Bases<'a> {
    /// Opens the cache.
    pub(super) fn open(images: &'a Images, context: &'a Context<'a>) -> Result<Self, CommandError> {
        let cache = Cache::open(context.settings.home.join("bases"))?;
        Ok(Self { cache, fetcher: Fetcher::new(Limits::default(), Retry::default())?, images, context })
    }

    /// The base of a recipe, made, downloaded or copied into the cache if it is not there.
    ///
    /// What this version cannot use is refused before, with its place in the recipe.
    pub(super) fn fetch(&self, loaded: &Loaded, arch: Arch, pins: Pins, wish: Wish<'_>) -> Result<Base, CommandError> {
        let Context { ui, cancel, runtime, .. } = *self.context;
        match &loaded.recipe.base {
            resolved::Base::Bootstrap { suite, variant, .. } => {
                let spec = bootstrap_of(suite, *variant, arch)?;
                if pins == Pins::Update {
                    spec.forget(&self.cache)?;
                }
                self.bootstrap(spec, wish)
            }
            resolved::Base::File { path, digest } => {
                Ok(file_base(&path.path, digest, &self.cache, ui.reporter(), cancel)?)
            }
            resolved::Base::Url(remotes) => {
                let remote = remotes.get(&arch).ok_or_else(|| no_arch("base", arch))?;
                let reporter = ui.shared_reporter();
                Ok(runtime.block_on(url_base(&source(remote)?, &self.download(&reporter)))?)
            }
            resolved::Base::Catalogue(name) => {
                let (path, mut lock) = lock_of(loaded)?;
                let before = lock.clone();
                let base = self.catalogue(find_entry(name)?, arch, &mut lock, pins)?;
                lock.save_pins(&path, &before)?;
                Ok(base)
            }
            resolved::Base::Image(image) => {
                let (path, mut lock) = lock_of(loaded)?;
                let before = lock.clone();
                let base = self.image(image, arch, &mut lock, pins)?;
                lock.save_pins(&path, &before)?;
                Ok(base)
            }
            resolved::Base::Recipe(_) => Err(CommandError::sentence(Kind::Bug, "the base was not refused in time")),
        }
    }

    /// The base that is made from packages, taken from the cache or made now.
    fn bootstrap(&self, spec: Bootstrap, wish: Wish<'_>) -> Result<Base, CommandError> {
        let (context, reporter) = (self.context, self.context.ui.reporter());
        if let Some(base) = spec.find(&self.cache) {
            return Ok(base);
        }
        let machine = runner::of_bootstrap(wish, spec.arch, context)?;
        let Some(machine) = machine else {
            return bootstrap(&spec, &Installer::Chroot, &self.cache, reporter, context.cancel);
        };
        let builder = Builder::new(&context.settings.home, "/proc/self/exe")?;
        let install = |stage: &SecondStage<'_>| Ok(builder.install(stage, &machine, reporter, context.cancel)?);
        bootstrap(&spec, &Installer::Machine(&install), &self.cache, reporter, context.cancel)
    }

    /// What a name of the catalogue means, under a lock that is changed but not saved.
    fn catalogue(&self, entry: &Entry, arch: Arch, lock: &mut Lock, pins: Pins) -> Result<Base, CommandError> {
        let reporter = self.context.ui.shared_reporter();
        let (ui, runtime) = (self.context.ui, self.context.runtime);
        if pins == Pins::Update
            && let Some(old) = runtime.block_on(entry.refresh(arch, lock, &self.fetcher, self.context.cancel))?
        {
            ui.note(format!("{} for {arch} was {}", entry.name, old.digest.short()));
        }
        let pinning = if pins == Pins::Locked { Pinning::Locked } else { Pinning::Extend };
        let base = runtime.block_on(entry.pull(arch, lock, pinning, &self.download(&reporter)))?;
        Ok(base)
    }

    /// The disk of an image; one without a digest in its name is pinned, one with a digest is not asked for again.
    fn image(&self, image: &ImageRef, arch: Arch, lock: &mut Lock, pins: Pins) -> Result<Base, CommandError> {
        let Context { ui, cancel, runtime, .. } = *self.context;
        let name = image.to_string();
        let digest = if let ImageRef::Registry(Registry { digest: Some(digest), .. }) = image {
            digest.clone()
        } else {
            let found = runtime.block_on(self.images.resolve(image, cancel))?.digest;
            self.pin(&name, &found, lock, pins)?;
            found
        };
        let reporter = ui.shared_reporter();
        let of = InImage { image: &name, digest: &digest, arch };
        image_base(of, &self.cache, &reporter, cancel, |target| {
            let inspection = runtime.block_on(self.images.inspect(image, cancel))?;
            if inspection.digest != digest {
                let text = format!("`{name}` was replaced while it was read");
                return Err(CommandError::sentence(Kind::Input, text).hint("try again"));
            }
            if inspection.platforms.iter().all(|platform| platform.architecture != arch.as_str()) {
                return Err(no_arch(&format!("image `{name}`"), arch));
            }
            let limits = ExtractLimits::default();
            let extract = self.images.extract_disk(image, Some(arch), target, &limits, &reporter, cancel);
            Ok::<_, CommandError>(runtime.block_on(extract)?.digest)
        })
    }

    /// Writes down what the name of an image means, if that may change.
    fn pin(&self, name: &str, found: &Digest, lock: &mut Lock, pins: Pins) -> Result<(), CommandError> {
        let locked = lock.image(name).cloned();
        if locked.as_ref() == Some(found) {
            return Ok(());
        }
        if pins == Pins::Locked {
            let text = match locked {
                Some(locked) => format!("`{name}` is locked to {locked}, but is now {found}"),
                None => format!("{LOCK_NAME} has no digest for `{name}`"),
            };
            let hint = "`labwright base refresh` for the recipe accepts what is there now";
            return Err(CommandError::sentence(Kind::Lock, text).hint(hint));
        }
        if let Some(old) = lock.set_image(name, found.clone()) {
            self.context.ui.note(format!("`{name}` was {} and is now {}", old.short(), found.short()));
        }
        Ok(())
    }

    /// Downloads the ttyd that a recipe names by its address, and makes it a file of the recipe.
    pub(super) fn bring_ttyd(&self, recipe: &mut Recipe, arch: Arch) -> Result<(), CommandError> {
        for access in &mut recipe.access {
            let AccessSpec::Terminal { ttyd: Some(ttyd), .. } = &mut access.spec else { continue };
            let Ttyd::Url(remotes) = ttyd else { continue };
            let remote = remotes.get(&arch).ok_or_else(|| no_arch("ttyd", arch))?;
            let reporter = self.context.ui.shared_reporter();
            let path = self.context.runtime.block_on(url_file(&source(remote)?, &self.download(&reporter)))?;
            let (written, digest) = (remote.url.clone(), remote.digest.clone());
            *ttyd = Ttyd::File { path: LocalPath { written, path }, digest };
        }
        Ok(())
    }

    fn download<'b>(
        &'b self,
        reporter: &'b std::sync::Arc<dyn labwright_core::Reporter>,
    ) -> labwright_base_images::Context<'b> {
        labwright_base_images::Context {
            fetcher: &self.fetcher,
            cache: &self.cache,
            reporter,
            cancel: self.context.cancel,
        }
    }
}

/// The mistake in a recipe whose base is no name of the catalogue.
pub(super) fn unknown_name(loaded: &Loaded) -> Option<Diagnostic> {
    let resolved::Base::Catalogue(name) = &loaded.recipe.base else { return None };
    let unknown = find_entry(name).err()?;
    let (_, span) = loaded.features.iter().find(|(feature, _)| *feature == Feature::BaseCatalogue)?;
    let hint = "`labwright base ls` lists the names".to_owned();
    Some(Diagnostic::error(&loaded.file, *span, unknown.to_string()).hint(hint))
}

/// The bootstrap that a recipe asks for.
fn bootstrap_of(suite: &str, variant: resolved::Variant, arch: Arch) -> Result<Bootstrap, CommandError> {
    let suite = Suite::from_str(suite).map_err(|source| {
        let known: Vec<&str> = Suite::ALL.into_iter().map(Suite::as_str).collect();
        CommandError::new(Kind::Input, source).hint(format!("this version bootstraps {}", known.join(" and ")))
    })?;
    let variant = match variant {
        resolved::Variant::Cloud => Variant::Cloud,
        resolved::Variant::Minimal => Variant::Minimal,
    };
    Ok(Bootstrap { suite, arch, variant })
}

/// The lock file beside a recipe, and what is in it.
pub(super) fn lock_of(loaded: &Loaded) -> Result<(PathBuf, Lock), CommandError> {
    let path = parent(std::path::Path::new(&loaded.file.name)).join(LOCK_NAME);
    let lock = Lock::load(&path)?;
    Ok((path, lock))
}

fn source(remote: &resolved::Remote) -> Result<Source, CommandError> {
    let url: url::Url = remote.url.parse().map_err(|source: url::ParseError| {
        CommandError::new(Kind::Input, source).context(format!("`{}` is not an address", remote.url))
    })?;
    let name = url.path_segments().and_then(Iterator::last).filter(|name| !name.is_empty()).unwrap_or(&remote.url);
    Ok(Source { name: name.to_owned(), url: url.clone(), digest: remote.digest.clone(), size: None })
}

fn no_arch(what: &str, arch: Arch) -> CommandError {
    CommandError::sentence(Kind::Input, format!("the {what} is not for {arch}"))
}
