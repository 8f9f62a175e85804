//! What the guest said of its apt, as a directory that the host's apt can work with.
//!
//! The guest is a stranger. Nothing of what it sent is used as it came but keys, which apt hands to the verifier: sources
//! and installed packages are read here and written anew, and only what is plain in them. Its configuration, which may
//! name programs to run, is not asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use labwright_core::Arch;
use labwright_guest::protocol::AptState;
use labwright_guest::sources::{Source, parse_deb822, parse_list};

/// The guest's files, by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Fields of an installed package that the choice of others depends on.
const FIELDS: [&str; 15] = [
    "Package",
    "Status",
    "Priority",
    "Section",
    "Essential",
    "Protected",
    "Architecture",
    "Multi-Arch",
    "Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
];
const FIELDS_AGAINST: [&str; 2] = ["Conflicts", "Breaks"];

/// Why the host cannot fetch for this guest: a fragment for people.
pub(crate) type Obstacle = String;

/// The files that the pieces make.
pub(crate) fn files(pieces: Vec<AptState>) -> Files {
    let mut files = Files::new();
    for AptState { path, piece } in pieces {
        files.entry(path).or_default().extend(piece);
    }
    files
}

/// Whether apt in the guest may choose by other rules than dependencies and recommendations.
pub(crate) fn has_odd_solver(files: &Files) -> bool {
    files.iter().filter(|(path, _)| path.starts_with("/etc/apt/apt.conf")).any(|(_, bytes)| {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        text.contains("suggests") || text.contains("solver") || text.contains("#include")
    })
}

/// Sources that the host can use, with their keys, as files of `dir`; and the text that tells them from others.
pub(crate) fn write(files: &Files, dir: &Path, arch: Arch) -> io::Result<Result<String, Obstacle>> {
    for sub in ["sources", "preferences", "trusted", "keys", "cache", "none/partial", "log", "etc"] {
        fs_err::create_dir_all(dir.join(sub))?;
    }
    let mut key_files = Vec::new();
    let sources = match sources(files, dir, &mut key_files) {
        Ok(sources) => sources,
        Err(obstacle) => return Ok(Err(obstacle)),
    };
    let told = sources.replace(&dir.display().to_string(), "");
    fs_err::write(dir.join("sources/guest.sources"), &sources)?;
    for (name, key) in &key_files {
        fs_err::write(dir.join("keys").join(name), key)?;
    }
    let mut keys = String::new();
    for (path, bytes) in files {
        let Some((parent, name)) = path.rsplit_once('/') else { continue };
        if !is_plain_name(name) {
            continue;
        }
        match parent {
            "/etc/apt/trusted.gpg.d" if ends(name, &["gpg", "asc"]) => {
                fs_err::write(dir.join("trusted").join(name), bytes)?;
                let _ = writeln!(keys, "{name} {}", labwright_core::Digest::sha256(bytes));
            }
            "/etc/apt/preferences.d" if !name.contains('.') || ends(name, &["pref"]) => {
                fs_err::write(dir.join("preferences").join(name), printable(bytes))?;
            }
            "/etc/apt" if name == "preferences" => {
                fs_err::write(dir.join("preferences/00-main"), printable(bytes))?;
            }
            _ => {}
        }
    }
    for (name, key) in &key_files {
        let _ = writeln!(keys, "{name} {}", labwright_core::Digest::sha256(key));
    }
    let status = files.get("/var/lib/dpkg/status").map(|bytes| installed(bytes)).unwrap_or_default();
    fs_err::write(dir.join("status"), status)?;
    let extended = files.get("/var/lib/apt/extended_states").map(|bytes| printable(bytes)).unwrap_or_default();
    fs_err::write(dir.join("extended_states"), extended)?;
    let mut architectures = vec![arch.to_string()];
    if let Some(bytes) = files.get("/var/lib/dpkg/arch") {
        let text = String::from_utf8_lossy(bytes);
        let more = text.lines().filter(|line| is_plain_name(line) && *line != arch.to_string()).map(str::to_owned);
        architectures.extend(more);
    }
    fs_err::write(dir.join("apt.conf"), configuration(dir, &architectures))?;
    Ok(Ok(format!("{told}\n{keys}\n{architectures:?}")))
}

/// Sources as stanzas, keys by the names of their files.
fn sources(files: &Files, dir: &Path, keys: &mut Vec<(String, Vec<u8>)>) -> Result<String, Obstacle> {
    let mut text = String::new();
    for (path, bytes) in files {
        let content = String::from_utf8_lossy(bytes);
        let listed = match path.as_str() {
            "/etc/apt/sources.list" => parse_list(&content),
            path if path.starts_with("/etc/apt/sources.list.d/") && ends(path, &["list"]) => parse_list(&content),
            path if path.starts_with("/etc/apt/sources.list.d/") && ends(path, &["sources"]) => parse_deb822(&content),
            _ => continue,
        };
        for source in listed.iter().filter(|source| source.types.iter().any(|kind| kind == "deb")) {
            let key = source.signed_by.as_deref().map(|key| key_file(key, files, dir, keys)).transpose()?;
            stanza(source, key.as_deref(), &mut text)?;
        }
    }
    if text.is_empty() { Err("it has no package sources".to_owned()) } else { Ok(text) }
}

fn stanza(source: &Source, key: Option<&str>, text: &mut String) -> Result<(), Obstacle> {
    // `trusted=yes` among others: then the guest's apt may do what it wants, inside the machine.
    if let Some(option) = source.others.iter().find(|option| !option.starts_with("x-")) {
        return Err(format!("a package source has the option `{option}`"));
    }
    let plain = |word: &&String| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/~+-:%@".contains(&byte));
    for uri in &source.uris {
        if !(uri.starts_with("http://") || uri.starts_with("https://")) || !plain(&uri) || uri.contains('@') {
            return Err(format!("a package source is at `{}`", uri.escape_default()));
        }
    }
    if let Some(word) = source.suites.iter().chain(&source.components).find(|word| !plain(word)) {
        return Err(format!("a package source has the suite or component `{}`", word.escape_default()));
    }
    let _ = writeln!(text, "Types: deb\nURIs: {}\nSuites: {}", source.uris.join(" "), source.suites.join(" "));
    if !source.components.is_empty() {
        let _ = writeln!(text, "Components: {}", source.components.join(" "));
    }
    if let Some(key) = key {
        let _ = writeln!(text, "Signed-By: {key}");
    }
    text.push('\n');
    Ok(())
}

/// The host's copy of a key that a source names or has in it.
fn key_file(signed_by: &str, files: &Files, dir: &Path, keys: &mut Vec<(String, Vec<u8>)>) -> Result<String, Obstacle> {
    let bytes = if signed_by.contains("-----BEGIN PGP") {
        // As deb822 has it: a space before each line, and a dot for an empty one.
        let lines = signed_by.trim().lines().map(str::trim).map(|line| if line == "." { "" } else { line });
        lines.fold(String::new(), |text, line| text + line + "\n").into_bytes()
    } else {
        let bytes = files.get(signed_by.trim());
        bytes.ok_or_else(|| format!("a package source has the key `{}`", signed_by.escape_default()))?.clone()
    };
    let ending = if bytes.starts_with(b"-----BEGIN") { "asc" } else { "gpg" };
    let name = format!("{}.{ending}", labwright_core::Digest::sha256(&bytes).hex());
    let path = dir.join("keys").join(&name).display().to_string();
    if !keys.iter().any(|(other, _)| *other == name) {
        keys.push((name, bytes));
    }
    Ok(path)
}

/// The installed packages, with what the choice of others depends on.
fn installed(status: &[u8]) -> String {
    let text = String::from_utf8_lossy(status);
    let mut plain = String::new();
    for stanza in text.split("\n\n") {
        let mut kept = String::new();
        for line in stanza.lines() {
            // Lines that go on are descriptions and the like; none of the fields below has them.
            let Some((name, value)) = line.split_once(": ") else { continue };
            let known = FIELDS.contains(&name) || FIELDS_AGAINST.contains(&name);
            if known && value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                let _ = writeln!(kept, "{name}: {value}");
            }
        }
        if kept.contains("Package: ") && kept.contains("Version: ") {
            plain.extend([kept.as_str(), "\n"]);
        }
    }
    plain
}

/// Text without what no file of apt has.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|char| *char == '\n' || (' '..='~').contains(char)).collect()
}

/// A file name that leads nowhere. A list of a source with a port has a colon in its name.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~%-:".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

/// Whether a file name has one of these endings.
pub(crate) fn ends(name: &str, endings: &[&str]) -> bool {
    Path::new(name).extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
}

/// The whole configuration of the host's apt: nothing of the host's own and nothing of the guest's is read.
fn configuration(dir: &Path, architectures: &[String]) -> String {
    let dir = dir.display();
    let mut text = format!(
        "Dir \"{dir}\";\nDir::State \"{dir}\";\nDir::State::status \"{dir}/status\";\n\
         Dir::State::extended_states \"{dir}/extended_states\";\nDir::Cache \"{dir}/cache\";\nDir::Log \"{dir}/log\";\n\
         Dir::Etc \"{dir}/etc\";\nDir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{dir}/sources\";\n\
         Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"/dev/null\";\nDir::Etc::netrc \"/dev/null\";\n\
         Dir::Etc::netrcparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{dir}/preferences\";\nDir::Etc::trusted \"/dev/null\";\n\
         Dir::Etc::trustedparts \"{dir}/trusted\";\nAPT::Architecture \"{}\";\nAPT::Architectures {{ ",
        architectures.first().map_or("amd64", String::as_str)
    );
    for architecture in architectures {
        let _ = write!(text, "\"{architecture}\"; ");
    }
    // Only what is signed, by every option that there is; the lock is ours.
    text.push_str(
        "};\nAcquire::AllowInsecureRepositories \"false\";\nAcquire::AllowWeakRepositories \"false\";\n\
         Acquire::AllowDowngradeToInsecureRepositories \"false\";\nAPT::Get::AllowUnauthenticated \"false\";\n\
         Acquire::Languages \"none\";\nAcquire::GzipIndexes \"false\";\nAcquire::Retries \"3\";\n\
         APT::Update::Error-Mode \"any\";\nAPT::Install-Recommends \"true\";\nDebug::NoLocking \"true\";\n",
    );
    if rustix::process::geteuid().is_root() {
        // apt's own user cannot enter a home.
        text.push_str("APT::Sandbox::User \"root\";\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

    fn state(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn written(state: &[(&str, &str)]) -> (tempfile::TempDir, Result<String, Obstacle>) {
        let dir = tempfile::tempdir().unwrap();
        let result = write(&self::state(state), dir.path(), Arch::Amd64).unwrap();
        (dir, result)
    }

    #[test]
    fn sources_and_keys_are_written_anew() {
        let list = "deb [signed-by=/usr/share/keyrings/d.gpg] http://m.example/debian trixie main # x\n\
                    deb-src http://m.example/debian trixie main\n";
        let inline = format!("Types: deb\nURIs: https://x.example/\nSuites: a/\nSigned-By:\n {KEY}\n .\n abc\n");
        let (dir, told) = written(&[
            ("/etc/apt/sources.list", list),
            ("/etc/apt/sources.list.d/x.sources", &inline),
            ("/etc/apt/sources.list.d/x.disabled", "deb file:/etc x main"),
            ("/usr/share/keyrings/d.gpg", "binary"),
            ("/etc/apt/trusted.gpg.d/t.asc", KEY),
            ("/etc/apt/preferences.d/p", "Package: *\nPin: release a=x\nPin-Priority: 1\n"),
            ("/var/lib/dpkg/arch", "amd64\ni386\n../x\n"),
        ]);
        let told = told.unwrap();
        assert!(!told.contains(dir.path().to_str().unwrap()), "{told}");
        let text = fs_err::read_to_string(dir.path().join("sources/guest.sources")).unwrap();
        let stanzas: Vec<&str> = text.trim().split("\n\n").collect();
        assert_eq!(stanzas.len(), 2, "{text}");
        assert!(
            stanzas[0].starts_with("Types: deb\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\n")
        );
        assert!(stanzas[1].starts_with("Types: deb\nURIs: https://x.example/\nSuites: a/\nSigned-By: "), "{text}");
        let key = stanzas[1].rsplit(' ').next().unwrap();
        assert_eq!(fs_err::read_to_string(key).unwrap(), format!("{KEY}\n\nabc\n"));
        let conf = fs_err::read_to_string(dir.path().join("apt.conf")).unwrap();
        assert!(conf.contains("APT::Architectures { \"amd64\"; \"i386\"; };"), "{conf}");
        assert!(dir.path().join("trusted/t.asc").exists() && dir.path().join("preferences/p").exists());
    }

    #[test]
    fn what_reaches_into_the_host_is_refused() {
        for line in [
            "deb file:/etc x main",
            "deb copy:///root x main",
            "deb mirror+file:/etc/passwd x main",
            "deb ssh://host/x x main",
            "deb [trusted=yes] http://m.example/ x main",
            "deb [allow-insecure=yes] http://m.example/ x main",
            "deb [signed-by=/etc/shadow] http://m.example/ x main",
            "deb http://user:pass@m.example/ x main",
            "deb http://m.example/ x\"; main",
            "deb http://m.example/\u{1b}[31m x main",
            "",
        ] {
            let (_dir, result) = written(&[("/etc/apt/sources.list", line)]);
            let obstacle = result.expect_err(line);
            assert!(obstacle.is_ascii() && !obstacle.contains('\u{1b}'), "{obstacle}");
        }
        let (_dir, result) = written(&[(
            "/etc/apt/sources.list.d/x.sources",
            "Types: deb\nURIs: http://m.example/\nSuites: x\nComponents: main\nTrusted: yes\n",
        )]);
        assert!(result.is_err());
    }

    #[test]
    fn installed_packages_have_plain_fields() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\nDepends: b (>= 2) | c\nDescription: x\n more\n \
                      Depends: evil\nConffiles:\n /etc/x 0123\nBreaks: \u{1}\n\nPackage: no-version\n";
        let expected = "Package: a\nStatus: install ok installed\nVersion: 1\nDepends: b (>= 2) | c\n\n";
        assert_eq!(installed(status.as_bytes()), expected);
        assert!(!is_plain_name("../x") && !is_plain_name(".x") && !is_plain_name("a/b") && !is_plain_name("a\"b"));
        assert!(is_plain_name("a_1%3a2~x.deb") && is_plain_name("m.example:3142_debian_._Packages"));
    }
}
