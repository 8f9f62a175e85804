//! The `WWW-Authenticate` header: what a registry wants before it answers.

use std::collections::HashMap;

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a token service.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// What the registry is called there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads a header value, which may hold several challenges; a token is preferred.
    ///
    /// Source: RFC 9110, 11.6.1; distribution, docs/spec/auth/token.md.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let mut best = None;
        for (scheme, mut params) in split(header) {
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    if let Some(realm) = params.remove("realm") {
                        return Some(Self::Bearer { realm, service: params.remove("service") });
                    }
                }
                "basic" => best = Some(Self::Basic),
                _ => {}
            }
        }
        best
    }
}

/// Splits `Scheme key="value",key=value, Scheme …`.
fn split(header: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        if let Some(value) = rest.trim_start().strip_prefix('=') {
            let (value, after) = value_of(value.trim_start());
            if let Some((_, params)) = found.last_mut() {
                params.insert(word.to_ascii_lowercase(), value);
            }
            rest = after;
        } else {
            found.push((word.to_owned(), HashMap::new()));
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

/// Reads a token or a quoted string and returns what follows.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        // Something must be consumed, or a lone separator would be read for ever.
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            char => value.push(char),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_send() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="a",scope="repository:x:pull,push""#,
                bearer("https://a/token", Some("a")),
            ),
            (r#"bearer Realm="https://a/\"q\"" , service = plain"#, bearer("https://a/\"q\"", Some("plain"))),
            (r#"Basic realm="Registry", Bearer realm="https://a""#, bearer("https://a", None)),
            (r#"Negotiate, Basic realm="x""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Bearer", None),
            ("", None),
            ("=,=\"", None),
            ("Digest a=b", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }
}
