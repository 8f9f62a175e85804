//! Whole labs on their way: images, chart and bundle, between stores, layouts, archives and registries.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::bundle::{CONFIG, lab_files, pack_lab};
use crate::common::{DockerRegistry, Kept, causes, facts, have, noise, run};
use crate::fake::{Fake, Knobs};
use fs_err as fs;
use labwright_core::{Arch, Cancel, Digest, Event, ImageFacts, Quiet, Reporter};
use labwright_registry::Packed;
use labwright_registry::bundle::PackedBundle;
use labwright_registry::container_disk::pack;
use labwright_registry::document::Document;
use labwright_registry::media_type::{CYCLONEDX, OCI_MANIFEST};
use labwright_registry::{
    Archive, CopiedLab, Images, ImagesError, LabError, LabImage, Layout, Remote, RemoteOptions, attach,
};

/// Packs a disk for one architecture into the store of a directory.
fn disk(dir: &Path, name: &str, arch: Arch, seed: u64) -> Packed {
    let layout = Layout::open_or_create(dir.join("store")).unwrap();
    fs::write(dir.join("disk"), noise(seed, 200_000)).unwrap();
    let facts = ImageFacts { name: name.to_owned(), ..facts(arch) };
    pack(&layout, &dir.join("disk"), &facts, None, &Quiet, &Cancel::new()).unwrap()
}

/// A lab with the machines `web` (two architectures and a list of contents) and `db`.
pub(crate) struct Lab {
    pub(crate) packed: PackedBundle,
    pub(crate) images: Vec<LabImage>,
    sbom: Digest,
}

impl Lab {
    pub(crate) fn pack(dir: &Path, name: &str, seed: u64) -> Self {
        let amd64 = disk(dir, &format!("{name}-web"), Arch::Amd64, seed);
        let web = disk(dir, &format!("{name}-web"), Arch::Arm64, seed + 1).index.digest;
        let db = disk(dir, &format!("{name}-db"), Arch::Amd64, seed + 2).index.digest;
        let layout = Layout::open(dir.join("store")).unwrap();
        let sbom = attach(&layout, &amd64.manifest, CYCLONEDX, name.as_bytes()).unwrap().digest;
        let digests = [("web".to_owned(), web.clone()), ("db".to_owned(), db.clone())];
        let packed = pack_lab(&layout, &format!("{name}:1.0.0"), name, &digests);
        let images = [("web", web), ("db", db)].map(|(machine, digest)| LabImage {
            machine: machine.to_owned(),
            reference: format!("127.0.0.1:1/nowhere/{machine}:1").parse().unwrap(),
            digest,
        });
        Self { packed, images: images.to_vec(), sbom }
    }

    pub(crate) async fn copy_with(
        &self,
        images: &Images,
        from: &str,
        to: &str,
        reporter: &Arc<dyn Reporter>,
    ) -> Result<CopiedLab, ImagesError> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        images.copy_lab(&from, &self.packed.bundle.digest, &to, &self.images, reporter, &Cancel::new()).await
    }

    pub(crate) async fn copy(&self, images: &Images, from: &str, to: &str) -> Result<CopiedLab, ImagesError> {
        let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
        self.copy_with(images, from, to, &reporter).await
    }

    /// What the tags end with, and what they name; `chart` is how the chart's tag ends, if it is beside the bundle.
    fn tags(&self, tag: &str, chart: Option<&str>) -> Vec<(String, Digest)> {
        let mut tags = vec![
            (tag.to_owned(), self.packed.bundle.digest.clone()),
            (format!("{tag}-imgpkg"), self.packed.imgpkg.digest.clone()),
            (format!("{tag}.db"), self.images[1].digest.clone()),
            (format!("{tag}.web"), self.images[0].digest.clone()),
        ];
        if let Some(end) = chart {
            tags.insert(1, (format!("{tag}{end}"), self.packed.chart.as_ref().unwrap().digest.clone()));
        }
        tags
    }
}

pub(crate) fn images(dir: &Path, registries: &[&str]) -> Images {
    let options = RemoteOptions {
        plain_http: registries.iter().map(|&host| host.to_owned()).collect(),
        backoff: Duration::from_millis(5),
        retries: 1,
        ..RemoteOptions::default()
    };
    Images::new(dir.join("store"), Remote::new(options).unwrap())
}

fn layout_tags(dir: &Path) -> Vec<(String, Digest)> {
    let tags = Layout::open(dir).unwrap().tags().unwrap();
    tags.into_iter().map(|(tag, descriptor)| (tag, descriptor.digest)).collect()
}

#[tokio::test]
async fn through_layouts_and_an_archive_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Lab::pack(dir.path(), "first", 10), Lab::pack(dir.path(), "second", 20));
    let images = images(dir.path(), &[]);
    let at = |name: &str| dir.path().join(name).display().to_string();

    // Two labs in one layout, with the same names of machines.
    let both = format!("oci:{}", at("both"));
    let copied = first.copy(&images, "first:1.0.0", &format!("{both}:first-1")).await.unwrap();
    // Three disks, their configs, a list with its empty config; the layers and configs of the bundle, imgpkg and chart.
    assert_eq!((copied.bundle.sent, copied.bundle.existed), (6 + 2 + 2 + 1 + 2, 0));
    assert_eq!(copied.bundle.tag.as_deref(), Some("first-1"));
    assert_eq!((copied.parts.len(), copied.parts[0].0.as_str()), (4, "first-1.web"));
    second.copy(&images, "second", &format!("{both}:second-1")).await.unwrap();
    let expected = [first.tags("first-1", Some("-chart")), second.tags("second-1", Some("-chart"))].concat();
    assert_eq!(layout_tags(&dir.path().join("both")), expected);
    let again = first.copy(&images, "first:1.0.0", &format!("{both}:first-1")).await.unwrap();
    assert_eq!((again.bundle.sent, again.bundle.existed), (0, copied.bundle.sent));
    assert_eq!(layout_tags(&dir.path().join("both")), expected);

    // An archive holds one lab, whole, and is the same wherever the lab came from.
    let copied =
        first.copy(&images, &format!("{both}:first-1"), &format!("oci-archive:{}:x", at("a.tar"))).await.unwrap();
    assert_eq!(copied.bundle.sent, 13);
    first.copy(&images, "first:1.0.0", &format!("oci-archive:{}:x", at("b.tar"))).await.unwrap();
    assert!(fs::read(dir.path().join("a.tar")).unwrap() == fs::read(dir.path().join("b.tar")).unwrap());
    let archive = Archive::open(dir.path().join("a.tar")).unwrap();
    // Without a tag, it is the lab.
    assert_eq!(archive.resolve(None).unwrap().digest, first.packed.bundle.digest);
    let (lab, cancel) = (format!("oci-archive:{}", at("a.tar")).parse().unwrap(), Cancel::new());
    let inspected = images.inspect_lab(&lab, &cancel).await.unwrap().unwrap();
    assert_eq!((inspected.digest, inspected.config.as_slice()), (first.packed.bundle.digest.clone(), CONFIG));
    assert!(images.lab_files(&lab, &cancel).await.unwrap().contains_key("lab.yaml"));

    // From the archive into another store, where the lab and its images can be used; the list of contents came along.
    let other = Images::new(dir.path().join("other"), Remote::new(RemoteOptions::default()).unwrap());
    first.copy(&other, &format!("oci-archive:{}", at("a.tar")), "taken:2").await.unwrap();
    assert_eq!(layout_tags(&dir.path().join("other")), first.tags("taken:2", Some("-chart")));
    let read = other.attached(&"taken:2.web".parse().unwrap(), Some(Arch::Amd64), CYCLONEDX, &cancel).await.unwrap();
    assert_eq!(read.as_deref(), Some(&b"first"[..]));
    assert!(Layout::open(dir.path().join("other")).unwrap().blob_path(&first.sbom).exists());
    first.copy(&other, "taken", &format!("oci-archive:{}:x", at("c.tar"))).await.unwrap();
    assert!(fs::read(dir.path().join("a.tar")).unwrap() == fs::read(dir.path().join("c.tar")).unwrap());

    // A damaged blob is found while the archive is written, and the archive stays as it was.
    let blob = Layout::open(dir.path().join("other")).unwrap().blob_path(&first.packed.layer.digest);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let error = first.copy(&other, "taken", &format!("oci-archive:{}:x", at("c.tar"))).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("the blob {} in", first.packed.layer.digest)), "{error}");
    assert!(fs::read(dir.path().join("a.tar")).unwrap() == fs::read(dir.path().join("c.tar")).unwrap());
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with(".labwright-")).count(), 0);
}

#[tokio::test]
async fn an_image_that_is_not_beside_the_lab_comes_from_where_its_reference_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::pack(dir.path(), "first", 30);
    let images = images(dir.path(), &[]);
    let store = Layout::open(dir.path().join("store")).unwrap();
    let elsewhere = dir.path().join("elsewhere").display().to_string();
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let web = "first-web:1.0.0".parse().unwrap();
    let there = format!("oci:{elsewhere}:w").parse().unwrap();
    images.copy(&web, &there, &labwright_registry::CopyOptions::default(), &reporter, &Cancel::new()).await.unwrap();

    // The store has the index, and not all that it lists.
    let Document::Index(index) = store.document(&store.resolve("first-web:1.0.0").unwrap()).unwrap() else { panic!() };
    let Document::Manifest(arm64) = store.document(&index.manifests[1]).unwrap() else { panic!() };
    fs::remove_file(store.blob_path(&arm64.layers[0].digest)).unwrap();
    let target = format!("oci:{}:1", dir.path().join("target").display());
    let error = lab.copy(&images, "first", &target).await.unwrap_err();
    let text = causes(&error);
    assert!(
        text.starts_with(&format!(
            "the image {} of the machine `web` is neither beside the lab `first` nor at `127.0.0.1:1/nowhere/web:1`: ",
            lab.images[0].digest
        )),
        "{text}"
    );
    assert!(!dir.path().join("target").exists());
    // Another image under that reference is not taken.
    lab.images[0].reference = "first-db:1.0.0".parse().unwrap();
    fs::remove_file(store.blob_path(&index.manifests[1].digest)).unwrap();
    let error = lab.copy(&images, "first", &target).await.unwrap_err();
    assert!(matches!(error, ImagesError::Lab(LabError::NoImage { source: None, .. })), "{error:?}");

    lab.images[0].reference = format!("oci:{elsewhere}:w").parse().unwrap();
    lab.copy(&images, "first", &target).await.unwrap();
    assert_eq!(layout_tags(&dir.path().join("target")), lab.tags("1", Some("-chart")));
    let target = Layout::open(dir.path().join("target")).unwrap();
    assert!(target.has(&arm64.layers[0]) && target.has(&index.manifests[1]));

    // What only other tools need may be missing; it is said.
    fs::remove_file(store.blob_path(&lab.packed.imgpkg.digest)).unwrap();
    let kept = Arc::new(Kept::default());
    let reporter: Arc<dyn Reporter> = kept.clone();
    let to = format!("oci:{}:1", dir.path().join("without").display());
    let copied = lab.copy_with(&images, "first", &to, &reporter).await.unwrap();
    assert_eq!(copied.parts.len(), 3);
    let warning = "`first` lacks the lab's manifest for imgpkg: it is not copied".to_owned();
    assert!(kept.0.lock().unwrap().contains(&Event::Warning(warning)));
}

#[tokio::test]
async fn machines_may_share_an_image_and_a_replaced_chart_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::pack(dir.path(), "first", 35);
    lab.images[1].digest = lab.images[0].digest.clone();
    let fake = Fake::start(Knobs::default()).await;
    let images = images(dir.path(), &[&fake.host]);
    let copied = lab.copy(&images, "first", &format!("{}/labs/all:lab-1", fake.host)).await.unwrap();
    // As for the other lab, without the layer and the config of `db`.
    assert_eq!((copied.bundle.sent, copied.bundle.existed), (11, 0));
    for (tag, digest) in lab.tags("lab-1", None) {
        assert_eq!(Digest::sha256(&fake.state.lock().unwrap().manifests[&tag].1), digest, "{tag}");
    }
    let from = format!("{}/labs/all:lab-1", fake.host);
    lab.copy(&images, &from, &format!("oci:{}:1", dir.path().join("out").display())).await.unwrap();
    assert_eq!(layout_tags(&dir.path().join("out")), lab.tags("1", Some("-chart")));

    fake.add_manifest("1.0.0", OCI_MANIFEST, br#"{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#);
    let kept = Arc::new(Kept::default());
    let reporter: Arc<dyn Reporter> = kept.clone();
    lab.copy_with(&images, "first", &from, &reporter).await.unwrap();
    let warning = format!("`{}/labs/all/charts/first:1.0.0` named another chart, which is replaced", fake.host);
    assert!(kept.0.lock().unwrap().contains(&Event::Warning(warning)));
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_before_anything_moves() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::pack(dir.path(), "first", 40);
    let fake = Fake::start(Knobs::default()).await;
    let images = images(dir.path(), &[&fake.host]);
    let there = |rest: &str| format!("{}/labs/{rest}", fake.host);
    let long = "v".repeat(122);
    for (target, name) in [
        // 122 and `-imgpkg` make 129.
        (there(&format!("all:{long}")), format!("{long}-imgpkg")),
        (format!("oci:{}:{long}", dir.path().join("target").display()), format!("{long}-imgpkg")),
        (there(&format!("{}:1", "a".repeat(240))), format!("{}/labs/{}/charts/first", fake.host, "a".repeat(240))),
    ] {
        let error = lab.copy(&images, "first", &target).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the lab needs `{name}` in the target, and that cannot be"));
    }
    lab.images[1].machine = "web".to_owned();
    let error = lab.copy(&images, "first", &there("all:1")).await.unwrap_err();
    assert_eq!(error.to_string(), "two parts of the lab would get the tag `1.web`");
    lab.images[1].machine = "d b".to_owned();
    let error = lab.copy(&images, "first", &there("all:1")).await.unwrap_err();
    assert!(matches!(error, ImagesError::Lab(LabError::Name { .. })), "{error}");
    lab.images[1].machine = "db".to_owned();
    let other = Digest::sha256(b"another");
    let error = lab.copy(&images, "first", &there(&format!("all:1@{other}"))).await.unwrap_err();
    assert!(matches!(error, ImagesError::TargetDigest { .. }), "{error}");
    assert!(fake.state.lock().unwrap().log.is_empty());
    assert!(!dir.path().join("target").exists());

    // Nothing is taken away from others.
    let store = Layout::open(dir.path().join("store")).unwrap();
    let bundle = store.read_document(&lab.packed.bundle).unwrap();
    let image = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    let another = String::from_utf8(bundle.clone()).unwrap().replace("1970", "1971");
    for (tag, bytes, by) in [("x", image.as_slice(), "an image"), ("x.web", another.as_bytes(), "another lab")] {
        fake.add_manifest(tag, OCI_MANIFEST, bytes);
        let error = lab.copy(&images, "first", &there("all:x")).await.unwrap_err().to_string();
        assert_eq!(error, format!("`{}/labs/all:{tag}` names {by} already: choose another tag for the lab", fake.host));
        fake.state.lock().unwrap().manifests.remove(tag);
    }
    let state = fake.state.lock().unwrap();
    assert_eq!((state.count("POST"), state.count("PUT")), (0, 0));
}

#[tokio::test]
async fn a_copy_that_breaks_off_anywhere_leaves_no_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::pack(dir.path(), "first", 50);
    let whole = Fake::start(Knobs::default()).await;
    let copy = async |fake: &Fake| {
        let images = images(dir.path(), &[&fake.host]);
        lab.copy(&images, "first", &format!("{}/labs/all:lab-1", fake.host)).await
    };
    copy(&whole).await.unwrap();
    let requests = {
        let state = whole.state.lock().unwrap();
        // The very last thing that happens is the bundle's tag, and the one before is about it, too.
        assert_eq!(state.log.last().unwrap().0, "PUT /v2/labs/all/manifests/lab-1");
        assert_eq!(state.count("PUT /v2/labs/all/charts/first/manifests/1.0.0"), 1);
        state.log.len()
    };
    assert!(requests > 50, "{requests}");
    for after in (0..requests).step_by(3).chain([requests - 1]) {
        let fake = Fake::start(Knobs { die_after: Some(after), ..Knobs::default() }).await;
        copy(&fake).await.unwrap_err();
        {
            let mut state = fake.state.lock().unwrap();
            assert!(!state.manifests.contains_key("lab-1"), "after {after}");
            state.knobs.die_after = None;
        }
        // And the next one goes on.
        copy(&fake).await.unwrap();
        let state = fake.state.lock().unwrap();
        for (tag, digest) in lab.tags("lab-1", None) {
            assert_eq!(Digest::sha256(&state.manifests[&tag].1), digest, "after {after}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labs_between_registries_and_other_tools() {
    if !have("registry", &["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Lab::pack(dir.path(), "first", 60), Lab::pack(dir.path(), "second", 70));
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let (a, b) =
        (DockerRegistry::start(&dir.path().join("a"), "", ""), DockerRegistry::start(&dir.path().join("b"), "", ""));
    let images = images(dir.path(), &[&a.host(), &b.host()]);
    let cancel = Cancel::new();
    let raw = |reference: &str| {
        let text = run("skopeo", &["inspect", "--raw", "--tls-verify=false", reference]);
        Digest::sha256(text.as_bytes())
    };

    // Push two labs with the same names of machines into one repository.
    let there = format!("{}/labs/all", a.host());
    let copied = first.copy(&images, "first:1.0.0", &format!("{there}:first-1")).await.unwrap();
    assert_eq!((copied.bundle.sent, copied.bundle.existed), (13, 0));
    assert_eq!(copied.parts[3].0, format!("{there}/charts/first:1.0.0"));
    second.copy(&images, "second:1.0.0", &format!("{there}:second-1")).await.unwrap();
    let expected = [first.tags("first-1", None), second.tags("second-1", None)].concat();
    let mut tags = images.tags(&there.parse().unwrap(), &cancel).await.unwrap();
    tags.sort();
    assert_eq!(tags, expected.iter().map(|(tag, _)| tag.clone()).collect::<Vec<_>>());
    for (tag, digest) in &expected {
        assert_eq!(raw(&format!("docker://{there}:{tag}")), *digest, "{tag}");
    }
    let chart = |host: &str, repository: &str| raw(&format!("docker://{host}/{repository}/charts/first:1.0.0"));
    assert_eq!(chart(&a.host(), "labs/all"), first.packed.chart.as_ref().unwrap().digest);
    let lab = format!("{there}:first-1").parse().unwrap();
    let inspected = images.inspect_lab(&lab, &cancel).await.unwrap().unwrap();
    assert_eq!((inspected.digest, inspected.config.as_slice()), (first.packed.bundle.digest.clone(), CONFIG));
    let files = images.lab_files(&lab, &cancel).await.unwrap();
    assert_eq!((files.len(), &files["base/vm.yaml"]), (5, &lab_files()["base/vm.yaml"]));
    let web = format!("{there}:first-1.web").parse().unwrap();
    assert_eq!(images.inspect_lab(&web, &cancel).await.unwrap(), None);

    // To another registry: the same digests; then nothing is sent again, and within a registry nothing at all.
    let other = format!("{}/mirror/first", b.host());
    let copied = first.copy(&images, &format!("{there}:first-1"), &format!("{other}:2")).await.unwrap();
    assert_eq!((copied.bundle.sent, copied.bundle.mounted), (13, 0));
    for (tag, digest) in first.tags("2", None) {
        assert_eq!(raw(&format!("docker://{other}:{tag}")), digest, "{tag}");
    }
    assert_eq!(chart(&b.host(), "mirror/first"), first.packed.chart.as_ref().unwrap().digest);
    let copied = first.copy(&images, &format!("{there}:first-1"), &format!("{other}:2")).await.unwrap();
    assert_eq!((copied.bundle.sent, copied.bundle.existed), (0, 13));
    let beside = format!("{}/mirror/third", b.host());
    let copied = first.copy(&images, &format!("{other}:2"), &format!("{beside}:3")).await.unwrap();
    assert_eq!((copied.bundle.sent, copied.bundle.mounted), (0, 13));
    let web = format!("{beside}:3.web").parse().unwrap();
    let read = images.attached(&web, Some(Arch::Amd64), CYCLONEDX, &cancel).await.unwrap();
    assert_eq!(read.as_deref(), Some(&b"first"[..]));

    // To an archive, and from there back; skopeo reads every part of it that is not of Docker's media type.
    let archive = format!("oci-archive:{}", dir.path().join("lab.tar").display());
    first.copy(&images, &format!("{beside}:3"), &format!("{archive}:first-1")).await.unwrap();
    for (tag, digest) in first.tags("first-1", Some("-chart")) {
        if digest != first.packed.imgpkg.digest {
            assert_eq!(raw(&format!("{archive}:{tag}")), digest, "{tag}");
        }
    }
    first
        .copy(&images, "first", &format!("oci-archive:{}:first-1", dir.path().join("direct.tar").display()))
        .await
        .unwrap();
    assert!(fs::read(dir.path().join("lab.tar")).unwrap() == fs::read(dir.path().join("direct.tar")).unwrap());
    let back = format!("{}/back/first", a.host());
    first.copy(&images, &archive, &format!("{back}:first-1")).await.unwrap();
    for (tag, digest) in first.tags("first-1", None) {
        assert_eq!(raw(&format!("docker://{back}:{tag}")), digest, "{tag}");
    }

    if have("oci-tools", &["umoci"]) {
        // As an ordinary image the manifest for imgpkg is converted, which fails if a diff id is wrong.
        let (converted, out) = (dir.path().join("converted"), dir.path().join("unpacked"));
        let to = format!("oci:{}:x", converted.display());
        run("skopeo", &["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{there}:first-1-imgpkg"), &to]);
        let image = format!("{}:x", converted.display());
        run("umoci", &["unpack", "--image", &image, &out.display().to_string()]);
        assert_eq!(fs::read(out.join("rootfs/.imgpkg/images.yml")).unwrap(), lab_files()[".imgpkg/images.yml"]);
    }
}
