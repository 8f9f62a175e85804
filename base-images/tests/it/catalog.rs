//! Names of the catalogue against a server that plays the vendor: signatures, swaps, locks and drift.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::{Bench, Vendor, answer, disk, has, honest, sha256};
use labwright_base_images::{CatalogError, Checksums, Entry, Lock, Pin, Pinning, Place, Signature};
use labwright_core::{Algorithm, Arch, Digest};
use labwright_host::Tool;

/// What the vendor has at the moment.
#[derive(Debug, Clone, Default)]
struct Shelf {
    files: BTreeMap<String, Vec<u8>>,
}

type Shared = Arc<Mutex<Shelf>>;

impl Shelf {
    fn put(&mut self, name: &str, body: &[u8]) {
        self.files.insert(format!("/latest/{name}"), body.to_vec());
    }

    /// Puts a disk and an honest list.
    fn release(&mut self, body: &[u8]) {
        self.put("disk-amd64.img", body);
        let list = format!("{}  other.img\n{} *disk-amd64.img\n", "0".repeat(64), sha256(body).hex());
        self.put("SHA256SUMS", list.as_bytes());
    }
}

fn vendor(shelf: &Shared) -> Vendor {
    let shelf = Arc::clone(shelf);
    Vendor::new(move |request, _, stream| {
        let file = shelf.lock().unwrap().files.get(&request.path).cloned();
        match file {
            Some(body) => honest(request, stream, &body, "\"a\""),
            None => answer(stream, "404 Not Found", &[], b""),
        }
    })
}

fn entry(vendor: &Vendor, signature: Option<Signature>) -> Entry {
    let place = Place { directory: vendor.at("latest/"), file: "disk-amd64.img".to_owned() };
    Entry {
        name: "test-1".to_owned(),
        title: "Test 1".to_owned(),
        images: [(Arch::Amd64, place)].into(),
        checksums: Checksums { algorithm: Algorithm::Sha256, file: "SHA256SUMS".to_owned() },
        signature,
    }
}

fn pin(vendor: &Vendor, digest: Digest) -> Pin {
    Pin { url: vendor.at("latest/disk-amd64.img"), digest, size: None, date: None }
}

async fn pull(entry: &Entry, lock: &mut Lock, pinning: Pinning, bench: &Bench) -> Result<Digest, CatalogError> {
    entry.pull(Arch::Amd64, lock, pinning, &bench.context()).await.map(|base| base.digest)
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_pinned() {
    let (first, second) = (disk(1, 1), disk(1, 2));
    let shelf = Shared::default();
    shelf.lock().unwrap().release(&first);
    let vendor = vendor(&shelf);
    let (entry, bench, mut lock) = (entry(&vendor, None), Bench::new(), Lock::default());
    assert_eq!(pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap(), sha256(&first));
    assert_eq!(lock.get("test-1", Arch::Amd64), Some(&pin(&vendor, sha256(&first))));

    // The vendor's next release changes nothing for who has a lock, here with the disk in the cache …
    shelf.lock().unwrap().release(&second);
    let before = lock.clone();
    assert_eq!(pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap(), sha256(&first));
    assert_eq!(pull(&entry, &mut lock, Pinning::Locked, &bench).await.unwrap(), sha256(&first));
    assert_eq!(vendor.requests().len(), 2);

    // … and elsewhere it is an error, never another disk.
    let elsewhere = Bench::new();
    for pinning in [Pinning::Extend, Pinning::Locked] {
        let error = pull(&entry, &mut lock, pinning, &elsewhere).await.unwrap_err();
        let text = "the vendor no longer has the test-1 for amd64 that the lock file pins: \
                    `labwright base refresh` for the recipe takes the new one";
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(lock, before);

    let context = elsewhere.context();
    let old = entry.refresh(Arch::Amd64, &mut lock, context.fetcher, context.cancel).await.unwrap();
    assert_eq!(old, Some(pin(&vendor, sha256(&first))));
    let old = entry.refresh(Arch::Amd64, &mut lock, context.fetcher, context.cancel).await.unwrap();
    assert_eq!(old, None);
    assert_eq!(pull(&entry, &mut lock, Pinning::Locked, &elsewhere).await.unwrap(), sha256(&second));
}

#[tokio::test]
async fn locked_means_locked() {
    let shelf = Shared::default();
    shelf.lock().unwrap().release(&disk(1, 3));
    let vendor = vendor(&shelf);
    let (entry, bench, mut lock) = (entry(&vendor, None), Bench::new(), Lock::default());
    let error = pull(&entry, &mut lock, Pinning::Locked, &bench).await.unwrap_err().to_string();
    let text = "the lock file has no test-1 for amd64: build once without --locked, or run `labwright base refresh` for the recipe";
    assert_eq!(error, text);

    let other = Pin { url: vendor.at("old/disk.img"), ..pin(&vendor, sha256(b"x")) };
    lock.set("test-1", Arch::Amd64, other);
    let error = pull(&entry, &mut lock, Pinning::Locked, &bench).await.unwrap_err().to_string();
    let text = format!(
        "test-1 for amd64 is locked to {0}old/disk.img, but is now {0}latest/disk-amd64.img: \
         `labwright base refresh` for the recipe accepts that",
        vendor.url
    );
    assert_eq!(error, text);
    assert_eq!(vendor.requests(), []);
    let error = entry.pull(Arch::Arm64, &mut lock, Pinning::Extend, &bench.context()).await.unwrap_err().to_string();
    assert_eq!(error, "test-1 has no image for arm64");
}

#[tokio::test]
async fn a_release_between_list_and_download_is_taken_up() {
    let (old, new) = (disk(1, 4), disk(1, 5));
    let vendor = Vendor::new({
        let new = new.clone();
        move |request, number, stream| {
            // The list of the old release is the last that is seen of it.
            let mut shelf = Shelf::default();
            shelf.release(if number == 0 { &old } else { &new });
            honest(request, stream, &shelf.files[&request.path], "\"a\"");
        }
    });
    let (entry, bench, mut lock) = (entry(&vendor, None), Bench::new(), Lock::default());
    assert_eq!(pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap(), sha256(&new));
    assert_eq!(lock.get("test-1", Arch::Amd64), Some(&pin(&vendor, sha256(&new))));
}

#[tokio::test]
async fn a_disk_that_the_list_does_not_mean_is_refused() {
    let shelf = Shared::default();
    shelf.lock().unwrap().release(&disk(1, 6));
    shelf.lock().unwrap().put("disk-amd64.img", &disk(1, 7));
    let vendor = vendor(&shelf);
    let (entry, bench, mut lock) = (entry(&vendor, None), Bench::new(), Lock::default());
    let error = pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap_err().to_string();
    assert!(error.contains("has the digest"), "{error}");
    assert_eq!(lock, Lock::default());

    shelf.lock().unwrap().put("SHA256SUMS", b"nothing of use\n");
    let error = pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap_err().to_string();
    let text = format!("{}latest/SHA256SUMS has 0 digests for disk-amd64.img, where one is needed", vendor.url);
    assert_eq!(error, text);
}

/// A key pair in a home of its own.
struct Signer {
    home: tempfile::TempDir,
}

impl Signer {
    fn new() -> Self {
        let signer = Self { home: tempfile::tempdir().unwrap() };
        signer.gpg(&["--passphrase", "", "--quick-generate-key", "vendor", "ed25519", "sign", "never"]);
        signer
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        #[expect(clippy::disallowed_methods, reason = "plays the vendor, who signs with gpg")]
        let output = std::process::Command::new("gpg")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn keyring(&self) -> Vec<u8> {
        self.gpg(&["--export"])
    }

    fn sign(&self, data: &[u8]) -> Vec<u8> {
        let file = self.home.path().join("data");
        fs_err::write(&file, data).unwrap();
        self.gpg(&["--armor", "--detach-sign", "--output", "-", file.to_str().unwrap()])
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "ends the agent that gpg started")]
        let ended = std::process::Command::new("gpgconf")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "gpg-agent"])
            .status();
        drop(ended);
    }
}

#[tokio::test]
async fn only_a_list_signed_by_the_vendor_counts() {
    let gpg = Path::new("/usr/bin/gpg").exists() && Path::new("/usr/bin/gpgconf").exists();
    if !has("gpg", gpg && (Tool::Gpgv.find().is_ok() || Tool::Sqv.find().is_ok())) {
        return;
    }
    let body = disk(1, 8);
    let shelf = Shared::default();
    shelf.lock().unwrap().release(&body);
    let list = shelf.lock().unwrap().files["/latest/SHA256SUMS"].clone();
    let vendor = vendor(&shelf);
    let (ours, stranger) = (Signer::new(), Signer::new());
    let signature = Signature { file: "SHA256SUMS.gpg".to_owned(), keyring: ours.keyring() };
    let (entry, bench, mut lock) = (entry(&vendor, Some(signature)), Bench::new(), Lock::default());

    let missing = pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap_err().to_string();
    let url = vendor.at("latest/SHA256SUMS");
    assert!(missing.starts_with(&format!("could not download {url}.gpg: the server answers 404")), "{missing}");
    for bad in [stranger.sign(&list), ours.sign(b"another list"), b"no signature".to_vec(), Vec::new()] {
        shelf.lock().unwrap().put("SHA256SUMS.gpg", &bad);
        let error = pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap_err();
        assert!(matches!(error, CatalogError::Signature { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("cannot trust {url}"));
    }
    assert_eq!(lock, Lock::default());
    let asked_for_the_disk = vendor.requests().iter().any(|request| request.path == "/latest/disk-amd64.img");
    assert!(!asked_for_the_disk, "the disk was asked for before its list was trusted");

    shelf.lock().unwrap().put("SHA256SUMS.gpg", &ours.sign(&list));
    assert_eq!(pull(&entry, &mut lock, Pinning::Extend, &bench).await.unwrap(), sha256(&body));
}
