//! Looks for what must not be in an image, in a tree of files. It only reads, and follows no symbolic link.

mod secrets;

pub use secrets::{SecretInTree, secrets_in_tree};
