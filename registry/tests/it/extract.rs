//! Disks out of images that strangers made, some of them to do harm.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::common::noise;
use fs_err as fs;
use labwright_core::{Cancel, Digest, Quiet, Reporter};
use labwright_registry::document::{ContainerConfig, Descriptor, ImageConfig, Manifest, RootFs};
use labwright_registry::media_type::{DOCKER_MANIFEST, OCI_CONFIG};
use labwright_registry::{ExtractLimits, Images, Layout, Remote, RemoteOptions};

/// One entry: name, type, bytes.
type Part<'a> = (&'a str, tar::EntryType, &'a [u8]);

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;

fn tar(parts: &[Part<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in parts {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Makes an image of these layers, tagged `t`; `diff_ids` may be empty.
fn image(dir: &Path, layers: &[Vec<u8>], diff_ids: Vec<Digest>) -> Vec<Descriptor> {
    let layout = Layout::open_or_create(dir.join("layout")).unwrap();
    let config = ImageConfig {
        architecture: "amd64".to_owned(),
        // What another version wrote must not be in the way of the disk.
        config: ContainerConfig {
            labels: [("dev.labwright.facts".to_owned(), r#"{"unknown":1}"#.to_owned())].into(),
            ..ContainerConfig::default()
        },
        created: None,
        history: Vec::new(),
        os: "linux".to_owned(),
        rootfs: RootFs { diff_ids, kind: "layers".to_owned() },
    };
    let layers: Vec<_> = layers.iter().map(|bytes| layout.add_bytes("whatever/the+maker", bytes).unwrap()).collect();
    let manifest = Manifest {
        annotations: [].into(),
        artifact_type: None,
        config: layout.add_bytes(OCI_CONFIG, &serde_json::to_vec(&config).unwrap()).unwrap(),
        layers: layers.clone(),
        media_type: Some(DOCKER_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    let manifest = layout.add_bytes(DOCKER_MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap();
    layout.tag("t", &manifest).unwrap();
    layers
}

fn extract_with(dir: &Path, limits: ExtractLimits) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let images = Images::new(dir.join("store"), Remote::new(RemoteOptions::default()).unwrap());
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let from = format!("oci:{}:t", dir.join("layout").display()).parse().unwrap();
    let out = dir.join("out.img");
    let result = runtime.block_on(images.extract_disk(&from, None, &out, &limits, &reporter, &Cancel::new()));
    // Nothing but the result is left beside it, and without a result not even that.
    let mut left: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    match result {
        Ok(disk) => {
            assert_eq!(left, ["layout", "out.img"]);
            let bytes = fs::read(&out).unwrap();
            assert_eq!(disk.facts, None);
            assert_eq!((disk.size, &disk.digest), (bytes.len() as u64, &Digest::sha256(&bytes)));
            fs::remove_file(out).unwrap();
            Ok(bytes)
        }
        Err(error) => {
            assert_eq!(left, ["layout"]);
            Err(std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": "))
        }
    }
}

fn extract(layers: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path(), layers, Vec::new());
    extract_with(dir.path(), ExtractLimits::default())
}

#[test]
fn takes_the_disk_out_of_every_kind_of_layer() {
    // Holes in the middle and at the end, and an odd length.
    let disk = [noise(1, 100_000), vec![0; 300_000], noise(2, 70_001), vec![0; 200_000]].concat();
    let plain = tar(&[("disk/", DIR, b""), ("disk/a.qcow2", FILE, &disk)]);
    let diff_id = Digest::sha256(&plain);
    for layer in [plain.clone(), gzip(&plain), zstd::encode_all(plain.as_slice(), 3).unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path(), std::slice::from_ref(&layer), vec![diff_id.clone()]);
        assert!(extract_with(dir.path(), ExtractLimits::default()).unwrap() == disk);
        image(dir.path(), &[layer], vec![Digest::sha256(b"another")]);
        let error = extract_with(dir.path(), ExtractLimits::default()).unwrap_err();
        assert!(error.ends_with("unpacks to other content than the image config promises"), "{error}");
    }
    for name in ["./disk/x", "/disk/x", "disk/sub/x"] {
        assert!(extract(&[tar(&[(name, FILE, b"d")])]).unwrap() == b"d", "{name}");
    }
}

#[test]
fn layers_hide_what_is_below() {
    let old = tar(&[("disk/old", FILE, b"old"), ("usr/bin/x", FILE, b"?"), ("bin", tar::EntryType::Symlink, b"")]);
    let new = |marks: &[Part<'_>]| tar(&[marks, &[("disk/new", FILE, b"new")]].concat());
    assert_eq!(extract(&[old.clone(), tar(&[("disk/old", FILE, b"newer")])]).unwrap(), b"newer");
    for mark in ["disk/.wh.old", "disk/.wh..wh..opq", ".wh.disk"] {
        assert_eq!(extract(&[old.clone(), new(&[(mark, FILE, b"")])]).unwrap(), b"new", "{mark}");
    }
    assert_eq!(
        extract(&[old.clone(), new(&[])]).unwrap_err(),
        "the image has several files below `/disk` (disk/new, disk/old): a containerDisk has exactly one"
    );
    assert_eq!(
        extract(&[old, tar(&[("disk/.wh.old", FILE, b"")])]).unwrap_err(),
        "the image has no file below `/disk`: it is not a containerDisk"
    );
    assert!(extract(&[]).unwrap_err().contains("no file below"));
}

#[test]
fn refuses_layers_that_are_made_to_do_harm() {
    let good: Part<'_> = ("disk/good", FILE, b"good");
    for (parts, wanted) in [
        (vec![good, ("../../etc/passwd", FILE, b"x")], "which leaves the directory"),
        (vec![good, ("disk/../../x", FILE, b"x")], "which leaves the directory"),
        (vec![good, ("disk/link", tar::EntryType::Symlink, b"")], "`disk/link` in the layer"),
        (vec![good, ("disk/link", tar::EntryType::Link, b"")], "is a link or a device"),
        (vec![("disk", tar::EntryType::Symlink, b""), good], "is a link or a device"),
        (vec![good, ("disk/sda", tar::EntryType::Block, b"")], "is a link or a device"),
        (vec![good, ("disk/fifo", tar::EntryType::Fifo, b"")], "is a link or a device"),
        (vec![("disk/sparse", tar::EntryType::GNUSparse, b"")], "the sparse file"),
    ] {
        let error = extract(&[gzip(&tar(&parts))]).unwrap_err();
        assert!(error.contains(wanted), "{parts:?}: {error}");
    }
    let whole = gzip(&tar(&[("disk/x", FILE, &noise(1, 100_000))]));
    for (layer, wanted) in [
        (whole[..whole.len() / 2].to_vec(), "is broken"),
        (b"hello".to_vec(), "the archive ends too early"),
        (Vec::new(), "the archive ends too early"),
        (vec![b'x'; 2000], "no valid tar header at byte 0"),
        (b"\xfd7zXZ\0\0\0".to_vec(), "neither plain nor compressed with gzip or zstd"),
    ] {
        let error = extract(&[layer]).unwrap_err();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn a_bomb_stops_early() {
    // 4 GiB of nothing in about four megabytes; the header alone is enough to refuse it.
    let mut header = tar::Header::new_gnu();
    header.set_path("disk/bomb").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let error = extract(&[gzip(header.as_bytes())]).unwrap_err();
    assert!(error.contains("unpacks to more than 1.0 GiB, which its "), "{error}");

    // An honest header before a bomb elsewhere, and a bomb behind the end mark: the bytes that come out are counted.
    let zeros = vec![0; 8 << 20];
    let limits = ExtractLimits { bytes: 1 << 30, ratio: 10, free: 1 << 20 };
    let elsewhere = tar(&[("disk/x", FILE, b"x"), ("tmp/bomb", FILE, &zeros)]);
    let behind = [tar(&[("disk/x", FILE, b"x")]), zeros.clone()].concat();
    let disk = tar(&[("disk/x", FILE, &zeros)]);
    for plain in [elsewhere, behind, disk] {
        for layer in [gzip(&plain), zstd::encode_all(plain.as_slice(), 3).unwrap()] {
            let dir = tempfile::tempdir().unwrap();
            image(dir.path(), &[layer], Vec::new());
            let error = extract_with(dir.path(), limits).unwrap_err();
            assert!(error.contains("unpacks to more than 1."), "{error}");
        }
    }
}

#[test]
fn a_layer_with_other_bytes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layers = image(dir.path(), &[tar(&[("disk/x", FILE, &noise(1, 5000))])], Vec::new());
    let path = Layout::open(dir.path().join("layout")).unwrap().blob_path(&layers[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[2000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = extract_with(dir.path(), ExtractLimits::default()).unwrap_err();
    assert!(error.contains("has other content than its digest promises"), "{error}");
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    let error = extract_with(dir.path(), ExtractLimits::default()).unwrap_err();
    assert!(error.contains("bytes instead of"), "{error}");
}

#[test]
fn archives_that_are_no_layouts_are_refused() {
    use labwright_registry::Archive;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let marker: Part<'_> = ("oci-layout", FILE, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: Part<'_> = ("index.json", FILE, br#"{"schemaVersion":2,"manifests":[]}"#);
    let blob = format!("blobs/sha256/{}", "a".repeat(64));
    let large = vec![b' '; 5 << 20];
    for (parts, wanted) in [
        (vec![marker], "lacks a valid `index.json`"),
        (vec![index], "lacks a valid `oci-layout`"),
        (vec![marker, ("index.json", FILE, b"{")], "lacks a valid `index.json`"),
        (vec![marker, index, index], "`index.json` in it is no regular file, or is there twice"),
        (vec![marker, ("index.json", tar::EntryType::Symlink, b"")], "no regular file"),
        (vec![marker, ("index.json", FILE, &large)], "no regular file"),
        (vec![marker, index, (&blob, FILE, b"1"), (&blob, FILE, b"2")], "is there twice"),
        (vec![marker, index, (&blob, tar::EntryType::Link, b"")], "no regular file"),
        (vec![marker, index, ("../x", FILE, b"1")], "is not a usable archive"),
    ] {
        fs::write(&path, tar(&parts)).unwrap();
        let error = Archive::open(&path).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    let whole = tar(&[marker, index, (&blob, FILE, &noise(1, 5000))]);
    fs::write(&path, &whole[..whole.len() - 4000]).unwrap();
    assert!(Archive::open(&path).unwrap_err().to_string().contains("is not a usable archive"));
}
