//! The values of a recipe's `build_secrets`: given for one build, before anything of it begins.

use std::os::unix::ffi::OsStringExt;

use labwright_core::{MAX_SECRET, NamedSecret, Secret, did_you_mean};
use labwright_recipes::Loaded;

use crate::args::{SecretFrom, SecretSource};
use crate::error::{CommandError, Kind};

const HOW: &str = "give its value with --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE";

/// Reads the secrets that are given for an audit, under whatever names.
pub(super) fn any(given: &[String]) -> Result<Vec<NamedSecret>, CommandError> {
    let names = given.iter().map(|text| SecretSource::parse(text).map(|source| source.name));
    let names = names.collect::<Result<Vec<_>, _>>().map_err(|text| CommandError::sentence(Kind::Usage, text))?;
    gather(&names, given)
}

/// Refuses a secret that is not among those that `whose` recipes name.
fn is_named(name: &str, names: &[String], whose: &str) -> Result<(), CommandError> {
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let text = format!("{whose} names no secret `{name}` in `build_secrets`");
    let error = CommandError::sentence(Kind::Usage, text);
    Err(match did_you_mean(name, names.iter().map(String::as_str)) {
        Some(known) => error.hint(format!("did you mean `{known}`?")),
        None => error,
    })
}

/// Those of the given secrets that these recipes name.
pub(super) fn of_recipe(recipes: &[Loaded], given: &[String]) -> Vec<String> {
    let named = |text: &&String| {
        // What is no secret at all is for who reads them to say.
        SecretSource::parse(text)
            .map_or(true, |secret| recipes.iter().any(|loaded| loaded.recipe.build_secrets.contains(&secret.name)))
    };
    given.iter().filter(named).cloned().collect()
}

/// Refuses secrets that no recipe of a lab names.
pub(super) fn known(names: &[String], given: &[String]) -> Result<(), CommandError> {
    for text in given {
        let SecretSource { name, .. } =
            SecretSource::parse(text).map_err(|text| CommandError::sentence(Kind::Usage, text))?;
        is_named(&name, names, "the lab")?;
    }
    Ok(())
}

/// Reads the secrets that the recipe names. One that is missing, or that the recipe does not name, is an error.
pub(super) fn gather(names: &[String], given: &[String]) -> Result<Vec<NamedSecret>, CommandError> {
    let mut secrets: Vec<NamedSecret> = Vec::new();
    for text in given {
        let parsed = SecretSource::parse(text).map_err(|text| CommandError::sentence(Kind::Usage, text));
        let SecretSource { name, from } = parsed?;
        is_named(&name, names, "the recipe")?;
        if secrets.iter().any(|secret| secret.name == name) {
            return Err(CommandError::sentence(Kind::Usage, format!("the secret `{name}` is given twice")));
        }
        let fail = |error: CommandError| error.context(format!("could not take the secret `{name}`"));
        let value = read(&from).map_err(fail)?;
        secrets.push(NamedSecret { name, value });
    }
    match names.iter().find(|name| secrets.iter().all(|secret| secret.name != **name)) {
        Some(name) => {
            Err(CommandError::sentence(Kind::Usage, format!("the recipe needs the secret `{name}`")).hint(HOW))
        }
        None => Ok(secrets),
    }
}

fn read(from: &SecretFrom) -> Result<Secret, CommandError> {
    use std::io::Read;
    let bytes = match from {
        SecretFrom::File(path) => {
            let usage = |source| CommandError::new(Kind::Usage, source);
            // Grown beyond its room, a vector leaves a copy behind in memory.
            let mut bytes = Vec::with_capacity(MAX_SECRET + 1);
            let file = fs_err::File::open(path).map_err(usage)?;
            file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes).map_err(usage)?;
            bytes
        }
        SecretFrom::Variable(name) => {
            // What this program starts must not inherit it.
            labwright_host::hide_variable(name);
            crate::env::secret(name)
                .ok_or_else(|| CommandError::sentence(Kind::Usage, format!("the variable `{name}` is not set")))?
                .into_vec()
        }
    };
    Secret::new(bytes).map_err(|error| CommandError::new(Kind::Usage, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, path: &std::path::Path) -> String {
        format!("id={name},src={}", path.display())
    }

    #[test]
    fn each_mistake_is_told_before_the_build_and_without_the_value() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("value");
        fs_err::write(&file, "hunter2hunter2\n").unwrap();
        let names = ["token".to_owned(), "pip".to_owned()];
        let fail = |given: &[String]| {
            let error = gather(&names, given).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            let text = format!("{error} {:?}", error.hints);
            assert!(!text.contains("hunter2"), "{text}");
            text
        };
        assert!(fail(&[]).contains("needs the secret `token`"));
        assert!(fail(&[source("token", &file)]).contains("needs the secret `pip`"));
        assert!(fail(&[source("tokn", &file)]).contains("did you mean `token`?"));
        assert!(fail(&[source("token", &file), source("token", &file)]).contains("twice"));
        assert!(fail(&[source("token", &dir.path().join("missing"))]).contains("missing"));
        assert!(fail(&["id=pip,env=LABWRIGHT_NO_SUCH_VARIABLE".to_owned()]).contains("is not set"));
        assert!(fail(&["pip=hunter2hunter2".to_owned()]).contains("write --secret as"));
        fs_err::write(dir.path().join("short"), "short").unwrap();
        assert!(fail(&[source("pip", &dir.path().join("short"))]).contains("5 bytes are too few"));
        let good = gather(&names, &[source("pip", &file), source("token", &file)]).unwrap();
        assert_eq!(good[0].value.expose(), b"hunter2hunter2\n");
        assert_eq!(gather(&[], &[]).unwrap(), []);
    }
}
