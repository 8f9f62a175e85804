use std::path::Path;

use labwright_lab::is_label;

use crate::args::{New, Template};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// A file of a template; the name that was given takes the place of `NAME` in it.
type File = (&'static str, &'static str);

macro_rules! files {
    ($template:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("new/", $template, "/", $path)))),+]
    };
}

const RECIPE: &[File] = &[("recipe.yaml", include_str!("new/recipe.yaml"))];
const TERMINAL: &[File] = files!("terminal":
    "lab.yaml",
    "images/shell/recipe.yaml",
    "instructions/01-welcome.md",
    "instructions/02-first-commit.md",
    "tasks/first-commit.sh",
    "tasks/first-commit.hint.md",
    "tasks/first-commit.solve.sh",
);
const NETWORK: &[File] = files!("network":
    "lab.yaml",
    "images/attacker/recipe.yaml",
    "images/target/recipe.yaml",
    "instructions/01-network.md",
    "instructions/02-find-the-page.md",
    "tasks/page-found.sh",
    "tasks/page-found.hint.md",
    "tasks/page-found.solve.sh",
);

/// The longest name of a recipe.
const MAX_NAME: usize = 32;

impl Template {
    const fn files(self) -> &'static [File] {
        match self {
            Self::Recipe => RECIPE,
            Self::Terminal => TERMINAL,
            Self::Network => NETWORK,
        }
    }

    /// What is built of it, for people.
    const fn noun(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::Terminal | Self::Network => "lab",
        }
    }

    /// The longest name for which the names of all recipes in it fit.
    fn longest_name(self) -> usize {
        let suffix = |text: &'static str| {
            text.lines().filter_map(|line| Some(line.trim().strip_prefix("name: NAME")?.len())).max()
        };
        MAX_NAME - self.files().iter().filter_map(|(_, text)| suffix(text)).max().unwrap_or(0)
    }
}

/// Writes a directory with a lab, or a recipe, that builds as it stands.
pub(super) fn run(args: &New, context: &Context<'_>) -> Result<(), CommandError> {
    let (name, template) = (&args.name, args.template);
    let longest = template.longest_name();
    if !is_label(name, longest) {
        return Err(CommandError::sentence(
            Kind::Usage,
            format!("`{name}` cannot be the name of a {}", template.noun()),
        )
        .hint(format!(
            "a name has at most {longest} lower-case letters, digits and dashes, and a letter or digit at both ends"
        )));
    }
    let dir = Path::new(name);
    let fail = |source| CommandError::new(Kind::Input, source);
    if dir.exists() {
        return Err(CommandError::sentence(Kind::Input, format!("there is `{name}` here already"))
            .hint("take another name, or remove it"));
    }
    // Whole or not at all: what is half-written has no name that anyone would build.
    let temp = tempfile::Builder::new().prefix(".labwright-").tempdir_in(".").map_err(fail)?;
    for (path, text) in template.files() {
        let file = temp.path().join(path);
        fs_err::create_dir_all(file.parent().expect("a file is in a directory")).map_err(fail)?;
        fs_err::write(&file, text.replace("NAME", name)).map_err(fail)?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(temp.path(), mode).map_err(fail)?;
    fs_err::rename(temp.path(), dir).map_err(fail)?;
    // Renamed: there is nothing left to remove.
    let _gone = temp.keep();
    context.ui.note(format!("wrote the {} {name}; build it with `labwright build {name}`", template.noun()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_recipes_fit() {
        assert_eq!(Template::Recipe.longest_name(), 32);
        assert_eq!(Template::Terminal.longest_name(), 32 - "-shell".len());
        assert_eq!(Template::Network.longest_name(), 32 - "-attacker".len());
    }
}
