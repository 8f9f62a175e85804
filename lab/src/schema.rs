//! The lab as a JSON Schema, for editors and for who writes labs with programs.

use labwright_document::API_VERSION;
use labwright_document::schema::{
    ACCOUNT, DURATION, NAME, SEMVER, boolean, list, object, or_expression, pattern, reference, text, variables, words,
};
use serde_json::{Value, json};

use crate::decode::{KIND, LENGTHS};
use crate::resolved::{KubevirtVersion, RunStrategy};

/// A machine's name.
const MACHINE: &str = "[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?";
/// A name of a variable or secret.
const IDENTIFIER: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// A name of a Kubernetes object.
const OBJECT: &str = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?";
const SECRET: &str = r"\$\{\{\s*secrets\.[A-Za-z_][A-Za-z0-9_]*\s*\}\}";

/// The JSON Schema (draft 2020-12) of a lab before its expressions are evaluated.
///
/// It says what a schema can say. That names are unique, what is referred to exists, files are there and images offer
/// what the lab wants is up to [`load`](crate::load).
pub fn schema() -> Value {
    let mut schema = object(
        "A Labwright lab: machines, how they connect, and what the learner reads.",
        &["apiVersion", "kind", "metadata", "machines"],
        &properties(),
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Labwright lab");
    schema["$defs"] = json!({
        "address": pattern("An IPv4 address.", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"),
        "clusterType": {
            "description": "The name of an instancetype or preference.",
            "anyOf": [
                pattern("One of the whole cluster.", OBJECT),
                object("One of the cluster or of the session's namespace.", &["name"], &json!({
                    "name": pattern("Its name.", OBJECT),
                    "kind": words("Where it is.", &["cluster", "namespace"]),
                })),
            ],
        },
        "duration": pattern("A length of time of at most a day: 90s, 30m, 1h30m.", DURATION),
        "file": {
            "description": "A file beside the lab or below; it is published with the lab.",
            "type": "string",
            "minLength": 1,
            "not": {"pattern": r"^/|(?:^|/)\.\.(?:/|$)"},
        },
        "object": pattern("The name of a Kubernetes object in the session's namespace.", OBJECT),
        "size": pattern("A size in binary units: 512Mi, 20Gi.", "[1-9][0-9]*(?:Ki|Mi|Gi|Ti)"),
        "storage": object("A root disk that outlives a restart, through CDI.", &[], &json!({
            "size": reference("size"),
            "class": pattern("A StorageClass; the cluster's default without it.", OBJECT),
        })),
    });
    schema
}

fn properties() -> Value {
    json!({
        "apiVersion": {"description": "The version of this format.", "const": API_VERSION},
        "kind": {"description": "What this document is.", "const": KIND},
        "metadata": metadata(),
        "variables": variables(),
        "session": object("What holds for a learner's session.", &[], &json!({"expires": reference("duration")})),
        "networks": list("Who may talk to whom; without it, all machines may.", &network()),
        "secrets": {
            "description": "What is made anew for every session and never published.",
            "type": "object",
            "propertyNames": {"pattern": IDENTIFIER},
            "additionalProperties": secret(),
        },
        "machines": {
            "description": "The machines of the lab.",
            "type": "array",
            "minItems": 1,
            "items": machine(),
        },
        "outputs": list("What the learner is shown, in this order.", &object("A line for the learner.", &["label", "value"], &json!({
            "label": {"description": "What it is.", "type": "string", "minLength": 1},
            "value": text("The value; secrets may stand in it."),
        }))),
        "tasks": list("What the learner has to reach.", &task()),
        "instructions": list("What the learner reads, in this order.", &page()),
        "kubevirt": kubevirt_of_lab(),
    })
}

fn metadata() -> Value {
    object(
        "What identifies the lab.",
        &["name", "version"],
        &json!({
            "name": {"description": "A DNS label of at most 32 characters.", "type": "string", "pattern": format!("^{NAME}$")},
            "version": pattern("A semantic version; the bundle's tag.", SEMVER),
            "title": {"description": "The title for people, on one line.", "type": "string", "pattern": r"\S"},
            "description": text("For people."),
            "authors": list("Who wrote it.", &json!({"type": "string", "minLength": 1})),
            "license": pattern("An SPDX licence expression.", r"[A-Za-z0-9.+:() -]+"),
        }),
    )
}

fn network() -> Value {
    object(
        "Machines that may talk to each other.",
        &["name"],
        &json!({
            "name": pattern("A name that is unique in the lab.", NAME),
            "cidr": pattern("The range of its addresses.", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/[0-9]{1,2}"),
            "internet": boolean("Whether its machines reach what is outside of the lab.", false),
        }),
    )
}

fn secret() -> Value {
    let length = json!({"type": "integer", "minimum": LENGTHS.start(), "maximum": LENGTHS.end()});
    json!({
        "description": "A secret.",
        "oneOf": [
            object("A password for people to type.", &["type"], &json!({
                "type": {"description": "What it is.", "const": "password"},
                "length": or_expression("The number of its characters.", length),
            })),
            object("A text with random parts.", &["type", "value"], &json!({
                "type": {"description": "What it is.", "const": "text"},
                "value": {
                    "description": "Text in which `${{ hex(16) }}`, `digits`, `letters` and `password` make random characters.",
                    "type": "string",
                    "minLength": 1,
                },
            })),
        ],
    })
}

fn machine() -> Value {
    let vm = json!({"properties": {"kind": {"const": "container"}}, "required": ["kind"]});
    let mut machine = object(
        "A machine.",
        &["name", "image"],
        &json!({
            "name": pattern("By this name the other machines find it.", MACHINE),
            "kind": words("A virtual machine, or a pod with one container.", &["vm", "container"]),
            "image": {
                "description": "A recipe by its path (./images/attacker), or a reference: registry.example/app@sha256:…, oci:DIR.",
                "type": "string",
                "minLength": 1,
            },
            "resources": object("What it needs of a node.", &[], &json!({
                "cpus": or_expression("Processors.", json!({"type": "integer", "minimum": 1, "maximum": 256})),
                "memory": reference("size"),
            })),
            "interfaces": list("The networks that it is on.", &object("A place in a network.", &["network"], &json!({
                "network": pattern("A network of the lab.", NAME),
                "address": reference("address"),
            }))),
            "users": list("What the session gives to accounts of the image.", &user()),
            "access": list("The ways in that the learner has.", &access()),
            "ready": object("When it counts as ready.", &["timeout"], &json!({"timeout": reference("duration")})),
            "hidden": boolean("Not shown to the learner.", false),
            "env": {
                "description": "Environment variables of a container; secrets may stand in them.",
                "type": "object",
                "propertyNames": {"pattern": IDENTIFIER},
                "additionalProperties": {"type": "string"},
            },
            "command": list("In place of the image's entrypoint.", &json!({"type": "string"})),
            "args": list("In place of the image's arguments.", &json!({"type": "string"})),
            "kubevirt": kubevirt_of_machine(),
        }),
    );
    machine["if"] = vm;
    machine["then"] = json!({"properties": {"users": false, "kubevirt": false}});
    machine["else"] = json!({"properties": {"env": false, "command": false, "args": false}});
    machine
}

fn user() -> Value {
    object(
        "An account of the image.",
        &["name"],
        &json!({
            "name": pattern("Its name.", ACCOUNT),
            "password": {"description": "One secret: `${{ secrets.NAME }}`.", "type": "string", "pattern": format!(r"^{SECRET}$")},
            "ssh_authorized_keys": list("Lines of `authorized_keys`.", &json!({"type": "string", "minLength": 1})),
        }),
    )
}

fn access() -> Value {
    json!({
        "description": "A way in.",
        "anyOf": [
            pattern("One that the image offers, `console` or `screen`.", NAME),
            object("A web server of the machine's own.", &["name", "type", "port"], &json!({
                "name": {
                    "allOf": [pattern("A name that is unique in the machine.", NAME), {"not": {"enum": ["console", "screen"]}}],
                },
                "type": {"description": "What it is.", "const": "http"},
                "port": or_expression("The TCP port.", json!({"type": "integer", "minimum": 1, "maximum": 65535})),
            })),
        ],
    })
}

fn task() -> Value {
    object(
        "Something to reach.",
        &["name", "machine", "check"],
        &json!({
            "name": pattern("A name that is unique in the lab.", NAME),
            "machine": pattern("The virtual machine that the scripts run in.", MACHINE),
            "check": reference("file"),
            "hint": reference("file"),
            "solve": reference("file"),
        }),
    )
}

fn page() -> Value {
    object(
        "A page.",
        &["title", "file"],
        &json!({
            "title": {"description": "Its title.", "type": "string", "pattern": r"\S"},
            "file": reference("file"),
            "tasks": list("The tasks that belong to it.", &pattern("A task of the lab.", NAME)),
        }),
    )
}

/// What a lab may say for all machines and a machine for itself.
fn kubevirt() -> Value {
    let strategies = RunStrategy::ALL.map(|(word, _)| word);
    json!({
        "instancetype": reference("clusterType"),
        "preference": reference("clusterType"),
        "run_strategy": words("When the machine runs.", &strategies),
        "storage": reference("storage"),
    })
}

fn kubevirt_of_lab() -> Value {
    let mut keys = kubevirt();
    let versions = KubevirtVersion::ALL.map(KubevirtVersion::as_str).join("|").replace('.', r"\.");
    keys["version"] = pattern("The KubeVirt that the lab is written for.", &format!(r"v?(?:{versions})(?:\.[0-9]+)?"));
    keys["networks"] = json!({
        "description": "For a network, the NetworkAttachmentDefinition (Multus) that it is made of.",
        "type": "object",
        "additionalProperties": pattern("NAME or NAMESPACE/NAME.", &format!("(?:{NAME}/)?{OBJECT}")),
    });
    object("How KubeVirt runs the lab's virtual machines.", &[], &keys)
}

fn kubevirt_of_machine() -> Value {
    let mut keys = kubevirt();
    let mut volume = object(
        "A further disk: exactly one source.",
        &["name"],
        &json!({
            "name": {
                "allOf": [
                    pattern("A name that is unique in the machine.", "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"),
                    {"not": {"enum": ["root", "cloudinit"]}},
                ],
            },
            "empty_disk": reference("size"),
            "ephemeral": reference("object"),
            "claim": reference("object"),
            "config_map": reference("object"),
            "secret": reference("object"),
            "service_account": reference("object"),
        }),
    );
    volume["minProperties"] = json!(2);
    volume["maxProperties"] = json!(2);
    keys["volumes"] = list("Further disks.", &volume);
    object("How KubeVirt runs this machine.", &[], &keys)
}
