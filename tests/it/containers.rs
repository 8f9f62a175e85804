//! Container images of recipes, and Labwright's own, which builds in a container.

use std::path::{Path, PathBuf};

use labwright_tests::{Said, program};
use serde_json::Value;

use crate::bootstraps::can_bootstrap;
use crate::runners::{can_emulate, share_kernel};
use crate::world::{World, can_build, has, installed, text, tool};

const BODY: &str = r#"
disk: {size: 640Mi}
users: [{name: learner, uid: 1500}]
write_files:
  - {path: /srv/page, content: "hello\n", owner: "learner:learner"}
runcmd:
  - ln /srv/page /srv/again; ln -s page /srv/link; mkfifo /srv/pipe; chmod 4750 /usr/bin/head
  - |
    perl -e 'my ($file, $name, $value) = ("/srv/page", "user.note", "seen");
      syscall(188, $file, $name, $value, 4, 0) == 0 or die $!'
access: [{name: site, type: http, port: 8080}]
output:
  container: {command: [/bin/cat], args: [/srv/page], env: {A: b}, user: learner, working_dir: /srv}
"#;

/// A program that runs what is in a container image, with a place of its own for it.
struct Containers {
    dir: PathBuf,
}

impl Containers {
    fn new() -> Self {
        // Images are called as their path, and such names have no capital letters.
        let dir = std::env::temp_dir().join(format!("labwright-containers-{}", std::process::id()));
        fs_err::create_dir(&dir).unwrap();
        Self { dir }
    }

    fn buildah(&self, args: &[&str]) -> Said {
        let at = |name: &str| self.dir.join(name).to_str().unwrap().to_owned();
        let mut command = assert_cmd::Command::new("buildah");
        command.args(["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"]).args(args);
        labwright_tests::said(&mut command)
    }

    /// A container of an image in a layout.
    fn from(&self, layout: &Path) -> String {
        let own = self.dir.join("layout");
        tool("cp", &["-r", text(layout), text(&own)]);
        let said = self.buildah(&["from", "--quiet", &format!("oci:{}", text(&own))]);
        assert_eq!(said.code, 0, "{said}");
        said.out.trim().to_owned()
    }

    /// Runs a command in a container, with the image's environment; `options` come before it.
    fn run(&self, container: &str, options: &[&str], command: &[&str]) -> Said {
        // The other isolations want control groups, which not every machine that tests has.
        self.buildah(&[&["run", "--isolation", "chroot"][..], options, &[container, "--"], command].concat())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        drop(self.buildah(&["rm", "--all"]));
        drop(self.buildah(&["rmi", "--all", "--force"]));
        drop(fs_err::remove_dir_all(&self.dir));
    }
}

fn can_run_containers() -> bool {
    has("oci-tools", ["buildah", "skopeo"].iter().all(|tool| installed(tool)))
}

fn manifest(layout: &Path) -> Value {
    serde_json::from_slice(&tool("skopeo", &["inspect", "--raw", &format!("oci:{}", text(layout))])).unwrap()
}

#[test]
fn machine_makes_the_container_image_that_a_chroot_makes() {
    if !can_build() || !can_emulate() || !can_run_containers() {
        return;
    }
    let world = World::new("tool", BODY);
    share_kernel(&world.home());
    let built = world.build_well(&["--runner", "chroot"]);
    let again = world.build_well(&["--runner", "vm", "--force"]);
    assert_eq!(again["digest"], built["digest"], "the same tree, however it is read");
    assert_eq!(world.build_well(&[])["unchanged"], true);

    let layout = world.lab.path().join("layout");
    let said = world.lab.run(&["push", "tool", &format!("oci:{}", text(&layout))]);
    assert_eq!(said.code, 0, "{said}");
    let config = tool("skopeo", &["inspect", "--config", &format!("oci:{}", text(&layout))]);
    let config: Value = serde_json::from_slice(&config).unwrap();
    let how = &config["config"];
    assert_eq!(how["Entrypoint"], serde_json::json!(["/bin/cat"]));
    assert_eq!(how["Cmd"], serde_json::json!(["/srv/page"]));
    assert_eq!(how["Env"], serde_json::json!(["A=b"]));
    assert_eq!((&how["User"], &how["WorkingDir"]), (&Value::from("learner"), &Value::from("/srv")));
    assert_eq!(how["ExposedPorts"], serde_json::json!({"8080/tcp": {}}));
    let index = manifest(&layout);
    let image = index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let image: Value = serde_json::from_slice(&fs_err::read(layout.join("blobs/sha256").join(image)).unwrap()).unwrap();
    let layers = image["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let layer = layers[0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let layer = layout.join("blobs/sha256").join(layer);
    let listed = tool("tar", &["--numeric-owner", "--xattrs", "-tvvzf", text(&layer)]);
    let listed = String::from_utf8(listed).unwrap();
    let line = |end: &str| listed.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{end}: {listed}"));
    // The first of two names has the content.
    assert!(line(" srv/again").starts_with("-rw-r--r--* 1500/1500"), "{}", line(" srv/again"));
    assert!(line(" srv/page link to srv/again").starts_with('h'));
    // tar(1) lists only that there are some.
    let plain = tool("gzip", &["-dc", text(&layer)]);
    let record = b" SCHILY.xattr.user.note=seen\n";
    assert!(plain.windows(record.len()).any(|window| window == record), "the attribute is in the archive");
    assert!(line(" srv/link -> page").starts_with('l'));
    assert!(line(" srv/pipe").starts_with("prw"));
    assert!(line(" usr/bin/head").starts_with("-rwsr-x---"));
    let names = String::from_utf8(tool("tar", &["-tzf", text(&layer)])).unwrap();
    let empty = ["dev/", "proc/", "run/", "sys/", "tmp/"];
    let made =
        |name: &&str| name.contains("lost+found") || empty.iter().any(|dir| name.starts_with(dir) && name != dir);
    assert_eq!(names.lines().find(made), None);
    assert!(empty.iter().all(|dir| names.lines().any(|name| name == *dir)), "{names}");

    let containers = Containers::new();
    let container = containers.from(&layout);
    let said = containers.run(&container, &[], &["sh", "-c", "id -un; pwd; cat page; echo $A; stat -c %U /srv/again"]);
    assert_eq!((said.code, said.out.as_str()), (0, "learner\n/srv\nhello\nb\nlearner\n"), "{said}");

    // Only what describes the image has changed: the layer stays.
    world.recipe(&BODY.replace("args: [/srv/page]", "args: [/srv/link]"));
    let changed = world.build_well(&[]);
    assert_ne!(changed["digest"], built["digest"]);
    assert_eq!(changed["unchanged"], false);

    // There is no disk to boot, to look at or to write.
    for args in [&["run", "tool"][..], &["audit", "tool"]] {
        let said = world.lab.run(args);
        assert_eq!(said.code, 1, "{said}");
        assert!(said.err.contains("is a container image: it has no disk"), "{said}");
    }
    let said = world.build(&["--output", "disk.qcow2"]);
    assert_eq!(said.code, 2, "{said}");
}

#[test]
fn machine_builds_in_a_container_that_labwright_made_of_itself() {
    if !can_bootstrap() || !can_run_containers() {
        return;
    }
    // The base has packages of its own; the machine in the container gets nothing from outside.
    let world = World::new("inner", "disk: {size: 640Mi}\nruncmd: [\"echo built in a container > /opt/note\"]\n");
    let stripped = world.lab.path().join("program");
    tool("strip", &["-o", text(&stripped), text(&program())]);
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/library/labwright");
    // Its lock would be written beside the recipe.
    let own = world.lab.path().join("own");
    fs_err::create_dir(&own).unwrap();
    fs_err::copy(recipe.join("recipe.yaml"), own.join("recipe.yaml")).unwrap();
    let set = format!("program={}", text(&stripped));
    let said = world.lab.run(&["--format", "json", "build", "--set", &set, text(&own)]);
    assert_eq!(said.code, 0, "{said}");
    assert!(!said.err.contains(r#""event":"warning""#), "{said}");
    let layout = world.lab.path().join("layout");
    let said = world.lab.run(&["push", "labwright", &format!("oci:{}", text(&layout))]);
    assert_eq!(said.code, 0, "{said}");

    let containers = Containers::new();
    let container = containers.from(&layout);
    let lab = world.lab.path().join("r");
    // Any user will do, whom the image need not know.
    tool("chown", &["-R", "12345:12345", text(&lab)]);
    tool("chmod", &["755", text(world.lab.path())]);
    let volume = format!("{}:/lab", text(&lab));
    let options = ["--user", "12345:12345", "--volume", &volume, "--workingdir", "/lab"];
    let labwright =
        |args: &[&str]| containers.run(&container, &options, &[&["/usr/local/bin/labwright"], args].concat());
    let said = labwright(&["check", "."]);
    assert_eq!(said.code, 0, "{said}");
    let said = labwright(&["--format", "json", "build", "."]);
    assert_eq!(said.code, 0, "{said}");
    assert!(said.err.contains("runner: vm"), "{said}");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["image"], "inner:1.0.0");
    let said = labwright(&["push", "inner", "oci:/lab/out"]);
    assert_eq!(said.code, 0, "{said}");
    let said = world.lab.run(&["audit", "--runner", "vm", "oci:r/out"]);
    assert_eq!(said.code, 0, "{said}");
}
