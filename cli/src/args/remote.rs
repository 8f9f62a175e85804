use std::path::PathBuf;

use clap::{Args, Subcommand};
use labwright_core::{Arch, ImageRef};

use super::RunnerChoice;

/// How registries are talked to; the words are those of skopeo and oras.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct Registries {
    /// Talks HTTP without TLS to the registries of this command
    #[arg(long)]
    pub plain_http: bool,
    /// Trusts the certificate authorities in this PEM file beside the system's
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Reads logins from this file only, in docker's or podman's form
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright push debian-terminal oci:out:1.0.0
  labwright push debian-terminal:1.0.0 registry.example/labs/debian-terminal:1.0.0
  labwright push ./scan registry.example/labs/scan        # a lab with its images
  labwright push ./scan oci-archive:scan.tar --repository registry.example/labs/scan

A lab is published as one artifact, with a Helm chart in REPOSITORY/charts/NAME and a manifest for imgpkg beside it. Its
images must have been built; those that are in a registry already stay where they are, unless the target is a directory
or an archive. What the registry has already is not sent again. Logins are read from where podman, skopeo and docker keep
them: log in with one of those.")]
pub struct Push {
    /// The image: NAME[:TAG] in the local store, or any other reference; or a lab by its path
    #[arg(value_name = "IMAGE|PATH")]
    pub image: String,
    /// Where to: HOST/REPOSITORY[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]; without a tag the image's own
    pub target: ImageRef,
    /// Where a lab will be published, if the target is no registry
    #[arg(long, value_name = "HOST/REPOSITORY")]
    pub repository: Option<String>,
    /// Gives a variable of the lab another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = super::recipe::assignment)]
    pub set: Vec<(String, String)>,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright pull registry.example/labs/debian-terminal:1.0.0
  labwright pull --as shell:1 oci-archive:shell.tar && labwright run shell:1

Everything is verified while it comes in. What the local store has already is not fetched again.")]
pub struct Pull {
    /// The image: HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]
    pub image: ImageRef,
    /// What to call it in the local store, NAME[:TAG]; without it, the last part of its repository and its tag
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<ImageRef>,
    /// Takes only the image for this architecture, which then has another digest than the whole
    #[arg(long)]
    pub arch: Option<Arch>,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// Arguments of `copy`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright copy registry.example/labs/shell:1 mirror.example/labs/shell:1
  labwright copy registry.example/labs/shell:1 oci-archive:shell.tar
  labwright copy registry.example/labs/scan:0.1.0 mirror.example/labs/scan     # a lab with all images that it names

Bytes and digests stay as they are; all architectures, signatures and attestations come along.")]
pub struct Copy {
    /// From where: NAME[:TAG], HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]
    pub source: ImageRef,
    /// Where to, in the same words; without a tag the source's own
    pub target: ImageRef,
    /// Copies only the image for this architecture, which then has another digest than the whole
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Leaves out signatures, attestations and whatever else refers to the image
    #[arg(long)]
    pub no_referrers: bool,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright inspect --format json debian-terminal
  labwright inspect registry.example/labs/shell:1      # without fetching its layers
  labwright inspect --tags registry.example/labs/shell
  labwright inspect --sbom debian-terminal > sbom.json")]
pub struct Inspect {
    /// The image: NAME[:TAG] in the local store, HOST/REPOSITORY[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG];
    /// without one, all images of the local store
    pub image: Option<ImageRef>,
    /// Lists the tags beside the image's instead
    #[arg(long, requires = "image")]
    pub tags: bool,
    /// Prints the list of the image's packages (CycloneDX 1.6, JSON) instead
    #[arg(long, requires = "image", conflicts_with = "tags")]
    pub sbom: bool,
    /// Prints how the image was built (an in-toto statement with SLSA provenance, JSON) instead
    #[arg(long, requires = "image", conflicts_with_all = ["tags", "sbom"])]
    pub provenance: bool,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// The verbs of `base`.
#[derive(Debug, Subcommand)]
pub enum Base {
    /// List the catalogue and the disks in the cache
    Ls,
    /// Bring a base into the cache without building
    Pull(BasePull),
    /// Take today's base for a recipe from now on, and say what changed
    Refresh(BaseRefresh),
}

/// Arguments of `base pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright base pull debian-13
  labwright base pull web-shell/recipe.yaml     # the base that its build will use")]
pub struct BasePull {
    /// A name of the catalogue, or a recipe or its directory
    #[arg(default_value = ".", value_name = "NAME|PATH")]
    pub base: PathBuf,
    /// The architecture (this machine's if not given)
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Fails if labwright.lock has nothing for the base, or something else than is there now
    #[arg(long)]
    pub locked: bool,
    /// Where a base from packages is made: in a chroot of this host (needs root), in a small virtual machine (needs no
    /// privilege), or in the first of these that works here
    #[arg(long, value_enum, default_value_t, value_name = "RUNNER")]
    pub runner: RunnerChoice,
    /// A Debian kernel package for the virtual machine, instead of the one that apt has for this host
    #[arg(long, value_name = "FILE.deb")]
    pub appliance_kernel: Option<PathBuf>,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

/// Arguments of `base refresh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: labwright base refresh web-shell && git diff web-shell/labwright.lock

A name of the catalogue and an image without a digest are looked up anew for all architectures of the recipe; a base
from packages is made anew by the next build.")]
pub struct BaseRefresh {
    /// A recipe, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}
