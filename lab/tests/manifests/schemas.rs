//! What Kubernetes' own schemas say, by the checker beside the repository.

use std::process::Command;

use labwright_lab::manifests::to_yaml;

use crate::goldens;
use crate::labs::{Session, everything};
use crate::schema_checker::checker;

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
