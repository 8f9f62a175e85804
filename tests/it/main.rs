//! Tests of the whole program and of the fences around its parts.
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests say what they measure, and what cannot go on says where"
)]

mod architecture;
mod archive;
mod audit;
mod bases;
mod basics;
mod boot;
mod bootstraps;
mod containers;
mod disks;
mod faults;
mod full;
mod grown;
mod hostile;
mod labs;
mod locks;
mod plan;
mod remote;
mod roots;
mod runners;
mod secrets;
mod servers;
mod shell;
mod towers;
mod trees;
mod world;
