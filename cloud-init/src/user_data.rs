use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Credential, yaml};

/// Where the session's credential lies in the guest: one line `USER:PASSWORD`, for root only.
pub(crate) const CREDENTIAL_PATH: &str = "/etc/labwright/credential";

/// What one session gives its guest at boot.
///
/// `Debug` shows no password.
#[derive(Clone, Default)]
pub struct SessionConfig {
    /// The host name; the image's own if `None`.
    pub hostname: Option<String>,
    /// What opens the front door; without one, nothing listens there.
    pub credential: Option<Credential>,
    /// Passwords of accounts that are in the image already, by account: for its login, its `sudo` and, where the image lets
    /// SSH take passwords, for SSH.
    pub passwords: BTreeMap<String, String>,
    /// Public keys for SSH by account. The accounts are in the image already.
    pub ssh_authorized_keys: BTreeMap<String, Vec<String>>,
    /// Further top-level keys of cloud-config. A list is appended to ours of the same name, anything else replaces it.
    pub extra: Map<String, Value>,
}

impl std::fmt::Debug for SessionConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionConfig")
            .field("hostname", &self.hostname)
            .field("credential", &self.credential)
            .field("passwords", &self.passwords.keys())
            .field("ssh_authorized_keys", &self.ssh_authorized_keys)
            .finish_non_exhaustive()
    }
}

/// The session's user-data: `#cloud-config` for cloud-init.
///
/// It changes nothing that was not asked for: whether SSH takes passwords, for instance, stays as the image has it.
/// The text holds the credential: write it to files that only their owner reads.
pub fn user_data(session: &SessionConfig) -> String {
    let mut config = Map::new();
    if let Some(hostname) = &session.hostname {
        config.insert("hostname".to_owned(), json!(hostname));
    }
    if let Some(credential) = &session.credential {
        let file = json!({
            "path": CREDENTIAL_PATH,
            "owner": "root:root",
            "permissions": "0600",
            "content": format!("{}:{}\n", credential.user(), credential.password()),
        });
        config.insert("write_files".to_owned(), json!([file]));
    }
    if !session.passwords.is_empty() {
        let users: Vec<Value> = session
            .passwords
            .iter()
            .map(|(name, password)| json!({"name": name, "password": password, "type": "text"}))
            .collect();
        // Nobody is to be asked for a new password at the first login.
        config.insert("chpasswd".to_owned(), json!({"expire": false, "users": users}));
    }
    if !session.ssh_authorized_keys.is_empty() {
        // The list replaces the image's own, so that must be named again.
        let mut users = vec![json!("default")];
        users.extend(
            session.ssh_authorized_keys.iter().map(|(name, keys)| json!({"name": name, "ssh_authorized_keys": keys})),
        );
        config.insert("users".to_owned(), Value::Array(users));
    }
    for (key, value) in &session.extra {
        match (config.get_mut(key), value) {
            (Some(Value::Array(ours)), Value::Array(more)) => ours.extend(more.iter().cloned()),
            _ => drop(config.insert(key.clone(), value.clone())),
        }
    }
    format!("#cloud-config\n{}", yaml::write(&config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_session_can_give() {
        let session = SessionConfig {
            hostname: Some("attacker".to_owned()),
            credential: Some(Credential::new("student", r#"a"b\c: #d"#).unwrap()),
            passwords: BTreeMap::from([("student".to_owned(), "12345".to_owned())]),
            ssh_authorized_keys: BTreeMap::from([("student".to_owned(), vec!["ssh-ed25519 AAAA key".to_owned()])]),
            extra: json!({"write_files": [{"path": "/flag", "content": "FLAG"}], "runcmd": [["true"]]})
                .as_object()
                .unwrap()
                .clone(),
        };
        insta::assert_snapshot!(user_data(&session));
    }

    #[test]
    fn nothing_asked_for_nothing_said() {
        assert_eq!(user_data(&SessionConfig::default()), "#cloud-config\n{}\n");
    }
}
