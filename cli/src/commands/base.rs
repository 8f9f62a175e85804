//! Gets the disk that a recipe starts from.

use std::str::FromStr;

use labwright_base_images::{Base, Bootstrap, Cache, Suite, bootstrap, file_base};
use labwright_core::Arch;
use labwright_recipes::resolved;

use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The base of a recipe, made or copied into the cache if it is not there.
///
/// What this version cannot use is refused before, with its place in the recipe.
pub(super) fn fetch(base: &resolved::Base, arch: Arch, context: &Context<'_>) -> Result<Base, CommandError> {
    let cache = Cache::open(context.settings.home.join("bases"))?;
    match base {
        resolved::Base::Bootstrap { distribution: resolved::Distribution::Debian, suite } => {
            let suite = Suite::from_str(suite).map_err(|source| {
                let known: Vec<&str> = Suite::ALL.into_iter().map(Suite::as_str).collect();
                CommandError::new(Kind::Input, source).hint(format!("this version bootstraps {}", known.join(" and ")))
            })?;
            Ok(bootstrap(&Bootstrap { suite, arch }, &cache, context.ui.reporter(), context.cancel)?)
        }
        resolved::Base::File { path, digest } => {
            Ok(file_base(&path.path, digest, &cache, context.ui.reporter(), context.cancel)?)
        }
        resolved::Base::Catalogue(_)
        | resolved::Base::Url(_)
        | resolved::Base::Image(_)
        | resolved::Base::Recipe(_) => Err(CommandError::sentence(Kind::Bug, "the base was not refused in time")),
    }
}
