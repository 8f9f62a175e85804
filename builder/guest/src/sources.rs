//! apt's package sources as text.

/// The fields of a stanza that [`Source`] has, and one that it is read for.
const FIELDS: [&str; 6] = ["types", "uris", "suites", "components", "signed-by", "enabled"];

/// One package source, of either format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// `deb`, `deb-src` or both.
    pub types: Vec<String>,
    /// Where from.
    pub uris: Vec<String>,
    /// The suites, or directories that end in `/`.
    pub suites: Vec<String>,
    /// The components.
    pub components: Vec<String>,
    /// The file of the key, or the key itself.
    pub signed_by: Option<String>,
    /// The names of all other options, in lower case.
    pub others: Vec<String>,
}

/// Where a suite comes from, and the key that signs it as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) uri: String,
    pub(crate) signed_by: Option<String>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Reads one-line sources (`deb [option=value] URI suite component…`).
pub fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if kind != "deb" && kind != "deb-src" {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let (mut signed_by, mut others) = (None, Vec::new());
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if name.eq_ignore_ascii_case("signed-by") {
            signed_by.get_or_insert(value.to_owned());
        } else {
            others.push(name.to_ascii_lowercase());
        }
    }
    let mut fields = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        types: vec![kind.to_owned()],
        uris: vec![fields.next()?],
        suites: vec![fields.next()?],
        components: fields.collect(),
        signed_by,
        others,
    })
}

/// Reads deb822 stanzas; disabled ones are left out.
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(stanza(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn stanza(fields: &[(String, String)]) -> Option<Source> {
    let get = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    if get("enabled").is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0")) {
        return None;
    }
    Some(Source {
        types: words(get("types")?),
        uris: words(get("uris")?),
        suites: words(get("suites")?),
        components: words(get("components").unwrap_or_default()),
        signed_by: get("signed-by").map(str::to_owned),
        others: fields.iter().map(|(name, _)| name.clone()).filter(|name| !FIELDS.contains(&name.as_str())).collect(),
    })
}

/// The mirror that a distribution's own suite comes from.
pub(crate) fn mirror(sources: &[Source], codename: &str) -> Option<Mirror> {
    sources
        .iter()
        .filter(|source| source.types.iter().any(|kind| kind == "deb"))
        .filter(|source| source.suites.iter().any(|suite| suite == codename))
        .find(|source| source.components.iter().any(|component| component == "main"))
        .and_then(|source| Some(Mirror { uri: source.uris.first()?.clone(), signed_by: source.signed_by.clone() }))
}

/// A stanza for one suite of a mirror.
pub(crate) fn stanza_for(mirror: &Mirror, suite: &str) -> String {
    let mut text = format!(
        "# {}\nTypes: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
        crate::seal::POLICY_MARK,
        mirror.uri
    );
    if let Some(key) = &mirror.signed_by {
        text.push_str("Signed-By: ");
        text.push_str(key);
        text.push('\n');
    }
    text
}

/// Whether a text is made of deb822 stanzas.
pub(crate) fn is_deb822(text: &str) -> bool {
    text.lines().any(|line| line.to_ascii_lowercase().starts_with("types:"))
}

/// Ties every source in a text to a key file, where it is not tied to one already.
pub(crate) fn tie_to_key(text: &str, key: &str) -> String {
    let mut tied = String::new();
    if is_deb822(text) {
        for stanza in text.trim().split("\n\n") {
            tied.push_str(stanza.trim_end());
            if !stanza.lines().any(|line| line.to_ascii_lowercase().starts_with("signed-by:")) {
                tied.push_str("\nSigned-By: ");
                tied.push_str(key);
            }
            tied.push_str("\n\n");
        }
        tied.pop();
        return tied;
    }
    for line in text.lines() {
        match parse_line(line) {
            Some(source) if source.signed_by.is_none() => {
                let (kind, rest) = line.trim_start().split_once(char::is_whitespace).unwrap_or((line, ""));
                let rest = rest.trim_start();
                match rest.strip_prefix('[') {
                    Some(rest) => tied.extend([kind, " [signed-by=", key, " ", rest.trim_start()]),
                    None => tied.extend([kind, " [signed-by=", key, "] ", rest]),
                }
            }
            _ => tied.push_str(line),
        }
        tied.push('\n');
    }
    tied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_own_suite() {
        let list = "# deb http://old.example/debian trixie main\n\
                    deb-src http://src.example/debian trixie main\n\
                    deb http://security.example/debian-security trixie-security main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main contrib # main\n";
        let expected = Mirror { uri: "http://mirror.example/debian".to_owned(), signed_by: Some("/k.gpg".to_owned()) };
        assert_eq!(mirror(&parse_list(list), "trixie"), Some(expected));
        assert_eq!(mirror(&parse_list(list), "bookworm"), None);
        let deb822 = "Types: deb\nEnabled: no\nURIs: http://off.example/\nSuites: trixie\nComponents: main\n\n\
                      # a comment\nTypes: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
                      Suites: trixie trixie-updates\n# in between\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n";
        let found = mirror(&parse_deb822(deb822), "trixie").unwrap();
        assert_eq!(found.uri, "mirror+file:///etc/apt/mirrors/debian.list");
        assert_eq!(
            stanza_for(&found, "unstable"),
            "# labwright: only while a step runs\nTypes: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
             Suites: unstable\nComponents: main\nSigned-By: \n -----BEGIN\n .\n x\n"
        );
    }

    #[test]
    fn sources_are_tied_to_their_key() {
        assert_eq!(
            tie_to_key("deb http://x.example/ stable main\ndeb [ arch=amd64 ] http://y.example/ a b", "/k.asc"),
            "deb [signed-by=/k.asc] http://x.example/ stable main\n\
             deb [signed-by=/k.asc arch=amd64 ] http://y.example/ a b\n"
        );
        let tied = "deb [signed-by=/own.asc] http://x.example/ stable main\n";
        assert_eq!(tie_to_key(tied, "/k.asc"), tied);
        assert_eq!(
            tie_to_key("Types: deb\nURIs: http://x.example/\nSuites: a\n", "/k.asc"),
            "Types: deb\nURIs: http://x.example/\nSuites: a\nSigned-By: /k.asc\n"
        );
    }
}
