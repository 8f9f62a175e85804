//! Real registries and other clients: docker-registry, skopeo, podman and buildah.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{DockerRegistry, command, facts, have, noise, run};
use fs_err as fs;
use labwright_core::{Arch, Cancel, Digest, Quiet, Reporter};
use labwright_registry::Packed;
use labwright_registry::container_disk::pack;
use labwright_registry::media_type::CYCLONEDX;
use labwright_registry::{
    Copied, CopyOptions, Credentials, ExtractLimits, Images, ImagesError, Layout, Remote, RemoteError, RemoteOptions,
    attach,
};

/// `u` with the password `secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "u:$2b$04$N0Snld0T9d.sx9pPiNhKwOLv0V9A60HLZcAnfupXgNp0YSZ1tyzxS\n";

fn packed(dir: &Path, arch: Arch, size: usize) -> Packed {
    let layout = Layout::open_or_create(dir.join("store")).unwrap();
    fs::write(dir.join("disk"), noise(arch as u64, size)).unwrap();
    pack(&layout, &dir.join("disk"), &facts(arch), None, &Quiet, &Cancel::new()).unwrap()
}

fn plain(registry: &DockerRegistry) -> RemoteOptions {
    RemoteOptions { plain_http: vec![registry.host()], backoff: Duration::from_millis(200), ..RemoteOptions::default() }
}

fn images(dir: &Path, options: RemoteOptions) -> Images {
    Images::new(dir.join("store"), Remote::new(options).unwrap())
}

async fn copy(images: &Images, from: &str, to: &str) -> Result<Copied, ImagesError> {
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    images.copy(&from, &to, &CopyOptions::default(), &reporter, &Cancel::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_pull_copy_and_inspect_with_docker_registry() {
    if !have("registry", &["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let amd64 = packed(dir.path(), Arch::Amd64, 5_000_000);
    let arm64 = packed(dir.path(), Arch::Arm64, 300_000);
    // Both lists refer to an architecture of their own, and share the empty config.
    let store = Layout::open(dir.path().join("store")).unwrap();
    attach(&store, &amd64.manifest, CYCLONEDX, b"{\"of\":\"amd64\"}").unwrap();
    attach(&store, &arm64.manifest, CYCLONEDX, b"{\"of\":\"arm64\"}").unwrap();
    let registry = DockerRegistry::start(dir.path(), "", "");
    let images = images(dir.path(), plain(&registry));
    let there = format!("{}/labs/debian:1.0.0", registry.host());

    let copied = copy(&images, "debian-terminal:1.0.0", &there).await.unwrap();
    assert_eq!((copied.sent, copied.existed), (7, 0));
    let copied = copy(&images, "debian-terminal:1.0.0", &there).await.unwrap();
    assert_eq!((copied.sent, copied.existed, copied.bytes), (0, 7, 0));
    // This registry lists no referrers, so they are below a tag, as everybody looks for them.
    let fallback = format!("docker://{}/labs/debian:sha256-{}", registry.host(), arm64.manifest.digest.hex());
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &fallback]);
    assert!(raw.contains(CYCLONEDX), "{raw}");

    // skopeo sees the same bytes and can read all of it.
    let url = format!("docker://{there}");
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &url]);
    assert_eq!(Digest::sha256(raw.as_bytes()), arm64.index.digest);
    let to = format!("dir:{}", dir.path().join("skopeo").display());
    run("skopeo", &["copy", "--quiet", "--all", "--src-tls-verify=false", &url, &to]);
    assert!(dir.path().join("skopeo").join(amd64.layer.digest.hex()).exists());

    if have("oci-tools", &["podman"]) {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (root, runroot) = (at("podman"), at("podman-run"));
        let podman = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
        let pull = ["pull", "--quiet", "--tls-verify=false", "--arch", "arm64", &there];
        assert_eq!(run("podman", &[&podman[..], &pull].concat()).trim(), arm64.config.digest.hex());
    }

    // Another repository of the same registry: mounted, not sent.
    let copied = copy(&images, &there, &format!("{}/mirror/debian:2", registry.host())).await.unwrap();
    assert_eq!((copied.sent, copied.mounted), (0, 7));
    assert_eq!(images.tags(&there.parse().unwrap(), &Cancel::new()).await.unwrap(), ["1.0.0"]);

    let inspection = images.inspect(&there.parse().unwrap(), &Cancel::new()).await.unwrap();
    assert_eq!(inspection.digest, arm64.index.digest);
    let found: Vec<_> = inspection
        .platforms
        .iter()
        .map(|platform| (platform.facts.clone().unwrap(), platform.layers[0].size))
        .collect();
    assert_eq!(found, [(facts(Arch::Amd64), amd64.layer.size), (facts(Arch::Arm64), arm64.layer.size)]);

    // Into another layout and an archive; umoci and skopeo would read both, and the digests are the same.
    let layout = dir.path().join("pulled");
    copy(&images, &there, &format!("oci:{}:x", layout.display())).await.unwrap();
    assert_eq!(Layout::open(&layout).unwrap().resolve("x").unwrap().digest, arm64.index.digest);
    let archive = format!("oci-archive:{}:x", dir.path().join("a.tar").display());
    copy(&images, &there, &archive).await.unwrap();
    let raw = run("skopeo", &["inspect", "--raw", &archive]);
    assert_eq!(Digest::sha256(raw.as_bytes()), arm64.index.digest);

    // One architecture alone.
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let options = CopyOptions { arch: Some(Arch::Amd64), ..CopyOptions::default() };
    let (source, target) = (there.parse().unwrap(), "one:1".parse().unwrap());
    let copied = images.copy(&source, &target, &options, &reporter, &Cancel::new()).await.unwrap();
    assert_eq!((copied.image.digest, copied.existed), (amd64.manifest.digest, 4));
    for from in [&there, &archive, &format!("oci:{}:x", layout.display())] {
        for (arch, of) in [(Arch::Amd64, "{\"of\":\"amd64\"}"), (Arch::Arm64, "{\"of\":\"arm64\"}")] {
            let from = from.parse().unwrap();
            let read = images.attached(&from, Some(arch), CYCLONEDX, &Cancel::new()).await.unwrap().unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), of);
        }
    }

    let out = dir.path().join("out.qcow2");
    for from in [&there, &archive, &"debian-terminal:1.0.0".to_owned()] {
        let disk = images
            .extract_disk(
                &from.parse().unwrap(),
                Some(Arch::Arm64),
                &out,
                &ExtractLimits::default(),
                &reporter,
                &Cancel::new(),
            )
            .await
            .unwrap();
        assert!(fs::read(&out).unwrap() == noise(Arch::Arm64 as u64, 300_000));
        assert_eq!((disk.size, disk.facts), (300_000, Some(facts(Arch::Arm64))));
        assert_eq!(disk.digest, Digest::sha256(&fs::read(&out).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_dies_in_the_middle_gets_everything_in_the_end() {
    if !have("registry", &["docker-registry"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(dir.path(), Arch::Amd64, 100_000_000);
    let mut registry = DockerRegistry::start(dir.path(), "", "");
    let images = images(dir.path(), plain(&registry));
    let there = format!("{}/labs/debian:1.0.0", registry.host());
    let (pushing, target) = (images.clone(), there.clone());
    let push = tokio::spawn(async move { copy(&pushing, "debian-terminal:1.0.0", &target).await });
    // Kill it when a good part of the blob has arrived, whatever the speed of the machine.
    let uploads = dir.path().join("registry/docker/registry/v2/repositories/labs/debian/_uploads");
    let begin = Instant::now();
    loop {
        let size = command("du").args(["-sb", &uploads.display().to_string()]).output().unwrap();
        let size: u64 = String::from_utf8_lossy(&size.stdout).split('\t').next().unwrap().parse().unwrap_or(0);
        if size > 2_000_000 || push.is_finished() || begin.elapsed() > Duration::from_secs(20) {
            break;
        }
    }
    assert!(!push.is_finished(), "the push was over before the registry could be killed");
    registry.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    registry.restart();
    let copied = push.await.unwrap().unwrap();
    assert_eq!(copied.image.digest, packed.index.digest);
    // What is there is whole.
    let pulled = dir.path().join("pulled");
    copy(&images, &there, &format!("oci:{}", pulled.display())).await.unwrap();
    assert!(Layout::open(&pulled).unwrap().has(&packed.layer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_an_authority_of_our_own() {
    if !have("registry", &["docker-registry", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    packed(dir.path(), Arch::Amd64, 2_000_000);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let certificate = |name: &str, more: &[&str]| {
        let (key, out) = (at(&format!("{name}.key")), at(&format!("{name}.pem")));
        let subject = format!("/CN=labwright test {name}");
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj";
        let args = [&new.split(' ').collect::<Vec<_>>()[..], &[&subject, "-keyout", &key, "-out", &out], more].concat();
        run("openssl", &args);
    };
    certificate("ca", &[]);
    let (ca, ca_key) = (at("ca.pem"), at("ca.key"));
    let leaf = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    certificate("leaf", &[&["-CA", &ca, "-CAkey", &ca_key][..], &leaf].concat());
    fs::write(at("htpasswd"), HTPASSWD).unwrap();
    let tls = format!(", tls: {{certificate: '{}', key: '{}'}}", at("leaf.pem"), at("leaf.key"));
    let auth = format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}", at("htpasswd"));
    let registry = DockerRegistry::start(dir.path(), &tls, &auth);
    let there = format!("{}/labs/debian:1.0.0", registry.host());
    let trusting =
        || RemoteOptions { authorities: vec![fs::read(at("ca.pem")).unwrap()], retries: 1, ..RemoteOptions::default() };
    let push = |options| {
        let (images, there) = (images(dir.path(), options), there.clone());
        async move { copy(&images, "debian-terminal:1.0.0", &there).await }
    };

    let error = push(RemoteOptions { retries: 1, ..RemoteOptions::default() }).await.unwrap_err();
    assert!(matches!(error, ImagesError::Remote(RemoteError::Tls { .. })), "{error:?}");
    let error = push(trusting()).await.unwrap_err().to_string();
    let host = registry.host();
    assert!(error.starts_with(&format!("{host} wants a login to ")), "{error}");
    // `podman login` writes such a file; `dTpzZWNyZXQ=` is `u:secret`, `dTp3cm9uZw==` is `u:wrong`.
    for (auth, good) in [("dTp3cm9uZw==", false), ("dTpzZWNyZXQ=", true)] {
        fs::write(at("auth.json"), format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        let credentials = Credentials { files: vec![at("absent").into(), at("auth.json").into()], login: None };
        let result = push(RemoteOptions { credentials, ..trusting() }).await;
        if good {
            assert_eq!(result.unwrap().sent, 2);
        } else {
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{host} does not accept the credentials of `u` to ")), "{error}");
        }
    }
    let login = labwright_registry::Login { user: "u".to_owned(), password: "secret".to_owned() };
    let credentials = Credentials { login: Some(login), ..Credentials::default() };
    assert_eq!(push(RemoteOptions { credentials, ..trusting() }).await.unwrap().existed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_in_images_of_other_makers() {
    if !have("oci-tools", &["buildah", "skopeo", "docker-registry"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let disk = noise(9, 400_000);
    fs::create_dir(dir.path().join("context")).unwrap();
    fs::write(dir.path().join("context/x.qcow2"), &disk).unwrap();
    fs::write(dir.path().join("context/Containerfile"), "FROM scratch\nADD --chown=107:107 x.qcow2 /disk/\n").unwrap();
    let (root, runroot) = (at("root"), at("run"));
    let buildah = ["--root", root.as_str(), "--runroot", &runroot, "--storage-driver", "vfs"];
    let registry = DockerRegistry::start(dir.path(), "", "");
    let images = images(dir.path(), plain(&registry));
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let extract = |from: String| {
        let (images, reporter, out) = (images.clone(), Arc::clone(&reporter), dir.path().join("out"));
        async move {
            let from = from.parse().unwrap();
            let disk =
                images.extract_disk(&from, None, &out, &ExtractLimits::default(), &reporter, &Cancel::new()).await;
            disk.map(|disk| (disk.size, disk.facts, fs::read(&out).unwrap()))
        }
    };
    for format in ["oci", "docker"] {
        let context = at("context");
        run(
            "buildah",
            &[&buildah[..], &["build", "--isolation", "chroot", "--format", format, "-t", format, &context]].concat(),
        );
        let to = format!("docker://{}/made/by:{format}", registry.host());
        run("buildah", &[&buildah[..], &["push", "--tls-verify=false", format, &to]].concat());
        let (size, facts, bytes) = extract(to).await.unwrap();
        assert_eq!((size, facts), (400_000, None));
        assert!(bytes == disk);
    }
    // zstd layers, in an archive.
    let archive = format!("oci-archive:{}:z", at("z.tar"));
    let from = format!("docker://{}/made/by:oci", registry.host());
    run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-compress-format",
            "zstd",
            "--dest-compress",
            &from,
            &format!("oci:{}:z", at("z")),
        ],
    );
    let kind = images.inspect(&format!("oci:{}:z", at("z")).parse().unwrap(), &Cancel::new()).await.unwrap();
    assert_eq!(kind.platforms[0].layers[0].media_type, "application/vnd.oci.image.layer.v1.tar+zstd");
    copy(&images, &format!("oci:{}:z", at("z")), &archive).await.unwrap();
    assert!(extract(archive).await.unwrap().2 == disk);
}
