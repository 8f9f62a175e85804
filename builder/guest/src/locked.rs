//! Packages in locked versions: what apt would install, how that is from what is locked, and what came in the end.

use labwright_core::{Digest, LockedPackage};

use crate::inventory::Inventory;

/// A package that apt would fetch and install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) package: LockedPackage,
    /// Where from.
    pub(crate) uri: String,
}

/// How what apt would install is from what is locked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// What is locked and would not be so, for people.
    pub(crate) problems: Vec<String>,
    /// What would be installed and is not locked.
    pub(crate) more: Vec<String>,
}

/// Reads what `apt-get install --print-uris` says, leaving out files below `own`. Returns the line that cannot be read
/// if there is one.
///
/// Source: apt-get(8), `--print-uris`; the name of a package's file is `QuoteString`ed in apt's `acquire-item.cc`.
pub(crate) fn parse_uris(text: &str, own: &str) -> Result<Vec<Planned>, String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('\'')) {
        let planned = parse_uri(line).ok_or_else(|| line.to_owned())?;
        if planned.uri.strip_prefix("file:").is_none_or(|path| !path.trim_start_matches('/').starts_with(own)) {
            found.push(planned);
        }
    }
    Ok(found)
}

/// `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE ALGORITHM:HEX`
fn parse_uri(line: &str) -> Option<Planned> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once('\'')?;
    let mut words = rest.split_whitespace();
    let stem = words.next()?.rsplit_once('.')?.0;
    let mut parts = stem.split('_').map(unquoted);
    let (name, version, architecture) = (parts.next()??, parts.next()??, parts.next()??);
    let digest = words.nth(1).and_then(|hash| {
        let (algorithm, hex) = hash.split_once(':')?;
        // apt knows weaker ones too, which say nothing.
        format!("{}:{hex}", algorithm.to_ascii_lowercase()).parse::<Digest>().ok()
    });
    let package = LockedPackage::new(&name, &architecture, &version, digest).ok()?;
    Some(Planned { package, uri: uri.to_owned() })
}

/// A text in which apt has written some bytes as `%3a`.
fn unquoted(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        plain.push(char::from(u8::from_str_radix(piece.get(..2)?, 16).ok()?));
        plain.push_str(&piece[2..]);
    }
    Some(plain)
}

/// Preferences for apt that take each package in its version, where it is to be had. What is installed is never replaced
/// by something older.
///
/// Source: `apt_preferences(5)`, "How APT Interprets Priorities".
pub(crate) fn preferences(packages: &[LockedPackage]) -> String {
    let mut text = String::new();
    for package in packages {
        let (name, version) = (package.name(), package.version());
        let name = match package.architecture() {
            "all" => name.to_owned(),
            architecture => format!("{name}:{architecture}"),
        };
        text.extend([format!("\nPackage: {name}\nPin: version {version}\nPin-Priority: 1000\n")]);
    }
    text
}

/// How `planned` is from `locked`, on a disk that has `before`.
pub(crate) fn compare(locked: &[LockedPackage], planned: &[Planned], before: &Inventory) -> Compared {
    let mut compared = Compared::default();
    for package in locked {
        let found = planned.iter().map(|planned| &planned.package).find(|planned| planned.is_same(package));
        let problem = match found {
            Some(found) if found.version() != package.version() => {
                Some(format!("the package sources have {} now", found.version()))
            }
            Some(found) if package.digest().is_some() && found.digest() != package.digest() => {
                Some("the package sources have another file under this version".to_owned())
            }
            Some(_) => None,
            None => match there(before, package) {
                Some(version) if version == package.version() => None,
                Some(version) => Some(format!("the base has {version}")),
                None => Some("nothing asks for it".to_owned()),
            },
        };
        compared.problems.extend(problem.map(|problem| format!("{} ({problem})", title(package))));
    }
    let more = planned.iter().filter(|planned| !locked.iter().any(|package| package.is_same(&planned.package)));
    compared.more = more.map(|planned| title(&planned.package)).collect();
    compared.more.sort();
    compared
}

/// Those of `locked` that package sources do not have, by what `apt-cache madison` says of their names, and that are not
/// on the disk either.
pub(crate) fn gone(locked: &[LockedPackage], madison: &str, before: &Inventory) -> Vec<String> {
    let known: Vec<(&str, &str)> = madison
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|').map(str::trim);
            Some((fields.next()?, fields.next()?))
        })
        .collect();
    let missing = |package: &&LockedPackage| {
        !known.contains(&(package.name(), package.version())) && there(before, package) != Some(package.version())
    };
    locked
        .iter()
        .filter(missing)
        .map(|package| {
            let now = known.iter().find(|(name, _)| *name == package.name());
            let now = now.map_or_else(
                || "the package sources do not have it".to_owned(),
                |(_, version)| format!("the package sources have {version} now"),
            );
            format!("{} ({now})", title(package))
        })
        .collect()
}

/// The version of a package that is installed.
fn there<'a>(inventory: &'a Inventory, package: &LockedPackage) -> Option<&'a str> {
    let same = |(name, architecture): (&str, &str)| (name, architecture) == (package.name(), package.architecture());
    let found = inventory.packages.iter().find(|one| same((one.name.as_str(), one.architecture.as_str())))?;
    Some(&found.version)
}

fn title(package: &LockedPackage) -> String {
    format!("{} {}", package.name(), package.version())
}

/// What came or changed its version, as far as it was planned so: files of the host are locked by their own digests.
pub(crate) fn came(before: &Inventory, after: &Inventory, planned: Vec<Planned>) -> Vec<LockedPackage> {
    let mut came: Vec<LockedPackage> = planned.into_iter().map(|planned| planned.package).collect();
    let as_planned = |package: &LockedPackage| {
        there(after, package) == Some(package.version()) && there(before, package) != Some(package.version())
    };
    came.retain(as_planned);
    came.sort();
    came.dedup();
    came
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::InstalledPackage;

    fn package(entry: &str, version: &str) -> LockedPackage {
        LockedPackage::from_entry(entry, version).unwrap()
    }

    fn disk(packages: &[(&str, &str)]) -> Inventory {
        let packages = packages.iter().map(|(name, version)| InstalledPackage {
            name: (*name).to_owned(),
            architecture: "amd64".to_owned(),
            version: (*version).to_owned(),
            source: (*name).to_owned(),
            source_version: (*version).to_owned(),
        });
        Inventory { dpkg: true, packages: packages.collect(), ..Inventory::default() }
    }

    fn planned(packages: &[LockedPackage]) -> Vec<Planned> {
        packages
            .iter()
            .map(|package| Planned { package: package.clone(), uri: "http://m.example/x".to_owned() })
            .collect()
    }

    #[test]
    fn what_apt_would_fetch_is_read() {
        let text = "Reading package lists...\n\
                    'http://m.example/pool/vim_9_amd64.deb' vim_2%3a9.1%7ebpo_amd64.deb 123 SHA256:AAAA\n\
                    'http://m.example/pool/vim-doc.deb' vim-doc_9_all.deb 5 MD5Sum:c73f71595c4a2fb6d6384ce8ad6f63c6\n\
                    'file:/tmp/packages/own_1_all.deb' own_1_all.deb 5 \n"
            .replace("AAAA", &"a".repeat(64));
        let found = parse_uris(&text, "tmp/packages/").unwrap();
        let expected =
            [package("vim:amd64", &format!("2:9.1~bpo sha256:{}", "a".repeat(64))), package("vim-doc:all", "9")];
        assert_eq!(found.iter().map(|planned| planned.package.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(found[0].uri, "http://m.example/pool/vim_9_amd64.deb");
        for bad in ["'http://x' vim.deb 1 SHA256:a", "'http://x' vim_1%zz_amd64.deb 1", "'x"] {
            assert_eq!(parse_uris(bad, "tmp/"), Err(bad.to_owned()));
        }
    }

    #[test]
    fn pins_are_as_apt_wants_them() {
        let text = preferences(&[package("curl:amd64", "8.14.1-2"), package("vim-doc:all", "2:9")]);
        assert_eq!(
            text,
            "\nPackage: curl:amd64\nPin: version 8.14.1-2\nPin-Priority: 1000\n\
             \nPackage: vim-doc\nPin: version 2:9\nPin-Priority: 1000\n"
        );
    }

    #[test]
    fn what_is_not_as_locked_is_named_with_its_reason() {
        let digest = |letter: &str| format!("1 sha256:{}", letter.repeat(64));
        let locked = [
            package("as-it-was:amd64", "1"),
            package("base-has-it:amd64", "1"),
            package("base-has-newer:amd64", "1"),
            package("newer:amd64", "1"),
            package("other-file:amd64", &digest("a")),
            package("unwanted:amd64", "1"),
        ];
        let now = planned(&[
            package("as-it-was:amd64", &digest("c")),
            package("newer:amd64", "2"),
            package("other-file:amd64", &digest("b")),
            package("one-more:amd64", "7"),
        ]);
        let before = disk(&[("base-has-it", "1"), ("base-has-newer", "2")]);
        let compared = compare(&locked, &now, &before);
        assert_eq!(
            compared.problems,
            [
                "base-has-newer 1 (the base has 2)",
                "newer 1 (the package sources have 2 now)",
                "other-file 1 (the package sources have another file under this version)",
                "unwanted 1 (nothing asks for it)",
            ]
        );
        assert_eq!(compared.more, ["one-more 7"]);

        let madison = " newer | 2 | http://m.example trixie/main amd64 Packages\n as-it-was | 1 | http://m.example x\n";
        assert_eq!(
            gone(&locked[..4], madison, &before),
            ["base-has-newer 1 (the package sources do not have it)", "newer 1 (the package sources have 2 now)"]
        );
    }

    #[test]
    fn only_what_came_is_locked() {
        let now = planned(&[package("new:amd64", "1"), package("raised:amd64", "2"), package("was-there:amd64", "1")]);
        let before = disk(&[("raised", "1"), ("was-there", "1")]);
        let after = disk(&[("raised", "2"), ("was-there", "1"), ("new", "1"), ("from-a-file", "1")]);
        let names: Vec<_> = came(&before, &after, now).iter().map(|package| package.name().to_owned()).collect();
        assert_eq!(names, ["new", "raised"]);
    }
}
