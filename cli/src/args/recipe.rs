use std::path::PathBuf;

use clap::{Args, ValueEnum};
use labwright_builder::StepKind;

use super::Registries;

/// Arguments of `new`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright new web-shell && labwright check web-shell
  labwright new scan --template network
  labwright new tools --template recipe      # one image, no lab")]
pub struct New {
    /// Name of the lab or recipe and of the directory to make: lower-case letters, digits and dashes
    pub name: String,
    /// What to begin with
    #[arg(long, value_enum, default_value_t, value_name = "TEMPLATE")]
    pub template: Template,
}

/// What `new` can write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// A lab of one machine with a terminal
    #[default]
    Terminal,
    /// A lab of two machines on a network
    Network,
    /// A recipe without a lab
    Recipe,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  labwright check recipes/library/debian-terminal
  labwright check --format json web-shell      # a lab and all of its recipes")]
pub struct Check {
    /// A recipe or a lab, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Gives a variable of the recipe or lab another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// Arguments of `build`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  labwright build recipes/library/debian-terminal
  labwright build -o disk.qcow2 --set user=alice web-shell/recipe.yaml
  labwright build --secret id=token,src=token.txt --secret id=pip,env=PIP_TOKEN web-shell
  labwright build --locked scan        # all images of a lab

The image goes into the local store under the recipe's name and version. Of a lab, the images of all machines are
built or looked up, and their digests written into its labwright.lock. `labwright doctor` says which runners work here.")]
pub struct Build {
    /// A recipe or a lab, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Writes the disk to this file as well (of a recipe only)
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Gives a variable of the recipe or lab another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Gives the value of a secret that the recipe names: from a file, or from a variable of the environment
    #[arg(long = "secret", value_name = "id=NAME,src=FILE|env=VARIABLE")]
    pub secret: Vec<String>,
    /// Runs this step and all behind it anew, whatever is cached
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub from: Option<StepKind>,
    /// Runs every step anew, whatever is cached; the results are cached again
    #[arg(long, conflicts_with = "from")]
    pub no_cache: bool,
    /// What to do when a step fails: `shell` opens a shell in the disk as the step left it (on a terminal only)
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub on_error: OnError,
    /// Builds and packs although the store has the image already
    #[arg(long)]
    pub force: bool,
    /// Where the steps run: in a chroot of this host (needs root), in a small virtual machine (needs no privilege),
    /// or in the first of these that works here
    #[arg(long, value_enum, default_value_t, value_name = "RUNNER")]
    pub runner: RunnerChoice,
    /// A Debian kernel package for the virtual machine, instead of the one that apt has for this host
    #[arg(long, value_name = "FILE.deb")]
    pub appliance_kernel: Option<PathBuf>,
    /// Fails with exit code 7 where labwright.lock would have to change: for CI
    #[arg(long, conflicts_with = "update")]
    pub locked: bool,
    /// Takes today's base and versions of packages, and writes them into labwright.lock
    #[arg(long)]
    pub update: bool,
    /// How registries are talked to.
    #[command(flatten)]
    pub registries: Registries,
}

impl Build {
    /// What finds images that were built before, and builds none.
    pub fn existing(path: &std::path::Path, registries: &Registries) -> Self {
        Self {
            path: path.to_owned(),
            output: None,
            set: Vec::new(),
            secret: Vec::new(),
            from: None,
            no_cache: false,
            on_error: OnError::Fail,
            force: false,
            runner: RunnerChoice::Auto,
            appliance_kernel: None,
            locked: false,
            update: false,
            registries: registries.clone(),
        }
    }
}

/// What to do when a step fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// End
    #[default]
    Fail,
    /// Open a shell in the failing state, then end
    Shell,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example: labwright plan recipes/library/debian-terminal

Nothing is downloaded, made or written. Cached layers are believed by their length; a build checks their contents.")]
pub struct Plan {
    /// A recipe, or the directory that holds one
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Gives a variable of the recipe another value
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Fails with exit code 7 where a build would have to change labwright.lock
    #[arg(long)]
    pub locked: bool,
}

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// The name in the recipe.
    pub name: String,
    /// Where its value is.
    pub from: SecretFrom,
}

/// The places for the value of a secret; it is never in the command line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file, whose bytes it is.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

impl SecretSource {
    /// Reads `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`, as docker and podman write it.
    /// The error does not repeat the text: it may hold the secret itself, written by mistake, which is why clap, whose
    /// errors do, is not asked.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "write --secret as id=NAME,src=FILE or as id=NAME,env=VARIABLE".to_owned();
        let (mut name, mut from) = (None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(wrong)?;
            let repeated = match key {
                "id" => name.replace(value.to_owned()).is_some(),
                "src" | "source" => from.replace(SecretFrom::File(value.into())).is_some(),
                "env" => from.replace(SecretFrom::Variable(value.to_owned())).is_some(),
                _ => true,
            };
            if repeated {
                return Err(wrong());
            }
        }
        Ok(Self { name: name.ok_or_else(wrong)?, from: from.ok_or_else(wrong)? })
    }
}

/// The ways to run steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RunnerChoice {
    /// The first that works here
    #[default]
    Auto,
    /// In a chroot of this host
    Chroot,
    /// In a virtual machine
    Vm,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Example: labwright schema recipe > recipe.schema.json")]
pub struct Schema {
    /// What the schema describes
    #[arg(value_enum)]
    pub kind: SchemaKind,
}

/// The kinds of file that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// A recipe
    Recipe,
    /// A lab
    Lab,
}

/// Splits `NAME=VALUE`; the value may hold further equals signs.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// The step that is called so.
fn step(text: &str) -> Result<StepKind, String> {
    StepKind::ALL.into_iter().find(|step| step.as_str() == text).ok_or_else(|| {
        let names: Vec<&str> = StepKind::ALL.into_iter().map(StepKind::as_str).collect();
        format!("the steps are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_written_as_elsewhere() {
        let file = SecretSource { name: "token".to_owned(), from: SecretFrom::File("a/b".into()) };
        for text in ["id=token,src=a/b", "source=a/b,id=token"] {
            assert_eq!(SecretSource::parse(text), Ok(file.clone()));
        }
        let variable = SecretFrom::Variable("T".to_owned());
        assert_eq!(SecretSource::parse("id=t,env=T"), Ok(SecretSource { name: "t".to_owned(), from: variable }));
        // An error must not repeat what may be the secret.
        for text in ["hunter2", "token=hunter2", "id=a,src=b,env=C", "id=a", "src=b", "id=,src=b", "id=a,id=b,src=c"] {
            let error = SecretSource::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
