//! Images that were never built.

use labwright_core::{AccessFact, AccessKind, Arch, ByteSize, Digest, ImageFacts, ImageForm};

/// What an image says of itself that offers this behind its front door.
pub(crate) fn facts(access: &[(&str, AccessKind)]) -> ImageFacts {
    let digest = Digest::sha256(b"");
    ImageFacts {
        name: "attacker".to_owned(),
        version: "1.0.0".to_owned(),
        title: None,
        form: ImageForm::ContainerDisk,
        arch: Arch::Amd64,
        virtual_size: ByteSize::from_bytes(8 << 30),
        base: "debian-13".to_owned(),
        base_digest: digest.clone(),
        recipe_digest: digest.clone(),
        build_key: digest,
        tool_version: "0.1.0".to_owned(),
        access: access
            .iter()
            .map(|(name, kind)| AccessFact {
                name: (*name).to_owned(),
                kind: *kind,
                port: 7681,
                path: format!("/{name}/"),
                user: Some("student".to_owned()),
            })
            .collect(),
        front_door: Some(7681),
        extra_packages: Vec::new(),
    }
}
