//! The corpus of the fuzz targets, with their assertions: what strangers' archives and manifests must not do.

use std::path::PathBuf;

use labwright_registry::document::{Document, MAX_LAYERS, MAX_MANIFESTS};
use labwright_registry::tar_reader::TarReader;

/// The inputs of a fuzz target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs_err::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs_err::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn tar() {
    let mut accepted = Vec::new();
    for (name, data) in corpus("tar") {
        let mut reader = TarReader::new(&data[..]);
        let end = loop {
            match reader.next_entry() {
                Ok(Some(entry)) => {
                    assert!(!entry.name.starts_with('/') && !entry.name.split('/').any(|part| part == ".."), "{name}");
                    assert!(entry.offset <= data.len() as u64, "{name}");
                }
                end => break end,
            }
        };
        if end.is_ok() {
            accepted.push(name);
        }
    }
    // Absolute names are taken as relative ones; links and devices are the caller's to refuse.
    for name in ["absolute", "device", "disk", "link", "long_name", "pax", "whiteout"] {
        assert!(accepted.iter().any(|accepted| accepted == name), "{name} is a proper archive");
    }
    for name in ["leaves", "size_overflow", "truncated"] {
        assert!(!accepted.iter().any(|accepted| accepted == name), "{name} must be refused");
    }
}

#[test]
fn manifest() {
    let mut accepted = Vec::new();
    for (name, data) in corpus("manifest") {
        if let Ok(document) = Document::parse("", &data) {
            assert!(document.children().count() <= MAX_MANIFESTS.max(MAX_LAYERS + 1), "{name}");
            accepted.push(name);
        }
    }
    for name in ["docker", "index", "manifest", "subject"] {
        assert!(accepted.iter().any(|accepted| accepted == name), "{name} is a proper document");
    }
    for name in ["bad_digest", "deep", "many", "negative", "not_json", "schema1"] {
        assert!(!accepted.iter().any(|accepted| accepted == name), "{name} must be refused");
    }
}
