use std::path::PathBuf;

use clap::Args;
use labwright_core::ByteSize;

use super::{Registries, RunnerChoice};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright run debian-terminal
  labwright run --memory 2Gi --ssh-key ~/.ssh/id_ed25519.pub recipes/library/debian-terminal

The machine runs on an overlay that is thrown away at the end; Ctrl-C powers it down.")]
pub struct Run {
    /// An image (NAME[:TAG] in the local store, oci:DIR[:TAG], oci-archive:FILE[:TAG]), or a recipe or its directory, which is then the image
    /// of that name in the local store
    pub image: String,
    /// A public SSH key for the image's user, and port 22 forwarded to loopback
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    /// The port on 127.0.0.1 of the front door (a free one if not given)
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Boots with UEFI firmware instead of BIOS
    #[arg(long)]
    pub uefi: bool,
    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "1Gi")]
    pub memory: ByteSize,
    /// Processors of the machine
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: u8,
    /// How long the machine may take until it is ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Powers the machine down and ends as soon as it is ready
    #[arg(long)]
    pub exit_when_ready: bool,
    /// Writes what the machine's serial console says to this file
    #[arg(long, value_name = "FILE")]
    pub console: Option<PathBuf>,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright audit debian-terminal
  labwright audit --format json registry.example/labs/shell:1
  labwright audit --secret id=token,src=token.txt disk.qcow2
  labwright audit --runner vm stranger.qcow2

Ends with exit code 6 if there is an error among the findings, or with --strict a warning.

The disk is mounted read-only and without its powers. A file system can be made to attack the
kernel that mounts it: with --runner vm that is the kernel of a small virtual machine without
network, which is the place for strangers' disks.")]
pub struct Audit {
    /// A qcow2 or raw file, or an image: NAME[:TAG] in the local store, HOST/REPOSITORY[:TAG], oci:DIR[:TAG] or
    /// oci-archive:FILE[:TAG]
    #[arg(value_name = "IMAGE|DISK")]
    pub image: String,
    /// Looks for this value too, in files and in freed blocks: from a file, or from a variable of the environment
    #[arg(long = "secret", value_name = "id=NAME,src=FILE|env=VARIABLE")]
    pub secret: Vec<String>,
    /// Counts warnings as errors
    #[arg(long)]
    pub strict: bool,
    /// Where the disk is mounted: on this host (needs root), in a small virtual machine (needs no privilege), or in the
    /// first of these that works here
    #[arg(long, value_enum, default_value_t, value_name = "RUNNER")]
    pub runner: RunnerChoice,
    /// A Debian kernel package for the virtual machine, instead of the one that apt has for this host
    #[arg(long, value_name = "FILE.deb")]
    pub appliance_kernel: Option<PathBuf>,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright gc
  labwright gc --max-age 0        # forgets every cached step

Images that have a name stay; `--remove NAME:TAG` takes the name away first.")]
pub struct Gc {
    /// Forgets cached steps that no build used for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub max_age: u64,
    /// Forgets the cached steps that were used longest ago until the rest takes no more than this
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<ByteSize>,
    /// Removes an image from the local store, NAME:TAG
    #[arg(long, value_name = "IMAGE")]
    pub remove: Vec<String>,
    /// Reads every cached step and forgets those that are damaged
    #[arg(long)]
    pub verify: bool,
}
