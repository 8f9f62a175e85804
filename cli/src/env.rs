//! Every environment variable that Labwright or a library that it calls looks at.
//!
//! Nothing else in the workspace reads the environment: [`Env::read`] does it once, and [`crate::settings`] gives it a
//! meaning. Only the variables that a user names as places of secrets are read apart, by [`secret`].

use std::ffi::OsString;
use std::path::PathBuf;

/// Where Labwright keeps its images and caches.
pub const LABWRIGHT_HOME: &str = "LABWRIGHT_HOME";
/// A Debian kernel package for the machines that build, where `--appliance-kernel` names none.
pub const LABWRIGHT_APPLIANCE_KERNEL: &str = "LABWRIGHT_APPLIANCE_KERNEL";
/// The time, in seconds since 1970, that images carry as their time of creation.
///
/// Source: reproducible-builds.org, "`SOURCE_DATE_EPOCH`".
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Which developer messages are written, in tracing-subscriber's syntax.
pub const RUST_LOG: &str = "RUST_LOG";
/// Set to anything: no colours. Source: no-color.org.
pub const NO_COLOR: &str = "NO_COLOR";
/// `dumb`: a terminal that cannot move its cursor.
pub const TERM: &str = "TERM";
/// Set to anything but `false`: plain lines instead of a progress display.
pub const CI: &str = "CI";
/// The user's home directory.
pub const HOME: &str = "HOME";
/// Where programs keep data. Source: XDG Base Directory Specification.
pub const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// Where registry credentials of this login session are.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Where programs keep settings; registry credentials may be there.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// A file of registry credentials, as podman and skopeo read it.
pub const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
/// The directory of docker's `config.json`, which may hold registry credentials.
pub const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// A file of certificates to trust instead of the system's.
pub const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// A directory of certificates to trust instead of the system's.
pub const SSL_CERT_DIR: &str = "SSL_CERT_DIR";
/// The proxies: read by the HTTP client, in lower and upper case, and given to the package manager while building.
pub const PROXIES: [&str; 4] = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"];

/// The value of a variable that the user named as the place of a secret.
#[expect(clippy::disallowed_methods, reason = "this module reads the environment")]
pub fn secret(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the environment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// [`LABWRIGHT_HOME`].
    pub labwright_home: Option<PathBuf>,
    /// [`LABWRIGHT_APPLIANCE_KERNEL`].
    pub labwright_appliance_kernel: Option<PathBuf>,
    /// [`SOURCE_DATE_EPOCH`].
    pub source_date_epoch: Option<String>,
    /// [`RUST_LOG`].
    pub rust_log: Option<String>,
    /// [`NO_COLOR`] is set and not empty.
    pub no_color: bool,
    /// [`TERM`] is `dumb`.
    pub dumb_terminal: bool,
    /// [`CI`] is set and neither empty nor `false`.
    pub ci: bool,
    /// [`HOME`].
    pub home: Option<PathBuf>,
    /// [`XDG_DATA_HOME`].
    pub xdg_data_home: Option<PathBuf>,
    /// [`XDG_RUNTIME_DIR`].
    pub xdg_runtime_dir: Option<PathBuf>,
    /// [`XDG_CONFIG_HOME`].
    pub xdg_config_home: Option<PathBuf>,
    /// [`REGISTRY_AUTH_FILE`].
    pub registry_auth_file: Option<PathBuf>,
    /// [`DOCKER_CONFIG`].
    pub docker_config: Option<PathBuf>,
    /// [`PROXIES`] that are set: lower-case name and value.
    pub proxies: Vec<(String, String)>,
}

impl Env {
    /// Reads the process's environment; the only place that does.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn read() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads variables through `lookup`. An empty value counts as none.
    fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let value = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());
        // The XDG specification: a relative path is invalid and ignored.
        let absolute = |name: &str| value(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            labwright_home: value(LABWRIGHT_HOME).map(PathBuf::from),
            labwright_appliance_kernel: value(LABWRIGHT_APPLIANCE_KERNEL).map(PathBuf::from),
            source_date_epoch: text(SOURCE_DATE_EPOCH),
            rust_log: text(RUST_LOG),
            no_color: value(NO_COLOR).is_some(),
            dumb_terminal: text(TERM).is_some_and(|term| term == "dumb"),
            ci: text(CI).is_some_and(|ci| ci != "false"),
            home: absolute(HOME),
            xdg_data_home: absolute(XDG_DATA_HOME),
            xdg_runtime_dir: absolute(XDG_RUNTIME_DIR),
            xdg_config_home: absolute(XDG_CONFIG_HOME),
            registry_auth_file: value(REGISTRY_AUTH_FILE).map(PathBuf::from),
            docker_config: value(DOCKER_CONFIG).map(PathBuf::from),
            proxies: PROXIES
                .into_iter()
                .filter_map(|name| {
                    let proxy = text(name).or_else(|| text(&name.to_uppercase()))?;
                    Some((name.to_owned(), proxy))
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Env {
        Env::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn empty_means_unset_and_relative_xdg_paths_are_ignored() {
        assert_eq!(
            read(&[("NO_COLOR", ""), ("CI", ""), ("XDG_DATA_HOME", "data"), ("LABWRIGHT_HOME", "")]),
            Env::default()
        );
        let env = read(&[("NO_COLOR", "0"), ("CI", "true"), ("TERM", "dumb"), ("LABWRIGHT_HOME", "here")]);
        assert_eq!((env.no_color, env.ci, env.dumb_terminal), (true, true, true));
        assert_eq!(env.labwright_home, Some("here".into()));
        assert!(!read(&[("CI", "false")]).ci);
    }

    #[test]
    fn proxies_in_both_cases_and_lower_case_wins() {
        let env = read(&[("HTTPS_PROXY", "http://a:1"), ("http_proxy", "http://b:2"), ("HTTP_PROXY", "http://c:3")]);
        assert_eq!(
            env.proxies,
            [("http_proxy".to_owned(), "http://b:2".to_owned()), ("https_proxy".to_owned(), "http://a:1".to_owned())]
        );
    }
}
