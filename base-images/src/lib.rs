//! Base images: the disks that builds start from. Makes them from packages, takes them from files, downloads them
//! from vendors, checks them, and keeps them in a cache under their digests.
//!
//! This crate never changes a disk after it is in the cache, never believes a disk whose digest it has not computed
//! itself, never prints, and knows nothing of recipes.
//!
//! Main types: [`Base`], [`Cache`], [`Bootstrap`] and [`Installer`], [`Entry`] (a name of the catalogue), [`Source`] and [`Lock`].
//!
//! ```no_run
//! use labwright_base_images::{Bootstrap, BootstrapError, Cache, Installer, Suite, Variant, bootstrap};
//! use labwright_core::{Arch, Cancel, Quiet};
//!
//! let cache = Cache::open("/var/cache/labwright/bases")?;
//! let spec = Bootstrap { suite: Suite::Trixie, arch: Arch::Amd64, variant: Variant::Cloud };
//! let base = bootstrap::<BootstrapError>(&spec, &Installer::Chroot, &cache, &Quiet, &Cancel::new())?;
//! assert_eq!(base.virtual_size.to_string(), "3Gi");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod base;
mod bootstrap;
mod cache;
mod catalog;
mod download;
mod file;
mod image;
mod lock;
mod signature;

pub use base::{Base, DiskFormat};
pub use bootstrap::{
    Bootstrap, BootstrapError, Installer, SecondStage, Suite, UnknownSuite, Variant, bootstrap, chroot_obstacle,
};
pub use cache::{Cache, CacheError, Origin};
pub use catalog::{CatalogError, Checksums, Entry, Pinning, Place, Signature, UnknownBase, catalog, find_entry};
pub use download::{Context, DownloadError, Fetcher, Limits, Retry, Source, url_base, url_file};
pub use file::{FileBaseError, file_base};
pub use image::{ImageBaseError, InImage, image_base};
pub use lock::{Lock, LockError, PackageLock, Pin};
pub use signature::SignatureError;
