//! Documents that people write: YAML in which every value knows its place, expressions in it, and decoders that find
//! all mistakes in one run.
//!
//! Recipes and labs are kinds of such documents. This crate never opens a file and does not know what a document is
//! about: the crate that does gives [`Words`] for it.
//!
//! Main types: [`parse`] makes a tree of [`Node`]s of a text, a [`Decoder`] makes values of nodes and collects
//! [`Diagnostic`](labwright_core::Diagnostic)s, [`rules`] have the syntax that all kinds share, [`schema`] helps to
//! write the same as a JSON Schema, and [`yaml`] writes what programs give to people.

mod decoder;
mod files;
mod head;
mod node;
mod parse;
mod place;
pub mod rules;
pub mod schema;
mod template;
pub mod yaml;

pub use decoder::{Decoder, Fields, Piece, Text, Wanted, Words, expected, listed, shown};
pub use files::{FileKind, Files, LocalPath, Want};
pub use head::{API_VERSION, Identity};
pub use node::{Key, Kind, Meaning, Node, Scalar, Style};
pub use parse::{parse, sorted, to_json};
pub use template::{OPEN, Templates};
