//! Secrets of a build: readable for root while commands run, and found nowhere else, then or afterwards.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use labwright_tests::program;

use crate::world::{World, can_build, files, grep, text, tool};

const TOKEN: &str = "hunter2-of-the-mirror/+x";
const KEY: [&str; 2] = ["first-line-of-the-key", "second-line-of-the-key"];

const BODY: &str = r#"build_secrets: [token, key]
runcmd:
  - |
    set -x
    stat -c '%n %a %U' /run/secrets /run/secrets/token /run/secrets/key
    stat -f -c '%T' /run/secrets
    echo "the token is $(cat /run/secrets/token)"
    printf '%s' "$(cut -c1-9 /run/secrets/token)"; sleep 0.2; cut -c10- /run/secrets/token
    base64 -w20 /run/secrets/token
    od -An -v -tx1 /run/secrets/token | tr -d ' \n'; echo
    cat /run/secrets/key >&2
    if echo x > /run/secrets/token; then exit 8; fi
    if setpriv --reuid 1 --regid 1 --clear-groups cat /run/secrets/token; then exit 9; fi
    sha256sum < /run/secrets/token > /opt/seen
    cp /run/secrets/token /tmp/copy
    sleep 2
"#;

/// Every form in which the secrets must not be met.
fn forms() -> Vec<String> {
    let hex = TOKEN.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    // Half of the encoded form, as a wrapped line may have it.
    let base64 = "aHVudGVyMi1vZi10aGUt".to_owned();
    [TOKEN, KEY[0], KEY[1]].into_iter().map(str::to_owned).chain([hex, base64]).collect()
}

fn assert_clean(what: &str, words: &str) {
    for form in forms() {
        assert!(!words.contains(&form), "{what} has `{form}`: {words}");
    }
}

/// Files below a directory that hold a form of a secret.
fn holders(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in files(dir) {
        if path.is_dir() {
            found.extend(holders(&path));
        } else if forms().iter().any(|form| grep(&path, form)) {
            found.push(text(&path).to_owned());
        }
    }
    found
}

/// Processes whose command line or environment holds a secret.
fn processes(but: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for process in files(Path::new("/proc")) {
        for file in ["cmdline", "environ"] {
            let words = String::from_utf8_lossy(&fs_err::read(process.join(file)).unwrap_or_default()).into_owned();
            let own = process.ends_with(but.to_string()) || process.ends_with(std::process::id().to_string());
            if !own && forms().iter().any(|form| words.contains(form)) {
                found.insert(format!("{} {file}: {words}", process.display()));
            }
        }
    }
    found
}

const GIVEN: [&str; 4] = ["--secret", "id=token,src=token", "--secret", "id=key,env=KEY"];

fn world(name: &str, body: &str) -> World {
    let world = World::new(name, body);
    world.lab.write("token", &format!("{TOKEN}\n"));
    world
}

/// Builds with both secrets; returns exit code, stdout and stderr.
#[expect(clippy::disallowed_methods, reason = "assert_cmd starts nothing in the background")]
fn build(world: &World, more: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(program());
    command.args(["build", "r"]).args(GIVEN).args(more).current_dir(world.lab.path()).env_clear();
    command.env("LABWRIGHT_HOME", world.home()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("KEY", KEY.join("\n")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let id = child.id();
    let done = std::thread::spawn(move || child.wait_with_output().unwrap());
    while !done.is_finished() {
        assert_eq!(processes(id), BTreeSet::new(), "while building");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let output = done.join().unwrap();
    let words = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), words(output.stdout), words(output.stderr))
}

#[test]
fn build_secrets_are_there_for_commands_and_nowhere_else() {
    if !can_build() {
        return;
    }
    let world = world("secrets", BODY);
    for (code, more, words) in [
        (2, &[][..], "needs the secret `token`"),
        (2, &["--secret", "id=token,src=token"][..], "needs the secret `key`"),
        (2, &["--secret", "id=tokem,src=token"][..], "did you mean `token`?"),
        (2, &["--secret", "id=token,src=missing"][..], "missing"),
    ] {
        let said = world.build(more);
        assert!(said.code == code && said.err.contains(words), "{more:?}: {said}");
    }
    assert!(!world.home().join("logs").exists(), "nothing was begun");

    for format in [&[][..], &["--format", "json", "--from", "commands"][..]] {
        let (code, out, err) = build(&world, format);
        assert_eq!(code, 0, "{err}");
        assert_clean("stdout", &out);
        assert_clean("stderr", &err);
        for line in ["/run/secrets 700 root", "/run/secrets/token 400 root", "tmpfs", "the token is ***"] {
            assert!(err.contains(line), "{line}: {err}");
        }
    }
    assert_eq!(holders(&world.home()), Vec::<String>::new(), "logs, layers, disks, store");
    let disk = world.disk(&files(&world.home().join("disks"))[0]);
    let digest = String::from_utf8(tool("sha256sum", &[text(&world.lab.path().join("token"))])).unwrap();
    assert_eq!(disk.read("/opt/seen")[..64], digest[..64], "the commands had the value");
    assert_eq!(String::from_utf8(disk.debugfs("ls -p /run")).unwrap().lines().count(), 3, "only . and .. are in /run");

    // Another value is the same build; another name is not.
    let id = |world: &World| world.layers().into_iter().map(|(step, record, _)| (step, record["key"].to_string()));
    let before: BTreeSet<_> = id(&world).collect();
    world.lab.write("token", "an entirely different value\n");
    let (code, _, err) = build(&world, &[]);
    assert!(code == 0 && err.contains("is up to date"), "{err}");
    world.recipe(&BODY.replace("[token, key]", "[key, token]"));
    assert_eq!(build(&world, &["--force"]).0, 0);
    let after: BTreeSet<_> = id(&world).collect();
    assert_eq!(after.difference(&before).map(|(step, _)| step.as_str()).collect::<Vec<_>>(), ["commands", "seal"]);
}

#[test]
fn build_fails_where_a_secret_stays_on_the_disk() {
    if !can_build() {
        return;
    }
    let world = world(
        "leaks",
        "build_secrets: [token, key]\nruncmd:\n  - |\n    base64 /run/secrets/token > /opt/leak\n    \
         tail -n1 /run/secrets/key > /srv/part\n    mkdir /opt/d; touch /opt/d/$(tail -n1 /run/secrets/key); sleep 3; rm \
         /opt/d/*\n",
    );
    // The pause lets the host write back, so that the deleted name is in the journal. The second time, nothing that holds
    // a secret may have stayed in the cache.
    for _ in 0..2 {
        let (code, out, err) = build(&world, &[]);
        assert_eq!(code, 5, "{out}{err}");
        assert_clean("stderr", &err);
        for place in [
            "the secret `token` in base64 in /opt/leak",
            "the secret `key` as it is in /srv/part",
            "the secret `key` as it is in no file, at byte ",
        ] {
            assert!(err.contains(place), "{place}: {err}");
        }
        assert_eq!(holders(&world.home()), Vec::<String>::new());
    }
    // What is deleted in time is dropped with the free blocks.
    world.recipe("build_secrets: [token, key]\nruncmd:\n  - cp /run/secrets/* /opt; sleep 3; rm /opt/token /opt/key\n");
    let (code, _, err) = build(&world, &[]);
    assert_eq!(code, 0, "{err}");
    for dir in ["disks", "store", "logs"] {
        assert_eq!(holders(&world.home().join(dir)), Vec::<String>::new());
    }
    let disk = world.disk(&files(&world.home().join("disks"))[0]);
    assert!(forms().iter().all(|form| !disk.contains(form)));

    // The last lines of a failed step are told too.
    world.recipe("build_secrets: [token, key]\nruncmd:\n  - cat /run/secrets/*; exit 3\n");
    let (code, _, err) = build(&world, &[]);
    assert!(code == 5 && err.contains("***"), "{err}");
    assert_clean("stderr", &err);
}
