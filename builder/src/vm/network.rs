//! The host as the machine sees it: QEMU's user network shows the host's loopback address under another name.

use labwright_guest::protocol::Request;

/// The resolver of the user network, which asks the host's own servers.
const RESOLVER: &str = "nameserver 10.0.2.3";

/// The host's loopback address, as the machine sees it.
const HOST: &str = "10.0.2.2";

/// Lines for a step's resolv.conf: the machine's resolver with the host's search list and options.
pub(crate) fn resolver(host: &[String]) -> Vec<String> {
    let rest = host.iter().filter(|line| !line.starts_with("nameserver")).cloned();
    std::iter::once(RESOLVER.to_owned()).chain(rest).collect()
}

/// Gives the proxies of a step that listen on the host's loopback address the name that they have in the machine, and
/// returns their ports: all others of that address are refused there.
pub(crate) fn move_proxies(request: &mut Request) -> Vec<u16> {
    let mut ports = Vec::new();
    for (name, value) in request.environment.iter_mut().chain(&mut request.apt_options) {
        if names_proxy(name)
            && let Some((moved, port)) = proxy(value)
        {
            *value = moved;
            ports.push(port);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A proxy's address for the machine, and its port; none if it is not on the host's loopback address.
fn proxy(value: &str) -> Option<(String, u16)> {
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
        return None;
    }
    let number = match port.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None => usual_port(scheme),
    };
    let scheme = scheme.map_or_else(String::new, |scheme| format!("{scheme}://"));
    let login = login.map_or_else(String::new, |login| format!("{login}@"));
    Some((format!("{scheme}{login}{HOST}{port}{path}"), number))
}

/// Where a proxy listens if its address does not say so.
fn usual_port(scheme: Option<&str>) -> u16 {
    match scheme {
        Some("https") => 443,
        Some(scheme) if scheme.starts_with("socks") => 1080,
        _ => 80,
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a variable or an option of apt holds a proxy.
fn names_proxy(name: &str) -> bool {
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
            ("http://127.0.0.1:3128", Some(("http://10.0.2.2:3128", 3128))),
            ("http://user:p%40ss@localhost:3128/", Some(("http://user:p%40ss@10.0.2.2:3128/", 3128))),
            ("localhost:8080", Some(("10.0.2.2:8080", 8080))),
            ("http://[::1]:3128/x", Some(("http://10.0.2.2:3128/x", 3128))),
            ("http://127.0.0.53", Some(("http://10.0.2.2", 80))),
            ("https://localhost/", Some(("https://10.0.2.2/", 443))),
            ("socks5h://localhost", Some(("socks5h://10.0.2.2", 1080))),
            ("http://localhost:many", None),
            ("http://proxy.example:3128", None),
            ("http://localhost.example", None),
            ("DIRECT", None),
            ("", None),
        ] {
            assert_eq!(proxy(value), expected.map(|(moved, port)| (moved.to_owned(), port)), "{value}");
        }
    }

    #[test]
    fn only_the_ports_of_proxies_are_opened() {
        let mut request = Request::new("/", Vec::new());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        request.environment = vec![pair("http_proxy", "http://localhost:3128"), pair("no_proxy", "localhost:1")];
        request.apt_options = vec![
            pair("Acquire::https::Proxy", "http://127.0.0.1:3128"),
            pair("Acquire::http::Proxy", "http://proxy.example:4"),
        ];
        assert_eq!(move_proxies(&mut request), [3128]);
        assert_eq!(request.environment[0].1, "http://10.0.2.2:3128");
        assert_eq!(request.environment[1].1, "localhost:1");
        assert_eq!(request.apt_options[1].1, "http://proxy.example:4");
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
