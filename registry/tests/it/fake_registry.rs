//! The client against a registry that misbehaves as it is told.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Kept, facts, noise};
use crate::fake::{Fake, Knobs};
use fs_err as fs;
use labwright_core::{Arch, Cancel, Digest, Event, Quiet, Reporter};
use labwright_registry::Packed;
use labwright_registry::container_disk::pack;
use labwright_registry::document::{Descriptor, Index, Manifest};
use labwright_registry::media_type::{CYCLONEDX, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use labwright_registry::{
    Copied, CopyOptions, Credentials, Images, ImagesError, Layout, Login, Remote, RemoteError, RemoteOptions, attach,
};

const DISK: usize = 9_000_000;

fn options(fake: &Fake) -> RemoteOptions {
    RemoteOptions {
        plain_http: vec![fake.host.clone()],
        backoff: Duration::from_millis(5),
        stall: Duration::from_secs(10),
        retries: 3,
        ..RemoteOptions::default()
    }
}

fn images(dir: &Path, options: RemoteOptions) -> Images {
    Images::new(dir.join("store"), Remote::new(options).unwrap())
}

fn packed(dir: &Path) -> Packed {
    let layout = Layout::open_or_create(dir.join("store")).unwrap();
    fs::write(dir.join("disk"), noise(7, DISK)).unwrap();
    pack(&layout, &dir.join("disk"), &facts(Arch::Amd64), None, &Quiet, &Cancel::new()).unwrap()
}

async fn copy(images: &Images, from: &str, to: &str) -> Result<Copied, ImagesError> {
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    images.copy(&from, &to, &CopyOptions::default(), &reporter, &Cancel::new()).await
}

/// Pushes the packed image and checks that it arrived whole.
async fn push(knobs: Knobs) -> (Fake, Packed, Copied) {
    let fake = Fake::start(knobs).await;
    let (packed, result) = push_to(&fake, |options| options).await;
    let copied = result.unwrap();
    let state = fake.state.lock().unwrap();
    assert_eq!(state.blobs[&packed.layer.digest.to_string()].len() as u64, packed.layer.size);
    assert!(state.blobs.contains_key(&packed.config.digest.to_string()));
    assert_eq!(Digest::sha256(&state.manifests["1.0.0"].1), packed.index.digest);
    assert!(state.manifests.contains_key(&packed.manifest.digest.to_string()));
    drop(state);
    (fake, packed, copied)
}

async fn push_to(
    fake: &Fake,
    change: impl Fn(RemoteOptions) -> RemoteOptions,
) -> (Packed, Result<Copied, ImagesError>) {
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(dir.path());
    let images = images(dir.path(), change(options(fake)));
    let result = copy(&images, "debian-terminal:1.0.0", &format!("{}/labs/debian:1.0.0", fake.host)).await;
    (packed, result)
}

#[tokio::test]
async fn a_blob_goes_in_one_patch_and_nothing_is_sent_twice() {
    let (fake, packed, copied) = push(Knobs::default()).await;
    assert_eq!((copied.sent, copied.existed, copied.mounted), (2, 0, 0));
    assert_eq!((copied.image.digest, copied.tag), (packed.index.digest, Some("1.0.0".to_owned())));
    let (patches, uploads) = {
        let state = fake.state.lock().unwrap();
        // Children come before what names them.
        let at = |part: &str| state.log.iter().position(|(line, _)| line.contains(part)).unwrap();
        assert!(
            at(&format!("PUT /v2/labs/debian/manifests/{}", packed.manifest.digest))
                < at("PUT /v2/labs/debian/manifests/1.0.0")
        );
        (state.count("PATCH"), state.count("POST"))
    };
    assert_eq!((patches, uploads), (1, 2));
    let again = push_to(&fake, |options| options).await.1.unwrap();
    assert_eq!((again.sent, again.existed), (0, 2));
    assert_eq!(fake.state.lock().unwrap().count("POST"), uploads);
}

#[tokio::test]
async fn relative_locations_with_a_query_work() {
    push(Knobs { relative: true, ..Knobs::default() }).await;
}

#[tokio::test]
async fn a_redirected_upload_is_sent_again_whole() {
    let (fake, ..) = push(Knobs { patch_redirects: 2, ..Knobs::default() }).await;
    assert_eq!(fake.state.lock().unwrap().count("PATCH"), 3);
}

#[tokio::test]
async fn from_registry_to_registry_the_guilty_one_is_named() {
    let (from, packed, _) = push(Knobs::default()).await;
    let to = Fake::start(Knobs::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let both = || RemoteOptions { plain_http: vec![from.host.clone(), to.host.clone()], ..options(&from) };
    let images = images(dir.path(), both());
    let [source, target] = [&from, &to].map(|fake| format!("{}/labs/debian:1.0.0", fake.host));
    from.state.lock().unwrap().knobs.fail = vec![("GET /v2/labs/debian/blobs", 403, None); 9];
    let error = copy(&images, &source, &target).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{} forbids to read a blob of labs/debian", from.host)), "{error}");
    // The stream breaks on both sides in turn.
    from.state.lock().unwrap().knobs = Knobs { cut_blob: vec![3_000_000, 4_000_000], ..Knobs::default() };
    to.state.lock().unwrap().knobs = Knobs { cut_patch: vec![2_000_000], keep_cut: true, ..Knobs::default() };
    assert_eq!(copy(&images, &source, &target).await.unwrap().sent, 2);
    let layer = packed.layer.digest.to_string();
    assert!(to.state.lock().unwrap().blobs[&layer] == from.state.lock().unwrap().blobs[&layer]);
}

#[tokio::test]
async fn a_cut_upload_goes_on_where_the_registry_kept_it() {
    let (fake, ..) = push(Knobs { cut_patch: vec![5_000_000], keep_cut: true, ..Knobs::default() }).await;
    let state = fake.state.lock().unwrap();
    // The same session: one POST for each of the two blobs.
    assert_eq!((state.count("POST"), state.count("PATCH")), (2, 2));
    assert_eq!(state.count("GET /v2/x/blobs/uploads/"), 1);
}

#[tokio::test]
async fn a_cut_upload_begins_anew_where_the_registry_lost_it() {
    let (fake, ..) = push(Knobs { cut_patch: vec![5_000_000, 10], ..Knobs::default() }).await;
    assert_eq!(fake.state.lock().unwrap().count("POST"), 4);
}

#[tokio::test]
async fn retries_are_bounded() {
    let fake = Fake::start(Knobs { cut_patch: vec![1000; 100], ..Knobs::default() }).await;
    let error = push_to(&fake, |options| options).await.1.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the connection to {} broke while trying to push to labs/debian: try again", fake.host)
    );
    assert_eq!(fake.state.lock().unwrap().count("cut"), 4);
}

#[tokio::test]
async fn a_refused_stream_goes_in_chunks_and_then_whole() {
    let (fake, ..) = push(Knobs { body_limit: Some(5 << 20), ..Knobs::default() }).await;
    assert_eq!(fake.state.lock().unwrap().count("PATCH"), 1 + 3);
    let (fake, ..) = push(Knobs { body_limit: Some(7 << 20), chunk_min: Some(6 << 20), ..Knobs::default() }).await;
    assert_eq!(fake.state.lock().unwrap().count("PATCH"), 1 + 2);
    let (fake, ..) = push(Knobs { patch_status: Some(405), ..Knobs::default() }).await;
    assert_eq!(fake.state.lock().unwrap().count("PATCH"), 2);
    let fake = Fake::start(Knobs { body_limit: Some(1 << 20), ..Knobs::default() }).await;
    let error = push_to(&fake, |options| options).await.1.unwrap_err();
    assert!(matches!(error, ImagesError::Remote(RemoteError::TooLarge { .. })), "{error}");
}

#[tokio::test]
async fn waits_as_long_as_it_is_asked_to() {
    let begin = Instant::now();
    push(Knobs {
        fail: vec![("POST", 429, Some(1)), ("PATCH", 503, None), ("manifests/1.0.0", 502, None)],
        ..Knobs::default()
    })
    .await;
    assert!(begin.elapsed() >= Duration::from_secs(1));
    // Longer than anyone waits is an error at once.
    let fake = Fake::start(Knobs { fail: vec![("POST", 429, Some(9999))], ..Knobs::default() }).await;
    let error = push_to(&fake, |options| options).await.1.unwrap_err();
    assert!(matches!(error, ImagesError::Remote(RemoteError::TooManyRequests { .. })), "{error}");
}

#[tokio::test]
async fn every_refusal_is_said_plainly() {
    for (status, part) in [
        (403, "forbids to push to labs/debian: ask its owner"),
        (404, "knows nothing of what is needed to push to labs/debian"),
        (500, "has a problem of its own (status 500) and could not push to labs/debian"),
        (418, "answered with status 418 when asked to push to labs/debian"),
    ] {
        let fake = Fake::start(Knobs { fail: vec![("POST", status, None); 20], ..Knobs::default() }).await;
        let error = push_to(&fake, |options| options).await.1.unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(&fake.host), "{error}");
    }
    // Nobody listens there.
    let fake = Fake { host: "127.0.0.1:1".to_owned(), ..Fake::start(Knobs::default()).await };
    let error = push_to(&fake, |options| options).await.1.unwrap_err().to_string();
    assert_eq!(error, "127.0.0.1:1 cannot be reached: check the name and the port, and whether it is up");
    // TLS is spoken to whoever is not excepted; this server does not speak it.
    let fake = Fake::start(Knobs::default()).await;
    push_to(&fake, |options| RemoteOptions { plain_http: Vec::new(), ..options }).await.1.unwrap_err();
    assert!(fake.state.lock().unwrap().log.is_empty());
}

#[tokio::test]
async fn tokens_are_fetched_and_renewed_in_the_middle() {
    let fake = Fake::start(Knobs { token_uses: Some(3), ..Knobs::default() }).await;
    let login = Login { user: "u".to_owned(), password: "p".to_owned() };
    let logged_in = |options| RemoteOptions {
        credentials: Credentials { login: Some(login.clone()), ..Credentials::default() },
        parallel: 1,
        ..options
    };
    push_to(&fake, logged_in).await.1.unwrap();
    {
        let state = fake.state.lock().unwrap();
        assert!(state.count("GET /token") > 2, "{:?}", state.log);
        let scope = "scope=repository%3Alabs%2Fdebian%3Apull%2Cpush";
        assert!(state.count(scope) > 0, "{:?}", state.log);
        for (line, authorization) in &state.log {
            // The password goes to the token service alone.
            assert_eq!(line.starts_with("GET /token"), authorization.as_deref() == Some("Basic dTpw"), "{line}");
        }
    }
    let wrong = Login { user: "u".to_owned(), password: "wrong".to_owned() };
    let fake = Fake::start(Knobs { token_uses: Some(3), ..Knobs::default() }).await;
    let error = push_to(&fake, |options| RemoteOptions {
        credentials: Credentials { login: Some(wrong.clone()), ..Credentials::default() },
        ..options
    })
    .await
    .1
    .unwrap_err()
    .to_string();
    assert!(error.starts_with(&format!("{} does not accept the credentials of `u` to", fake.host)), "{error}");
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let foreign = Fake::start(Knobs::default()).await;
    let knobs = Knobs { token_uses: Some(100), upload_host: Some(foreign.host.clone()), ..Knobs::default() };
    let fake = Fake::start(knobs).await;
    push_to(&fake, |options| options).await.1.unwrap_err();
    let state = foreign.state.lock().unwrap();
    assert!(!state.log.is_empty());
    for (line, authorization) in &state.log {
        assert_eq!(*authorization, None, "{line}");
    }
}

#[tokio::test]
async fn mounts_and_uses_the_session_of_a_refused_mount() {
    for (mount, expected, posts) in [(201, (0, 2), 2), (202, (2, 0), 2), (404, (2, 0), 4)] {
        let (fake, packed, _) = push(Knobs { mount, ..Knobs::default() }).await;
        let layer = packed.layer.digest.to_string();
        {
            // The fake has one set of blobs; forget that it has them, but keep them for reading.
            let mut state = fake.state.lock().unwrap();
            state.log.clear();
            state.knobs.fail = vec![("HEAD /v2/labs/copy/blobs", 404, None); 2];
        }
        let dir = tempfile::tempdir().unwrap();
        let images = images(dir.path(), options(&fake));
        let [from, to] = ["debian", "copy"].map(|name| format!("{}/labs/{name}:1.0.0", fake.host));
        let copied = copy(&images, &from, &to).await.unwrap();
        let state = fake.state.lock().unwrap();
        assert_eq!((copied.sent, copied.mounted), expected);
        assert_eq!(state.count("POST"), posts, "{:?}", state.log);
        assert_eq!(state.count(&format!("mount={}&from=labs%2Fdebian", layer.replace(':', "%3A"))), 1);
    }
}

#[tokio::test]
async fn a_broken_pull_goes_on_and_a_lying_one_leaves_nothing() {
    let (fake, packed, _) = push(Knobs::default()).await;
    let source = format!("{}/labs/debian:1.0.0", fake.host);
    let change = |knobs| fake.state.lock().unwrap().knobs = knobs;
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path(), options(&fake));
    let store = || Layout::open(dir.path().join("store")).unwrap();
    let gets = || fake.state.lock().unwrap().count(&format!("GET /v2/labs/debian/blobs/{}", packed.layer.digest));

    // The config comes through the same knob; it is read whole in any case.
    change(Knobs { cut_blob: vec![5000, 4_000_000, 3_000_000], ..Knobs::default() });
    let copied = copy(&images, &source, "debian").await.unwrap();
    assert_eq!((copied.tag.as_deref(), copied.sent), (Some("debian:1.0.0"), 2));
    assert!(gets() >= 2);
    assert!(store().has(&packed.layer));
    assert!(
        fs::read(store().blob_path(&packed.layer.digest)).unwrap()
            == fake.state.lock().unwrap().blobs[&packed.layer.digest.to_string()]
    );
    fs::remove_dir_all(dir.path().join("store")).unwrap();

    change(Knobs { cut_blob: vec![4_000_000, 4_000_000], no_range: true, ..Knobs::default() });
    copy(&images, &source, "debian").await.unwrap();
    fs::remove_dir_all(dir.path().join("store")).unwrap();

    let lies = [
        (Knobs { lie: 1, ..Knobs::default() }, "bytes for sha256:"),
        (Knobs { lie: -1, ..Knobs::default() }, "bytes for sha256:"),
        (Knobs { blob_redirect: Some("http://127.0.0.1:1".to_owned()), ..Knobs::default() }, "cannot be reached"),
        (Knobs { blob_redirect: Some("ftp://x".to_owned()), ..Knobs::default() }, "not an HTTP address"),
        (Knobs { blob_redirect: Some(format!("http://{}/v2/x/blobs", fake.host)), ..Knobs::default() }, "in a circle"),
    ];
    for (knobs, part) in lies {
        let what = format!("{knobs:?}");
        change(knobs);
        let error = copy(&images, &source, "debian").await.unwrap_err().to_string();
        assert!(error.contains(part), "{what}: {error}");
        assert!(store().tags().unwrap().is_empty());
    }
    change(Knobs { hang: true, ..Knobs::default() });
    let impatient = RemoteOptions { stall: Duration::from_millis(300), retries: 1, ..options(&fake) };
    let error = copy(&self::images(dir.path(), impatient), &source, "debian").await.unwrap_err().to_string();
    assert!(error.contains("said nothing for 0 s while trying to read a blob"), "{error}");
    assert!(store().tags().unwrap().is_empty());

    change(Knobs::default());
    fake.state.lock().unwrap().blobs.get_mut(&packed.layer.digest.to_string()).unwrap()[77] ^= 1;
    let error = copy(&images, &source, "debian").await.unwrap_err().to_string();
    assert!(error.contains("sent other content than"), "{error}");
    assert!(!store().has(&packed.layer));
    assert!(store().tags().unwrap().is_empty());
    // A temporary file of a failed download goes when its writer ends; what stays has a digest as its name.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for entry in fs::read_dir(dir.path().join("store/blobs/sha256")).unwrap() {
        assert_eq!(entry.unwrap().file_name().len(), 64);
    }
}

#[tokio::test]
async fn a_set_cancel_ends_a_hanging_transfer_soon() {
    let (fake, ..) = push(Knobs::default()).await;
    fake.state.lock().unwrap().knobs.hang = true;
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path(), RemoteOptions { stall: Duration::from_mins(1), ..options(&fake) });
    let cancel = Cancel::new();
    let (begin, clone) = (Instant::now(), cancel.clone());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        clone.cancel();
    });
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let (source, target) = (format!("{}/labs/debian:1.0.0", fake.host).parse().unwrap(), "debian".parse().unwrap());
    let error = images.copy(&source, &target, &CopyOptions::default(), &reporter, &cancel).await.unwrap_err();
    assert_eq!(error.to_string(), "stopped on request");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn documents_are_bounded() {
    let fake = Fake::start(Knobs::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let images = images(dir.path(), options(&fake));
    let config = Descriptor::of(OCI_CONFIG, b"{}");
    let layers = vec![config.clone(); 3000];
    let manifest = Manifest {
        annotations: [].into(),
        artifact_type: None,
        config: config.clone(),
        layers,
        media_type: None,
        schema_version: 2,
        subject: None,
    };
    let many = serde_json::to_vec(&manifest).unwrap();
    let padded = [b"{\"schemaVersion\":2,\"manifests\":[]".as_slice(), &vec![b' '; 4 << 20], b"}"].concat();
    let index = serde_json::to_vec(&Index::new(vec![config; 2000])).unwrap();
    for (kind, bytes, part) in [
        (OCI_MANIFEST, many.as_slice(), "sent something that is no image"),
        (OCI_INDEX, &padded, "a document of more than 4 MiB"),
        (OCI_INDEX, &index, "sent something that is no image"),
        (OCI_MANIFEST, b"{\"schemaVersion\":2,", "sent something that is no image"),
        ("text/html", b"<html>", "sent something that is no image"),
    ] {
        fake.add_manifest("bad", kind, bytes);
        let error =
            images.inspect(&format!("{}/labs/x:bad", fake.host).parse().unwrap(), &Cancel::new()).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    // A registry that gives another manifest than the digest says is found out.
    let wanted = Digest::sha256(b"wanted");
    fake.add_manifest(&wanted.to_string(), OCI_INDEX, br#"{"schemaVersion":2,"manifests":[]}"#);
    let error =
        images.inspect(&format!("{}/labs/x@{wanted}", fake.host).parse().unwrap(), &Cancel::new()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("sent other content than {wanted}")), "{error}");
    let error =
        images.resolve(&format!("{}/labs/x:none", fake.host).parse().unwrap(), &Cancel::new()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no image `labs/x:none`: check the name and the tag", fake.host));
}

#[tokio::test]
async fn referrers_travel_and_are_listed_where_the_registry_does_not() {
    for lists in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let packed = packed(dir.path());
        let layout = Layout::open(dir.path().join("store")).unwrap();
        let signature = Manifest {
            annotations: [("signed".to_owned(), "yes".to_owned())].into(),
            artifact_type: Some("application/vnd.example.signature".to_owned()),
            config: layout.add_bytes("application/vnd.oci.empty.v1+json", b"{}").unwrap(),
            layers: vec![layout.add_bytes("application/vnd.example", b"signature").unwrap()],
            media_type: Some(OCI_MANIFEST.to_owned()),
            schema_version: 2,
            subject: Some(packed.manifest.bare()),
        };
        let signature = layout.add_bytes(OCI_MANIFEST, &serde_json::to_vec(&signature).unwrap()).unwrap();
        let sbom = attach(&layout, &packed.manifest, CYCLONEDX, b"{\"bomFormat\":\"CycloneDX\"}").unwrap();
        let fake = Fake::start(Knobs { lists_referrers: lists, ..Knobs::default() }).await;
        let images = images(dir.path(), options(&fake));
        let there = format!("{}/labs/debian:1.0.0", fake.host);
        copy(&images, "debian-terminal:1.0.0", &there).await.unwrap();
        let fallback = format!("sha256-{}", packed.manifest.digest.hex());
        let listed = fake.state.lock().unwrap().manifests.get(&fallback).map(|(_, bytes)| bytes.clone());
        assert_eq!(listed.is_some(), !lists);
        if let Some(bytes) = listed {
            let index: Index = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(index.manifests.len(), 2);
            let entry = index.manifests.iter().find(|entry| entry.digest == signature.digest).unwrap();
            assert_eq!(
                (&entry.digest, entry.artifact_type.as_deref()),
                (&signature.digest, Some("application/vnd.example.signature"))
            );
            assert_eq!(entry.annotations["signed"], "yes");
        }
        // And back: into an archive and from there into another store.
        let archive = format!("oci-archive:{}:1", dir.path().join("a.tar").display());
        copy(&images, &there, &archive).await.unwrap();
        copy(&images, &archive, &format!("oci:{}:1", dir.path().join("back").display())).await.unwrap();
        let back = Layout::open(dir.path().join("back")).unwrap();
        assert_eq!(back.resolve("1").unwrap().digest, packed.index.digest);
        assert!(back.has(&signature) && back.has(&sbom) && back.has(&packed.layer));
        // Tools that are told no tag find the one image; in the store, everything is listed.
        assert_eq!(back.index().unwrap().manifests.len(), 1);
        copy(&images, &archive, "again:1").await.unwrap();
        let listed = layout.index().unwrap().manifests;
        assert_eq!(listed.iter().filter(|entry| entry.artifact_type.is_some()).count(), 2, "{listed:?}");
        for from in [&there, &archive, &"debian-terminal:1.0.0".to_owned()] {
            let from = from.parse().unwrap();
            let read = images.attached(&from, None, CYCLONEDX, &Cancel::new()).await.unwrap();
            assert_eq!(read.as_deref(), Some(&b"{\"bomFormat\":\"CycloneDX\"}"[..]));
            let none = images.attached(&from, None, "application/x-none", &Cancel::new()).await.unwrap();
            assert_eq!(none, None);
            let inspected = images.inspect(&from, &Cancel::new()).await.unwrap();
            let kinds: Vec<_> =
                inspected.platforms[0].referrers.iter().filter_map(|one| one.artifact_type.as_deref()).collect();
            assert_eq!(kinds, [CYCLONEDX, "application/vnd.example.signature"]);
        }
    }
}

#[tokio::test]
async fn progress_is_told() {
    let fake = Fake::start(Knobs::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(dir.path());
    let images = images(dir.path(), options(&fake));
    let kept = Arc::new(Kept::default());
    let reporter: Arc<dyn Reporter> = kept.clone();
    let target = format!("{}/labs/debian:1.0.0", fake.host).parse().unwrap();
    let source = "debian-terminal".parse().unwrap();
    images.copy(&source, &target, &CopyOptions::default(), &reporter, &Cancel::new()).await.unwrap();
    let task = format!("layer {}", packed.layer.digest.short());
    let told: Vec<_> = kept
        .0
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::Progress { task: found, done, total } if *found == task => Some((*done, *total)),
            _ => None,
        })
        .collect();
    assert!(told.len() >= 8 && told.is_sorted(), "{told:?}");
    assert_eq!(told.last(), Some(&(packed.layer.size, Some(packed.layer.size))));
}
