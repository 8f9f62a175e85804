//! containerDisks as we pack them, and as other tools read them.

use std::path::Path;

use crate::common::{facts, have, noise, run};
use fs_err as fs;
use labwright_core::{Arch, Cancel, Digest, Quiet};
use labwright_registry::Packed;
use labwright_registry::container_disk::{facts as read_facts, pack};
use labwright_registry::{Descriptor, Layout};

fn packed(dir: &Path, arch: Arch, disk: &[u8]) -> (Layout, Packed) {
    let layout = Layout::open_or_create(dir.join("store")).unwrap();
    let file = dir.join("disk.qcow2");
    fs::write(&file, disk).unwrap();
    let packed = pack(&layout, &file, &facts(arch), None, &Quiet, &Cancel::new()).unwrap();
    (layout, packed)
}

fn text(layout: &Layout, descriptor: &Descriptor) -> String {
    String::from_utf8(layout.read_document(descriptor).unwrap()).unwrap()
}

#[test]
fn the_documents_are_exactly_these() {
    let dir = tempfile::tempdir().unwrap();
    let (layout, packed) = packed(dir.path(), Arch::Amd64, b"not really a disk");
    // 2 headers, 17 bytes padded to 512, 2 empty blocks; gzip adds 10 + 5 + 8.
    assert_eq!(packed.layer.size, 2 * 512 + 512 + 1024 + 23);
    assert_eq!(packed.diff_id.to_string(), "sha256:6c6b0ac200d65cd53fa52983426fec54166e4945ebdd4d58e1754ce34ffd7b8c");
    assert_eq!(
        packed.layer.digest.to_string(),
        "sha256:691f71310953f4c2a8665b6018c2aced12cc0745b1bfd72359dcf840905e99ff"
    );
    let (diff_id, layer, config, manifest) =
        (&packed.diff_id, &packed.layer.digest, &packed.config.digest, &packed.manifest.digest);
    let base = Digest::sha256(b"base");
    let recipe = Digest::sha256(b"recipe");
    let build = Digest::sha256(b"build");
    let facts = format!(
        r#"{{\"name\":\"debian-terminal\",\"version\":\"1.0.0\",\"title\":\"Debian with a terminal\",\"arch\":\"amd64\",\"virtualSize\":\"8Gi\",\"base\":\"debian:13\",\"baseDigest\":\"{base}\",\"recipeDigest\":\"{recipe}\",\"buildKey\":\"{build}\",\"toolVersion\":\"0.1.0\",\"frontDoor\":8080}}"#
    );
    assert_eq!(
        text(&layout, &packed.config),
        format!(
            r#"{{"architecture":"amd64","config":{{"Entrypoint":["no-entrypoint"],"Labels":{{"dev.labwright.facts":"{facts}","org.opencontainers.image.created":"1970-01-01T00:00:00Z","org.opencontainers.image.title":"Debian with a terminal","org.opencontainers.image.version":"1.0.0"}}}},"created":"1970-01-01T00:00:00Z","os":"linux","rootfs":{{"diff_ids":["{diff_id}"],"type":"layers"}}}}"#
        )
    );
    assert_eq!(
        text(&layout, &packed.manifest),
        format!(
            r#"{{"annotations":{{"org.opencontainers.image.created":"1970-01-01T00:00:00Z","org.opencontainers.image.title":"Debian with a terminal","org.opencontainers.image.version":"1.0.0"}},"config":{{"digest":"{config}","mediaType":"application/vnd.oci.image.config.v1+json","size":{}}},"layers":[{{"digest":"{layer}","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":2583}}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}}"#,
            packed.config.size
        )
    );
    assert_eq!(
        text(&layout, &packed.index),
        format!(
            r#"{{"manifests":[{{"digest":"{manifest}","mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{{"architecture":"amd64","os":"linux"}},"size":{}}}],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}}"#,
            packed.manifest.size
        )
    );
}

#[test]
fn the_same_disk_gives_the_same_digests() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let disk = noise(1, 3_000_001);
    let first = packed(one.path(), Arch::Amd64, &disk).1;
    assert_eq!(first, packed(two.path(), Arch::Amd64, &disk).1);
    // Packing again over what is there changes nothing either.
    assert_eq!(first, packed(one.path(), Arch::Amd64, &disk).1);
}

#[test]
fn a_second_architecture_extends_the_index_in_a_fixed_order() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (layout, amd64) = packed(one.path(), Arch::Amd64, b"amd64");
    let (_, arm64) = packed(one.path(), Arch::Arm64, b"arm64");
    let image = layout.resolve("debian-terminal:1.0.0").unwrap();
    assert_eq!(image.digest, arm64.index.digest);
    for arch in Arch::ALL {
        assert_eq!(read_facts(&layout, &image, Some(arch)).unwrap(), facts(arch));
    }
    packed(two.path(), Arch::Arm64, b"arm64");
    let reverse = packed(two.path(), Arch::Amd64, b"amd64").1;
    assert_eq!((reverse.index, reverse.manifest), (arm64.index, amd64.manifest));
    assert_eq!(layout.resolve_newest("debian-terminal").unwrap().1, image);
}

#[test]
fn a_disk_that_is_no_file_or_grows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open_or_create(dir.path().join("store")).unwrap();
    let error = pack(&layout, dir.path(), &facts(Arch::Amd64), None, &Quiet, &Cancel::new()).unwrap_err();
    assert_eq!(error.to_string(), format!("`{}` is not a regular file", dir.path().display()));
    let cancel = Cancel::new();
    cancel.cancel();
    let file = dir.path().join("disk");
    fs::write(&file, b"x").unwrap();
    assert_eq!(
        pack(&layout, &file, &facts(Arch::Amd64), None, &Quiet, &cancel).unwrap_err().to_string(),
        "stopped on request"
    );
    // Nothing half-made stays.
    assert_eq!(fs::read_dir(dir.path().join("store/blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn skopeo_umoci_and_podman_read_it() {
    if !have("oci-tools", &["skopeo", "umoci", "podman"]) {
        return;
    }
    // podman makes a name of the path, and names have no capital letters.
    let name = format!("labwright-container-disk-{}", std::process::id());
    let dir = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir().unwrap();
    let disk = noise(2, 200_000);
    let (layout, packed) = packed(dir.path(), Arch::Amd64, &disk);
    let at = |name: &str| dir.path().join(name).display().to_string();
    let source = format!("oci:{}:debian-terminal:1.0.0", layout.dir().display());

    let raw = run("skopeo", &["inspect", "--raw", &source]);
    assert_eq!(Digest::sha256(raw.as_bytes()), packed.index.digest);
    run("skopeo", &["copy", "--quiet", "--all", &source, &format!("dir:{}", at("copied"))]);
    assert_eq!(
        Digest::sha256(&fs::read(dir.path().join("copied").join(packed.layer.digest.hex())).unwrap()),
        packed.layer.digest
    );

    // umoci follows the only manifest of an index.
    run("umoci", &["unpack", "--image", &format!("{}:debian-terminal:1.0.0", layout.dir().display()), &at("unpacked")]);
    let stat = run(
        "sh",
        &["-c", &format!("cd {}/rootfs && find . -printf '%p %m %U:%G %T@ %s\\n' | sort | tail -n +2", at("unpacked"))],
    );
    let lines: Vec<_> = stat.lines().map(|line| line.replace(".0000000000", "")).collect();
    assert_eq!(lines.len(), 2, "{stat}");
    assert!(lines[0].starts_with("./disk 555 107:107 0 "), "{stat}");
    assert_eq!(lines[1], "./disk/disk.img 444 107:107 0 200000");
    assert!(fs::read(dir.path().join("unpacked/rootfs/disk/disk.img")).unwrap() == disk);

    let (root, runroot) = (at("podman"), at("run"));
    let podman = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
    let id = run("podman", &[&podman[..], &["pull", "--quiet", &source]].concat());
    assert_eq!(id.trim(), packed.config.digest.hex());
    // Some files are read-only and owned by 107; podman removes them itself.
    run("podman", &[&podman[..], &["rmi", "--all", "--force"]].concat());
}
