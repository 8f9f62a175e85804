use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use fs_err as fs;

use super::RemoteError;

/// Where logins are looked up: docker's `config.json` and podman's `auth.json`, with their helpers.
///
/// The first file that has a login for a registry wins. Files that do not exist are passed over. A file may have
/// podman's longer keys (`registry.example/labs`), which win over the registry's own.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The files, most important first.
    pub files: Vec<PathBuf>,
    /// A login that wins over all files, for every registry that is talked to.
    pub login: Option<Login>,
}

/// A user name and a password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a credential file gives.
#[derive(Clone)]
pub(super) enum Secret {
    /// For basic authentication, also at the token service.
    Login(Login),
    /// A refresh token for the token service.
    Identity(String),
}

impl Secret {
    /// Whom to name in messages.
    pub(super) fn user(&self) -> &str {
        match self {
            Self::Login(login) => &login.user,
            Self::Identity(_) => "<token>",
        }
    }
}

/// The most bytes of a credential file.
const MAX_FILE: u64 = 1 << 20;

impl Credentials {
    /// Looks up a login. Runs credential helpers, so it may block.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Secret>, RemoteError> {
        if let Some(login) = &self.login {
            return Ok(Some(Secret::Login(login.clone())));
        }
        for file in &self.files {
            let bad = |source| RemoteError::Credentials { registry: registry.to_owned(), file: file.clone(), source };
            let mut text = Vec::new();
            match fs::File::open(file).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) => return Err(bad(CredentialRetrievalError::ConfigReadError)),
            }
            // An empty file is what `touch` and some CI systems leave.
            if text.trim_ascii().is_empty() {
                continue;
            }
            for key in keys(registry, repository) {
                match docker_credential::get_credential_from_reader(text.as_slice(), &key) {
                    Ok(DockerCredential::UsernamePassword(user, password)) => {
                        return Ok(Some(Secret::Login(Login { user, password })));
                    }
                    Ok(DockerCredential::IdentityToken(token)) => return Ok(Some(Secret::Identity(token))),
                    Err(CredentialRetrievalError::NoCredentialConfigured) => {}
                    // Docker's helpers fail in this way when they simply have nothing.
                    Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => {}
                    Err(source) => return Err(bad(source)),
                }
            }
        }
        Ok(None)
    }
}

/// The keys under which a login may stand, most special first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = Some(repository);
    while let Some(prefix) = path {
        keys.push(format!("{registry}/{prefix}"));
        path = prefix.rsplit_once('/').map(|(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    if registry == super::DOCKER_IO {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(files: &[&str], registry: &str, repository: &str) -> Result<Option<(String, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = vec![dir.path().join("absent")];
        for (number, text) in files.iter().enumerate() {
            paths.push(dir.path().join(number.to_string()));
            fs::write(paths.last().unwrap(), text).unwrap();
        }
        match (Credentials { files: paths, login: None }).find(registry, repository) {
            Ok(Some(Secret::Login(login))) => Ok(Some((login.user, login.password))),
            Ok(Some(Secret::Identity(token))) => Ok(Some(("<token>".to_owned(), token))),
            Ok(None) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn reads_the_files_of_docker_and_podman() {
        // `dTpw` is `u:p`, `YTpi` is `a:b`.
        let docker =
            r#"{"auths": {"r.example:5000": {"auth": "dTpw"}, "i.example": {"auth": "dTpw", "identitytoken": "t"}}}"#;
        let podman = r#"{"auths": {"r.example:5000/labs": {"auth": "YTpi"}, "r.example:5000": {"auth": "dTpw"}}}"#;
        let login = |user: &str, password: &str| Ok(Some((user.to_owned(), password.to_owned())));
        assert_eq!(find(&[docker, podman], "r.example:5000", "labs/x"), login("u", "p"));
        assert_eq!(find(&["", podman, docker], "r.example:5000", "labs/x"), login("a", "b"));
        assert_eq!(find(&[podman], "r.example:5000", "other/x"), login("u", "p"));
        assert_eq!(find(&[docker], "i.example", "x"), login("<token>", "t"));
        assert_eq!(find(&[docker, podman], "else.example", "x"), Ok(None));
        assert!(find(&["{"], "r.example", "x").unwrap_err().contains("cannot be used"));
        assert_eq!(format!("{:?}", Login { user: "u".into(), password: "secret".into() }), "Login { user: \"u\", .. }");
    }
}
