//! Packages are installed in the versions of `labwright.lock`, and what is cached is what would be built.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use labwright_tests::Said;
use serde_json::Value;

use crate::trees::{differences, root_tree};
use crate::world::{World, base_with_apt, can_build, has, installed, sha256, text, tool};

/// A package source on a loopback address, whose packages come and go.
struct Archive {
    dir: PathBuf,
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Archive {
    fn new(dir: PathBuf) -> Self {
        fs_err::create_dir_all(&dir).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let (served, count) = (dir.clone(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                // A client that goes away in the middle asks again.
                drop(answer(&served, stream));
            }
        });
        Self { dir, port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Has these packages and no others, each a name, a version and what it depends on.
    fn publish(&self, packages: &[(&str, &str, &str)]) {
        fs_err::remove_dir_all(&self.dir).unwrap();
        fs_err::create_dir_all(&self.dir).unwrap();
        let mut index = String::new();
        for (name, version, depends) in packages {
            let deb = package(&self.dir, name, version, depends);
            let size = fs_err::metadata(&deb).unwrap().len();
            let control = String::from_utf8(tool("dpkg-deb", &["-f", text(&deb)])).unwrap();
            let file = deb.file_name().unwrap().to_str().unwrap();
            let digest = sha256(&deb);
            index.extend([format!("{control}Filename: ./{file}\nSize: {size}\nSHA256: {digest}\n\n")]);
        }
        let path = self.dir.join("Packages");
        fs_err::write(&path, &index).unwrap();
        let date = String::from_utf8(tool("date", &["-Ru"])).unwrap();
        let release = format!("Suite: test\nDate: {date}SHA256:\n {} {} Packages\n", sha256(&path), index.len());
        fs_err::write(self.dir.join("Release"), release).unwrap();
    }
}

fn answer(dir: &Path, stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let name = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').trim_start_matches("./").to_owned();
    let (status, body) = match fs_err::read(dir.join(name)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// Makes a package with one file that says its version.
fn package(dir: &Path, name: &str, version: &str, depends: &str) -> PathBuf {
    let tree = tempfile::tempdir().unwrap();
    fs_err::create_dir_all(tree.path().join("DEBIAN")).unwrap();
    fs_err::create_dir_all(tree.path().join("usr/share/lab")).unwrap();
    fs_err::write(tree.path().join("usr/share/lab").join(name), format!("{version}\n")).unwrap();
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <t@example.org>\n{depends}\
         Description: a package of a test\n"
    );
    fs_err::write(tree.path().join("DEBIAN/control"), control).unwrap();
    let deb = dir.join(format!("{name}_{}_all.deb", version.replace(':', "-")));
    // The same package is the same file, whenever it is made.
    let make = ["SOURCE_DATE_EPOCH=0", "dpkg-deb", "--root-owner-group", "-b", text(tree.path()), text(&deb)];
    tool("env", &make);
    deb
}

/// Every section of a recipe.
fn body(port: u16, ttyd: &str, packages: &str, motd: &str) -> String {
    format!(
        r#"disk: {{size: 900Mi}}
apt: {{sources: {{test: {{source: "deb [trusted=yes] http://127.0.0.1:{port}/ ./"}}}}}}
packages: [{packages}, ./own_3_all.deb]
hostname: box
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

fn lock(world: &World) -> BTreeMap<String, String> {
    let text = fs_err::read_to_string(world.lab.path().join("r/labwright.lock")).unwrap();
    let lock: Value = serde_json::from_str(&text).unwrap();
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
    if !can_build() || !has("apt", ["dpkg-deb", "apt-get"].iter().all(|tool| installed(tool))) {
        return;
    }
    let world = World::on(&base_with_apt(), "locked", "");
    let archive = Archive::new(world.lab.path().join("archive"));
    let at = |name: &str| world.lab.path().join(name);
    world.lab.write("r/ttyd", "#!/bin/sh\n");
    world.lab.write("r/tree/a", "a\n");
    package(&at("r"), "own", "3", "");
    let ttyd = sha256(&at("r/ttyd"));
    let recipe = |packages: &str, motd: &str| world.recipe(&body(archive.port, &ttyd, packages, motd));
    let text_of_lock = || fs_err::read_to_string(at("r/labwright.lock")).unwrap();

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
