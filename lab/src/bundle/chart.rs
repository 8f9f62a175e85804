//! The same as a Helm chart, which makes a session's secrets and keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use labwright_document::yaml::{Map, write};
use serde_json::{Value, json};

use super::kustomize::{Difference, difference};
use super::marks::Marks;
use super::{BundleError, Tree, has_doors, routed};
use crate::LockedLab;
use crate::lock::LockedImage;
use crate::manifests::{Manifests, Object, Options, render, session_secrets, to_yaml};
use crate::resolved::{Random, RandomKind, SecretPart, SecretSpec};

/// A chart: its files, without a directory above them, and `Chart.yaml` as JSON, which is its config in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// Its name: the lab's.
    pub name: String,
    /// Its version: the lab's.
    pub version: String,
    /// The files.
    pub files: Tree,
    /// `Chart.yaml` as JSON.
    pub metadata: Vec<u8>,
}

/// The Secret in which a release keeps what it made.
const SESSION: &str = "labwright-session";

/// The chart of a lab.
pub fn chart(locked: &LockedLab, options: &Options, tool_version: &str) -> Result<Chart, BundleError> {
    let lab = locked.lab();
    let texts = Texts::new(locked);
    let mark = |name: &str| texts.marks.mark(name);
    let marked = marked(locked, mark);
    let public = Options { routes: None, namespace: mark("namespace"), pull_secret: None, ..options.clone() };
    let options = Options { pull_secret: Some(mark("pull_secret")), ..public.clone() };
    let mut files = Tree::new();
    let mut put = |path: &str, text: String| drop(files.insert(path.to_owned(), text.into_bytes()));
    let plain = render(&marked, &options);
    let public = render(&marked, &public);
    let for_pulling = difference(&public, &plain).new;
    let routes: Vec<(&str, Manifests)> = if has_doors(locked) {
        routed(&options, mark).map(|(kind, options)| (kind, render(&marked, &options))).into()
    } else {
        Vec::new()
    };
    let changed: Vec<(&str, Vec<&Object>)> =
        routes.iter().map(|(kind, wanted)| (*kind, difference(&plain, wanted).changed)).collect();
    for file in &plain.files {
        let document = |object: &Object| {
            let document = document(&texts, object, &changed);
            // Who installs a chart says what namespace it goes to, and mostly has it already.
            if object.kind() == "Namespace" {
                format!("{{{{- if .Values.namespace.create }}}}\n{document}{{{{- end }}}}\n")
            } else if for_pulling.contains(&object) {
                format!("{{{{- if .Values.pullSecret }}}}\n{document}{{{{- end }}}}\n")
            } else {
                document
            }
        };
        put(&format!("templates/{}", file.name), file.objects.iter().map(document).collect());
    }
    for (kind, wanted) in &routes {
        let Difference { new, .. } = difference(&plain, wanted);
        let text = format!(
            "{{{{- if eq .Values.routes.kind \"{kind}\" }}}}\n{}{{{{- end }}}}\n",
            texts.template(&to_yaml(new))
        );
        put(&format!("templates/60-routes-{kind}.yaml"), text);
    }
    let secrets = session_secrets(&marked, &options, &|name| mark(&format!("secret:{name}")))?;
    if !lab.secrets.is_empty() || !secrets.is_empty() {
        put("templates/45-secrets.yaml", session(&texts, locked, &secrets));
    }
    put("templates/NOTES.txt", notes(locked));
    put("values.yaml", values(locked, !for_pulling.is_empty()));
    put("values.schema.json", serde_json::to_string_pretty(&values_schema(locked)).expect("a schema is JSON") + "\n");
    let metadata = metadata(locked, tool_version);
    put("Chart.yaml", write(&metadata));
    let metadata = serde_json::to_vec(&metadata).expect("metadata is texts and lists");
    Ok(Chart { name: lab.name.clone(), version: lab.version.clone(), files, metadata })
}

/// The lab with a mark in place of each image's repository.
fn marked(locked: &LockedLab, mark: impl Fn(&str) -> String) -> LockedLab {
    let image = |(machine, image): (&String, &LockedImage)| {
        (machine.clone(), LockedImage { repository: mark(&format!("repository:{machine}")), ..image.clone() })
    };
    LockedLab::new(locked.lab().clone(), locked.images().iter().map(image).collect())
}

/// What stands in the place of each mark.
struct Texts {
    marks: Marks,
    actions: BTreeMap<String, String>,
}

impl Texts {
    fn new(locked: &LockedLab) -> Self {
        let mut actions: BTreeMap<String, String> = [
            ("namespace", ".Release.Namespace"),
            ("pull_secret", ".Values.pullSecret"),
            ("host", "required \"routes.host is the session's host name\" .Values.routes.host"),
            (
                "router_namespace",
                "required \"routes.routerNamespace is where the pods that carry requests run\" .Values.routes.routerNamespace",
            ),
            ("gateway", "required \"routes.gateway.name is the Gateway\" .Values.routes.gateway.name"),
            (
                "gateway_namespace",
                "required \"routes.gateway.namespace is the Gateway's\" .Values.routes.gateway.namespace",
            ),
            ("ingress_class", "required \"routes.ingressClass is the ingress controller\" .Values.routes.ingressClass"),
            ("tls_secret", "required \"routes.tlsSecret has the certificate\" .Values.routes.tlsSecret"),
            ("entry_point", "required \"routes.entryPoint is Traefik's\" .Values.routes.entryPoint"),
        ]
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .collect();
        for name in locked.lab().secrets.keys() {
            actions.insert(format!("secret:{name}"), format!("$secret_{name}"));
        }
        for (machine, image) in locked.images() {
            let text = format!(".Values.repository | default \"{}\"", image.repository);
            actions.insert(format!("repository:{machine}"), text);
        }
        Self { marks: Marks::new(locked), actions }
    }

    /// A text as a template that gives it: what would begin an action is kept, marks become actions, and what names the
    /// pull secret stands in a condition, with the list around it.
    fn template(&self, text: &str) -> String {
        let pull_secret = self.marks.mark("pull_secret");
        let lines: Vec<&str> = text.lines().collect();
        let named = |at: usize| lines.get(at).is_some_and(|line| line.contains(&pull_secret));
        let heads = |at: usize| lines[at].trim_start() == "imagePullSecrets:" && named(at + 1);
        let mut out = String::new();
        for (at, line) in lines.iter().enumerate() {
            if heads(at) || (named(at) && (at == 0 || !heads(at - 1))) {
                out.push_str("{{- if .Values.pullSecret }}\n");
            }
            out.push_str(&self.line(line));
            out.push('\n');
            if named(at) {
                out.push_str("{{- end }}\n");
            }
        }
        out
    }

    fn line(&self, line: &str) -> String {
        self.marks.replace(line, kept, |name| format!("{{{{ {} }}}}", self.actions[name]))
    }
}

/// A text that a template gives as it is: braces that would begin an action, or would with the one behind the text, stand
/// in actions.
fn kept(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let run = rest[at..].bytes().take_while(|byte| *byte == b'{').count();
        let (braces, behind) = rest[at..].split_at(run);
        out.push_str(&rest[..at]);
        if run > 1 || behind.is_empty() {
            push(&mut out, format_args!("{{{{ \"{braces}\" }}}}"));
        } else {
            out.push_str(braces);
        }
        rest = behind;
    }
    out + rest
}

/// An object as a document of a template; one that differs with routes is there in each of its forms.
fn document(texts: &Texts, object: &Object, changed: &[(&str, Vec<&Object>)]) -> String {
    let mut body = String::new();
    let forms = changed.iter().filter_map(|(kind, objects)| {
        let form = objects.iter().find(|other| other.kind() == object.kind() && other.name() == object.name())?;
        Some((kind, texts.template(&to_yaml([*form]))))
    });
    for (kind, form) in forms {
        let word = if body.is_empty() { "if" } else { "else if" };
        push(&mut body, format_args!("{{{{- {word} eq .Values.routes.kind \"{kind}\" }}}}\n{form}"));
    }
    let plain = texts.template(&to_yaml([object]));
    let body = if body.is_empty() { plain } else { format!("{body}{{{{- else }}}}\n{plain}{{{{- end }}}}\n") };
    format!("---\n{body}")
}

/// The Secrets, below the values that they are made of: given, kept from the last time, or new.
fn session(texts: &Texts, locked: &LockedLab, secrets: &[Object]) -> String {
    let secrets_of_lab = &locked.lab().secrets;
    let mut out = String::new();
    if !secrets_of_lab.is_empty() {
        let lookup = format!("(lookup \"v1\" \"Secret\" .Release.Namespace \"{SESSION}\").data | default dict");
        push(&mut out, format_args!("{{{{- $kept := {lookup} }}}}\n"));
        let mut kept = Map::new();
        for (name, spec) in secrets_of_lab {
            push(
                &mut out,
                format_args!(
                    "{{{{- $secret_{name} := .Values.secrets.{name} | default (get $kept \"{name}\" | b64dec) | default ({}) }}}}\n",
                    generator(spec)
                ),
            );
            kept.put(name.clone(), texts.marks.mark(&format!("secret:{name}")));
        }
        let labels = Map::new()
            .with("app.kubernetes.io/part-of", &locked.lab().name)
            .with("app.kubernetes.io/managed-by", "labwright");
        let metadata =
            Map::new().with("name", SESSION).with("namespace", texts.marks.mark("namespace")).with("labels", labels);
        let object = Map::new()
            .with("apiVersion", "v1")
            .with("kind", "Secret")
            .with("metadata", metadata)
            .with("type", "Opaque")
            .with("stringData", kept);
        let why = "# What this release made, so that an upgrade keeps it.";
        push(&mut out, format_args!("---\n{why}\n{}", texts.template(&write(&object))));
    }
    if !secrets.is_empty() {
        push(&mut out, format_args!("---\n{}", texts.template(&to_yaml(secrets))));
    }
    out
}

/// An expression that makes a value.
fn generator(spec: &SecretSpec) -> String {
    let part = |part: &SecretPart| match part {
        // No quote, no backslash is in it.
        SecretPart::Fixed(text) => format!("\"{text}\""),
        SecretPart::Random(Random { kind, length }) => random(*kind, *length),
    };
    let parts: Vec<String> = spec.parts().iter().map(part).collect();
    format!("print {}", parts.join(" "))
}

/// The functions of Sprig know no hexadecimal digits, but digests have nothing else; and none of a password's alphabet, but
/// of four times as many letters and digits enough are left without those that look alike.
fn random(kind: RandomKind, length: u16) -> String {
    match kind {
        RandomKind::Password => {
            format!("(regexReplaceAll \"[0O1lI]\" (randAlphaNum {}) \"\" | trunc {length})", 4 * u32::from(length))
        }
        RandomKind::Digits => format!("(randNumeric {length})"),
        RandomKind::Letters => format!("(randAlpha {length} | lower)"),
        RandomKind::Hex if length <= 64 => format!("(sha256sum (randAlphaNum 64) | trunc {length})"),
        RandomKind::Hex => {
            format!("(sha256sum (randAlphaNum 64)) (sha256sum (randAlphaNum 64) | trunc {})", length - 64)
        }
    }
}

fn metadata(locked: &LockedLab, tool_version: &str) -> Map {
    let lab = locked.lab();
    let maintainers: Vec<Map> = lab.authors.iter().map(|author| Map::new().with("name", author)).collect();
    let annotations = Map::new()
        .with_some("licenses", lab.license.as_ref())
        .with("labwright.dev/tool-version", tool_version.to_owned());
    Map::new()
        .with("apiVersion", "v2")
        .with("name", &lab.name)
        .with("version", &lab.version)
        .with("appVersion", &lab.version)
        .with("type", "application")
        .with_some("description", lab.title.as_ref().or(lab.description.as_ref()))
        .with_filled("maintainers", maintainers)
        .with("annotations", annotations)
}

/// `has_account`: a pull secret comes with the namespace's own account.
fn values(locked: &LockedLab, has_account: bool) -> String {
    let mut out = String::from(
        "\
# A repository that has all images of the lab, after `labwright copy`; empty takes them from where they were published.
repository: \"\"
# A Secret of type kubernetes.io/dockerconfigjson in the release's namespace, for images that are not public.
",
    );
    if has_account {
        out.push_str(
            "\
# Root disks that are kept are imported by the account `default`, which then names it too. Every namespace has this
# account from its beginning, so Helm must be told to take it over: `helm install --take-ownership`.
",
        );
    }
    out.push_str(
        "\
pullSecret: \"\"
namespace:
  # Also makes the release's namespace, with the labels of pod security: for Argo CD, and for Flux with storageNamespace.
  # Helm itself keeps a release in its namespace, which it must find or make (--create-namespace) before any object.
  create: false
",
    );
    out.push_str(
        "\
routes:
  # gateway, ingress or traefik; empty leaves the doors to port-forwards.
  kind: \"\"
  # The session's host name; each machine's is MACHINE-HOST.
  host: \"\"
  # The namespace of the pods that carry the requests.
  routerNamespace: \"\"
  gateway:
    name: \"\"
    namespace: \"\"
  ingressClass: \"\"
  tlsSecret: \"\"
  entryPoint: websecure
",
    );
    let names: Vec<&str> = locked.lab().secrets.keys().map(String::as_str).collect();
    push(
        &mut out,
        format_args!(
            "# Values for secrets of the session ({}); those that are not given are made, and kept. Where templates are\n\
             # rendered without a cluster (`helm template`, Argo CD), nothing can be kept: give them all.\nsecrets: {{}}\n",
            if names.is_empty() { "the lab has none".to_owned() } else { names.join(", ") }
        ),
    );
    out
}

fn values_schema(locked: &LockedLab) -> Value {
    // Empty or a name of Kubernetes; a host's has the same form.
    let name = json!({"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"});
    let repository = json!({"type": "string", "pattern": "^([a-zA-Z0-9.:-]+(/[a-z0-9._-]+)+)?$"});
    let object = |properties: Value| json!({"type": "object", "additionalProperties": false, "properties": properties});
    // What stands in YAML and in the front door's file without harm.
    let secret = json!({"type": "string", "pattern": "^[ !#%&(-\\[\\]-_a-~]{1,128}$"});
    let secrets: serde_json::Map<String, Value> =
        locked.lab().secrets.keys().map(|name| (name.clone(), secret.clone())).collect();
    let mut schema = object(json!({
        "repository": repository,
        "pullSecret": name,
        "namespace": object(json!({"create": {"type": "boolean"}})),
        "routes": object(json!({
            "kind": {"enum": ["", "gateway", "ingress", "traefik"]},
            "host": name,
            "routerNamespace": name,
            "gateway": object(json!({"name": name, "namespace": name})),
            "ingressClass": name,
            "tlsSecret": name,
            "entryPoint": {"type": "string", "pattern": "^[a-zA-Z0-9_-]*$"},
        })),
        "secrets": object(Value::Object(secrets)),
        // Helm puts the values of a parent chart here.
        "global": {"type": "object"},
    }));
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema
}

fn notes(locked: &LockedLab) -> String {
    let lab = locked.lab();
    let mut out =
        format!("{} {} is on its way in the namespace {{{{ .Release.Namespace }}}}.\n", lab.name, lab.version);
    if !lab.secrets.is_empty() {
        push(
            &mut out,
            format_args!(
                "\nThe session's secrets:\n\n    kubectl get secret {SESSION} --namespace {{{{ .Release.Namespace }}}} --output json\n"
            ),
        );
    }
    out.push_str("\nWait until it is ready:\n\n    kubectl wait --namespace {{ .Release.Namespace }} --for condition=Ready --all pod --timeout 10m\n");
    out
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a string does not fail");
}
