//! The recipe: what an author writes, where it is wrong, and what it means.
//!
//! A recipe goes through two stages, each a type: the *written* recipe is a YAML tree in which every node knows its
//! bytes in the file; the [`resolved::Recipe`] is plain data with all variables filled in and everything validated.
//! The only way from one to the other is [`load`], which reports every mistake of the file in one run.
//!
//! This crate never opens a file, starts a process or reads the environment: it sees the files beside a recipe only
//! through the [`Files`] that the caller gives. It knows nothing of how a recipe is built.
//!
//! Main types: [`Loaded`], [`Below`] (for recipes on recipes), [`resolved::Recipe`], [`Files`] and [`Feature`]. [`schema`] is the same model for editors.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::io;
//! use std::path::Path;
//!
//! use labwright_recipes::{FileKind, Files, load};
//!
//! /// There is nothing beside this recipe.
//! struct NoFiles;
//!
//! impl Files for NoFiles {
//!     fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
//!         Err(io::ErrorKind::NotFound.into())
//!     }
//!     fn kind(&self, _: &Path) -> io::Result<Option<FileKind>> {
//!         Ok(None)
//!     }
//! }
//!
//! let text = "\
//! apiVersion: labwright/v1alpha1
//! kind: Recipe
//! metadata: {name: shell, version: 1.0.0}
//! base: {bootstrap: debian, suite: trixie}
//! pakages: [git]
//! ";
//! let mistakes = load("recipe.yaml", text, Path::new("."), &NoFiles, &BTreeMap::new()).unwrap_err();
//! assert_eq!(mistakes.0[0].hints, ["did you mean `packages`?"]);
//!
//! let text = text.replace("pakages", "packages");
//! let loaded = load("recipe.yaml", &text, Path::new("."), &NoFiles, &BTreeMap::new()).unwrap();
//! assert_eq!(loaded.recipe.name, "shell");
//! ```

mod below;
mod decode;
mod load;
pub mod resolved;
mod rules;
mod schema;

pub use below::Below;
pub use labwright_document::{FileKind, Files};
pub use load::{Feature, Loaded, load, load_on, to_json};
pub use schema::schema;
