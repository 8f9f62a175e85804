//! The corpus of the fuzz target `qcow2_header`, with its assertions.

use std::path::Path;

use labwright_disk::inspect::{Limits, parse_header};

#[test]
fn corpus_of_qcow2_headers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/qcow2_header");
    let limits = Limits::default();
    let mut accepted = Vec::new();
    for entry in fs_err::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (name, data) = (entry.file_name().into_string().unwrap(), fs_err::read(entry.path()).unwrap());
        let Some((&shift, head)) = data.split_first() else { continue };
        let length = 1_u64 << (shift % 48);
        if let Ok(header) = parse_header(head, length, &limits) {
            assert!(header.virtual_size <= limits.virtual_size, "{name}");
            assert!(header.l1_offset < length && header.refcount_offset < length, "{name}");
            assert!(header.cluster().is_power_of_two() && header.l2_entries() > 0, "{name}");
            accepted.push(name);
        }
    }
    accepted.sort();
    assert_eq!(accepted, ["good", "v2", "zstd"]);
}
