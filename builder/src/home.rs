//! Where the builder keeps things.

use std::io;
use std::path::{Path, PathBuf};

use crate::layers::Layers;

/// The builder's directories, below one that the user chose.
///
/// ```text
/// HOME/bases/        base disks, by digest (labwright-base-images)
/// HOME/layers/       the step cache
/// HOME/apt/          packages that were fetched, and the lists that the host's apt fetched for machines
/// HOME/appliance/    kernels for the machines of the vm runner, by digest
/// HOME/logs/NAME/    the last builds of each recipe
/// HOME/history/      what the last build of each recipe was made of
/// HOME/work/         half-made things; swept by the next build
/// HOME/store/        finished images, an OCI image layout (labwright-registry)
/// ```
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// A directory of the builder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use the directory `{}`", path.display())]
pub struct HomeError {
    /// The directory.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl Home {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, HomeError> {
        // The storage daemon and the worker are told absolute paths: they start elsewhere.
        let dir = std::path::absolute(&dir).map_err(|source| HomeError { path: dir, source })?;
        fs_err::create_dir_all(&dir).map_err(|source| HomeError { path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Base disks.
    pub fn bases(&self) -> PathBuf {
        self.dir.join("bases")
    }

    /// The image store.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Logs of one recipe's builds.
    pub fn logs(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(name)
    }

    pub(crate) fn history(&self) -> PathBuf {
        history(&self.dir)
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub(crate) fn layers(&self) -> io::Result<Layers> {
        Layers::open(layers(&self.dir))
    }

    pub(crate) fn apt_cache(&self) -> io::Result<PathBuf> {
        let dir = self.dir.join("apt/archives");
        // apt fetches into `partial`, as its own user.
        fs_err::create_dir_all(dir.join("partial"))?;
        Ok(dir)
    }
}

/// Where the step cache is below a home that need not exist.
pub(crate) fn layers(home: &Path) -> PathBuf {
    home.join("layers")
}

/// Where the histories are below a home that need not exist.
pub(crate) fn history(home: &Path) -> PathBuf {
    home.join("history")
}
