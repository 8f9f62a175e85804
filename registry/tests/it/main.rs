//! The crate as its users see it, together with the tools and registries that must understand the same images.
#![expect(clippy::unwrap_used, reason = "a test helper may panic as a test may")]

mod bundle;
mod bundle_hostile;
mod common;
mod container_disk;
mod corpus;
mod extract;
mod fake;
mod fake_registry;
mod lab_copy;
mod lab_remote;
mod layout;
mod registry;
