//! Compiles the guest program, and the one that has a machine around it, and puts them where `include_bytes!` finds
//! them.
//!
//! The guest program runs inside the disk's own root file system, so it must not need a C library from there:
//! it is built for the musl target where rustup has one, else statically against glibc.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "a build script talks to cargo through its environment and processes")]
fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let crates = ["guest", "appliance", "disk", "host", "../core"];
    let inputs = crates.iter().flat_map(|dir| [format!("{dir}/src"), format!("{dir}/Cargo.toml")]);
    for input in inputs.chain(["../Cargo.lock".to_owned()]) {
        println!("cargo::rerun-if-changed={}", manifest_dir.join(input).display());
    }

    let target = guest_target(&arch);
    let target_dir = out_dir.join("guest-target");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .args(["build", "--release", "--locked"])
        .args(["--package", "labwright-guest", "--package", "labwright-appliance", "--bins"])
        .arg("--target")
        .arg(&target)
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(manifest_dir.parent().expect("the crate lies in the workspace"))
        // Flags and wrappers (clippy's, say) of the outer build are not for another target.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        // A developer waits for these programs at every change of theirs, and nobody ships them.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true");
    }
    let status = cargo.status().expect("cargo started this script, so it can be started");
    assert!(status.success(), "building the guest programs for {target} failed");
    for (program, variable) in
        [("labwright-guest", "LABWRIGHT_GUEST_PROGRAM"), ("labwright-appliance", "LABWRIGHT_APPLIANCE_PROGRAM")]
    {
        let path = target_dir.join(&target).join("release").join(program);
        assert!(path.is_file(), "cargo built no {}", path.display());
        println!("cargo::rustc-env={variable}={}", path.display());
    }
}

/// The musl target if its standard library is installed, else the gnu one.
#[expect(clippy::disallowed_methods, reason = "a build script talks to rustc through its environment and processes")]
fn guest_target(arch: &str) -> String {
    let musl = format!("{arch}-unknown-linux-musl");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let installed = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", &musl])
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|dir| Path::new(dir.trim()).is_dir());
    if installed { musl } else { format!("{arch}-unknown-linux-gnu") }
}
