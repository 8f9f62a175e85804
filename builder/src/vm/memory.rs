//! How much memory the machine gets.

use std::path::Path;

/// The most and the least, in bytes: more does not make dpkg faster, and less does not unpack a kernel.
const MOST: u64 = 4 << 30;
const LEAST: u64 = 768 << 20;

/// The memory limits of a container, seen from inside. Sources: kernel documentation, "Control Group v2" and "Memory
/// Resource Controller" (version 1).
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Half of the memory that is free on the host and that this process may use, in bytes, within limits. QEMU takes only what
/// the guest touches.
pub(super) fn of_machine() -> u64 {
    let meminfo = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let limits = LIMITS.iter().filter_map(|path| limit(&fs_err::read_to_string(Path::new(path)).ok()?));
    share(&meminfo, limits.min())
}

/// The number in a limit's file; `max` is none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn share(meminfo: &str, limit: Option<u64>) -> u64 {
    let free = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(MOST * 2, |kib| kib * 1024);
    (free.min(limit.unwrap_or(u64::MAX)) / 2).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_free_and_allowed_within_limits() {
        let meminfo = |mib: u64| format!("MemTotal: 1 kB\nMemAvailable:   {} kB\n", mib << 10);
        assert_eq!(share(&meminfo(4096), None), 2 << 30);
        assert_eq!(share(&meminfo(4096), limit("2147483648\n")), 1 << 30);
        assert_eq!(share(&meminfo(4096), limit("max\n")), 2 << 30);
        assert_eq!(share(&meminfo(1024), limit("268435456")), LEAST);
        // What version 1 says where nothing is limited.
        assert_eq!(share(&meminfo(65536), limit("9223372036854771712")), MOST);
        assert_eq!(share("", None), MOST);
    }
}
