//! Bases from elsewhere: a vendor's address, a name of the catalogue under a lock, a containerDisk of another maker.

use std::path::Path;

use labwright_tests::{Lab, Said, said};
use serde_json::{Value, json};

use crate::servers::{Registry, Vendor, certificates, have, proxy_to, recipe, run, sha256, small_disk};

const TOOLS: [&str; 5] = ["nginx", "openssl", "mke2fs", "sfdisk", "xz"];

/// The names under which the catalogue's vendors are asked for.
const NAMES: &str = "IP:127.0.0.1,DNS:cloud.debian.org,DNS:cloud-images.ubuntu.com";

fn vendor(lab: &Lab) -> Vendor {
    certificates(lab.path(), NAMES);
    let vendor = Vendor::start(lab.path());
    small_disk(lab.path());
    vendor
}

fn answer(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{said}");
    serde_json::from_str(&said.out).expect("stdout is JSON and nothing else")
}

/// Lets the program reach the catalogue's vendors, who are all our own.
fn at_vendors(lab: &Lab, vendor: &Vendor, args: &[&str]) -> Said {
    let proxy = format!("http://127.0.0.1:{}", proxy_to(vendor.tls_port));
    said(lab.labwright(args).env("HTTPS_PROXY", proxy).env("SSL_CERT_FILE", lab.path().join("ca.pem")))
}

#[test]
fn a_disk_from_an_address() {
    if !have("bases", &TOOLS) {
        return;
    }
    let lab = Lab::new();
    let vendor = vendor(&lab);
    let www = lab.path().join("www");
    run("sh", &["-c", &format!("xz -0 < {}/disk.raw > {}/disk.raw.xz", lab.path().display(), www.display())]);
    let digest = sha256(&www.join("disk.raw.xz"));
    let base = |digest: &str, file: &str| {
        format!("{{url: {{amd64: 'http://127.0.0.1:{}/{file}'}}, digest: {{amd64: '{digest}'}}}}", vendor.port)
    };
    lab.write("recipe.yaml", &recipe("shell", &base(&digest, "disk.raw.xz"), ""));
    let said = lab.run(&["build", "--locked"]);
    assert_eq!((said.code, said.out.as_str()), (0, "shell:1.0.0\n"), "{said}");
    assert!(!lab.path().join("labwright.lock").exists(), "the recipe has the digest itself");
    let list = answer(&lab.run(&["base", "ls", "--format", "json"]));
    assert_eq!(list["cache"][0]["digest"], sha256(&lab.path().join("disk.raw")).as_str());
    assert_eq!(list["cache"][0]["format"], "raw");

    // A vendor that has another file than the recipe says, and one that has none.
    let lie = format!("sha256:{}", "0".repeat(64));
    for (digest, file, expected) in
        [(&lie, "disk.raw.xz", "has the digest sha256:"), (&digest, "gone.xz", "the file is not there")]
    {
        lab.write("bad/recipe.yaml", &recipe("bad", &base(digest, file), ""));
        // The good one is in the cache by its digest; another home knows nothing of it.
        let said = said_in(&lab, "home2", &["build", "bad"]);
        assert_eq!((said.code, said.out.as_str()), (4, ""), "{said}");
        assert!(said.err.contains(expected) && said.err.contains(file), "{said}");
    }
    // From the cache, without the vendor.
    drop(vendor);
    lab.write("recipe.yaml", &recipe("other", &format!("{{url: 'http://127.0.0.1:9/x', digest: '{digest}'}}"), ""));
    assert_eq!(lab.run(&["build"]).code, 0);
}

fn said_in(lab: &Lab, home: &str, args: &[&str]) -> Said {
    said(lab.labwright(args).env("LABWRIGHT_HOME", lab.path().join(home)))
}

/// Puts a disk where the catalogue looks for Debian 13, with its list of digests.
fn publish(lab: &Lab, disk: &Path) {
    let dir = lab.path().join("www/images/cloud/trixie/latest");
    fs_err::create_dir_all(&dir).unwrap();
    let name = "debian-13-genericcloud-amd64.qcow2";
    run("qemu-img", &["convert", "-O", "qcow2", disk.to_str().unwrap(), dir.join(name).to_str().unwrap()]);
    run("sh", &["-c", &format!("cd {} && sha512sum {name} > SHA512SUMS", dir.display())]);
}

#[test]
fn a_name_of_the_catalogue_under_a_lock() {
    if !have("bases", &[&TOOLS[..], &["qemu-img"]].concat()) {
        return;
    }
    let lab = Lab::new();
    let vendor = vendor(&lab);
    publish(&lab, &lab.path().join("disk.raw"));
    lab.write("recipe.yaml", &recipe("shell", "debian-13", ""));
    let lock = lab.path().join("labwright.lock");

    // Nothing is pinned yet.
    let said = lab.run(&["build", "--locked"]);
    assert_eq!(said.code, 7, "{said}");
    assert!(said.err.contains("the lock file has no debian-13 for amd64"), "{said}");
    assert!(!lock.exists());

    let said = at_vendors(&lab, &vendor, &["build"]);
    assert_eq!((said.code, said.out.as_str()), (0, "shell:1.0.0\n"), "{said}");
    let first = fs_err::read_to_string(&lock).unwrap();
    let pinned: Value = serde_json::from_str(&first).unwrap();
    let pin = &pinned["bases"]["debian-13"]["amd64"];
    assert!(pin["digest"].as_str().unwrap().starts_with("sha512:"), "{first}");
    // Pinned and cached: neither the vendor nor the network is needed.
    assert_eq!(lab.run(&["build", "--locked"]).code, 0);

    // The vendor has a new disk. The pinned one still counts; a fresh home cannot get it and says so.
    run(
        "sh",
        &["-c", &format!("printf x | dd of={}/disk.raw bs=1 seek=30000000 conv=notrunc 2>&1", lab.path().display())],
    );
    publish(&lab, &lab.path().join("disk.raw"));
    assert_eq!(at_vendors(&lab, &vendor, &["build"]).code, 0);
    assert_eq!(fs_err::read_to_string(&lock).unwrap(), first);
    let proxy = format!("http://127.0.0.1:{}", proxy_to(vendor.tls_port));
    let mut fresh = lab.labwright(&["base", "pull", "--locked"]);
    fresh.env("HTTPS_PROXY", proxy).env("SSL_CERT_FILE", lab.path().join("ca.pem"));
    let said = self::said(fresh.env("LABWRIGHT_HOME", lab.path().join("home2")));
    assert_eq!(said.code, 4, "{said}");
    assert!(said.err.contains("no longer has the debian-13 for amd64 that the lock file pins"), "{said}");

    // Taking the new one is asked for, and says what changed.
    let refreshed = answer(&at_vendors(&lab, &vendor, &["base", "refresh", "--format", "json"]));
    assert_eq!(refreshed["changes"][0]["was"], pin["digest"]);
    let pinned: Value = serde_json::from_str(&fs_err::read_to_string(&lock).unwrap()).unwrap();
    assert_eq!(refreshed["changes"][0]["now"], pinned["bases"]["debian-13"]["amd64"]["digest"]);
    let said = at_vendors(&lab, &vendor, &["base", "refresh", "--format", "json"]);
    assert_eq!(answer(&said), json!({"changes": []}));
    let said = at_vendors(&lab, &vendor, &["build", "--locked"]);
    assert_eq!((said.code, said.out.as_str()), (0, "shell:1.0.0\n"), "{said}");

    // A lock that means another address than the catalogue.
    let moved = fs_err::read_to_string(&lock).unwrap().replace("/trixie/latest/", "/trixie/20250101/");
    fs_err::write(&lock, moved).unwrap();
    let said = lab.run(&["build", "--locked"]);
    assert_eq!(said.code, 7, "{said}");
    assert!(said.err.contains("debian-13 for amd64 is locked to") && said.err.contains("base refresh"), "{said}");
    fs_err::write(&lock, "{").unwrap();
    assert_eq!(lab.run(&["build"]).code, 1, "a damaged lock is never ignored");
}

#[test]
fn a_list_with_a_bad_signature_is_not_believed() {
    if !have("bases", &[&TOOLS[..], &["gpgv"]].concat()) {
        return;
    }
    let lab = Lab::new();
    let vendor = vendor(&lab);
    let dir = lab.path().join("www/releases/noble/release");
    fs_err::create_dir_all(&dir).unwrap();
    fs_err::write(dir.join("SHA256SUMS"), format!("{} *ubuntu-24.04-server-cloudimg-amd64.img\n", "0".repeat(64)))
        .unwrap();
    fs_err::write(dir.join("SHA256SUMS.gpg"), "no signature\n").unwrap();
    let said = at_vendors(&lab, &vendor, &["base", "pull", "--arch", "amd64", "ubuntu-24.04"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""), "{said}");
    assert!(
        said.err.contains("cannot trust https://cloud-images.ubuntu.com/releases/noble/release/SHA256SUMS"),
        "{said}"
    );
    assert!(said.err.contains("the signature is not valid"), "{said}");
}

#[test]
fn a_containerdisk_that_buildah_made() {
    if !have("bases", &["buildah", "mke2fs", "sfdisk"]) {
        return;
    }
    let lab = Lab::new();
    small_disk(lab.path());
    let at = |name: &str| lab.path().join(name).display().to_string();
    lab.write("Containerfile", "FROM scratch\nADD --chown=107:107 disk.raw /disk/\n");
    let buildah = ["--root", &at("b"), "--runroot", &at("br"), "--storage-driver", "vfs"];
    let build = ["bud", "--isolation", "chroot", "-q", "-t", "x", "-f", &at("Containerfile"), &at("")];
    run("buildah", &[&buildah[..], &build].concat());
    run("buildah", &[&buildah[..], &["push", "-q", "x", &format!("oci:{}:one", at("made"))]].concat());
    run(
        "buildah",
        &[&buildah[..], &["push", "-q", "-f", "v2s2", "x", &format!("docker-archive:{}", at("d.tar"))]].concat(),
    );

    lab.write("recipe.yaml", &recipe("shell", "{image: 'oci:made:one'}", ""));
    let said = lab.run(&["build"]);
    assert_eq!((said.code, said.out.as_str()), (0, "shell:1.0.0\n"), "{said}");
    let list = answer(&lab.run(&["base", "ls", "--format", "json"]));
    assert_eq!(list["cache"][0]["digest"], sha256(&lab.path().join("disk.raw")).as_str());
    assert_eq!(list["cache"][0]["origin"], json!({"kind": "image", "image": "oci:made:one"}));
    assert_eq!(lab.run(&["build", "--locked"]).code, 0);

    // In a registry the digest is in the name: once the disk is in the cache, the registry is not needed.
    if have("registry", &["docker-registry", "skopeo"]) {
        let registry = Registry::plain(lab.path());
        let there = format!("{}/a/base", registry.host());
        let target = format!("docker://{there}:1");
        run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &format!("oci:{}:one", at("made")), &target]);
        let found = answer(&lab.run(&["inspect", "--format", "json", "--plain-http", &format!("{there}:1")]));
        let digest = found["digest"].as_str().unwrap();
        lab.write("r/recipe.yaml", &recipe("from-registry", &format!("{{image: '{there}@{digest}'}}"), ""));
        let said = lab.run(&["build", "--plain-http", "--locked", "r"]);
        assert_eq!((said.code, said.out.as_str()), (0, "from-registry:1.0.0\n"), "{said}");
        drop(registry);
        assert_eq!(lab.run(&["build", "--locked", "r"]).code, 0);
        let moved = digest.replace(&digest[7..15], "00000000");
        lab.write("r/recipe.yaml", &recipe("from-registry", &format!("{{image: '{there}@{moved}'}}"), ""));
        assert_eq!(lab.run(&["build", "--plain-http", "r"]).code, 4);
    }

    // The name means another image now.
    lab.write("Containerfile", "FROM scratch\nLABEL a=b\nADD --chown=107:107 disk.raw /disk/\n");
    run("buildah", &[&buildah[..], &build].concat());
    run("buildah", &[&buildah[..], &["push", "-q", "x", &format!("oci:{}:one", at("made"))]].concat());
    let said = lab.run(&["build", "--locked"]);
    assert_eq!(said.code, 7, "{said}");
    assert!(said.err.contains("`oci:made:one` is locked to sha256:"), "{said}");
    assert_eq!(lab.run(&["build", "--update"]).code, 0);
    assert_eq!(lab.run(&["build", "--locked"]).code, 0);
}
