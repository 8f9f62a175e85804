//! Manifests, tags and referrers of a repository.

use bytes::Bytes;
use labwright_core::{Algorithm, Cancel, Digest, Hasher};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, LINK};
use reqwest::{Method, StatusCode};

use super::http::{Call, read_limited};
use super::token::Scope;
use super::{RemoteError, Repository};
use crate::document::{Descriptor, Document, Index, MAX_DOCUMENT, to_bytes};
use crate::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// Set by registries that list referrers themselves (distribution-spec 1.1).
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The digest of the manifest in an answer.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The most pages of tags or referrers that are asked for.
const MAX_PAGES: usize = 1000;
/// Tags per page that are asked for.
const PAGE: usize = 1000;

impl Repository {
    fn accept() -> String {
        [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ")
    }

    /// Fetches and verifies a manifest or index by tag or digest; `None` if there is none.
    pub(crate) async fn manifest(
        &self,
        reference: &str,
        cancel: &Cancel,
    ) -> Result<Option<(Descriptor, Bytes)>, RemoteError> {
        let action = format!("read {}", self.full(reference));
        let call = Call::new(Method::GET, self.url(&format!("manifests/{reference}"))?, Scope::Pull, &action)
            .header(ACCEPT, Self::accept());
        self.repeated(cancel, || async {
            self.limited(&action, async {
                let response = self.send(&call).await?;
                match response.status() {
                    StatusCode::OK => {}
                    StatusCode::NOT_FOUND => return Ok(None),
                    _ => return Err(self.judge(response, &action).await),
                }
                let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
                let declared = text(&CONTENT_TYPE).unwrap_or_default();
                let announced = text(&CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
                let expected = reference.parse::<Digest>().ok().or(announced);
                let bytes = read_limited(self, response, MAX_DOCUMENT, &action).await?;
                let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&bytes);
                let found = hasher.finish();
                if let Some(expected) = expected
                    && expected != found
                {
                    return Err(RemoteError::WrongDigest { registry: self.registry.clone(), expected, found });
                }
                let media_type = self.media_type(&declared, &bytes, &action)?;
                Ok(Some((Descriptor::new(media_type, found, bytes.len() as u64), bytes)))
            })
            .await
        })
        .await
    }

    /// What a document is: what the answer says, corrected by what the document says of itself.
    fn media_type(&self, declared: &str, bytes: &[u8], action: &str) -> Result<String, RemoteError> {
        let document = Document::parse(declared, bytes).map_err(|source| RemoteError::Document {
            registry: self.registry.clone(),
            action: action.to_owned(),
            source,
        })?;
        let (own, default) = match document {
            Document::Index(index) => (index.media_type, OCI_INDEX),
            Document::Manifest(manifest) => (manifest.media_type, OCI_MANIFEST),
        };
        let declared = declared.split(';').next().unwrap_or_default().trim();
        Ok(own.unwrap_or_else(|| {
            let known = crate::media_type::is_index(declared) || crate::media_type::is_manifest(declared);
            if known { declared } else { default }.to_owned()
        }))
    }

    /// Whether a reference names exactly this manifest already.
    pub(crate) async fn has_manifest(
        &self,
        reference: &str,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<bool, RemoteError> {
        Ok(self.head_manifest(reference, cancel).await?.is_some_and(|found| found == digest.to_string()))
    }

    /// The digest of what a reference names, as the registry writes it; empty if it does not say.
    pub(crate) async fn head_manifest(&self, reference: &str, cancel: &Cancel) -> Result<Option<String>, RemoteError> {
        let action = format!("look for {}", self.full(reference));
        let call = Call::new(Method::HEAD, self.url(&format!("manifests/{reference}"))?, Scope::Push, &action)
            .header(ACCEPT, Self::accept());
        self.repeated(cancel, || async {
            let response = self.limited(&action, self.send(&call)).await?;
            match response.status() {
                StatusCode::OK => {
                    let found = response.headers().get(&CONTENT_DIGEST).and_then(|value| value.to_str().ok());
                    Ok(Some(found.unwrap_or_default().to_owned()))
                }
                status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => Ok(None),
                _ => Err(self.judge(response, &action).await),
            }
        })
        .await
    }

    /// Stores a manifest under a tag or its digest. Returns whether the registry lists referrers itself.
    pub(crate) async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &Bytes,
        cancel: &Cancel,
    ) -> Result<bool, RemoteError> {
        let action = format!("store {}", self.full(reference));
        let mut call = Call::new(Method::PUT, self.url(&format!("manifests/{reference}"))?, Scope::Push, &action)
            .header(CONTENT_TYPE, media_type);
        call.body = bytes.clone();
        self.repeated(cancel, || async {
            let response = self.limited(&action, self.send(&call)).await?;
            match response.status() {
                StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {
                    Ok(response.headers().contains_key(&OCI_SUBJECT))
                }
                _ => Err(self.judge(response, &action).await),
            }
        })
        .await
    }

    /// All tags, in the registry's order.
    pub(crate) async fn tags(&self, cancel: &Cancel) -> Result<Vec<String>, RemoteError> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let action = format!("list the tags of {}", self.name);
        let mut tags = Vec::new();
        self.pages(self.url(&format!("tags/list?n={PAGE}"))?, &action, cancel, |bytes| {
            let page: Page =
                serde_json::from_slice(bytes).map_err(|_| self.protocol(&action, "the list of tags is not valid"))?;
            tags.extend(page.tags.unwrap_or_default());
            Ok(())
        })
        .await
        .and_then(|found| if found { Ok(()) } else { Err(self.not_found(&action)) })?;
        Ok(tags)
    }

    pub(crate) fn not_found(&self, action: &str) -> RemoteError {
        RemoteError::NotFound { registry: self.registry.clone(), action: action.to_owned(), message: String::new() }
    }

    /// What refers to a manifest: by the registry's list, else by the fallback tag.
    pub(crate) async fn referrers(&self, digest: &Digest, cancel: &Cancel) -> Result<Vec<Descriptor>, RemoteError> {
        let action = format!("list what refers to {}", self.full(&digest.to_string()));
        let mut found = Vec::new();
        let listed = self
            .pages(self.url(&format!("referrers/{digest}"))?, &action, cancel, |bytes| {
                let index: Index = serde_json::from_slice(bytes)
                    .map_err(|_| self.protocol(&action, "the list of referrers is not valid"))?;
                found.extend(index.manifests);
                Ok(())
            })
            .await?;
        if listed {
            return Ok(found);
        }
        Ok(self.fallback_index(digest, cancel).await?.manifests)
    }

    /// The index under the fallback tag; empty where there is none.
    async fn fallback_index(&self, digest: &Digest, cancel: &Cancel) -> Result<Index, RemoteError> {
        let Some((descriptor, bytes)) = self.manifest(&fallback_tag(digest), cancel).await? else {
            return Ok(Index::new(Vec::new()));
        };
        match Document::parse(&descriptor.media_type, &bytes) {
            Ok(Document::Index(index)) => Ok(index),
            // Somebody has an image under a tag of this form; that is no list of referrers.
            _ => Ok(Index::new(Vec::new())),
        }
    }

    /// Adds a referrer to the fallback tag, for registries that do not list referrers.
    ///
    /// Source: distribution-spec, "Pushing Manifests with Subject".
    pub(crate) async fn add_fallback(
        &self,
        subject: &Digest,
        referrer: &Descriptor,
        cancel: &Cancel,
    ) -> Result<(), RemoteError> {
        let mut index = self.fallback_index(subject, cancel).await?;
        if index.manifests.iter().any(|entry| entry.digest == referrer.digest) {
            return Ok(());
        }
        index.manifests.push(referrer.clone());
        let bytes = Bytes::from(to_bytes(&index));
        self.put_manifest(&fallback_tag(subject), OCI_INDEX, &bytes, cancel).await.map(drop)
    }

    /// Asks for all pages of a list; `false` if the registry does not have such a list.
    async fn pages(
        &self,
        mut url: reqwest::Url,
        action: &str,
        cancel: &Cancel,
        mut take: impl FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<bool, RemoteError> {
        for _ in 0..MAX_PAGES {
            let call = Call::new(Method::GET, url.clone(), Scope::Pull, action);
            let page = self
                .repeated(cancel, || async {
                    self.limited(action, async {
                        let response = self.send(&call).await?;
                        match response.status() {
                            StatusCode::OK => {}
                            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST => {
                                return Ok(None);
                            }
                            _ => return Err(self.judge(response, action).await),
                        }
                        let next = next_page(response.headers());
                        Ok(Some((next, read_limited(self, response, MAX_DOCUMENT, action).await?)))
                    })
                    .await
                })
                .await?;
            let Some((next, bytes)) = page else { return Ok(false) };
            take(&bytes)?;
            let Some(next) = next else { return Ok(true) };
            let home = url.origin();
            url = url.join(&next).map_err(|_| self.protocol(action, "a `Link` header is no address"))?;
            if url.origin() != home {
                return Err(self.protocol(action, "a list goes on at another server"));
            }
        }
        Err(self.protocol(action, "a list has no end"))
    }

    /// A name for messages.
    pub(crate) fn full(&self, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}{separator}{reference}", self.name)
    }
}

/// The tag under which referrers are listed where the registry does not do it.
pub(crate) fn fallback_tag(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Whether a tag is one of those.
pub(crate) fn is_fallback_tag(tag: &str) -> bool {
    tag.split_once('-').is_some_and(|(algorithm, hex)| format!("{algorithm}:{hex}").parse::<Digest>().is_ok())
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(headers: &reqwest::header::HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| address.to_owned())
}
