//! A manifest or index that is accepted lists no more than it may, and is the same when it is written and read again.
#![no_main]

use labwright_registry::document::{Document, MAX_LAYERS, MAX_MANIFESTS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(document) = Document::parse("", data) {
        assert!(document.children().count() <= MAX_MANIFESTS.max(MAX_LAYERS + 1));
    }
});
