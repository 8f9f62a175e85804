//! The host as the machine sees it: QEMU's user network shows the host's loopback address under another name.

/// The resolver of the user network, which asks the host's own servers.
const RESOLVER: &str = "nameserver 10.0.2.3";

/// The host's loopback address, as the machine sees it.
const HOST: &str = "10.0.2.2";

/// Lines for a step's resolv.conf: the machine's resolver with the host's search list and options.
pub(crate) fn resolver(host: &[String]) -> Vec<String> {
    let rest = host.iter().filter(|line| !line.starts_with("nameserver")).cloned();
    std::iter::once(RESOLVER.to_owned()).chain(rest).collect()
}

/// A proxy's address for the machine: one on the host's loopback address is reached under another.
pub(crate) fn proxy(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, value),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, host_port) = match authority.rsplit_once('@') {
        Some((login, host_port)) => (Some(login), host_port),
        None => (None, authority),
    };
    let port_at = match host_port.strip_prefix('[') {
        Some(inside) => inside.find(']').map_or(host_port.len(), |at| at + 2),
        None => host_port.rfind(':').unwrap_or(host_port.len()),
    };
    let (host, port) = host_port.split_at(port_at);
    if !is_loopback(host) {
        return value.to_owned();
    }
    let scheme = scheme.map_or_else(String::new, |scheme| format!("{scheme}://"));
    let login = login.map_or_else(String::new, |login| format!("{login}@"));
    format!("{scheme}{login}{HOST}{port}{path}")
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a variable or an option of apt holds a proxy.
pub(crate) fn names_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `no_proxy` lists names.
    (name.ends_with("_proxy") && name != "no_proxy") || name.ends_with("::proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_on_the_hosts_loopback_is_reached_under_another_address() {
        for (value, expected) in [
            ("http://127.0.0.1:3128", "http://10.0.2.2:3128"),
            ("http://user:p%40ss@localhost:3128/", "http://user:p%40ss@10.0.2.2:3128/"),
            ("localhost:8080", "10.0.2.2:8080"),
            ("http://[::1]:3128/x", "http://10.0.2.2:3128/x"),
            ("http://127.0.0.53", "http://10.0.2.2"),
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("http://localhost.example", "http://localhost.example"),
            ("DIRECT", "DIRECT"),
            ("", ""),
        ] {
            assert_eq!(proxy(value), expected);
        }
    }

    #[test]
    fn only_proxies_are_rewritten() {
        let names = ["http_proxy", "HTTPS_PROXY", "Acquire::http::Proxy", "no_proxy", "Acquire::Retries"];
        assert_eq!(names.map(names_proxy), [true, true, true, false, false]);
    }

    #[test]
    fn the_machine_asks_its_own_resolver() {
        let host = ["nameserver 192.0.2.1", "search lab.example", "nameserver 192.0.2.2"].map(str::to_owned);
        assert_eq!(resolver(&host), ["nameserver 10.0.2.3", "search lab.example"]);
    }
}
