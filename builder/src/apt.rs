//! How the host's apt fetches, for the apt in the guest: an operator who has set up a proxy, or has to do with a
//! mirror whose dates are wrong, has said so there once.

use labwright_core::Cancel;
use labwright_host::{Invocation, Tool};

/// The settings that say how to fetch and nothing else. What they say never stays in the image.
const TAKEN: [&str; 6] = [
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::ForceIPv4",
    "Acquire::Retries",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
];

/// Options for apt in the guest; none on a host without apt.
pub(crate) fn host_options(cancel: &Cancel) -> Vec<(String, String)> {
    match Invocation::new(Tool::AptConfig).arg("dump").run(cancel) {
        Ok(output) => choose(&output.text()),
        Err(_) => Vec::new(),
    }
}

fn choose(dump: &str) -> Vec<(String, String)> {
    dump.lines()
        .filter_map(|line| {
            let (name, value) = line.strip_suffix("\";")?.split_once(" \"")?;
            (TAKEN.contains(&name) && !value.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_how_to_fetch_and_nothing_else() {
        let dump = "APT \"\";\nAPT::Architecture \"amd64\";\nAcquire::Check-Date \"false\";\nAcquire::http::Proxy \"\";\n\
                    Acquire::https::Proxy \"http://proxy.example:3128\";\nDPkg::Pre-Install-Pkgs:: \"rm\";\n";
        let expected = [("Acquire::Check-Date", "false"), ("Acquire::https::Proxy", "http://proxy.example:3128")];
        assert_eq!(choose(dump), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
