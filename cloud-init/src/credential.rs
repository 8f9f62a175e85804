use std::fmt;

/// The name and password that a session's browser gives at the front door.
///
/// `Debug` shows the name only.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    user: String,
    password: String,
}

/// The name or password cannot be a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredential {
    /// Empty name or empty password.
    #[error("neither the name nor the password of a credential may be empty")]
    Empty,
    /// HTTP Basic separates name and password with a colon.
    #[error("the name of a credential has no `:` in it")]
    Colon,
    /// A line end, another control character, or something that is not ASCII, which browsers encode differently.
    #[error("a credential has only printable ASCII characters")]
    Character,
    /// Longer than `openssl passwd` reads.
    #[error("a password has at most 128 characters")]
    Long,
}

impl Credential {
    /// A credential that HTTP Basic, `openssl passwd` and nginx all read the same way.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Result<Self, InvalidCredential> {
        let (user, password) = (user.into(), password.into());
        if user.is_empty() || password.is_empty() {
            return Err(InvalidCredential::Empty);
        }
        if user.contains(':') {
            return Err(InvalidCredential::Colon);
        }
        if !user.bytes().chain(password.bytes()).all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(InvalidCredential::Character);
        }
        if password.len() > 128 {
            return Err(InvalidCredential::Long);
        }
        Ok(Self { user, password })
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password: do not log it, do not put it into a command line.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_password() {
        let credential = Credential::new("student", "s3cr:et word").unwrap();
        assert_eq!(format!("{credential:?}"), r#"Credential { user: "student", .. }"#);
        assert_eq!(credential.password(), "s3cr:et word");
    }

    #[test]
    fn refuses_what_does_not_survive_the_way() {
        for (user, password, why) in [
            ("", "x", InvalidCredential::Empty),
            ("x", "", InvalidCredential::Empty),
            ("a:b", "x", InvalidCredential::Colon),
            ("x", "two\nlines", InvalidCredential::Character),
            ("x", "größe", InvalidCredential::Character),
            ("x", &"a".repeat(129), InvalidCredential::Long),
        ] {
            assert_eq!(Credential::new(user, password), Err(why));
        }
    }
}
