//! What Kubernetes' own schemas say, by the checker beside the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use labwright_lab::manifests::to_yaml;

use crate::goldens;
use crate::labs::{Session, everything};

/// The checker, which lies in a directory `shared` beside the repository; says so if it or what it needs is missing.
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "the contract of the tests; a skip must be seen")]
fn checker() -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = above.map(|dir| dir.join("shared/tools/check-manifests")).find(|path| path.exists());
    let usable =
        Command::new("python3").args(["-c", "import yaml, jsonschema"]).output().is_ok_and(|it| it.status.success());
    if usable && found.is_some() {
        return found;
    }
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|need| need == "schemas"), "LABWRIGHT_REQUIRE names schemas, which are missing");
    eprintln!("SKIPPED: needs shared/tools/check-manifests, pyyaml and jsonschema");
    None
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a checker that is not ours")]
fn the_schemas_know_every_field() {
    let Some(checker) = checker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let lab = everything();
    let mut command = Command::new("python3");
    command.arg(checker);
    let mut documents = 0;
    for (name, options) in
        [("gateway", goldens::gateway()), ("ingress", goldens::ingress()), ("traefik", goldens::traefik())]
    {
        let session = Session::of(&lab, &options);
        // Traefik's own kind is not among the schemas.
        let known = session.manifests.objects().filter(|object| object.kind() != "IngressRoute");
        let objects: Vec<_> = known.chain(&session.secrets).collect();
        documents += objects.len();
        let path = dir.path().join(name);
        fs_err::write(&path, to_yaml(objects)).unwrap();
        command.arg(path);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.trim(), format!("{documents} documents, 0 findings"));
}
