//! Tokens: what a registry's token service gives for a login and a purpose.

use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};

use super::challenge::Challenge;
use super::credentials::Secret;
use super::http::{read_limited, sensitive};
use super::{RemoteError, Repository, lock};

/// How long a token lives whose service does not say (distribution, docs/spec/auth/token.md).
const DEFAULT_LIFE: u64 = 60;

/// So much of a token's life is left out, for clocks and for the way.
const MARGIN: Duration = Duration::from_secs(10);

/// The most bytes of a token service's answer.
const MAX_ANSWER: u64 = 1 << 20;

/// A bearer token and when it ends.
#[derive(Debug, Clone)]
pub(super) struct Token {
    header: HeaderValue,
    until: Instant,
}

/// What may be done with which repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// Read this repository.
    Pull,
    /// Write this repository.
    Push,
    /// Write this repository and read another one, to mount its blobs.
    Mount(&'a str),
}

impl Scope<'_> {
    fn texts(self, name: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{name}:pull")],
            Self::Push => vec![format!("repository:{name}:pull,push")],
            Self::Mount(from) => vec![format!("repository:{name}:pull,push"), format!("repository:{from}:pull")],
        }
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Repository {
    /// What goes into the `Authorization` header, as far as the registry has said what it wants.
    ///
    /// With `refresh`, a remembered token is not used: the registry has just refused it.
    pub(super) async fn authorization(
        &self,
        scope: Scope<'_>,
        action: &str,
        refresh: bool,
    ) -> Result<Option<HeaderValue>, RemoteError> {
        let challenge = lock(&self.remote.0.challenges).get(&self.registry).cloned();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.secret().await? {
                Some(Secret::Login(login)) if !refresh => Ok(Some(basic(&login.user, &login.password))),
                Some(secret) => Err(self.bad_login(action, secret.user())),
                None => Err(self.login_needed(action)),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let scopes = scope.texts(&self.name);
                let key = (self.registry.clone(), scopes.join(" "));
                let remembered =
                    || lock(&self.remote.0.tokens).get(&key).filter(|token| token.until > Instant::now()).cloned();
                let before = remembered();
                if let Some(token) = &before
                    && !refresh
                {
                    return Ok(Some(token.header.clone()));
                }
                let fetching = self.remote.0.fetching.lock().await;
                // While we waited, another request may have fetched the token that we need.
                if let Some(token) = remembered()
                    && before.is_none_or(|before| before.header != token.header)
                {
                    return Ok(Some(token.header));
                }
                let token = self.fetch(&realm, service.as_deref(), &scopes, action).await?;
                let header = token.header.clone();
                lock(&self.remote.0.tokens).insert(key, token);
                drop(fetching);
                Ok(Some(header))
            }
        }
    }

    /// Remembers what the registry wants; an error if it is nothing that we can give.
    pub(super) fn learn(&self, headers: &reqwest::header::HeaderMap, action: &str) -> Result<(), RemoteError> {
        let all: Vec<_> =
            headers.get_all(reqwest::header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let challenge = Challenge::parse(&all.join(", ")).ok_or_else(|| self.login_needed(action))?;
        lock(&self.remote.0.challenges).insert(self.registry.clone(), challenge);
        Ok(())
    }

    async fn secret(&self) -> Result<Option<Secret>, RemoteError> {
        let credentials = self.remote.0.options.credentials.clone();
        let (registry, name) = (self.registry.clone(), self.name.clone());
        // Credential helpers are programs that may ask a keyring or a cloud.
        tokio::task::spawn_blocking(move || credentials.find(&registry, &name))
            .await
            .expect("looking up a login does not panic")
    }

    async fn fetch(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        action: &str,
    ) -> Result<Token, RemoteError> {
        let realm =
            Url::parse(realm).map_err(|_| self.protocol(action, "the address of its token service is no URL"))?;
        if realm.scheme() != "https" && !self.is_plain() {
            return Err(RemoteError::Downgrade { registry: self.registry.clone(), target: origin(&realm) });
        }
        let secret = self.secret().await?;
        let mut query: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
        let http = &self.remote.0.http;
        let joined = scopes.join(" ");
        let request = match &secret {
            // Source: distribution, docs/spec/auth/oauth.md.
            Some(Secret::Identity(token)) => {
                query.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "labwright"),
                    ("refresh_token", token.as_str()),
                    ("scope", joined.as_str()),
                ]);
                let form = reqwest::Url::parse_with_params("form:", &query).expect("a fixed URL");
                http.post(realm)
                    .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            other => {
                query.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
                let request = http.get(realm);
                if let Some(Secret::Login(login)) = other {
                    query.push(("account", &login.user));
                    request.query(&query).header(reqwest::header::AUTHORIZATION, basic(&login.user, &login.password))
                } else {
                    request.query(&query)
                }
            }
        };
        let response = self.timed(action, request.send()).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(match &secret {
                    Some(secret) => self.bad_login(action, secret.user()),
                    None => self.login_needed(action),
                });
            }
            _ => return Err(self.judge(response, action).await),
        }
        let bytes = read_limited(self, response, MAX_ANSWER, action).await?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|_| self.protocol(action, "its token service does not answer with a token"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .ok_or_else(|| self.protocol(action, "its token service does not answer with a token"))?;
        let header = sensitive(&format!("Bearer {token}"))
            .ok_or_else(|| self.protocol(action, "its token cannot stand in a header"))?;
        let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).clamp(1, 86_400));
        Ok(Token { header, until: Instant::now() + life.saturating_sub(MARGIN).max(life / 2) })
    }

    pub(super) fn login_needed(&self, action: &str) -> RemoteError {
        RemoteError::LoginNeeded { registry: self.registry.clone(), action: action.to_owned() }
    }

    fn bad_login(&self, action: &str, user: &str) -> RemoteError {
        RemoteError::BadLogin { registry: self.registry.clone(), action: action.to_owned(), user: user.to_owned() }
    }

    /// A 401 after everything was tried.
    pub(super) async fn refused(&self, action: &str) -> RemoteError {
        match self.secret().await {
            Ok(Some(secret)) => self.bad_login(action, secret.user()),
            Ok(None) => self.login_needed(action),
            Err(error) => error,
        }
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{user}:{password}"));
    sensitive(&format!("Basic {encoded}")).expect("base64 can stand in a header")
}

/// Scheme, host and port, without anything secret.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}
