use std::path::Path;

use crate::args::New;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The recipe that `new` writes; the name takes the place of `NAME`.
const TERMINAL: &str = include_str!("new/terminal.yaml");

/// Writes a directory with a recipe that builds as it stands.
pub(super) fn run(args: &New, context: &Context<'_>) -> Result<(), CommandError> {
    let name = &args.name;
    if !is_recipe_name(name) {
        return Err(CommandError::sentence(Kind::Usage, format!("`{name}` cannot be the name of a recipe"))
            .hint("a name has at most 32 lower-case letters, digits and dashes, and a letter or digit at both ends"));
    }
    let dir = Path::new(name);
    let fail = |source| CommandError::new(Kind::Input, source);
    if dir.exists() {
        return Err(CommandError::sentence(Kind::Input, format!("there is `{name}` here already"))
            .hint("take another name, or remove it"));
    }
    fs_err::create_dir(dir).map_err(fail)?;
    let file = dir.join("recipe.yaml");
    fs_err::write(&file, TERMINAL.replace("NAME", name)).map_err(fail)?;
    context.ui.note(format!("wrote {}; build it with `labwright build {name}`", file.display()));
    Ok(())
}

/// Whether the text is a DNS label of at most 32 characters.
fn is_recipe_name(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.len() <= 32
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|byte| byte == b'-' || edge(Some(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-desktop", "9p"] {
            assert!(is_recipe_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "../a", "a/b", &"a".repeat(33)] {
            assert!(!is_recipe_name(bad), "{bad}");
        }
    }
}
