use clap::Args;
use clap_complete::Shell;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: labwright doctor --format json

Ends with exit code 3 if this host cannot build and run images.")]
pub struct Doctor {}

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example: labwright completions bash > /etc/bash_completion.d/labwright")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}
