//! Packages are installed in the versions of `labwright.lock`, and what is cached is what would be built.

use std::collections::BTreeMap;
use std::path::Path;

use labwright_tests::Said;
use serde_json::Value;

use crate::archive::{Archive, can_publish, package};
use crate::runners::{can_emulate, nobody, share_kernel};
use crate::trees::{differences, root_tree};
use crate::world::{World, base_with_apt, can_build, sha256};

/// The sections of a recipe that install packages, one of which is a file of the recipe's.
fn what_installs(archive: &Archive, packages: &str) -> String {
    let archive = archive.section();
    format!("disk: {{size: 900Mi}}\n{archive}packages: [{packages}, ./own_3_all.deb]\n")
}

/// Every section of a recipe, for a directory with what it names.
fn body(archive: &Archive, ttyd: &str, packages: &str, motd: &str) -> String {
    let packages = what_installs(archive, packages);
    format!(
        r#"{packages}hostname: box
timezone: Europe/Berlin
locale: de_DE.UTF-8
users:
  - {{name: student, uid: 1500, groups: [games], shell: /bin/sh, sudo: ["ALL=(ALL) NOPASSWD:ALL"]}}
write_files:
  - {{path: /etc/motd, content: "{motd}\n", permissions: "0640", owner: "student:games"}}
  - {{path: /opt/tree/, from: ./tree/}}
runcmd:
  - cat /usr/share/lab/* > /opt/versions
  - [sh, -c, "cd /opt; chmod 4755 versions; ln -s versions link; mkfifo fifo; chown 12:34 fifo"]
  - |
    perl -e 'my ($f, $n) = ("/opt/cap", "security.capability"); my $v = pack("V5", 0x02000001, 1 << 10, 0, 0, 0);
      open(my $new, ">", $f); close($new); syscall(188, $f, $n, $v, 20, 0) == 0 or die $!'
access:
  - {{name: shell, type: terminal, user: student, ttyd: {{file: ./ttyd, digest: "sha256:{ttyd}"}}}}
"#
    )
}

fn text_of_lock(world: &World) -> String {
    fs_err::read_to_string(world.lab.path().join("r/labwright.lock")).unwrap()
}

fn lock(world: &World) -> BTreeMap<String, String> {
    let lock: Value = serde_json::from_str(&text_of_lock(world)).unwrap();
    serde_json::from_value(lock["packages"]["locked"]["amd64"]["packages"].clone()).unwrap()
}

/// The versions of a lock without digests.
fn versions(lock: &BTreeMap<String, String>) -> Vec<String> {
    lock.iter().map(|(package, version)| format!("{package} {}", version.split(' ').next().unwrap())).collect()
}

fn plan(world: &World, more: &[&str]) -> Said {
    world.lab.run(&[&["plan", "r"], more].concat())
}

#[test]
fn build_installs_what_is_locked_and_cached_is_as_built() {
    if !can_build() || !can_publish() {
        return;
    }
    let world = World::on(&base_with_apt(), "locked", "");
    let at = |name: &str| world.lab.path().join(name);
    let archive = Archive::new(&at("r"));
    world.lab.write("r/ttyd", "#!/bin/sh\n");
    world.lab.write("r/tree/a", "a\n");
    package(&at("r"), "own", "3", "", 0);
    let ttyd = sha256(&at("r/ttyd"));
    let recipe = |packages: &str, motd: &str| world.recipe(&body(&archive, &ttyd, packages, motd));
    let text_of_lock = || text_of_lock(&world);

    // Nothing is locked yet: `--locked` is refused, a build locks what it installs, and the next one asks nobody.
    archive.publish(&[("tool", "1:1.0", "tool-data (= 1:1.0)"), ("tool-data", "1:1.0", "")]);
    recipe("tool", "one");
    let said = world.build(&["--locked"]);
    assert_eq!((said.code, archive.asked()), (7, 0), "{said}");
    assert!(said.err.contains("has no versions of the packages of `locked` for amd64"), "{said}");
    assert!(plan(&world, &[]).out.contains("its packages are not locked yet"));
    let said = world.build(&["-o", "first.qcow2"]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("r/labwright.lock: 2 packages of `locked` are locked now"), "{said}");
    let first = lock(&world);
    assert_eq!(versions(&first), ["tool-data:all 1:1.0", "tool:all 1:1.0"], "a file of the recipe has its own digest");
    assert!(first.values().all(|version| version.contains(" sha256:")), "{first:?}");
    let (asked, written) = (archive.asked(), text_of_lock());
    assert!(plan(&world, &["--locked"]).out.contains("the store has this image"), "{}", plan(&world, &[]));
    assert_eq!(world.build_well(&["--locked"])["unchanged"], true);
    // Without the file it is known what was installed here; the file comes back as it was.
    fs_err::remove_file(at("r/labwright.lock")).unwrap();
    assert_eq!(world.build_well(&[])["unchanged"], true);
    assert_eq!((text_of_lock(), archive.asked()), (written.clone(), asked));

    // From nothing, with newer versions beside the old ones, the same is built.
    let old = [("tool", "1:1.0", "tool-data (= 1:1.0)"), ("tool-data", "1:1.0", "")];
    let new = [("tool", "1:2.0", "tool-data (= 1:2.0)"), ("tool-data", "1:2.0", "")];
    archive.publish(&[&old[..], &new[..]].concat());
    let mut cold = world.lab.labwright(&["build", "--locked", "--no-cache", "-o", "cold.qcow2", "r"]);
    let said = labwright_tests::said(cold.env("LABWRIGHT_HOME", at("home2")));
    assert_eq!((said.code, text_of_lock()), (0, written.clone()), "{said}");

    // From cached layers: a file changed and changed back, and layers gone from the middle.
    recipe("tool", "two");
    world.build_well(&[]);
    recipe("tool", "one");
    for (step, record, path) in world.layers() {
        if ["users", "commands", "seal"].contains(&step.as_str()) {
            fs_err::remove_file(path.with_extension("json")).unwrap();
            fs_err::remove_file(path).unwrap();
            assert!(record["key"].is_string());
        }
    }
    let answer = world.build_well(&["-o", "cached.qcow2", "--force"]);
    assert_eq!(
        (&answer["steps"][1]["cached"], &answer["steps"][3]["cached"]),
        (&true.into(), &false.into()),
        "{answer}"
    );
    let [first_tree, cold, cached] = ["first", "cold", "cached"].map(|name| {
        let disk = world.disk(&at(&format!("{name}.qcow2")));
        disk.check();
        root_tree(&world, &disk)
    });
    assert!(cold.len() > 5000 && cold[Path::new("opt/cap")].contains("security.capability"), "{}", cold.len());
    for (what, other) in [("cached", &cached), ("first", &first_tree)] {
        let different = differences(&cold, other);
        assert!(different.is_empty(), "{what}: the trees differ: {different:#?}");
    }

    // What is locked is gone: nothing else is installed instead.
    archive.publish(&new);
    let said = world.build(&["--no-cache"]);
    assert_eq!((said.code, text_of_lock()), (7, written), "{said}");
    let gone = "tool 1:1.0 (the package sources have 1:2.0 now)";
    assert!(said.err.contains(gone) && said.err.contains("labwright build --update"), "{said}");
    world.build_well(&["--update"]);
    let second = lock(&world);
    assert_eq!(versions(&second), ["tool-data:all 1:2.0", "tool:all 1:2.0"]);

    // Another list of packages: what stays keeps its version, though there is a newer one.
    let newer = [("tool", "1:3.0", "tool-data (= 1:3.0)"), ("tool-data", "1:3.0", ""), ("more", "5", "")];
    archive.publish(&[&new[..], &newer].concat());
    recipe("tool, more", "one");
    let said = world.build(&["--locked"]);
    assert_eq!(said.code, 7, "{said}");
    assert!(said.err.contains("its packages or package sources changed since they were locked"), "{said}");
    let said = plan(&world, &[]);
    assert!(said.out.contains("+ package more, what is locked is for other packages or sources"), "{said}");
    let said = world.build(&[]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("what is locked for `locked` changed: + more 5"), "{said}");
    assert_eq!(versions(&lock(&world)), ["more:all 5", "tool-data:all 1:2.0", "tool:all 1:2.0"]);
    // Where they do not fit together any more, all are chosen anew.
    archive.publish(&[&newer[..], &new[..1], &[("again", "6", "")]].concat());
    recipe("tool, again", "one");
    world.build_well(&[]);
    assert_eq!(versions(&lock(&world)), ["again:all 6", "tool-data:all 1:3.0", "tool:all 1:3.0"]);

    // A file that a merge or a hand has damaged is never overwritten.
    let whole = text_of_lock();
    for (damaged, why) in [
        (whole.replace("  \"packages\"", "<<<<<<< HEAD\n  \"packages\""), "has the marks of a merge"),
        (whole.replace("1:3.0", "1:3.0 "), "is no package in a version"),
        (whole[..whole.len() / 2].to_owned(), "is not a lock file"),
    ] {
        fs_err::write(at("r/labwright.lock"), &damaged).unwrap();
        for more in [&[][..], &["--update"], &["--locked"]] {
            let said = world.build(more);
            assert_eq!((said.code, text_of_lock()), (1, damaged.clone()), "{said}");
            assert!(said.err.contains(why), "{said}");
        }
    }
}

/// The machine cannot reach the archive, which is on the host's loopback address: whatever it installs came through the
/// host's apt.
#[test]
fn machine_installs_what_is_locked_from_what_the_host_fetched() {
    if !can_build() || !can_emulate() || !can_publish() {
        return;
    }
    let world = World::on(&base_with_apt(), "locked", "");
    let at = |name: &str| world.lab.path().join(name);
    let archive = Archive::new(&at("r"));
    package(&at("r"), "own", "3", "", 0);
    world.recipe(&(what_installs(&archive, "tool") + "runcmd: [\"cat /usr/share/lab/* > /opt/versions\"]\n"));
    let build = |home: &str, more: &[&str]| {
        let args = [&["build", "--format", "json", "--runner", "vm", "r"], more].concat();
        let said = labwright_tests::said(nobody(&world, &args).env("LABWRIGHT_HOME", at(home)));
        let inside = said.err.contains("packages are fetched inside the machine");
        assert!(!inside && !said.err.contains("Could not connect"), "{said}");
        said
    };
    let tree = |name: &str| {
        let disk = world.disk(&at(name));
        disk.check();
        (disk.read("/opt/versions"), root_tree(&world, &disk))
    };
    share_kernel(&world.home());

    let old = [("tool", "1:1.0", "tool-data (= 1:1.0)"), ("tool-data", "1:1.0", "")];
    archive.publish(&old);
    let said = build("home", &["-o", "first.qcow2"]);
    assert_eq!(said.code, 0, "{said}");
    share_kernel(&world.home());
    world.assert_nothing_left("a build with packages in a machine");
    let (first, written) = (lock(&world), text_of_lock(&world));
    assert_eq!(versions(&first), ["tool-data:all 1:1.0", "tool:all 1:1.0"]);
    assert!(first.values().all(|version| version.contains(" sha256:")), "{first:?}");
    let asked = archive.asked();
    let said = build("home", &["--locked"]);
    let answer: Value = serde_json::from_str(&said.out).expect("the answer is JSON");
    assert_eq!((said.code, &answer["unchanged"]), (0, &Value::Bool(true)), "{said}");
    assert_eq!((text_of_lock(&world), archive.asked()), (written.clone(), asked));

    // From nothing, with newer versions beside the old ones: in a machine, and in a chroot by what the machine locked.
    let new = [("tool", "1:2.0", "tool-data (= 1:2.0)"), ("tool-data", "1:2.0", "")];
    archive.publish(&[&old[..], &new].concat());
    share_kernel(&at("cold"));
    let said = build("cold", &["--locked", "--no-cache", "-o", "cold.qcow2"]);
    assert_eq!((said.code, text_of_lock(&world)), (0, written.clone()), "{said}");
    let mut chroot = world.lab.labwright(&["build", "--runner", "chroot", "--locked", "-o", "chroot.qcow2", "r"]);
    let said = labwright_tests::said(chroot.env("LABWRIGHT_HOME", at("other")));
    assert_eq!((said.code, text_of_lock(&world)), (0, written.clone()), "{said}");
    let [first, cold, chroot] = ["first", "cold", "chroot"].map(|name| tree(&format!("{name}.qcow2")));
    assert_eq!(first.0, "3\n1:1.0\n1:1.0\n");
    assert!(first.1.len() > 5000, "{}", first.1.len());
    for (what, other) in [("another machine", &cold), ("a chroot", &chroot)] {
        let different = differences(&first.1, &other.1);
        assert!(different.is_empty(), "{what}: the trees differ: {different:#?}");
    }

    // What is locked is gone: nothing else is installed instead, until that is asked for.
    archive.publish(&new);
    let said = build("home", &["--from", "packages"]);
    assert_eq!((said.code, text_of_lock(&world)), (7, written), "{said}");
    let gone = "tool 1:1.0 (the package sources have 1:2.0 now)";
    assert!(said.err.contains(gone) && said.err.contains("labwright build --update"), "{said}");
    let said = build("home", &["--update", "-o", "updated.qcow2"]);
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(versions(&lock(&world)), ["tool-data:all 1:2.0", "tool:all 1:2.0"]);
    assert_eq!(tree("updated.qcow2").0, "3\n1:2.0\n1:2.0\n");
    world.assert_nothing_left("builds with packages in machines");
}
