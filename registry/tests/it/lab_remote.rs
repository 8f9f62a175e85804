//! Lab bundles in registries: how little is read to look at one, and what lies are found out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bundle::{CONFIG, lab_files};
use crate::common::{DockerRegistry, Kept, causes, have, have_python, run};
use crate::fake::{Fake, Knobs};
use crate::lab_copy::{Lab, images};
use fs_err as fs;
use labwright_core::{Cancel, Event, ImageRef, Quiet, Reporter};
use labwright_registry::Archive;
use labwright_registry::document::Manifest;
use labwright_registry::media_type::OCI_MANIFEST;

/// A lab in a registry of our own, and what it is called there.
async fn pushed(dir: &std::path::Path) -> (Fake, Lab, ImageRef) {
    let lab = Lab::pack(dir, "first", 80);
    let fake = Fake::start(Knobs::default()).await;
    let there = format!("{}/labs/all:lab-1", fake.host);
    lab.copy(&images(dir, &[&fake.host]), "first", &there).await.unwrap();
    fake.state.lock().unwrap().log.clear();
    (fake, lab, there.parse().unwrap())
}

#[tokio::test]
async fn looking_at_a_lab_fetches_two_documents_and_its_files_one_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, lab, there) = pushed(dir.path()).await;
    let images = images(dir.path(), &[&fake.host]);
    let log = || -> Vec<_> {
        let mut state = fake.state.lock().unwrap();
        std::mem::take(&mut state.log).into_iter().map(|(line, _)| line).collect()
    };
    let inspected = images.inspect_lab(&there, &Cancel::new()).await.unwrap().unwrap();
    assert_eq!(inspected.config, CONFIG);
    let digest = &lab.packed.bundle.digest;
    let (config, layer) = (labwright_core::Digest::sha256(CONFIG), &lab.packed.layer.digest);
    let expected = [
        "manifests/lab-1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{config}"),
        format!("referrers/{digest}"),
        format!("manifests/{}", digest.to_string().replace(':', "-")),
    ];
    assert_eq!(log(), expected.map(|rest| format!("GET /v2/labs/all/{rest}")));
    let files = images.lab_files(&there, &Cancel::new()).await.unwrap();
    assert_eq!(files.len(), 5);
    let blobs: Vec<_> = log().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(blobs, [format!("GET /v2/labs/all/blobs/{layer}")]);
}

#[tokio::test]
async fn lies_about_a_layer_are_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, lab, there) = pushed(dir.path()).await;
    let images = images(dir.path(), &[&fake.host]);
    let files = async || images.lab_files(&there, &Cancel::new()).await.map_err(|error| causes(&error));
    let change = |knobs| fake.state.lock().unwrap().knobs = knobs;
    // A line that breaks once is nothing; a registry that sends more or less than it should is.
    change(Knobs { cut_blob: vec![700], ..Knobs::default() });
    assert_eq!(files().await.unwrap().len(), 5);
    for lie in [1, -1] {
        change(Knobs { lie, ..Knobs::default() });
        let error = files().await.unwrap_err();
        assert!(error.contains("bytes for sha256:"), "{error}");
    }
    change(Knobs::default());
    let layer = lab.packed.layer.digest.to_string();
    fake.state.lock().unwrap().blobs.get_mut(&layer).unwrap()[600] ^= 1;
    let error = files().await.unwrap_err();
    assert!(error.contains(&format!("sent other content than {layer}")), "{error}");

    // A layer that is too large is not asked for, and a bomb in a small one is stopped.
    let (_, bytes) = fake.state.lock().unwrap().manifests["lab-1"].clone();
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 100 << 20), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let digest = labwright_core::Digest::sha256(&bomb);
    let size = bomb.len() as u64;
    assert!(size < 2 << 20);
    fake.state.lock().unwrap().blobs.insert(digest.to_string(), bomb);
    for (size, part) in [(size, "unpacks to more than 16777216 bytes"), (u64::MAX, "at most 16777216 are read")] {
        let mut manifest: Manifest = serde_json::from_slice(&bytes).unwrap();
        manifest.layers[0].digest = digest.clone();
        manifest.layers[0].size = size;
        fake.add_manifest("lab-1", OCI_MANIFEST, &serde_json::to_vec(&manifest).unwrap());
        let error = files().await.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fake.state.lock().unwrap().count(&format!("blobs/{digest}")), 1);
}

#[tokio::test]
async fn progress_is_told_and_a_set_cancel_ends_the_copy_of_a_lab() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, lab, there) = pushed(dir.path()).await;
    let images = images(dir.path(), &[&fake.host]);
    let file = dir.path().join("lab.tar");
    let kept = Arc::new(Kept::default());
    let reporter: Arc<dyn Reporter> = kept.clone();
    // From a registry and from the store: each layer is told of to its end.
    for from in [there.to_string(), "first".to_owned()] {
        kept.0.lock().unwrap().clear();
        lab.copy_with(&images, &from, &format!("oci-archive:{}:x", file.display()), &reporter).await.unwrap();
        let done = kept.0.lock().unwrap().iter().filter(|event| {
            matches!(event, Event::Progress { task, done, total } if task.starts_with("layer ") && Some(*done) == *total)
        }).count();
        assert!(done >= 6, "{from}: {done}");
    }
    assert!(Archive::open(&file).is_ok());
    fs::remove_file(&file).unwrap();

    fake.state.lock().unwrap().knobs.hang = true;
    let (cancel, begin) = (Cancel::new(), Instant::now());
    let setting = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        setting.cancel();
    });
    let reporter: Arc<dyn Reporter> = Arc::new(Quiet);
    let target = format!("oci-archive:{}:x", file.display()).parse().unwrap();
    let error =
        images.copy_lab(&there, &lab.packed.bundle.digest, &target, &lab.images, &reporter, &cancel).await.unwrap_err();
    assert_eq!(error.to_string(), "stopped on request");
    assert!(begin.elapsed() < Duration::from_secs(10));
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.contains("lab")).count(), 0, "no archive, and no place to work in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oras_for_python_unpacks_the_files() {
    if !have("registry", &["docker-registry"]) || !have_python("oras", "oras.client") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::pack(dir.path(), "first", 90);
    let registry = DockerRegistry::start(dir.path(), "", "");
    let there = format!("{}/labs/all:lab-1", registry.host());
    lab.copy(&images(dir.path(), &[&registry.host()]), "first", &there).await.unwrap();
    let out = dir.path().join("out");
    let script =
        "import sys, oras.client\noras.client.OrasClient(insecure=True).pull(target=sys.argv[1], outdir=sys.argv[2])";
    run("python3", &["-c", script, &there, &out.display().to_string()]);
    // It unpacks every layer of this media type; the program `oras` stores it under the name in its annotation.
    for (name, bytes) in lab_files() {
        assert_eq!(fs::read(out.join(&name)).unwrap(), bytes, "{name}");
    }
}
