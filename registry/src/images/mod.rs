//! Images wherever they are: copy, look into, take the disk out.

mod copy;
mod copy_lab;
mod error;
mod extract;
mod inspect;
mod lab;
mod source;
mod transfer;

use std::path::PathBuf;

use labwright_core::{Cancel, ImageRef};

pub use copy::{Copied, CopyOptions};
pub use copy_lab::{CopiedLab, LabImage};
pub use error::ImagesError;
pub use extract::{ExtractError, ExtractLimits, ExtractedDisk};
pub use inspect::{Inspection, LayerInspection, PlatformInspection, ReferrerInspection};
pub use lab::{LabError, LabInspection};
use source::Source;

use crate::annotations::REF_NAME;
use crate::archive::Archive;
use crate::document::Descriptor;
use crate::layout::Layout;
use crate::remote::{Remote, is_fallback_tag};

/// Everything that can be done with images by reference.
///
/// All functions are for a tokio runtime with time and I/O enabled; long blocking work goes to its blocking threads.
/// Dropping a future stops the work; a set [`Cancel`] does it in an orderly way.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use labwright_core::{Cancel, Quiet, Reporter};
/// use labwright_registry::{CopyOptions, Images, Remote, RemoteOptions};
///
/// let images = Images::new("/var/lib/labwright/images", Remote::new(RemoteOptions::default())?);
/// let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
/// let target = "registry.example/labs/debian-terminal:1.0.0".parse()?;
/// images.copy(&"debian-terminal:1.0.0".parse()?, &target, &CopyOptions::default(), &reporter, &Cancel::new()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Images {
    store: PathBuf,
    remote: Remote,
}

impl Images {
    /// Works with the local store in this directory, which is made when something is put into it.
    pub fn new(store: impl Into<PathBuf>, remote: Remote) -> Self {
        Self { store: store.into(), remote }
    }

    /// What a reference names now.
    pub async fn resolve(&self, image: &ImageRef, cancel: &Cancel) -> Result<Descriptor, ImagesError> {
        Ok(self.open(image, cancel).await?.root)
    }

    /// All tags beside the one that a reference names: of the repository, the layout or the archive.
    ///
    /// For an image in the local store, these are the tags of its name. Of a registry, those that only list what refers
    /// to an image are left out.
    pub async fn tags(&self, image: &ImageRef, cancel: &Cancel) -> Result<Vec<String>, ImagesError> {
        let names = |entries: Vec<Descriptor>| {
            let mut names: Vec<_> =
                entries.iter().filter_map(|entry| entry.annotations.get(REF_NAME).cloned()).collect();
            names.sort();
            names
        };
        match image {
            ImageRef::Local { name, .. } => {
                let prefix = format!("{name}:");
                let all = names(Layout::open(&self.store)?.index()?.manifests);
                Ok(all.iter().filter_map(|tag| tag.strip_prefix(&prefix).map(str::to_owned)).collect())
            }
            ImageRef::Layout { dir, .. } => Ok(names(Layout::open(dir)?.index()?.manifests)),
            ImageRef::Archive { file, .. } => Ok(names(Archive::open(file)?.index().manifests.clone())),
            ImageRef::Registry(registry) => {
                let mut tags = self.remote.repository(registry).tags(cancel).await?;
                tags.retain(|tag| !is_fallback_tag(tag));
                Ok(tags)
            }
        }
    }

    /// Finds an image.
    async fn open(&self, image: &ImageRef, cancel: &Cancel) -> Result<Source, ImagesError> {
        Source::open(&self.store, &self.remote, image, cancel).await
    }
}
