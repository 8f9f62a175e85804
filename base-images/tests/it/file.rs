//! Disks from the user's own files.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::common::{Bench, disk, sha256};
use labwright_base_images::{DiskFormat, FileBaseError, Origin, file_base};
use labwright_core::{ByteSize, Cancel, Event, Quiet};

#[test]
fn a_file_is_copied_and_may_change_afterwards() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("disk.img");
    let mut body = disk(1, 1);
    body.resize(40 << 20, 0);
    fs_err::write(&path, &body).unwrap();
    let digest = sha256(&body);
    let base = file_base(&path, &digest, &bench.cache, &*bench.told, &Cancel::new()).unwrap();
    fs_err::write(&path, vec![1; body.len()]).unwrap();
    assert_eq!(fs_err::read(&base.path).unwrap(), body);
    assert_eq!((base.format, base.virtual_size), (DiskFormat::Raw, ByteSize::from_bytes(40 << 20)));
    assert_eq!((base.name.as_str(), &base.digest), ("disk.img", &digest));
    assert_eq!(bench.cache.list().unwrap(), [(base.clone(), Origin::File { path: path.clone() })]);
    let last = bench.told.0.lock().unwrap().last().cloned();
    let task = format!("digest of {}", path.display());
    assert_eq!(last, Some(Event::Progress { task, done: 40 << 20, total: Some(40 << 20) }));

    let metadata = fs_err::metadata(&base.path).unwrap();
    assert!(metadata.blocks() * 512 < 8 << 20, "the hole was filled: {} blocks", metadata.blocks());
    assert_eq!(metadata.mode() & 0o777, 0o444);
}

#[test]
fn another_file_than_the_recipe_means() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("disk.img");
    let body = disk(1, 2);
    fs_err::write(&path, &body).unwrap();
    let (expected, found) = (sha256(b"another"), sha256(&body));
    let error = file_base(&path, &expected, &bench.cache, &Quiet, &Cancel::new()).unwrap_err().to_string();
    let text = format!(
        "{} has the digest {found}, not {expected}: the file was changed, or the digest is another file's",
        path.display()
    );
    assert_eq!(error, text);
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}

#[test]
fn what_is_no_safe_disk_is_refused() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("disk.img");
    let body = b"KDMV and so on".repeat(512);
    fs_err::write(&path, &body).unwrap();
    let refused = |path: &std::path::Path| {
        let error = file_base(path, &sha256(&body), &bench.cache, &Quiet, &Cancel::new()).unwrap_err();
        assert!(matches!(error, FileBaseError::Refused { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("cannot use {} as a base", path.display()));
    };
    refused(&path);
    refused(outside.path());
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
    let missing = outside.path().join("missing");
    let error = file_base(&missing, &sha256(b""), &bench.cache, &Quiet, &Cancel::new()).unwrap_err();
    assert!(matches!(error, FileBaseError::Read(_)), "{error:?}");
}

#[test]
fn a_stopped_copy_leaves_nothing() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("disk.img");
    let body = disk(1, 3);
    fs_err::write(&path, &body).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let error = file_base(&path, &sha256(&body), &bench.cache, &Quiet, &cancel).unwrap_err();
    assert!(matches!(error, FileBaseError::Cancelled(_)), "{error:?}");
    assert_eq!(bench.files(), Vec::<PathBuf>::new());
}
