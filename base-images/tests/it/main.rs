//! The tests of the whole crate, in one program.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as expected")]

mod bootstrap;
mod catalog;
mod common;
mod download;
mod file;
