//! What ends up as configuration in a guest: the front door's files, and the NoCloud seed of a session.
//!
//! This crate is pure text: it opens no file, starts no process, reads no clock. Whoever calls it places what it
//! returns. It knows neither recipes nor disks nor machines.
//!
//! Main types: [`FrontDoor`] becomes a [`GuestConfig`] by [`front_door`], at build time, the same for every session
//! and without any secret. [`SessionConfig`] becomes user-data by [`user_data`], and a [`Seed`] becomes a small FAT
//! disk that cloud-init finds by its label, at boot.
//!
//! ```
//! use labwright_cloud_init::{Credential, FrontDoor, Seed, SessionConfig, Terminal};
//!
//! let door = FrontDoor::new(8080, vec![Terminal::new("shell", "student").unwrap()]).unwrap();
//! let config = labwright_cloud_init::front_door(&door);
//! assert_eq!(config.enable, ["labwright-front-door.path"]);
//!
//! let session = SessionConfig {
//!     hostname: Some("lab".to_owned()),
//!     credential: Some(Credential::new("student", "correct-horse").unwrap()),
//!     ..SessionConfig::default()
//! };
//! let seed = Seed {
//!     user_data: labwright_cloud_init::user_data(&session),
//!     meta_data: labwright_cloud_init::meta_data("session-1", Some("lab")),
//!     network_config: None,
//! };
//! assert!(!seed.image().unwrap().is_empty());
//! ```

mod credential;
mod front_door;
mod seed;
mod user_data;
mod yaml;

pub use credential::{Credential, InvalidCredential};
pub use front_door::{ConfigFile, FrontDoor, GuestConfig, InvalidFrontDoor, Terminal, front_door};
pub use seed::{Card, Seed, SeedError, meta_data, network_config, network_config_of};
pub use user_data::{SessionConfig, user_data};
