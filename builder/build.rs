//! Compiles the guest program and puts it where `include_bytes!` finds it.
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
    for input in ["guest/src", "guest/Cargo.toml", "../core/src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", manifest_dir.join(input).display());
    }

    let target = guest_target(&arch);
    let target_dir = out_dir.join("guest-target");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    cargo
        .args(["build", "--release", "--locked", "--package", "labwright-guest", "--bin", "labwright-guest"])
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
    let status = cargo.status().expect("cargo started this script, so it can be started");
    assert!(status.success(), "building labwright-guest for {target} failed");
    let program = target_dir.join(&target).join("release/labwright-guest");
    assert!(program.is_file(), "cargo built no {}", program.display());
    println!("cargo::rustc-env=LABWRIGHT_GUEST_PROGRAM={}", program.display());
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
