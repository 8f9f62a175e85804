//! Reading any archive ends, and no name leaves the directory.
#![no_main]

use labwright_registry::tar_reader::TarReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut reader = TarReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.name.starts_with('/') && !entry.name.split('/').any(|part| part == ".."));
        assert!(entry.offset <= data.len() as u64);
    }
});
