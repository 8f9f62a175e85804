//! Labs: what an author writes in `lab.yaml`, where it is wrong, what it means, and the manifests and bundles that
//! come of it.
//!
//! A lab goes through three stages, each a type: the written lab is a YAML tree; the [`resolved::Lab`] is plain data
//! with every reference checked; a [`LockedLab`] knows which image, by digest, each machine runs. [`manifests`] are made of a
//! locked lab only.
//!
//! This crate never opens a file, starts a process, talks to a network or reads the environment. It knows neither
//! recipes nor registries: what an image offers comes as [`ImageFacts`](labwright_core::ImageFacts).

pub mod bundle;
mod decode;
mod load;
mod lock;
pub mod manifests;
pub mod resolved;
mod rules;
mod schema;
mod value;

pub use labwright_document::rules::is_label;
pub use labwright_document::{FileKind, Files};
pub use load::{ImageOffer, Loaded, Origin, is_lab, load, recipes_in, to_json};
pub use lock::{Door, LockedImage, LockedLab};
pub use rules::is_reserved_namespace;
pub use schema::schema;
pub use value::{Part, Value};
