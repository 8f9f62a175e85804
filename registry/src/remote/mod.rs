//! Registries: manifests, blobs, tags and referrers over HTTP.

mod challenge;
mod credentials;
mod download;
mod error;
mod http;
mod manifests;
mod preflight;
mod token;
mod upload;
mod wait;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use labwright_core::Registry;

pub use credentials::{Credentials, Login};
pub use error::RemoteError;
pub(crate) use manifests::is_fallback_tag;
pub use preflight::size_warnings;
pub(crate) use upload::{Body, Sent};
pub(crate) use wait::Progress;

use challenge::Challenge;
use token::Token;

/// The one registry whose name is not its address.
const DOCKER_IO: &str = "docker.io";

/// How registries are talked to.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Registries (`HOST[:PORT]`) that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Certificate authorities that are trusted beside the system's, each as a PEM file's bytes.
    pub authorities: Vec<Vec<u8>>,
    /// Logins.
    pub credentials: Credentials,
    /// How often a request is repeated in a row, when it fails in a way that may pass.
    pub retries: u32,
    /// The first pause before a repetition; every further one is twice as long.
    pub backoff: Duration,
    /// The longest pause that a registry may ask for.
    pub max_pause: Duration,
    /// How long nothing may move before a transfer is given up.
    pub stall: Duration,
    /// How many blobs are transferred at once.
    pub parallel: usize,
    /// Address of a proxy for HTTPS, from the environment of the command line.
    pub https_proxy: Option<String>,
    /// Address of a proxy for plain HTTP.
    pub http_proxy: Option<String>,
    /// Hosts that are not reached through a proxy, separated by commas.
    pub no_proxy: Option<String>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            authorities: Vec::new(),
            credentials: Credentials::default(),
            retries: 5,
            backoff: Duration::from_millis(500),
            max_pause: Duration::from_mins(2),
            stall: Duration::from_mins(1),
            parallel: 4,
            https_proxy: None,
            http_proxy: None,
            no_proxy: None,
        }
    }
}

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RemoteSetupError {
    /// A certificate authority is not in PEM form.
    #[error("the certificate authority number {number} is not a valid PEM file")]
    Authority {
        /// Its place in [`RemoteOptions::authorities`], from 1.
        number: usize,
        /// What is wrong.
        source: Option<reqwest::Error>,
    },
    /// A proxy's address is no URL.
    #[error("`{address}` is not the address of a proxy")]
    Proxy {
        /// The address.
        address: String,
        /// What is wrong.
        source: reqwest::Error,
    },
    /// The TLS library does not work.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// A client for registries; clones share connections and tokens.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    options: RemoteOptions,
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<(String, String), Token>>,
    /// Held while a token is fetched, so that parallel blobs ask for one token and not for one each.
    fetching: tokio::sync::Mutex<()>,
    /// Whether any server has answered: one that never did is more likely a wrong name than one that comes back.
    reached: AtomicBool,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Remote {
    /// A client with these options.
    pub fn new(options: RemoteOptions) -> Result<Self, RemoteSetupError> {
        // Fails only if the program has chosen a provider before, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("labwright/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed by us: credentials must not travel, and TLS must not be lost.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .tcp_nodelay(true)
            .no_proxy();
        for (at, pem) in options.authorities.iter().enumerate() {
            let bad = |source| RemoteSetupError::Authority { number: at + 1, source };
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|source| bad(Some(source)))?;
            if certificates.is_empty() {
                return Err(bad(None));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let direct = options.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
        for (address, make) in [
            (&options.https_proxy, reqwest::Proxy::https as fn(String) -> _),
            (&options.http_proxy, reqwest::Proxy::http),
        ] {
            if let Some(address) = address {
                let proxy = make(address.clone())
                    .map_err(|source| RemoteSetupError::Proxy { address: address.clone(), source })?;
                builder = builder.proxy(proxy.no_proxy(direct.clone()));
            }
        }
        Ok(Self(Arc::new(Inner {
            http: builder.build().map_err(RemoteSetupError::Client)?,
            options,
            challenges: Mutex::default(),
            tokens: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            reached: AtomicBool::new(false),
        })))
    }

    /// The options given.
    pub fn options(&self) -> &RemoteOptions {
        &self.0.options
    }

    /// A repository in a registry.
    pub(crate) fn repository(&self, reference: &Registry) -> Repository {
        let mut name = reference.repository.clone();
        if reference.host == DOCKER_IO && !name.contains('/') {
            name = format!("library/{name}");
        }
        Repository { remote: self.clone(), registry: reference.host.clone(), name }
    }
}

/// A repository in a registry: what all requests are about.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    remote: Remote,
    /// Host and port as the user wrote them.
    registry: String,
    /// The name in the registry.
    name: String,
}

impl Repository {
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A repository whose name goes on with a path.
    pub(crate) fn below(&self, path: &str) -> Self {
        Self { name: format!("{}/{path}", self.name), ..self.clone() }
    }

    fn is_plain(&self) -> bool {
        self.remote.0.options.plain_http.contains(&self.registry)
    }

    /// An address below `/v2/NAME/`.
    fn url(&self, rest: &str) -> Result<reqwest::Url, RemoteError> {
        let scheme = if self.is_plain() { "http" } else { "https" };
        let host = if self.registry == DOCKER_IO { "registry-1.docker.io" } else { &self.registry };
        reqwest::Url::parse(&format!("{scheme}://{host}/v2/{}/{rest}", self.name))
            .map_err(|_| self.protocol("form an address", "its name cannot stand in an address"))
    }

    fn protocol(&self, action: &str, problem: &'static str) -> RemoteError {
        RemoteError::Protocol { registry: self.registry.clone(), action: action.to_owned(), problem }
    }
}

/// Locks where no holder can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
