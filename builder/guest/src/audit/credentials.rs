use std::path::Path;

use super::settings::has_login;
use super::{Finding, Severity, small_text};
use crate::seal::{self, SealError};

/// A file that holds credentials if it has any of the words; without words, if it has anything.
struct Credential {
    id: &'static str,
    what: &'static str,
    severity: Severity,
    place: Place,
    words: &'static [&'static str],
}

enum Place {
    /// A pattern from the root.
    Root(&'static str),
    /// A pattern from the homes of root and of users.
    Home(&'static str),
}

use Place::{Home, Root};

const fn secret(id: &'static str, what: &'static str, place: Place, words: &'static [&'static str]) -> Credential {
    Credential { id, what, severity: Severity::Error, place, words }
}

/// What counts as a URL with a password in it, beside words.
const LOGIN: &str = "://user:password@";

const KEY: &[&str] = &["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"];
const CLOUD: &str = "credential/cloud";
const CLOUD_LOGIN: &str = "a cloud login";
const GIT: &str = "credential/git";
const REGISTRY: &str = "credential/registry";
const PACKAGES: &str = "credential/packages";
const KUBERNETES: &str = "credential/kubernetes";
const PRIVATE: &str = "credential/private-key";
const DATABASE: &str = "credential/database";
const NETWORK: &str = "credential/network";

static CREDENTIALS: &[Credential] = &[
    secret(PRIVATE, "a private SSH key", Home(".ssh/*"), KEY),
    secret(PRIVATE, "a private GnuPG key", Home(".gnupg/private-keys-v1.d/*"), &[]),
    secret(PRIVATE, "private GnuPG keys", Home(".gnupg/secring.gpg"), &[]),
    secret("credential/netrc", "passwords for hosts", Home(".netrc"), &["password"]),
    secret(GIT, "a git login", Home(".git-credentials"), &[]),
    secret(GIT, "a git login", Home(".config/git/credentials"), &[]),
    secret(GIT, "a git login", Home(".config/gh/hosts.yml"), &["oauth_token"]),
    secret(GIT, "a git login", Home(".config/glab-cli/config.yml"), &["token: "]),
    secret(REGISTRY, "a registry login", Home(".docker/config.json"), &["\"auth\"", "identitytoken"]),
    secret(REGISTRY, "a registry login", Home(".config/containers/auth.json"), &["\"auth\""]),
    secret(REGISTRY, "a registry login", Root("var/lib/kubelet/config.json"), &["\"auth\""]),
    secret(PACKAGES, "an npm login", Home(".npmrc"), &["_auth"]),
    secret(PACKAGES, "an npm login", Root("etc/npmrc"), &["_auth"]),
    secret(PACKAGES, "a login of PyPI", Home(".pypirc"), &["password"]),
    secret(PACKAGES, "a pip login", Home(".pip/pip.conf"), &[LOGIN]),
    secret(PACKAGES, "a pip login", Home(".config/pip/pip.conf"), &[LOGIN]),
    secret(PACKAGES, "a pip login", Root("etc/pip.conf"), &[LOGIN]),
    secret(PACKAGES, "a cargo login", Home(".cargo/credentials*"), &["token"]),
    secret(PACKAGES, "a gem login", Home(".gem/credentials"), &[]),
    secret(PACKAGES, "a maven login", Home(".m2/settings.xml"), &["<password>"]),
    secret(PACKAGES, "a gradle login", Home(".gradle/gradle.properties"), &["assword="]),
    secret(PACKAGES, "an apt login", Root("etc/apt/auth.conf"), &["password"]),
    secret(PACKAGES, "an apt login", Root("etc/apt/auth.conf.d/*"), &["password"]),
    secret(PACKAGES, "an apt login", Root("etc/apt/sources.list"), &[LOGIN]),
    secret(PACKAGES, "an apt login", Root("etc/apt/sources.list.d/*"), &[LOGIN]),
    secret(PACKAGES, "a dnf login", Root("etc/yum.repos.d/*"), &["password=", LOGIN]),
    secret(CLOUD, CLOUD_LOGIN, Home(".aws/credentials"), &["aws_secret_access_key"]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/gcloud/credentials.db"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/gcloud/access_tokens.db"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/gcloud/application_default_credentials.json"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".azure/accessTokens.json"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".azure/msal_token_cache.*"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".azure/service_principal_entries.*"), &[]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/doctl/config.yaml"), &["access-token: "]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/hcloud/cli.toml"), &["token"]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/openstack/clouds.yaml"), &["password", "secret"]),
    secret(CLOUD, CLOUD_LOGIN, Root("etc/openstack/clouds.yaml"), &["password", "secret"]),
    secret(CLOUD, CLOUD_LOGIN, Home(".s3cfg"), &["secret_key"]),
    secret(CLOUD, CLOUD_LOGIN, Home(".config/rclone/rclone.conf"), &["pass =", "token =", "secret"]),
    secret(CLOUD, "a login of Terraform", Home(".terraform.d/credentials.tfrc.json"), &["token"]),
    secret(CLOUD, "a login of Vault", Home(".vault-token"), &[]),
    secret(KUBERNETES, "a cluster login", Home(".kube/config"), &["client-key-data", "token:", "password:"]),
    secret(KUBERNETES, "a cluster login", Root("etc/kubernetes/*.conf"), &["client-key-data", "token:"]),
    secret(KUBERNETES, "a cluster login", Root("etc/rancher/k3s/k3s.yaml"), &["client-key-data"]),
    secret(DATABASE, "a database password", Home(".pgpass"), &[]),
    secret(DATABASE, "a database password", Home(".my.cnf"), &["password"]),
    secret(DATABASE, "answers to questions of packages", Root("var/cache/debconf/passwords.dat"), &["\nValue: "]),
    secret(NETWORK, "a network password", Root("etc/NetworkManager/system-connections/*"), &["psk=", "password="]),
    secret(NETWORK, "a network password", Root("etc/wpa_supplicant/*.conf"), &["psk=", "password="]),
    secret(NETWORK, "a key of a private network", Root("etc/wireguard/*.conf"), &["PrivateKey"]),
    secret("credential/environment", "a token in the environment", Root("etc/environment"), VARIABLES),
    secret("credential/environment", "a token in the environment", Root("etc/environment.d/*"), VARIABLES),
    secret("credential/environment", "a token in the environment", Root("etc/profile.d/*"), VARIABLES),
    secret("credential/environment", "a token in the environment", Home(".bashrc"), VARIABLES),
    secret("credential/environment", "a token in the environment", Home(".profile"), VARIABLES),
    Credential {
        id: "identity/default-certificate",
        what: "the key of a certificate that was made when its package was installed",
        severity: Severity::Warning,
        place: Root("etc/ssl/private/ssl-cert-snakeoil.key"),
        words: KEY,
    },
];

const VARIABLES: &[&str] =
    &["AWS_SECRET_ACCESS_KEY=", "GITHUB_TOKEN=", "GH_TOKEN=", "GITLAB_TOKEN=", "NPM_TOKEN=", "VAULT_TOKEN="];

pub(super) fn look(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    for credential in CREDENTIALS {
        let patterns = match credential.place {
            Root(pattern) => vec![pattern.to_owned()],
            Home(pattern) => vec![format!("root/{pattern}"), format!("home/*/{pattern}")],
        };
        for pattern in patterns {
            for path in seal::expand(root, &pattern)? {
                if holds(root, &path, credential.words)? {
                    let remedy = match credential.severity {
                        Severity::Error => "remove it, and change it where it was known: whoever has the image has it",
                        Severity::Warning => "have each machine make its own at its first boot",
                    };
                    findings.push(Finding::at(&path, credential.severity, credential.id, credential.what, remedy));
                }
            }
        }
    }
    passwords(root, findings)
}

fn holds(root: &Path, path: &Path, words: &[&str]) -> Result<bool, SealError> {
    if words.is_empty() {
        return Ok(seal::look_at(root, path)?.is_some_and(|metadata| metadata.is_file() && metadata.len() > 0));
    }
    let Some(text) = small_text(root, path)? else { return Ok(false) };
    let comment = |line: &&str| !line.trim_start().starts_with('#');
    Ok(words.iter().any(|word| match *word {
        LOGIN => text.lines().filter(comment).any(has_login),
        word => text.contains(word),
    }))
}

/// Accounts whose password is in the image, or empty.
fn passwords(root: &Path, findings: &mut Vec<Finding>) -> Result<(), SealError> {
    let path = Path::new("etc/shadow");
    let Some(text) = small_text(root, path)? else { return Ok(()) };
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(user), Some(password)) = (fields.next(), fields.next()) else { continue };
        if password.is_empty() {
            let remedy = "lock the account (`passwd -l`), or give it a key";
            let what = format!("the account `{user}` without a password");
            findings.push(Finding::at(path, Severity::Warning, "credential/empty-password", what, remedy));
        } else if !password.starts_with(['!', '*']) && password != "x" {
            let remedy = "lock the account, and set passwords when a machine starts";
            let what = format!("the password of `{user}`, the same on all machines");
            findings.push(Finding::at(path, Severity::Warning, "credential/password-hash", what, remedy));
        }
    }
    Ok(())
}
