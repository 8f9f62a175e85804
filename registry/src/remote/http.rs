//! One request: authorization, redirects, time limits, and what a bad answer means.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use super::token::{Scope, origin};
use super::{RemoteError, Repository};

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// How much of a registry's message is shown, in bytes.
const MAX_MESSAGE: usize = 300;

/// A request that can be sent again.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Bytes,
    pub(super) scope: Scope<'a>,
    /// What the user would say that we do (`push to labs/base`).
    pub(super) action: &'a str,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, url: Url, scope: Scope<'a>, action: &'a str) -> Self {
        Self { method, url, headers: Vec::new(), body: Bytes::new(), scope, action }
    }

    #[must_use]
    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Repository {
    /// Sends a request and returns the answer, whatever its status, once the registry has accepted who we are.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, RemoteError> {
        let mut refresh = false;
        loop {
            // Taken before sending: a request that went out without credentials was not refused because of them.
            let known = super::lock(&self.remote.0.challenges).contains_key(&self.registry);
            // Boxed, because this is the bottom of every request and would make all futures above it large.
            let response = Box::pin(self.send_with(call, refresh, |request| request.body(call.body.clone()))).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            if refresh {
                return Err(self.refused(call.action).await);
            }
            // The first 401 says what is wanted; a later one, that a token has ended.
            refresh = known;
            self.learn(response.headers(), call.action)?;
        }
    }

    /// Sends a request with any body, once, and follows redirects. A 401 is the caller's.
    pub(super) async fn send_with(
        &self,
        call: &Call<'_>,
        refresh: bool,
        body: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, RemoteError> {
        let mut url = call.url.clone();
        let home = self.url("")?.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.remote.0.http.request(call.method.clone(), url.clone());
            let mut headers = HeaderMap::new();
            for (name, value) in &call.headers {
                let value = HeaderValue::from_str(value)
                    .map_err(|_| self.protocol(call.action, "it gave a value that cannot stand in a header"))?;
                headers.append(name, value);
            }
            // Credentials are for the registry alone: storage services get their own signature in the address.
            if url.origin() == home
                && let Some(value) = self.authorization(call.scope, call.action, refresh).await?
            {
                headers.insert(AUTHORIZATION, value);
            }
            request = body(request.headers(headers));
            let response =
                request.send().await.map_err(|error| RemoteError::from_http(&self.registry, call.action, error))?;
            self.remote.0.reached.store(true, Ordering::Relaxed);
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            url = self.location(&url, &response, call.action)?;
        }
        Err(self.protocol(call.action, "it redirects in a circle"))
    }

    /// The address in a `Location` header, relative or not. TLS is never given up on the way.
    pub(super) fn location(&self, base: &Url, response: &Response, action: &str) -> Result<Url, RemoteError> {
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| self.protocol(action, "a `Location` header is missing"))?;
        let url = base.join(location).map_err(|_| self.protocol(action, "a `Location` header is no address"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.is_plain() => Ok(url),
            "http" => Err(RemoteError::Downgrade { registry: self.registry.clone(), target: origin(&url) }),
            _ => Err(self.protocol(action, "a `Location` header is not an HTTP address")),
        }
    }

    /// Limits the time of a short request.
    pub(super) async fn timed<T>(
        &self,
        action: &str,
        request: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, RemoteError> {
        self.limited(action, async {
            request.await.map_err(|error| RemoteError::from_http(&self.registry, action, error))
        })
        .await
    }

    /// Limits the time of something short.
    pub(super) async fn limited<T>(
        &self,
        action: &str,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let after = self.remote.0.options.stall;
        tokio::time::timeout(after, work).await.unwrap_or_else(|_| {
            Err(RemoteError::Stalled { registry: self.registry.clone(), action: action.to_owned(), after })
        })
    }

    /// Turns a bad answer into an error.
    pub(super) async fn judge(&self, response: Response, action: &str) -> RemoteError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let text = tokio::time::timeout(Duration::from_secs(5), read_limited(self, response, 64 << 10, action)).await;
        let message = text.ok().and_then(Result::ok).map(|bytes| message_in(&bytes)).unwrap_or_default();
        let (registry, action) = (self.registry.clone(), action.to_owned());
        match status.as_u16() {
            401 => self.refused(&action).await,
            403 => RemoteError::Forbidden { registry, action, message },
            404 => RemoteError::NotFound { registry, action, message },
            413 => RemoteError::TooLarge { registry, action, message },
            429 => RemoteError::TooManyRequests { registry, action, retry_after },
            // Some methods are not implemented; asking again does not help.
            501 | 505 => RemoteError::Status { registry, action, status: status.as_u16(), message },
            500.. => RemoteError::Server { registry, action, status: status.as_u16(), message, retry_after },
            status => RemoteError::Status { registry, action, status, message },
        }
    }
}

/// Reads a body that must be short.
pub(super) async fn read_limited(
    repository: &Repository,
    response: Response,
    limit: u64,
    action: &str,
) -> Result<Bytes, RemoteError> {
    let too_large =
        || RemoteError::DocumentTooLarge { registry: repository.registry.clone(), action: action.to_owned() };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| RemoteError::from_http(&repository.registry, action, error))?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// A header value that logs do not show.
pub(super) fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How long to wait, in seconds. The form with a date is rare, and clocks differ: it counts as not given.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The first message in a registry's error document, or the beginning of a plain text.
fn message_in(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<Problem>,
    }
    #[derive(serde::Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Envelope>(bytes) {
        Ok(envelope) => envelope
            .errors
            .first()
            .map(|problem| if problem.message.is_empty() { problem.code.clone() } else { problem.message.clone() })
            .unwrap_or_default(),
        // Proxies answer with pages of HTML, which help nobody.
        Err(_) if bytes.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    let line = text.lines().next().unwrap_or_default().trim();
    let mut end = line.len().min(MAX_MESSAGE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line[..end].chars().filter(|char| !char.is_control()).collect()
}
