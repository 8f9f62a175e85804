//! Downloads from a server that plays a vendor: honest, lying, slow, cut off, resuming, redirecting.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Bench, Request, Vendor, answer, cut, disk, head, honest, sha256};
use labwright_base_images::{DiskFormat, DownloadError, Source, url_base, url_file};
use labwright_core::{Algorithm, ByteSize, Digest, Event, Hasher};

fn source(vendor: &Vendor, path: &str, digest: Digest) -> Source {
    Source { name: "test".to_owned(), url: vendor.at(path), digest, size: None }
}

fn get(path: &str) -> Request {
    Request { path: path.to_owned(), range: None, if_range: None }
}

fn resume(path: &str, from: usize, tag: &str) -> Request {
    Request { path: path.to_owned(), range: Some(format!("bytes={from}-")), if_range: Some(tag.to_owned()) }
}

#[tokio::test]
async fn an_honest_vendor() {
    let body = disk(2, 1);
    let digest = sha256(&body);
    let vendor = Vendor::new({
        let body = body.clone();
        move |request, _, stream| honest(request, stream, &body, "\"a\"")
    });
    let bench = Bench::new();
    let source = source(&vendor, "disk.raw", digest.clone());
    let base = url_base(&source, &bench.context()).await.unwrap();
    assert_eq!(fs_err::read(&base.path).unwrap(), body);
    assert_eq!((base.format, base.digest.clone()), (DiskFormat::Raw, digest.clone()));
    assert_eq!(base.virtual_size, ByteSize::from_bytes(2 << 20));
    assert_eq!(url_base(&source, &bench.context()).await.unwrap(), base);
    assert_eq!(vendor.requests(), [get("/disk.raw")]);
    let disk = format!("disks/sha256-{}", digest.hex());
    let names = format!("names/download-sha256-{}", digest.hex());
    assert_eq!(bench.files(), [disk.clone(), format!("{disk}.json"), names].map(std::path::PathBuf::from));
}

#[tokio::test]
async fn a_sha512_digest() {
    let body = disk(1, 2);
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&body);
    let digest = hasher.finish();
    let vendor = Vendor::new(move |request, _, stream| honest(request, stream, &body, "\"a\""));
    let bench = Bench::new();
    let base = url_base(&source(&vendor, "d", digest.clone()), &bench.context()).await.unwrap();
    assert_eq!(base.digest, digest);
}

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_broke() {
    let body = disk(3, 3);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &body, 1 << 20, &[("ETag", "\"a\"")]),
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/d"), resume("/d", 1 << 20, "\"a\"")]);
}

#[tokio::test]
async fn a_later_run_resumes_what_an_earlier_one_began() {
    let body = disk(3, 4);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &body, 1 << 20, &[("Last-Modified", "Sat, 21 Nov 2026 09:15:44 GMT")]),
        1..3 => {}
        _ => honest(request, stream, &body, "Sat, 21 Nov 2026 09:15:44 GMT"),
    });
    let bench = Bench::new();
    let source = source(&vendor, "d", digest);
    let error = url_base(&source, &bench.context()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Network { attempts: 3, .. }), "{error:?}");
    url_base(&source, &bench.context()).await.unwrap();
    let requests = vendor.requests();
    assert_eq!(requests[3], resume("/d", 1 << 20, "Sat, 21 Nov 2026 09:15:44 GMT"));
    assert_eq!(requests.len(), 4);
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_begun_anew() {
    let (old, new) = (disk(2, 5), disk(2, 6));
    let digest = sha256(&new);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &old, 1 << 20, &[("ETag", "\"old\"")]),
        _ => honest(request, stream, &new, "\"new\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/d"), resume("/d", 1 << 20, "\"old\"")]);
}

#[tokio::test]
async fn a_weak_tag_proves_nothing() {
    let body = disk(2, 7);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &body, 1 << 20, &[("ETag", "W/\"a\"")]),
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/d"), get("/d")]);
}

#[tokio::test]
async fn a_false_proof_costs_one_more_download() {
    let (old, new) = (disk(2, 8), disk(2, 9));
    let digest = sha256(&new);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &old, 1 << 20, &[("ETag", "\"same\"")]),
        _ => honest(request, stream, &new, "\"same\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/d"), resume("/d", 1 << 20, "\"same\""), get("/d")]);
    let warned = bench.told.0.lock().unwrap().iter().any(|event| matches!(event, Event::Warning(_)));
    assert!(warned, "nothing was said");
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_not_used() {
    let body = disk(2, 10);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => cut(stream, &body, 1 << 20, &[("ETag", "\"a\"")]),
        1 => answer(stream, "206 Partial Content", &[("Content-Range", "bytes 0-1/2097152")], &body[..2]),
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/d"), resume("/d", 1 << 20, "\"a\""), get("/d")]);
}

#[tokio::test]
async fn a_liar_is_found_out_and_leaves_nothing() {
    let (body, other) = (disk(1, 11), disk(1, 12));
    let (digest, found) = (sha256(&body), sha256(&other));
    let vendor = Vendor::new(move |request, _, stream| honest(request, stream, &other, "\"a\""));
    let bench = Bench::new();
    let error = url_base(&source(&vendor, "d", digest.clone()), &bench.context()).await.unwrap_err();
    let text = error.to_string();
    let expected = format!(
        "{}d has the digest {found}, not {digest}: the file was changed, or the digest is another file's",
        vendor.url
    );
    assert_eq!(text, expected);
    assert_eq!(bench.files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(vendor.requests().len(), 1);
}

#[tokio::test]
async fn a_vendor_that_stops_sending() {
    let body = disk(2, 13);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => {
            cut(stream, &body, 1 << 20, &[("ETag", "\"a\"")]);
            thread::sleep(Duration::from_secs(5));
        }
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    let begin = Instant::now();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "waited for a server that says nothing");
    assert_eq!(vendor.requests().len(), 2);
}

#[tokio::test]
async fn a_slow_vendor_that_makes_progress_is_waited_for() {
    let body = disk(1, 14);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |_, _, stream| {
        head(stream, "200 OK", &[("Content-Length", &body.len().to_string())]);
        for piece in body.chunks(body.len() / 5) {
            drop(stream.write_all(piece));
            thread::sleep(Duration::from_millis(300));
        }
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests().len(), 1);
}

#[tokio::test]
async fn passing_trouble_passes() {
    let body = disk(1, 15);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => answer(stream, "503 Service Unavailable", &[("Retry-After", "1")], b"busy"),
        1 => answer(stream, "429 Too Many Requests", &[], b""),
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    let begin = Instant::now();
    url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1), "did not wait as told");
    assert_eq!(vendor.requests().len(), 3);
}

#[tokio::test]
async fn lasting_trouble_is_told() {
    for (status, requests, text) in [
        ("404 Not Found", 1, "the server answers 404 Not Found: the file is not there; look at the address"),
        ("403 Forbidden", 1, "the server answers 403 Forbidden: it wants credentials, which base downloads never send"),
        ("500 Internal Server Error", 3, "500 Internal Server Error: the server is in trouble; try again later"),
    ] {
        let vendor = Vendor::new(move |_, _, stream| answer(stream, status, &[], b"no"));
        let bench = Bench::new();
        let error = url_base(&source(&vendor, "d", sha256(b"")), &bench.context()).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("could not download {}d: ", vendor.url)), "{error}");
        assert!(error.ends_with(text), "{error}");
        assert_eq!(vendor.requests().len(), requests, "{status}");
        assert_eq!(bench.files(), Vec::<std::path::PathBuf>::new());
    }
    let vendor = Vendor::new(|_, _, stream| answer(stream, "503 Busy", &[("Retry-After", "3600")], b""));
    let bench = Bench::new();
    let error = url_base(&source(&vendor, "d", sha256(b"")), &bench.context()).await.unwrap_err().to_string();
    assert!(error.ends_with("the server says to come back in 3600 s"), "{error}");
}

#[tokio::test]
async fn lengths_are_held_against_limits_and_locks() {
    let vendor = Vendor::new(|_, _, stream| {
        head(stream, "200 OK", &[("Content-Length", "99999999999")]);
    });
    let bench = Bench::new();
    let error = url_base(&source(&vendor, "d", sha256(b"")), &bench.context()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}d is longer than 16.0 MiB, the most that is accepted", vendor.url));

    // Without a length it is found out on the way.
    let vendor = Vendor::new(|_, _, stream| {
        head(stream, "200 OK", &[]);
        while stream.write_all(&[1; 1 << 12]).is_ok() {}
    });
    let error = url_base(&source(&vendor, "d", sha256(b"")), &bench.context()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}d is longer than 16.0 MiB, the most that is accepted", vendor.url));

    let body = disk(1, 16);
    let vendor = Vendor::new(move |request, _, stream| honest(request, stream, &body, "\"a\""));
    let source = Source { size: Some(5), ..source(&vendor, "d", sha256(b"")) };
    let error = url_base(&source, &bench.context()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}d has 1048576 bytes, not 5: the vendor has changed the file", vendor.url));
}

#[tokio::test]
async fn redirects_are_followed_so_far() {
    let body = disk(1, 17);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, _, stream| match request.path.as_str() {
        "/latest" => answer(stream, "302 Found", &[("Location", "/dated/d")], b""),
        "/loop" => answer(stream, "302 Found", &[("Location", "/loop")], b""),
        _ => honest(request, stream, &body, "\"a\""),
    });
    let bench = Bench::new();
    url_base(&source(&vendor, "latest", digest), &bench.context()).await.unwrap();
    assert_eq!(vendor.requests(), [get("/latest"), get("/dated/d")]);
    let error = url_base(&source(&vendor, "loop", sha256(b"")), &bench.context()).await.unwrap_err();
    assert!(matches!(&error, DownloadError::Status { status, .. } if status.as_u16() == 302), "{error:?}");
}

#[tokio::test]
async fn compressed_disks_are_unpacked() {
    let mut body = disk(1, 18);
    body.resize(3 << 20, 0);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&body).unwrap();
        encoder.finish().unwrap()
    };
    let xz = {
        let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(&body).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&body[..], 1).unwrap();
    for packed in [gzip, xz, zstd] {
        let digest = sha256(&packed);
        let damaged = packed[..packed.len() - 9].to_vec();
        let damaged_digest = sha256(&damaged);
        let vendor = Vendor::new(move |request, _, stream| match request.path.as_str() {
            "/damaged" => honest(request, stream, &damaged, "\"b\""),
            _ => honest(request, stream, &packed, "\"a\""),
        });
        let bench = Bench::new();
        let source_of_whole = source(&vendor, "disk", digest);
        let base = url_base(&source_of_whole, &bench.context()).await.unwrap();
        assert_eq!(fs_err::read(&base.path).unwrap(), body);
        assert_eq!(base.digest, sha256(&body));
        assert_eq!(url_base(&source_of_whole, &bench.context()).await.unwrap(), base);
        assert_eq!(vendor.requests().len(), 1);
        let files = bench.files();
        let error = url_base(&source(&vendor, "damaged", damaged_digest), &bench.context()).await.unwrap_err();
        assert!(matches!(error, DownloadError::Unpack { .. }), "{error:?}");
        assert_eq!(bench.files(), files);
    }
}

#[tokio::test]
async fn a_bomb_is_refused() {
    let zeros = vec![0; 64 << 20];
    let bomb = zstd::encode_all(&zeros[..], 1).unwrap();
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    let digest = sha256(&bomb);
    let vendor = Vendor::new(move |request, _, stream| honest(request, stream, &bomb, "\"a\""));
    let bench = Bench::new();
    let error = url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}d unpacks to more than 32.0 MiB, the most that is accepted", vendor.url));
    assert_eq!(bench.files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_dangerous_disk_is_refused_although_its_digest_is_right() {
    let mut body = disk(1, 19);
    body[..4].copy_from_slice(b"KDMV");
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, _, stream| honest(request, stream, &body, "\"a\""));
    let bench = Bench::new();
    let error = url_base(&source(&vendor, "d", digest), &bench.context()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Refused { .. }), "{error:?}");
    assert_eq!(bench.files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn stopping_is_quick_and_the_next_run_goes_on() {
    let body = disk(2, 20);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, number, stream| match number {
        0 => {
            cut(stream, &body, 1 << 20, &[("ETag", "\"a\"")]);
            thread::sleep(Duration::from_secs(5));
        }
        _ => honest(request, stream, &body, "\"a\""),
    });
    let mut bench = Bench::new();
    let stop = bench.cancel.clone();
    let source = source(&vendor, "d", digest);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        stop.cancel();
    });
    let begin = Instant::now();
    let error = url_base(&source, &bench.context()).await.unwrap_err();
    assert!(matches!(error, DownloadError::Cancelled(_)), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(2));
    bench.cancel = labwright_core::Cancel::new();
    url_base(&source, &bench.context()).await.unwrap();
    assert_eq!(vendor.requests()[1], resume("/d", 1 << 20, "\"a\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_at_the_same_time_download_once() {
    let body = disk(2, 21);
    let digest = sha256(&body);
    let vendor = Vendor::new(move |request, _, stream| {
        thread::sleep(Duration::from_millis(200));
        honest(request, stream, &body, "\"a\"");
    });
    let bench = Bench::new();
    let (source, context) = (source(&vendor, "d", digest), bench.context());
    let (a, b) = tokio::join!(url_base(&source, &context), url_base(&source, &context));
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(vendor.requests().len(), 1);
}

#[tokio::test]
async fn a_disk_that_lost_bytes_in_the_cache_is_not_believed() {
    let body = disk(1, 22);
    let digest = sha256(&body);
    let vendor = Vendor::new({
        let body = body.clone();
        move |request, _, stream| honest(request, stream, &body, "\"a\"")
    });
    let bench = Bench::new();
    let source = source(&vendor, "d", digest);
    let base = url_base(&source, &bench.context()).await.unwrap();
    fs_err::remove_file(&base.path).unwrap();
    fs_err::write(&base.path, &body[..1000]).unwrap();
    let again = url_base(&source, &bench.context()).await.unwrap();
    assert_eq!(fs_err::read(again.path).unwrap(), body);
    assert_eq!(vendor.requests().len(), 2);
}

#[tokio::test]
async fn a_file_that_is_no_disk_is_taken_as_it_is() {
    let body = b"\x7fELF and more".to_vec();
    let vendor = Vendor::new({
        let body = body.clone();
        move |request, _, stream| honest(request, stream, &body, "\"a\"")
    });
    let bench = Bench::new();
    let good = source(&vendor, "ttyd", sha256(&body));
    let path = url_file(&good, &bench.context()).await.unwrap();
    assert_eq!(fs_err::read(&path).unwrap(), body);
    assert_eq!(url_file(&good, &bench.context()).await.unwrap(), path);
    assert_eq!(vendor.requests(), [get("/ttyd")]);
    let bad = source(&vendor, "ttyd", sha256(b"other"));
    assert!(matches!(url_file(&bad, &bench.context()).await, Err(DownloadError::Digest { .. })));
    assert!(bench.files().is_empty(), "nothing of a wrong file is kept");
}
