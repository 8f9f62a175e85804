use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use labwright_core::{Cancelled, Digest};

use crate::document::InvalidDocument;
use crate::layout::LayoutError;

/// A registry did not do what was asked. Every message names the registry and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// 401 without credentials.
    #[error("{registry} wants a login to {action}: run `podman login {registry}` or `docker login {registry}`")]
    LoginNeeded {
        /// Host and port.
        registry: String,
        /// What was tried (`push to labs/base`).
        action: String,
    },
    /// 401 with credentials.
    #[error(
        "{registry} does not accept the credentials of `{user}` to {action}: log in again with `podman login {registry}` or `docker login {registry}`"
    )]
    BadLogin {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// Who was named.
        user: String,
    },
    /// 403.
    #[error("{registry} forbids to {action}: ask its owner for the right{}", said(message))]
    Forbidden {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// What the registry said.
        message: String,
    },
    /// 404.
    #[error("{registry} knows nothing of what is needed to {action}: check the name and the tag{}", said(message))]
    NotFound {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// What the registry said.
        message: String,
    },
    /// 413.
    #[error(
        "{registry}, or a proxy before it, does not take so much at once to {action}: raise its limit, or make the disk smaller{}",
        said(message)
    )]
    TooLarge {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// What the registry said.
        message: String,
    },
    /// 429, still after waiting.
    #[error("{registry} gets too many requests to {action}: wait a while, or log in for a higher limit")]
    TooManyRequests {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// 5xx, still after several attempts.
    #[error(
        "{registry} has a problem of its own (status {status}) and could not {action}: try again later{}",
        said(message)
    )]
    Server {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        message: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// Another status that nothing good can be made of.
    #[error("{registry} answered with status {status} when asked to {action}{}", said(message))]
    Status {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        message: String,
    },
    /// No trusted connection.
    #[error(
        "the identity of {registry} cannot be verified: give its certificate authority, or ask for plain HTTP if it speaks only that"
    )]
    Tls {
        /// Host and port.
        registry: String,
        /// What is wrong with the certificate.
        source: reqwest::Error,
    },
    /// Nobody listens, or the name is unknown.
    #[error("{registry} cannot be reached: check the name and the port, and whether it is up")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// The connection broke, still after several attempts.
    #[error("the connection to {registry} broke while trying to {action}: try again")]
    Cut {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// How it broke.
        source: reqwest::Error,
    },
    /// Nothing moved for too long.
    #[error("{registry} said nothing for {} s while trying to {action}: try again", after.as_secs())]
    Stalled {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// How long it was waited.
        after: Duration,
    },
    /// The server broke the protocol.
    #[error("{registry} breaks the registry protocol when asked to {action}: {problem}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A redirect from TLS to a plain connection.
    #[error("{registry} redirects to the unprotected `{target}`: that is refused")]
    Downgrade {
        /// Host and port.
        registry: String,
        /// Where to.
        target: String,
    },
    /// What came is not what was asked for.
    #[error("{registry} sent other content than {expected}: it has the digest {found}")]
    WrongDigest {
        /// Host and port.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("{registry} sends {found} bytes for {digest}, which has {expected}")]
    WrongSize {
        /// Host and port.
        registry: String,
        /// What was asked for.
        digest: Digest,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that came or were announced.
        found: u64,
    },
    /// A document that nobody has to read.
    #[error("{registry} sends a document of more than 4 MiB to {action}")]
    DocumentTooLarge {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
    },
    /// A document that is none.
    #[error("{registry} sent something that is no image to {action}")]
    Document {
        /// Host and port.
        registry: String,
        /// What was tried.
        action: String,
        /// What is wrong.
        source: InvalidDocument,
    },
    /// A credential file or helper does not work.
    #[error("the credentials for {registry} in `{file}` cannot be used")]
    Credentials {
        /// Host and port.
        registry: String,
        /// The credential file.
        file: PathBuf,
        /// What is wrong.
        source: docker_credential::CredentialRetrievalError,
    },
    /// The local content could not be read.
    #[error("`{path}` cannot be read for the upload")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The layout that is written into failed.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Stopped on request.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RemoteError {
    /// Whether the same request may work a little later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::TooManyRequests { .. }
                | Self::Server { .. }
                | Self::Unreachable { .. }
                | Self::Cut { .. }
                | Self::Stalled { .. }
                | Self::Status { status: 408 | 425, .. }
        )
    }

    /// How long the registry asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Sorts an error of the HTTP client.
    pub(super) fn from_http(registry: &str, action: &str, error: reqwest::Error) -> Self {
        // The URL may carry a signature or token of a storage service; the message names the registry anyway.
        let source = error.without_url();
        let (registry, action) = (registry.to_owned(), action.to_owned());
        if std::iter::successors(source.source(), |&error| error.source()).any(is_tls) {
            return Self::Tls { registry, source };
        }
        if source.is_connect() {
            Self::Unreachable { registry, source }
        } else {
            Self::Cut { registry, action, source }
        }
    }
}

/// Whether an error comes from the TLS library. I/O errors hide what is in them from `source`.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<rustls::Error>()
        || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| is_tls(inner))
}

/// What the registry said, for the end of a message.
fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" (it says: {message})") }
}
