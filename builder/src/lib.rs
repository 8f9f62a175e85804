//! Builds disks: plans the steps of a recipe, keeps each step's result in a cache, and carries out what is missing.
//!
//! This crate never parses recipes, never packs or pushes images (it does not know registries), and never talks to
//! the user. What is made where, in which order, is decided here; how a disk is handled is `labwright-disk`'s matter
//! and what runs inside it `labwright-guest`'s.
//!
//! Main types: [`Plan`] (steps as data), [`Builder`] (carries it out), [`Artifact`] (a finished disk), [`Forecast`] (what
//! a build would do).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (recipe, base): (labwright_recipes::resolved::Recipe, labwright_base_images::Base) = todo!();
//! use labwright_builder::{BuildOptions, Builder, Plan};
//! use labwright_core::{Arch, Cancel, Quiet};
//!
//! let plan = Plan::new(recipe, Arch::Amd64, base)?;
//! let builder = Builder::new("/var/lib/labwright", "/proc/self/exe")?;
//! # struct Forgetful;
//! # impl labwright_builder::LockKeeper for Forgetful {
//! #     fn keep(&self, _: usize, _: &labwright_base_images::PackageLock) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! #         Ok(())
//! #     }
//! # }
//! # let lock_file = Forgetful;
//! let artifact = builder.build(plan, &BuildOptions::default(), &lock_file, &Quiet, &Cancel::new())?;
//! println!("{}", artifact.disk.display());
//! # Ok(())
//! # }
//! ```

mod apt;
mod build_error;
mod chroot;
mod dns;
mod engine;
mod forecast;
mod guest_program;
mod history;
mod home;
mod inputs;
mod key;
mod layer_files;
mod layers;
mod log;
mod packages;
mod plan;
mod provenance;
mod run;
mod runner;
mod sbom;
mod sources;
mod vm;
mod workdir;

pub use build_error::{BuildError, InstallError, ReadError};
pub use chroot::{FailureKind, Leak, SessionError, run_if_asked as run_worker_if_asked};
pub use engine::{Artifact, BuildOptions, Builder, FinishedDisk, Resolve};
pub use forecast::{Forecast, Known, Reason, Size, SizeFrom, StepForecast, forecast, recall};
pub use home::{Home, HomeError};
pub use key::Key;
pub use labwright_base_images::DiskFormat;
pub use labwright_guest::audit::{Finding, Severity};
pub use layers::{Collected, LayerError};
pub use packages::{Frozen, LockState, Packages};
pub use plan::{Plan, PlanError, Step, StepKind};
pub use run::LockKeeper;
pub use runner::Runner;
pub use sources::SourceError;
pub use vm::{ApplianceError, VmError, VmRunner};
