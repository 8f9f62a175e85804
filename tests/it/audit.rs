//! `labwright audit` on disks of others and of our own.

use std::collections::BTreeSet;
use std::path::Path;

use assert_cmd::Command;
use labwright_tests::Said;
use serde_json::Value;

use crate::runners::{as_nobody, can_emulate, share_kernel};
use crate::world::{World, can_build, files, text, tool};

/// A private key that nobody uses.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJVtvSBKQoOfUAxRTPEVSmXAVnBPoRePaL8G0SrkwuEN\n\
                   -----END PRIVATE KEY-----\n";
const TOKEN: &str = "hunter2-of-the-mirror";

/// A raw disk whose owner used it, made from the tests' base without mounting it.
fn used_disk(world: &World) -> std::path::PathBuf {
    let disk = world.lab.path().join("used.raw");
    tool("qemu-img", &["convert", "-O", "raw", text(&world.lab.path().join("r/base.qcow2")), text(&disk)]);
    let mut commands = Vec::new();
    for (path, content) in [
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/opt/app.pem", KEY),
        ("/usr/lib/vendor.pem", KEY),
        ("/root/.netrc", "machine a login b password c\n"),
        ("/root/.bash_history", "curl\n"),
        ("/opt/gone.pem", KEY),
        ("/opt/gone", &format!("{TOKEN}\n").repeat(300)),
        ("/opt/token", &format!("token = {TOKEN}\n")),
    ] {
        let file = world.lab.write(&format!("plant{path}"), content);
        commands.push(format!("rm {path}\nwrite {} {path}\n", text(&file)));
    }
    // Their blocks are free then, and still have what they had.
    commands.push("rm /opt/gone.pem\nrm /opt/gone\n".to_owned());
    let said = Command::new("debugfs")
        .args(["-w", "-f", "-", &format!("{}?offset={}", text(&disk), 4096 * 512)])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .write_stdin(commands.concat())
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    disk
}

fn audit(world: &World, args: &[&str]) -> (Said, BTreeSet<(String, String)>) {
    findings(world.lab.run(&[&["audit", "--format", "json", "--runner", "chroot"], args].concat()))
}

/// The findings of an answer, and what was said.
fn findings(said: Said) -> (Said, BTreeSet<(String, String)>) {
    let answer: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said}"));
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = answer["findings"].as_array().unwrap();
    let errors = findings.iter().filter(|finding| finding["severity"] == "error").count();
    assert_eq!((answer["errors"].as_u64(), said.code == 6), (Some(errors as u64), errors > 0), "{said}");
    // Where the file system put what was deleted is its own business.
    let place = |finding| field(finding, "path").split(", at byte").next().unwrap().to_owned();
    (said, findings.iter().map(|finding| (field(finding, "id"), place(finding))).collect())
}

fn assert_has(found: &BTreeSet<(String, String)>, expected: &[(&str, &str)]) {
    for (id, place) in expected {
        assert!(found.contains(&((*id).to_owned(), (*place).to_owned())), "{id} {place}: {found:#?}");
    }
}

#[test]
fn build_and_audit_find_what_others_left_and_sealing_removes_it() {
    if !can_build() {
        return;
    }
    let world = World::new("audited", "");
    let used = used_disk(&world);
    let before = crate::world::sha256(&used);
    world.lab.write("token", &format!("{TOKEN}\n"));
    let secret = ["--secret", "id=token,src=token"];
    let (said, found) = audit(&world, &[&secret[..], &["used.raw"]].concat());
    assert_has(
        &found,
        &[
            ("credential/deleted-private-key", "no file"),
            ("credential/netrc", "/root/.netrc"),
            ("credential/private-key", "/opt/app.pem"),
            ("identity/machine-id", "/etc/machine-id"),
            ("residue/histories", "/root/.bash_history"),
            ("secret/value", "/opt/token"),
            ("secret/value", "no file"),
        ],
    );
    assert!(!found.iter().any(|(_, place)| place.contains("vendor.pem")), "{found:#?}");
    assert!(!said.out.contains(TOKEN) && !said.err.contains(TOKEN), "{said}");
    assert_eq!(crate::world::sha256(&used), before, "an audit changes nothing");

    // The same disk as qcow2, for people.
    let base = world.lab.path().join("used.qcow2");
    tool("qemu-img", &["convert", "-O", "qcow2", text(&used), text(&base)]);
    let said = world.lab.run(&["audit", "used.qcow2"]);
    assert_eq!(said.code, 6, "{said}");
    assert!(
        said.out.contains("error: identity/machine-id\n  /etc/machine-id: a machine's id\n  -> empty it"),
        "{said}"
    );
    assert!(said.err.contains("error: the audit of `used.qcow2` found "), "{said}");

    // A build on it removes what is nobody's, drops the free blocks, and leaves the rest to the recipe's author.
    let digest = crate::world::sha256(&base);
    fs_err::rename(&base, world.lab.path().join("r/used.qcow2")).unwrap();
    world.lab.write(
        "r/recipe.yaml",
        &format!(
            "apiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {{name: audited, version: 1.0.0}}\nbase: {{file: \
             ./used.qcow2, digest: \"sha256:{digest}\"}}\nruncmd: [\"rm /opt/token\"]\n"
        ),
    );
    let said = world.build(&[]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("/root/.netrc has passwords for hosts [credential/netrc]"), "{said}");
    let (_, found) = audit(&world, &[&secret[..], &["audited"]].concat());
    let expected = [
        ("build/resolver", "/etc/resolv.conf"),
        ("credential/netrc", "/root/.netrc"),
        ("credential/private-key", "/opt/app.pem"),
    ];
    let expected: BTreeSet<(String, String)> =
        expected.into_iter().map(|(id, place)| (id.to_owned(), place.to_owned())).collect();
    // A host whose packages come without a resolv.conf has nothing to warn of.
    assert_eq!(found.union(&expected).count(), expected.len(), "{found:#?}");
    assert_has(&found, &[("credential/netrc", "/root/.netrc"), ("credential/private-key", "/opt/app.pem")]);
    world.assert_nothing_left("audits");
    assert_eq!(files(&world.home().join("work")), Vec::<std::path::PathBuf>::new());
}

/// In a machine anyone can look at a disk, finds the same, and is told the files in which a build leaves its secrets.
#[test]
fn machine_audits_find_for_an_ordinary_user_what_a_chroot_finds_for_root() {
    if !can_build() || !can_emulate() {
        return;
    }
    let world = World::new("audited", "");
    let used = used_disk(&world);
    let before = crate::world::sha256(&used);
    world.lab.write("token", &format!("{TOKEN}\n"));
    let args = ["--secret", "id=token,src=token", "used.raw"];
    let (_, expected) = audit(&world, &args);
    share_kernel(&world.home());
    let (said, found) = findings(as_nobody(&world, &[&["audit", "--format", "json"], &args[..]].concat()));
    assert!(said.err.contains("runner: vm (this process is not root"), "{said}");
    assert_eq!(found, expected);
    assert!(found.len() > 6 && !said.out.contains(TOKEN) && !said.err.contains(TOKEN), "{said}");
    assert_eq!(crate::world::sha256(&used), before, "an audit changes nothing");
    share_kernel(&world.home());
    world.assert_nothing_left("an audit in a machine");

    // A file system that is broken in its middle harms nobody but the machine.
    let file = fs_err::OpenOptions::new().write(true).open(&used).unwrap();
    std::os::unix::fs::FileExt::write_all_at(file.file(), &[0xff; 8192], 4096 * 512 + 4096).unwrap();
    let said = as_nobody(&world, &["audit", "used.raw"]);
    assert_eq!(said.code, 1, "{said}");
    assert!(said.err.contains("error: could not look at the disk"), "{said}");

    world.recipe("build_secrets: [token]\nruncmd: [cp /run/secrets/token /opt/leaked]\n");
    let said = as_nobody(&world, &["build", "--secret", "id=token,src=token", "r"]);
    assert_eq!(said.code, 5, "{said}");
    assert!(said.err.contains("/opt/leaked") && !said.err.contains("at byte"), "{said}");
    share_kernel(&world.home());
    world.assert_nothing_left("a leaking build in a machine");
}

#[test]
fn audits_of_what_is_no_disk_say_so() {
    let lab = labwright_tests::Lab::new();
    lab.write("text.qcow2", "no disk\n");
    for (args, code, words) in [
        (&["audit", "text.qcow2"][..], 1, "text.qcow2"),
        (&["audit", "missing"][..], 1, "nothing was built yet"),
        (&["audit", "--secret", "id=x", "text.qcow2"][..], 2, "id=NAME,src=FILE"),
        (&["audit", "oci:missing"][..], 1, "missing"),
    ] {
        let said = lab.run(args);
        assert!(said.code == code && said.err.contains(words), "{args:?}: {said}");
    }
    assert!(!Path::new(&lab.path().join("home/work")).exists());
}
