//! The name servers of the host, for steps that use the network.

use std::path::Path;

/// Where systemd-resolved writes the servers that it asks itself; resolv.conf then names only its stub on loopback.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Lines for a step's resolv.conf: the host's servers, real ones rather than a stub on a loopback address.
pub(crate) fn servers() -> Vec<String> {
    let read = |path: &str| fs_err::read_to_string(Path::new(path)).unwrap_or_default();
    choose(&read("/etc/resolv.conf"), &read(UPSTREAM))
}

fn choose(resolv_conf: &str, upstream: &str) -> Vec<String> {
    let only_loopback = lines(resolv_conf).iter().filter(|line| line.starts_with("nameserver")).all(|line| {
        line.split_whitespace().nth(1).is_none_or(|address| address.starts_with("127.") || address == "::1")
    });
    let better = lines(upstream);
    if only_loopback && !better.is_empty() { better } else { lines(resolv_conf) }
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| ["nameserver", "search", "options"].iter().any(|word| line.starts_with(word)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_servers_instead_of_a_stub() {
        let upstream = "nameserver 192.0.2.1\nsearch example\n";
        assert_eq!(choose("# x\nnameserver 127.0.0.53\n", upstream), ["nameserver 192.0.2.1", "search example"]);
        assert_eq!(choose("nameserver 192.0.2.9\n", upstream), ["nameserver 192.0.2.9"]);
        assert_eq!(choose("nameserver 127.0.0.1\n", ""), ["nameserver 127.0.0.1"]);
    }
}
