//! Helm, as far as its engine for templates goes: see `render.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use labwright_lab::LockedLab;
use labwright_lab::bundle::{Chart, chart};
use labwright_lab::manifests::Options;
use labwright_lab::resolved::SecretPart;
use serde_json::{Value, json};

use crate::tools::{command, have, run, skip, try_run};
use crate::{
    Choice, LABS, NAMESPACE, Objects, assert_same, assert_valid, choices, documents, expected, known, labs, objects,
    values,
};

/// Where the packages of Debian and Ubuntu have Go's libraries.
const GOPATH: &str = "/usr/share/gocode";

/// The program that renders charts, made once.
fn renderer() -> Option<&'static Path> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let sprig = Path::new(GOPATH).join("src/github.com/Masterminds/sprig");
    if !have("go", &["go"]) || !(sprig.exists() || skip("go", "golang-github-masterminds-sprig-dev")) {
        return None;
    }
    Some(PROGRAM.get_or_init(|| {
        // Beside the tests' other files, so that a second run finds what was compiled; a name of its own, since tests
        // may run as processes beside each other.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = dir.join(format!("render-chart-{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/render.go");
        let mut go = command("go");
        go.args(["build", "-o"]).arg(&program).arg(source);
        go.env("GO111MODULE", "off").env("GOPATH", GOPATH).env("GOCACHE", dir.join("go")).env("GOFLAGS", "");
        run(&mut go, "");
        program
    }))
}

fn made(lab: &LockedLab) -> Chart {
    // What the chart leaves to its values is not taken from here.
    let options = Options { namespace: "published".to_owned(), ..Choice::NOTHING.options() };
    chart(lab, &options, "0.1.0").unwrap()
}

impl Choice {
    const NOTHING: Self = Self { routes: None, pull_secret: None, repository: None };

    fn values(self, secrets: &BTreeMap<String, String>) -> Value {
        json!({
            "repository": self.repository.unwrap_or_default(),
            "pullSecret": self.pull_secret.unwrap_or_default(),
            "namespace": {"create": true},
            "routes": {
                "kind": self.routes.unwrap_or_default(),
                "host": known("host"),
                "routerNamespace": known("router_namespace"),
                "gateway": {"name": known("gateway"), "namespace": known("gateway_namespace")},
                "ingressClass": known("ingress_class"),
                "tlsSecret": known("tls_secret"),
            },
            "secrets": secrets,
        })
    }
}

fn json_of(chart: &Chart, path: &str) -> Value {
    serde_saphyr::from_str(std::str::from_utf8(&chart.files[path]).unwrap()).unwrap()
}

/// What Helm would apply, and the notes that it would print.
fn install(program: &Path, chart: &Chart, values: &Value, cluster: &[Value]) -> Result<(String, String), String> {
    let schema = json_of(chart, "values.schema.json");
    if let Err(error) = jsonschema::validate(&schema, values) {
        return Err(format!("the schema refuses {}: {error}", error.instance_path()));
    }
    let templates: BTreeMap<&str, &str> = chart
        .files
        .iter()
        .filter_map(|(path, bytes)| Some((path.strip_prefix("templates/")?, std::str::from_utf8(bytes).unwrap())))
        .collect();
    let question = json!({
        "templates": templates,
        "chart": json_of(chart, "Chart.yaml"),
        "release": {"Name": "session", "Namespace": NAMESPACE},
        "defaults": json_of(chart, "values.yaml"),
        "values": values,
        "secrets": cluster,
    });
    let answer = try_run(&mut command(program), &question.to_string())?;
    let mut rendered: BTreeMap<String, String> = serde_json::from_str(&answer).unwrap();
    let notes = rendered.remove("NOTES.txt").unwrap();
    let texts: Vec<String> = rendered.into_values().filter(|text| !text.trim().is_empty()).collect();
    Ok((texts.join("\n---\n"), notes))
}

/// The Secrets as the cluster has them, and what the release keeps beside the lab's own objects.
fn kept(deployed: &str, found: &mut Objects) -> (Vec<Value>, BTreeMap<String, String>) {
    let secrets = documents(deployed).into_iter().filter(|object| object["kind"] == "Secret").collect();
    let session = found.remove(&("Secret".to_owned(), "labwright-session".to_owned()));
    let data = session.map(|object| serde_json::from_value(object["stringData"].clone()).unwrap());
    (secrets, data.unwrap_or_default())
}

#[test]
fn a_chart_gives_what_labwright_would_apply() {
    let Some(program) = renderer() else { return };
    let mut all = Vec::new();
    for (name, text) in LABS {
        let lab = labs::locked(text);
        let chart = made(&lab);
        let given = values(&lab, 3);
        for choice in choices(&lab) {
            let what = format!("{name}, {choice:?}");
            let (deployed, notes) = install(program, &chart, &choice.values(&given), &[]).unwrap();
            let mut found = objects(documents(&deployed));
            let (_, session) = kept(&deployed, &mut found);
            assert_eq!(session, given, "{what}");
            let expected = expected(&choice.lab(text), &choice.options(), &given);
            assert_same(&found, &expected, &what);
            assert!(notes.contains(NAMESPACE) && !notes.contains("{{"), "{notes}");
            if name == "everything" {
                assert!(!deployed.contains("{{") && !deployed.contains("@{"), "{what}: {deployed}");
            }
            if choice.repository.is_none() {
                all.push(deployed);
            }
        }
    }
    assert_valid(&all);
}

/// The namespace is there before a release is, so nothing is done unless it is wanted.
#[test]
fn a_chart_needs_no_values() {
    let Some(program) = renderer() else { return };
    for (name, text) in LABS {
        let lab = labs::locked(text);
        let (deployed, _) = install(program, &made(&lab), &json!({}), &[]).unwrap();
        let mut found = objects(documents(&deployed));
        let (_, session) = kept(&deployed, &mut found);
        let mut expected = expected(&lab, &Choice::NOTHING.options(), &session);
        expected.remove(&("Namespace".to_owned(), NAMESPACE.to_owned())).unwrap();
        assert_same(&found, &expected, name);
    }
}

/// Whether a value has the form that the lab asks for.
fn has_form(value: &str, parts: &[SecretPart]) -> bool {
    let mut rest = value;
    for part in parts {
        let length = match part {
            SecretPart::Fixed(text) => text.len(),
            SecretPart::Random(random) => usize::from(random.length),
        };
        let Some((now, behind)) = rest.split_at_checked(length) else { return false };
        rest = behind;
        let fits = match part {
            SecretPart::Fixed(text) => now == text,
            SecretPart::Random(random) => now.chars().all(|character| random.kind.alphabet().contains(character)),
        };
        if !fits {
            return false;
        }
    }
    rest.is_empty()
}

#[test]
fn secrets_are_made_in_the_labs_form_and_kept() {
    let Some(program) = renderer() else { return };
    for (name, text) in LABS.into_iter().take(2) {
        let lab = labs::locked(text);
        let chart = made(&lab);
        let session = |values: &Value, cluster: &[Value]| {
            let (deployed, _) = install(program, &chart, values, cluster).unwrap();
            let mut found = objects(documents(&deployed));
            let (cluster, session) = kept(&deployed, &mut found);
            assert_same(
                &found,
                &{
                    let mut expected = expected(&lab, &Choice::NOTHING.options(), &session);
                    expected.remove(&("Namespace".to_owned(), NAMESPACE.to_owned())).unwrap();
                    expected
                },
                name,
            );
            (cluster, session)
        };
        let (cluster, first) = session(&json!({}), &[]);
        for (secret, spec) in &lab.lab().secrets {
            assert!(has_form(&first[secret], spec.parts()), "{secret}: {}", first[secret]);
        }
        let (_, again) = session(&json!({}), &cluster);
        assert_eq!(again, first, "{name}: an upgrade keeps what was made");
        let (_, other) = session(&json!({}), &[]);
        assert!(first.iter().all(|(secret, value)| other[secret] != *value), "{name}: another release has others");
        let secret = first.keys().next().unwrap();
        let (_, changed) = session(&json!({"secrets": {secret: "given"}}), &cluster);
        assert_eq!(changed[secret], "given");
        assert!(first.iter().all(|(other, value)| other == secret || changed[other] == *value));
    }
}

/// 2000 passwords: enough that a letter of the alphabets of others would show.
#[test]
fn made_passwords_are_never_short_and_have_no_letters_that_look_alike() {
    let Some(program) = renderer() else { return };
    let machine = "machines: [{name: only, kind: container, image: registry.example.org/only:1}]\n";
    let secrets: Vec<String> = (0..2000).map(|at| format!("s{at}: {{type: password, length: 8}}")).collect();
    let text = format!(
        "apiVersion: labwright/v1alpha1\nkind: Lab\nmetadata: {{name: many, version: 1.0.0}}\n\
         secrets: {{{}}}\n{machine}",
        secrets.join(", ")
    );
    let lab = labs::locked(&text);
    let (deployed, _) = install(program, &made(&lab), &json!({}), &[]).unwrap();
    let (_, session) = kept(&deployed, &mut objects(documents(&deployed)));
    assert_eq!(session.len(), 2000);
    let parts = lab.lab().secrets["s0"].parts();
    assert!(session.values().all(|value| has_form(value, parts)), "{session:?}");
}

#[test]
fn wrong_values_are_refused() {
    let Some(program) = renderer() else { return };
    let chart = made(&labs::locked(LABS[0].1));
    for (values, words) in [
        (json!({"routes": {"kind": "nginx"}}), "/routes/kind"),
        (json!({"route": {}}), "route"),
        (json!({"routes": {"host": "https://x"}}), "/routes/host"),
        (json!({"pullSecret": "A b"}), "/pullSecret"),
        (json!({"pullSecret": null, "repository": "mirror.example/x@sha256:0"}), "refuses"),
        (json!({"repository": "https://mirror.example/x"}), "/repository"),
        (json!({"repository": "mirror.example/x:1"}), "/repository"),
        (json!({"namespace": {"create": "yes"}}), "/namespace/create"),
        (json!({"secrets": {"flag": 1234}}), "/secrets/flag"),
        (json!({"secrets": {"flag": "a$b"}}), "/secrets/flag"),
        (json!({"secrets": {"flag": "a\"b"}}), "/secrets/flag"),
        (json!({"secrets": {"flags": "x"}}), "/secrets"),
        (json!({"routes": {"kind": "gateway"}}), "routes.routerNamespace is where the pods"),
        (json!({"routes": {"kind": "gateway", "routerNamespace": "x"}}), "routes."),
        (
            json!({"routes": {"kind": "traefik", "routerNamespace": "x", "host": "x", "entryPoint": ""}}),
            "routes.entryPoint",
        ),
    ] {
        let error = install(program, &chart, &values, &[]).expect_err(&values.to_string());
        assert!(error.contains(words), "{values}: {error}");
    }
}
