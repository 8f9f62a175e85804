//! Makes a real Debian disk from packages and looks at what is in it; the boot itself is a whole-program test.

use std::path::{Path, PathBuf};

use labwright_base_images::{Bootstrap, Cache, DiskFormat, Origin, Suite, bootstrap};
use labwright_core::{Arch, Cancel, Event, Reporter};
use labwright_host::{Invocation, Tool};

/// Shows the last words of the tools if the test fails.
#[derive(Debug)]
struct Print;

impl Reporter for Print {
    fn event(&self, event: Event) {
        println!("{event:?}");
    }
}

/// Whether the need is there; a skip is loud, and a panic where the need was promised.
fn has(need: &str, met: bool) -> bool {
    if met {
        return true;
    }
    let required = option_env!("LABWRIGHT_REQUIRE").map(str::to_owned);
    #[expect(clippy::disallowed_methods, reason = "the variable is the contract of the test suite")]
    let required = std::env::var("LABWRIGHT_REQUIRE").ok().or(required).unwrap_or_default();
    assert!(!required.split(',').any(|name| name == need), "LABWRIGHT_REQUIRE names {need}, which is missing");
    eprintln!("SKIPPED: needs {need}");
    false
}

#[test]
fn debian_from_packages() {
    let tools = [Tool::Mmdebstrap, Tool::QemuImg, Tool::MkfsFat, Tool::Mcopy, Tool::Sfdisk];
    if !has("root", rustix::process::geteuid().is_root())
        || !has("bootstrap", tools.iter().all(|tool| tool.find().is_ok()))
    {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "lets a person keep the disk and look at it")]
    let kept = std::env::var_os("LABWRIGHT_TEST_BASE_CACHE").map(PathBuf::from);
    let scratch = tempfile::Builder::new().prefix("it's a cache ").tempdir_in("/var/tmp").unwrap();
    let dir = kept.unwrap_or_else(|| scratch.path().to_owned());
    let cache = Cache::open(&dir).unwrap();
    let spec = Bootstrap { suite: Suite::Trixie, arch: Arch::Amd64 };
    let base = bootstrap(&spec, &cache, &Print, &Cancel::new()).unwrap();
    println!("{base:?}");
}
