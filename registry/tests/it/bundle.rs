//! Lab bundles: how they are packed, and what is refused when they are read.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{causes, facts, noise};
use fs_err as fs;
use labwright_core::{Arch, Cancel, Digest, ImageRef, Quiet};
use labwright_registry::bundle::{
    BundlePackError, Chart, Contents, MAX_MEMBERS, MAX_UNPACKED, PackedBundle, pack, unpack,
};
use labwright_registry::container_disk;
use labwright_registry::document::{Descriptor, Document, Manifest};
use labwright_registry::media_type::{LAB, LAB_CONFIG, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use labwright_registry::{Images, Layout, LayoutError, Remote, RemoteOptions};

pub(crate) const CONFIG: &[u8] = br#"{"name":"web-101"}"#;

pub(crate) fn lab_files() -> BTreeMap<String, Vec<u8>> {
    [
        ("kustomization.yaml", "resources: [base]\n"),
        ("base/vm.yaml", "kind: VirtualMachine\n"),
        (".imgpkg/images.yml", "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\n"),
        ("README.md", ""),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .into()
}

pub(crate) fn chart_files(name: &str) -> BTreeMap<String, Vec<u8>> {
    [
        (format!("{name}/Chart.yaml"), format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n").into_bytes()),
        (format!("{name}/templates/vm.yaml"), b"kind: VirtualMachine\n".to_vec()),
    ]
    .into()
}

/// Packs a lab with a chart of the same name.
pub(crate) fn pack_lab(layout: &Layout, tag: &str, name: &str, images: &[(String, Digest)]) -> PackedBundle {
    let chart_config = format!(r#"{{"apiVersion":"v2","name":"{name}","version":"1.0.0"}}"#);
    let mut files = lab_files();
    files.insert("lab.yaml".to_owned(), format!("name: {name}\n").into_bytes());
    let contents = Contents {
        tag,
        config: CONFIG,
        files: &files,
        file_name: "web-101-1.0.0.tar.gz",
        annotations: &[("org.opencontainers.image.title".to_owned(), name.to_owned())].into(),
        created: None,
        chart: Some(Chart {
            name,
            version: "1.0.0",
            config: chart_config.as_bytes(),
            files: &chart_files(name),
            annotations: &BTreeMap::new(),
        }),
        images,
    };
    pack(layout, &contents).unwrap()
}

fn manifest(layout: &Layout, descriptor: &Descriptor) -> Manifest {
    let Document::Manifest(manifest) = layout.document(descriptor).unwrap() else { panic!("an index") };
    manifest
}

fn text(layout: &Layout, descriptor: &Descriptor) -> String {
    String::from_utf8(layout.read_document(descriptor).unwrap()).unwrap()
}

fn images(dir: &Path) -> Images {
    Images::new(dir.join("store"), Remote::new(RemoteOptions::default()).unwrap())
}

#[test]
fn the_documents_are_exactly_these() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let layout = Layout::open_or_create(one.path()).unwrap();
    let packed = pack_lab(&layout, "web-101:1.0.0", "web-101", &[]);
    // Where it is packed, and under which tag, makes no difference.
    let other = Layout::open_or_create(two.path()).unwrap();
    pack_lab(&other, "x", "another-lab", &[]);
    let again = pack_lab(&other, "2", "web-101", &[("web".to_owned(), Digest::sha256(b"not here"))]);
    assert_eq!(again, packed);

    let (layer, imgpkg, chart) = (&packed.layer, &packed.imgpkg, packed.chart.as_ref().unwrap());
    let config = Descriptor::of(LAB_CONFIG, CONFIG);
    assert_eq!(
        text(&layout, &packed.bundle),
        format!(
            r#"{{"annotations":{{"dev.labwright.lab.chart":"web-101:1.0.0@{}","dev.labwright.lab.imgpkg":"{}","org.opencontainers.image.created":"1970-01-01T00:00:00Z","org.opencontainers.image.title":"web-101"}},"artifactType":"application/vnd.labwright.lab.v1","config":{{"digest":"{}","mediaType":"application/vnd.labwright.lab.config.v1+json","size":18}},"layers":[{{"annotations":{{"org.opencontainers.image.title":"web-101-1.0.0.tar.gz"}},"digest":"{}","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":{}}}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
            chart.digest, imgpkg.digest, config.digest, layer.digest, layer.size
        )
    );
    // 5 files and 2 directories, of which 4 files have bytes, and the end mark; gzip adds 10 + 5 + 8.
    assert_eq!(layer.size, 7 * 512 + 4 * 512 + 1024 + 23);
    let mut tar = Vec::new();
    let bytes = fs::read(layout.blob_path(&layer.digest)).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut tar).unwrap();
    let mut members = Vec::new();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        members.push(format!(
            "{} {:o} {} {} {} {}",
            entry.path().unwrap().display(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            header.size().unwrap()
        ));
    }
    assert_eq!(
        members,
        [
            ".imgpkg/ 755 0 0 0 0",
            ".imgpkg/images.yml 644 0 0 0 56",
            "README.md 644 0 0 0 0",
            "base/ 755 0 0 0 0",
            "base/vm.yaml 644 0 0 0 21",
            "kustomization.yaml 644 0 0 0 18",
            "lab.yaml 644 0 0 0 14",
        ]
    );

    let alias = manifest(&layout, imgpkg);
    assert_eq!(
        text(&layout, imgpkg),
        format!(
            r#"{{"config":{{"digest":"{}","mediaType":"application/vnd.docker.container.image.v1+json","size":{}}},"layers":[{{"digest":"{}","mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":{}}}],"mediaType":"application/vnd.docker.distribution.manifest.v2+json","schemaVersion":2}}"#,
            alias.config.digest, alias.config.size, layer.digest, layer.size
        )
    );
    assert_eq!(
        text(&layout, &alias.config),
        format!(
            r#"{{"architecture":"amd64","config":{{"Labels":{{"dev.carvel.imgpkg.bundle":"true"}}}},"created":"1970-01-01T00:00:00Z","os":"linux","rootfs":{{"diff_ids":["{}"],"type":"layers"}}}}"#,
            Digest::sha256(&tar)
        )
    );
    let helm = manifest(&layout, chart);
    assert_eq!(
        text(&layout, chart),
        format!(
            r#"{{"annotations":{{"org.opencontainers.image.created":"1970-01-01T00:00:00Z","org.opencontainers.image.title":"web-101","org.opencontainers.image.version":"1.0.0"}},"config":{{"digest":"{}","mediaType":"application/vnd.cncf.helm.config.v1+json","size":{}}},"layers":[{{"digest":"{}","mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","size":{}}}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
            helm.config.digest, helm.config.size, helm.layers[0].digest, helm.layers[0].size
        )
    );
    assert_eq!(unpack(&fs::read(layout.blob_path(&helm.layers[0].digest)).unwrap()).unwrap(), chart_files("web-101"));
}

#[tokio::test]
async fn a_bundle_is_told_from_an_image_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path().join("store")).unwrap();
    let image = Manifest {
        annotations: [].into(),
        artifact_type: None,
        config: layout.add_bytes(OCI_CONFIG, b"{}").unwrap(),
        layers: Vec::new(),
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    let image = layout.add_bytes(OCI_MANIFEST, &serde_json::to_vec(&image).unwrap()).unwrap();
    layout.tag("debian:1", &image).unwrap();
    let packed = pack_lab(&layout, "web-101:1.0.0-rc.1", "web-101", &[("web".to_owned(), image.digest.clone())]);
    let (images, cancel) = (images(dir.path()), Cancel::new());
    assert_eq!(images.inspect_lab(&"debian:1".parse().unwrap(), &cancel).await.unwrap(), None);
    let error = images.lab_files(&"debian:1".parse().unwrap(), &cancel).await.unwrap_err();
    assert_eq!(error.to_string(), "`debian:1` is not a lab bundle");
    // As versions, its own parts would be newer.
    let lab = images.inspect_lab(&"web-101".parse().unwrap(), &cancel).await.unwrap().unwrap();
    let chart = lab.chart.unwrap();
    assert_eq!((lab.digest, lab.config.as_slice()), (packed.bundle.digest.clone(), CONFIG));
    assert_eq!((chart.name.as_str(), chart.tag.as_str()), ("web-101", "1.0.0"));
    assert_eq!(
        (Some(chart.digest), lab.imgpkg),
        (packed.chart.map(|chart| chart.digest), Some(packed.imgpkg.digest.clone()))
    );
    assert_eq!(lab.annotations["org.opencontainers.image.title"], "web-101");
    assert_eq!(lab.layer.digest, packed.layer.digest);
    let mut expected = lab_files();
    expected.insert("lab.yaml".to_owned(), b"name: web-101\n".to_vec());
    assert_eq!(images.lab_files(&"web-101".parse().unwrap(), &cancel).await.unwrap(), expected);

    // The image stays as long as the lab that needs it, and the lab's parts go with its tags.
    layout.remove_tag("debian:1").unwrap();
    layout.gc(std::time::Duration::ZERO).unwrap();
    assert!(layout.has(&image));
    let tags: Vec<_> = layout.tags().unwrap().into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(tags, ["", "-chart", "-imgpkg", ".web"].map(|end| format!("web-101:1.0.0-rc.1{end}")));
    pack_lab(&layout, "web-101:1.0.0-rc.1", "web-101", &[]);
    layout.gc(std::time::Duration::ZERO).unwrap();
    assert!(!layout.has(&image));
    let second = pack_lab(&layout, "web-101:0.9.0", "second", &[]);
    assert!(layout.remove_tag("web-101:0.9.0").unwrap());
    layout.gc(std::time::Duration::ZERO).unwrap();
    assert!(!layout.has(&second.imgpkg) && layout.has(&packed.imgpkg));

    // A layer that was tampered with is found out.
    let path = layout.blob_path(&packed.layer.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = images.lab_files(&"web-101".parse().unwrap(), &cancel).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the layer {} of the lab bundle `web-101` has the digest", packed.layer.digest))
    );
}

#[tokio::test]
async fn manifests_that_are_not_quite_bundles_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path().join("layout")).unwrap();
    let good = || Manifest {
        annotations: [].into(),
        artifact_type: Some(LAB.to_owned()),
        config: layout.add_bytes(LAB_CONFIG, CONFIG).unwrap(),
        layers: vec![layout.add_bytes(OCI_LAYER_GZIP, b"x").unwrap()],
        media_type: Some(OCI_MANIFEST.to_owned()),
        schema_version: 2,
        subject: None,
    };
    let annotated = |key: &str, value: &str| Manifest {
        annotations: [(format!("dev.labwright.lab.{key}"), value.to_owned())].into(),
        ..good()
    };
    let of_kind = |kind: &str| Manifest { artifact_type: Some(kind.to_owned()), ..good() };
    let huge = Descriptor::new(OCI_LAYER_GZIP, Digest::sha256(b"x"), 17 << 20);
    let cases = [
        (of_kind("application/vnd.labwright.lab.v2"), "is a lab bundle of the kind `application/vnd.labwright.lab.v2`"),
        (of_kind("application/x"), "is broken: its artifact type is wrong"),
        (Manifest { config: layout.add_bytes(OCI_CONFIG, b"{}").unwrap(), ..good() }, "has another media type"),
        (Manifest { layers: Vec::new(), ..good() }, "not exactly one gzip-compressed layer"),
        (Manifest { layers: [good().layers, good().layers].concat(), ..good() }, "not exactly one gzip-compressed"),
        (annotated("imgpkg", "latest"), "its manifest for imgpkg is not named by a digest"),
        (annotated("chart", "../x:1"), "its chart is not named as NAME:TAG@DIGEST"),
        (Manifest { layers: vec![huge], ..good() }, "cannot be used: it has 17825792 bytes"),
        (good(), "cannot be used: it is not a whole gzip stream"),
    ];
    let images = images(dir.path());
    for (manifest, part) in cases {
        let descriptor = layout.add_bytes(OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap()).unwrap();
        layout.tag("t", &descriptor).unwrap();
        let lab: ImageRef = format!("oci:{}:t", layout.dir().display()).parse().unwrap();
        let inspected = images.inspect_lab(&lab, &Cancel::new()).await;
        let error = match inspected {
            Err(error) => error,
            Ok(found) => {
                assert!(found.is_some());
                images.lab_files(&lab, &Cancel::new()).await.unwrap_err()
            }
        };
        let error = causes(&error);
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_cannot_be_read_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let empty = BTreeMap::new();
    let try_pack = |files: &BTreeMap<String, Vec<u8>>, chart: Option<(&str, &str)>| {
        let (chart_files, none) = (chart_files("web"), BTreeMap::new());
        let contents = Contents {
            tag: "t",
            config: CONFIG,
            files,
            file_name: "lab.tar.gz",
            annotations: &BTreeMap::new(),
            created: Some(1),
            chart: chart.map(|(name, version)| Chart {
                name,
                version,
                config: b"{}",
                files: &chart_files,
                annotations: &none,
            }),
            images: &[],
        };
        pack(&layout, &contents)
    };
    let one = |name: &str, bytes: Vec<u8>| [(name.to_owned(), bytes)].into();
    for name in ["/etc/passwd", "../x", "a//b", "a/", ".", "a\tb", &"a".repeat(101), &format!("{}/b", "a".repeat(156))]
    {
        let error = try_pack(&one(name, Vec::new()), None).unwrap_err();
        assert!(matches!(error, BundlePackError::Name { archive: "the bundle", .. }), "{name}: {error}");
    }
    let many: BTreeMap<_, _> = (0..=MAX_MEMBERS).map(|at| (format!("f{at}"), Vec::new())).collect();
    assert_eq!(
        try_pack(&many, None).unwrap_err().to_string(),
        "the bundle has 1001 files and directories; at most 1000 are allowed"
    );
    let large = one("a", vec![0; usize::try_from(MAX_UNPACKED).unwrap()]);
    assert_eq!(try_pack(&large, None).unwrap_err().to_string(), "the bundle has more than 16777216 bytes");
    assert_eq!(
        try_pack(&empty, Some(("we", "1"))).unwrap_err().to_string(),
        "the chart's file `web/Chart.yaml` is not below `we/`"
    );
    assert_eq!(
        try_pack(&empty, Some(("web", "1 2"))).unwrap_err().to_string(),
        "`web` of version `1 2` cannot be the name of a chart in a registry"
    );
    // Nothing was written; and what is allowed to the last byte can be read.
    assert!(layout.tags().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
    let longest = format!("{}/{}/{}", "a".repeat(99), "b".repeat(54), "c".repeat(100));
    let full = one(&longest, noise(1, usize::try_from(MAX_UNPACKED).unwrap() - 1024 - 3 * 512 - 4096));
    let packed = try_pack(&full, Some(("web", "1.0.0+x"))).unwrap();
    assert!(unpack(&fs::read(layout.blob_path(&packed.layer.digest)).unwrap()).unwrap() == full);
    assert!(text(&layout, &packed.bundle).contains(r#""dev.labwright.lab.chart":"web:1.0.0_x@sha256:"#));
}

#[test]
fn a_lab_takes_no_tag_from_an_image_or_another_lab() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path()).unwrap();
    let first = pack_lab(&layout, "1.0.0-rc", "first", &[]);
    // The machine `1` of the lab `1.0.0-rc` would have the tag of this lab.
    let second = pack_lab(&layout, "1.0.0-rc.1", "second", &[]);
    let pack_again = |tag: &str, images: &[(String, Digest)]| {
        let contents = Contents {
            tag,
            config: CONFIG,
            files: &lab_files(),
            file_name: "x",
            annotations: &BTreeMap::new(),
            created: None,
            chart: None,
            images,
        };
        pack(&layout, &contents)
    };
    let before = layout.index().unwrap();
    let error = pack_again("1.0.0-rc", &[("1".to_owned(), first.imgpkg.digest.clone())]).unwrap_err();
    assert!(matches!(error, BundlePackError::Layout(LayoutError::TagTaken { ref tag, .. }) if tag == "1.0.0-rc.1"));
    let error = pack_again("1.0.0-rc-imgpkg", &[]).unwrap_err();
    assert!(matches!(error, BundlePackError::Layout(LayoutError::TagTaken { by: "an image", .. })), "{error}");
    assert_eq!(layout.index().unwrap(), before);
    assert_eq!(layout.resolve("1.0.0-rc.1").unwrap().digest, second.bundle.digest);

    // Nor does an image take one from a lab.
    pack_lab(&layout, "debian-terminal:1.0.0", "debian-terminal", &[]);
    let disk = dir.path().join("blobs/disk");
    fs::write(&disk, b"disk").unwrap();
    let error = container_disk::pack(&layout, &disk, &facts(Arch::Amd64), None, &Quiet, &Cancel::new()).unwrap_err();
    assert_eq!(
        causes(&error),
        format!(
            "`debian-terminal:1.0.0` cannot be extended by another architecture: `debian-terminal:1.0.0` in `{}` names a lab already: choose another name or version",
            dir.path().display()
        )
    );
}
