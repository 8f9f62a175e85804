//! A header that is accepted describes a disk within the limits, whatever its bytes are.
#![no_main]

use labwright_disk::inspect::{Limits, parse_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    // The first byte chooses how long the file claims to be, so that places beyond its end are reached, too.
    let Some((&shift, head)) = data.split_first() else { return };
    let length = 1_u64 << (shift % 48);
    if let Ok(header) = parse_header(head, length, &limits) {
        assert!(header.virtual_size <= limits.virtual_size);
        assert!(header.l1_offset < length && header.refcount_offset < length);
        assert!(header.cluster().is_power_of_two() && header.l2_entries() > 0);
    }
});
