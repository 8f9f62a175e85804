//! The checker of manifests beside the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The checker, which lies in a directory `shared` beside the repository; says so if it or what it needs is missing.
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "the contract of the tests; a skip must be seen")]
pub(crate) fn checker() -> Option<PathBuf> {
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
