//! The image layout: several writers, interruptions, removal.

use std::io::Write as _;
use std::time::Duration;

use crate::common::noise;
use fs_err as fs;
use labwright_core::{Algorithm, Cancel, Digest};
use labwright_registry::annotations::REF_NAME;
use labwright_registry::document::{Descriptor, Index, Manifest};
use labwright_registry::media_type::{CYCLONEDX, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST};
use labwright_registry::{Adopt, Freed, Layout, LayoutError, artifacts, attach};

/// Adds an image of one layer and returns its manifest.
fn image(layout: &Layout, content: &[u8], subject: Option<&Descriptor>) -> Descriptor {
    let manifest = Manifest {
        annotations: [("n".to_owned(), "1".to_owned())].into(),
        artifact_type: subject.map(|_| "application/vnd.example".to_owned()),
        config: layout.add_bytes(OCI_CONFIG, b"{}").unwrap(),
        layers: vec![layout.add_bytes(OCI_LAYER_GZIP, content).unwrap()],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: subject.map(Descriptor::bare),
    };
    layout.add_bytes(OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap()
}

fn blobs(layout: &Layout) -> usize {
    fs::read_dir(layout.dir().join("blobs/sha256")).unwrap().count()
}

#[test]
fn tags_are_set_moved_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let (one, two) = (image(&layout, b"one", None), image(&layout, b"two", None));
    assert!(matches!(layout.resolve_only(), Err(LayoutError::Empty { .. })));
    layout.list(&one).unwrap();
    assert_eq!(layout.resolve_only().unwrap(), one);
    for (tag, target) in [("a:9.0.0", &one), ("a:10.0.0", &two), ("a:nightly", &one), ("ab:99.0.0", &one)] {
        layout.tag(tag, target).unwrap();
    }
    // The entry without a tag went when its content got one.
    assert_eq!(layout.index().unwrap().manifests.len(), 4);
    assert_eq!(layout.resolve_newest("a").unwrap().0, "a:10.0.0");
    assert_eq!(layout.resolve("a:10.0.0").unwrap().digest, two.digest);
    layout.tag("a:10.0.0", &one).unwrap();
    assert_eq!(layout.resolve("a:10.0.0").unwrap().digest, one.digest);
    assert!(layout.remove_tag("a:10.0.0").unwrap());
    assert!(!layout.remove_tag("a:10.0.0").unwrap());
    assert_eq!(
        layout.resolve("a:10.0.0").unwrap_err().to_string(),
        format!("`{}` has no image `a:10.0.0` (there is a:9.0.0, a:nightly, ab:99.0.0)", dir.path().display())
    );
    assert!(matches!(layout.resolve_only(), Err(LayoutError::Ambiguous { .. })));
}

#[test]
fn what_other_tools_wrote_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_INDEX}","digest":"{}","size":3,"annotations":null,"urls":["x"]}}],"vendor":{{"a":[1]}}}}"#,
        Digest::sha256(b"abc")
    );
    fs::write(dir.path().join("index.json"), text).unwrap();
    layout.tag("t", &Descriptor::of(OCI_MANIFEST, b"d")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["vendor"]["a"][0], 1);
    assert_eq!(index["manifests"][0]["urls"][0], "x");
    assert_eq!(index["manifests"][1]["annotations"][REF_NAME], "t");
}

#[test]
fn only_layouts_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Layout::open(dir.path()), Err(LayoutError::NoLayout { .. })));
    fs::write(dir.path().join("precious"), "").unwrap();
    assert!(
        matches!(Layout::open_or_create(dir.path()), Err(LayoutError::NotEmpty { entry, .. }) if entry == "precious")
    );
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(Layout::open(dir.path()), Err(LayoutError::Version { version, .. }) if version == "2.0.0"));
}

#[test]
fn writers_in_parallel_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let writers: Vec<_> = (0..8)
        .map(|number| {
            // Each thread opens the layout as another process would.
            let dir = dir.path().to_owned();
            std::thread::spawn(move || {
                let layout = Layout::open_or_create(dir).unwrap();
                for round in 0..5 {
                    let image = image(&layout, format!("{number} {round}").as_bytes(), None);
                    layout.tag(&format!("image:{number}-{round}"), &image).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(layout.tags().unwrap().len(), 40);
    assert_eq!(layout.gc(Duration::ZERO).unwrap(), Freed::default());
    // 40 layers, 40 manifests, one config.
    assert_eq!(blobs(&layout), 81);
}

#[test]
fn half_a_blob_and_a_wrong_blob_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let wanted = Descriptor::of(OCI_LAYER_GZIP, b"complete");
    let mut writer = layout.blob_writer(Algorithm::Sha256).unwrap();
    writer.write_all(b"comp").unwrap();
    assert!(!layout.has(&wanted));
    drop(writer);
    for (bytes, part) in [(&b"comp"[..], "has 4 bytes instead of 8"), (b"comPlete", "has the digest")] {
        let error = layout.add_from_reader(&wanted, bytes, |_| {}, &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // A reader without end is not read to its end.
    let endless = std::io::repeat(0);
    assert!(matches!(
        layout.add_from_reader(&wanted, endless, |_| {}, &Cancel::new()),
        Err(LayoutError::WrongSize { found: 9, .. })
    ));
    assert_eq!(blobs(&layout), 0);
    // A blob that was damaged later is noticed when it is read.
    layout.add_bytes(OCI_CONFIG, b"complete").unwrap();
    fs::write(layout.blob_path(&wanted.digest), b"damaged!").unwrap();
    assert!(matches!(layout.read_document(&wanted), Err(LayoutError::WrongDigest { .. })));
    fs::write(layout.blob_path(&wanted.digest), b"cut").unwrap();
    assert!(matches!(layout.read_document(&wanted), Err(LayoutError::WrongSize { found: 3, .. })));
    assert!(!layout.has(&wanted));
}

#[test]
fn files_are_moved_or_copied_in() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path().join("layout")).unwrap();
    let (file, content) = (dir.path().join("file"), noise(3, 2_500_000));
    fs::write(&file, &content).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    // Stopping in time leaves the file where it was.
    assert!(layout.add_blob_from_file(OCI_LAYER_GZIP, &file, Adopt::Move, &cancel).is_err());
    assert!(fs::read(&file).unwrap() == content);
    let copied = layout.add_blob_from_file(OCI_LAYER_GZIP, &file, Adopt::Copy, &Cancel::new()).unwrap();
    assert_eq!(copied, Descriptor::of(OCI_LAYER_GZIP, &content));
    fs::remove_file(layout.blob_path(&copied.digest)).unwrap();
    let moved = layout.add_blob_from_file(OCI_LAYER_GZIP, &file, Adopt::Move, &Cancel::new()).unwrap();
    assert_eq!(moved, copied);
    assert!(!file.exists());
    assert!(fs::read(layout.blob_path(&moved.digest)).unwrap() == content);
    assert_eq!(blobs(&layout), 1);
}

#[test]
fn gc_keeps_what_is_reached_and_what_is_young() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let kept = image(&layout, b"kept", None);
    let index = layout.add_bytes(OCI_INDEX, &serde_json::to_vec(&Index::new(vec![kept.clone()])).unwrap()).unwrap();
    layout.tag("kept:1", &index).unwrap();
    let signature = image(&layout, b"signature", Some(&kept));
    let on_signature = image(&layout, b"countersignature", Some(&signature));
    let lost = image(&layout, b"lost", None);
    let on_lost = image(&layout, b"signature of what is lost", Some(&lost));
    fs::write(dir.path().join("blobs/sha256/.labwright-broken"), b"half").unwrap();
    fs::write(dir.path().join("blobs/sha256/of-another-tool"), b"?").unwrap();

    assert_eq!(layout.gc(Duration::from_hours(1)).unwrap(), Freed::default());
    let guard = layout.begin_write().unwrap();
    assert!(matches!(layout.gc(Duration::ZERO), Err(LayoutError::Busy { .. })));
    guard.close();

    let freed = layout.gc(Duration::ZERO).unwrap();
    let bytes = lost.size + on_lost.size + "lost".len() as u64 + "signature of what is lost".len() as u64 + 4;
    assert_eq!(freed, Freed { blobs: 5, bytes });
    for descriptor in [&kept, &index, &signature, &on_signature] {
        assert!(layout.has(descriptor));
    }
    assert!(layout.has(&Descriptor::of(OCI_LAYER_GZIP, b"countersignature")));
    assert!(!layout.has(&lost) && !layout.has(&on_lost));
    assert!(dir.path().join("blobs/sha256/of-another-tool").exists());
    layout.remove_tag("kept:1").unwrap();
    layout.gc(Duration::ZERO).unwrap();
    assert_eq!(blobs(&layout), 1);
}

#[test]
fn what_is_attached_is_listed_and_goes_with_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let first = image(&layout, b"first", None);
    let second = image(&layout, b"second", None);
    layout.tag("first:1", &first).unwrap();
    let sbom = attach(&layout, &first, CYCLONEDX, b"{\"bomFormat\":\"CycloneDX\"}").unwrap();
    assert_eq!(attach(&layout, &first, CYCLONEDX, b"{\"bomFormat\":\"CycloneDX\"}").unwrap(), sbom);
    assert_eq!(artifacts(&layout, &first.digest).unwrap(), [CYCLONEDX]);
    assert_eq!(artifacts(&layout, &second.digest).unwrap(), [] as [&str; 0]);
    let listed = layout.index().unwrap().manifests;
    assert_eq!(listed.len(), 2);
    let entry = listed.iter().find(|entry| entry.digest == sbom.digest).unwrap();
    assert_eq!((entry.artifact_type.as_deref(), entry.annotations.len()), (Some(CYCLONEDX), 0));
    // It is no second image.
    assert_eq!(layout.resolve_only().unwrap().digest, first.digest);

    layout.tag("second:1", &second).unwrap();
    layout.gc(Duration::ZERO).unwrap();
    assert!(layout.has(&sbom) && layout.has(&Descriptor::of(CYCLONEDX, b"{\"bomFormat\":\"CycloneDX\"}")));
    layout.remove_tag("first:1").unwrap();
    layout.gc(Duration::ZERO).unwrap();
    assert!(!layout.has(&sbom) && !layout.has(&first) && layout.has(&second));
    let left: Vec<_> = layout.index().unwrap().manifests.into_iter().map(|entry| entry.digest).collect();
    assert_eq!(left, [second.digest]);
}
