//! KubeVirt containerDisks: an image whose only layer holds one disk file.

mod facts;
mod pack;

pub use facts::{FactsError, facts, image_config, manifest};
pub(crate) use facts::{choose, facts_of};
pub use pack::pack;
