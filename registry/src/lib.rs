//! OCI images as bytes: the local store, containerDisks, and registries.
//!
//! This crate sees bytes, digests and media types. It never knows what a qcow2 file or a recipe is, never starts a
//! process, never prints, and never reads the environment: paths of credential files and the like are passed in.
//!
//! Main types: [`Layout`] is an OCI image layout that several processes may use at once, [`container_disk`] packs and
//! reads containerDisks, [`container`] packs container images, [`bundle`] packs and reads the bundles of labs, [`Images`] copies, inspects and unpacks images wherever they are, through [`Remote`] for
//! registries.
//!
//! ```
//! use labwright_registry::Layout;
//!
//! let dir = tempfile::tempdir().unwrap();
//! let layout = Layout::open_or_create(dir.path()).unwrap();
//! let blob = layout.add_bytes("text/plain", b"hello").unwrap();
//! assert!(layout.has(&blob));
//! ```

pub mod annotations;
mod archive;
mod artifact;
pub mod bundle;
pub mod container;
pub mod container_disk;
pub mod document;
mod images;
mod layout;
pub mod media_type;
mod pack;
mod remote;
mod stored_gzip;
pub mod tar_reader;
mod time;

pub use archive::{Archive, ArchiveError};
pub use artifact::{artifacts, attach};
pub use document::Descriptor;
pub use images::{
    Copied, CopiedLab, CopyOptions, ExtractError, ExtractLimits, ExtractedDisk, Images, ImagesError, Inspection,
    LabError, LabImage, LabInspection, LayerInspection, PlatformInspection, ReferrerInspection,
};
pub use layout::{Adopt, BlobWriter, Freed, Layout, LayoutError, WriteGuard};
pub use pack::{PackError, Packed};
pub use remote::{Credentials, Login, Remote, RemoteError, RemoteOptions, RemoteSetupError, size_warnings};
pub use time::rfc3339;
