//! The recipe as a JSON Schema, for editors and for who writes recipes with programs.

use labwright_document::API_VERSION;
use labwright_document::schema::{
    ACCOUNT, DURATION, FILE_NAME, NAME, SEMVER, boolean, list, object, or_expression, pattern, reference, text,
    variables, words,
};
use serde_json::{Value, json};

use crate::decode::KIND;
use crate::resolved::{Compression, Distribution, Variant};

/// The JSON Schema (draft 2020-12) of a recipe before its expressions are evaluated.
///
/// It says what a schema can say. That names are unique, users exist, files are there and expressions make sense is
/// up to [`load`](crate::load).
pub fn schema() -> Value {
    let mut schema = object(
        "A Labwright recipe: what is in one machine's disk.",
        &["apiVersion", "kind", "metadata", "base"],
        &properties(),
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Labwright recipe");
    schema["$defs"] = definitions();
    schema
}

/// A value for the only architecture, or a mapping with one for each.
fn each(description: &str, value: &Value) -> Value {
    let mut mapping = object(description, &[], &json!({"amd64": value, "arm64": value}));
    mapping["minProperties"] = json!(1);
    json!({"description": description, "anyOf": [value, mapping]})
}

const CONTAINER_USER: &str = "[a-z0-9_][a-z0-9_-]*(?::[a-z0-9_][a-z0-9_-]*)?";
const HOSTNAME_LABEL: &str = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const PACKAGE: &str = concat!(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](?::[a-z0-9-]+)?(?:=[0-9][A-Za-z0-9.+:~-]*|/[A-Za-z0-9._-]+)?",
    r"|\.{0,2}/.+|.+\.deb"
);

fn definitions() -> Value {
    json!({
        "address": pattern("An https or http address without a user name or password.", r"https?://[^/@\s]+(?:/\S*)?"),
        "command": {
            "description": "A text runs under `sh -e`; a list is executed as it is.",
            "anyOf": [
                {"type": "string", "pattern": r"\S"},
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
            ],
        },
        "digest": pattern("The digest of a file's bytes.", "sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"),
        "duration": pattern("A length of time of at most a day: 90s, 30m, 1h30m.", DURATION),
        "guestPath": pattern("An absolute path in the guest.", r"/(?:(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/|$))*"),
        "localPath": {
            "description": "A path relative to the recipe's directory; it may lead out of it.",
            "type": "string",
            "minLength": 1,
        },
    })
}

fn properties() -> Value {
    json!({
        "apiVersion": {"description": "The version of the recipe's language.", "const": API_VERSION},
        "kind": {"description": "What the file is.", "const": KIND},
        "metadata": object("What identifies the recipe.", &["name", "version"], &json!({
            "name": {
                "description": "A DNS label of at most 32 characters; the image's name.",
                "type": "string",
                "pattern": format!("^{NAME}$"),
            },
            "version": pattern("A semantic version without build metadata; the OCI tag.", SEMVER),
            "title": pattern("The title for people: one line.", r"[^\n\r]*\S[^\n\r]*"),
        })),
        "variables": variables(),
        "architectures": {
            "description": "What to build for.",
            "type": "array",
            "minItems": 1,
            "uniqueItems": true,
            "default": ["amd64"],
            "items": words("An architecture, named as Debian names it.", &["amd64", "arm64"]),
        },
        "base": base(),
        "disk": object("The disk.", &["size"], &json!({
            "size": pattern(
                "The size that the guest sees, with a binary unit, from 64Mi to 16Ti; it never shrinks the base.",
                "[0-9]+(?:Ki|Mi|Gi|Ti)",
            ),
        })),
        "apt": apt(),
        "package_update": boolean("Fetches the package lists even where nothing is installed.", false),
        "packages": list("What to install.", &pattern(
            "A Debian package (name, name:arch, name=version, name/release) or a path to a .deb file (./tool.deb).",
            PACKAGE,
        )),
        "users": list("The accounts to make.", &user()),
        "write_files": list("The files to write.", &file()),
        "runcmd": list("The commands to run; a failure fails the build.", &reference("command")),
        "hostname": pattern("The host name in the image.", &format!(r"(?=.{{1,64}}$){HOSTNAME_LABEL}(?:\.{HOSTNAME_LABEL})*")),
        "timezone": pattern(
            "A name of the time zone database: Area/City or UTC.",
            "UTC|[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z][A-Za-z0-9_+-]*){1,2}",
        ),
        "locale": pattern(
            "A locale such as de_DE.UTF-8.",
            r"(?:C|POSIX|[a-z]{2,3}_[A-Z]{2})(?:\.[A-Za-z0-9-]+)?(?:@[A-Za-z0-9]+)?",
        ),
        "build_secrets": {
            "description": "Secrets that are mounted at /run/secrets/NAME while commands run, and never stored.",
            "type": "array",
            "uniqueItems": true,
            "items": pattern("A name of a secret.", FILE_NAME),
        },
        "access": list("The ways into the machine.", &access()),
        "checks": list("What must hold before a machine counts as ready.", &object("A check.", &["name", "run"], &json!({
            "name": pattern("What people read: one line.", r"[^\n\r]*\S[^\n\r]*"),
            "run": reference("command"),
            "timeout": reference("duration"),
        }))),
        "output": {
            "description": "What is made of the finished disk.",
            "anyOf": [
                object("A containerDisk: the image of a virtual machine (default).", &[], &json!({
                    "compression": words(
                        "How the clusters of the qcow2 are compressed (default: zstd).",
                        &[Compression::Zstd, Compression::Zlib, Compression::None].map(Compression::as_str),
                    ),
                })),
                object("A container image.", &["container"], &json!({"container": container()})),
            ],
        },
        "timeouts": object("How long the step of a section may take.", &[], &json!({
            "packages": reference("duration"),
            "users": reference("duration"),
            "files": reference("duration"),
            "access": reference("duration"),
            "runcmd": reference("duration"),
        })),
    })
}

fn base() -> Value {
    json!({
        "description": "What the disk starts from.",
        "anyOf": [
            pattern("A name from the catalogue of base images.", "[a-z0-9][a-z0-9.-]{0,62}"),
            object("Disk images elsewhere.", &["url", "digest"], &json!({
                "url": each("The address, for each architecture.", &reference("address")),
                "digest": each("The digest, for each architecture.", &reference("digest")),
            })),
            object("A disk image beside the recipe.", &["file", "digest"], &json!({
                "file": reference("localPath"),
                "digest": reference("digest"),
            })),
            object("The disk in a containerDisk.", &["image"], &json!({
                "image": pattern(
                    "A reference to an image; one in a registry has a digest.",
                    r"oci:.+|oci-archive:.+|(?:docker://)?[^/\s@]+/\S+@sha(?:256:[0-9a-f]{64}|512:[0-9a-f]{128})|[^/:@\s]+(?::[^/:@\s]+)?",
                ),
            })),
            object("The sealed disk of another recipe.", &["recipe"], &json!({"recipe": reference("localPath")})),
            object("Made from a distribution's own packages.", &["bootstrap", "suite"], &json!({
                "bootstrap": words("The distribution.", &[Distribution::Debian.as_str()]),
                "suite": words("The release.", Distribution::Debian.suites()),
                "variant": words(
                    "How much of it: a system that boots (default: cloud), or what a container needs.",
                    &Variant::ALL.map(Variant::as_str),
                ),
            })),
        ],
    })
}

fn container() -> Value {
    object(
        "How a container of the image runs where whoever runs it says nothing else.",
        &[],
        &json!({
            "command": list("The image's entrypoint.", &text("A word of it.")),
            "args": list("The arguments behind it.", &text("A word of it.")),
            "env": {
                "description": "Environment variables.",
                "type": "object",
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": text("A value."),
            },
            "user": pattern("A user of the recipe or a number, with an optional `:GROUP` (default: root).", CONTAINER_USER),
            "working_dir": reference("guestPath"),
        }),
    )
}

fn apt() -> Value {
    object(
        "apt's configuration.",
        &["sources"],
        &json!({
            "sources": {
                "description": "Sources beside the distribution's own, each under a name of its own.",
                "type": "object",
                "propertyNames": {"pattern": format!("^{FILE_NAME}$")},
                "additionalProperties": object("A source.", &["source"], &json!({
                    "source": pattern("A line as in sources.list.", r"deb(?:-src)?[ \t]+(?:\[[^\]]*\][ \t]*)?https?://\S+[ \t]+\S.*"),
                    "key": {
                        "description": "The public key: a path to a file, or the armoured key itself.",
                        "type": "string",
                        "minLength": 1,
                    },
                })),
            },
        }),
    )
}

fn user() -> Value {
    object(
        "An account; the keys mean what they mean in cloud-config.",
        &["name"],
        &json!({
            "name": pattern("The name; not root.", &format!("(?!root$){ACCOUNT}")),
            "gecos": pattern("The comment field.", r"[^:\n\r]*"),
            "uid": or_expression("The user id (default: the next free one).", json!({"type": "integer", "minimum": 1, "maximum": 60000})),
            "homedir": reference("guestPath"),
            "no_create_home": boolean("Makes no home directory.", false),
            "primary_group": pattern("The group to use instead of one of the user's own.", ACCOUNT),
            "groups": {
                "description": "Further groups: a list, or a text with commas.",
                "anyOf": [
                    pattern("Groups with commas between them.", &format!(r"\s*{ACCOUNT}\s*(?:,\s*{ACCOUNT}\s*)*")),
                    {"type": "array", "items": pattern("A group.", ACCOUNT)},
                ],
            },
            "shell": reference("guestPath"),
            "sudo": {
                "description": "Rules for sudo without the user's name, such as ALL=(ALL) NOPASSWD:ALL; false for none.",
                "anyOf": [
                    pattern("A rule.", r"[^\n\r]*=[^\n\r]*"),
                    {"type": "array", "items": pattern("A rule.", r"[^\n\r]*=[^\n\r]*")},
                    {"enum": [false, null]},
                ],
            },
            "ssh_authorized_keys": list("Lines for authorized_keys.", &pattern("A public key.", r"(?:.*\s)?(?:ssh-|ecdsa-sha2-|sk-)\S*\s+AAAA.*")),
            "lock_passwd": boolean("Locks the password. No password is ever set in an image.", true),
            "system": boolean("Makes it a system account.", false),
        }),
    )
}

fn file() -> Value {
    let mut file = object(
        "A file or tree to write.",
        &["path"],
        &json!({
            "path": pattern(
                "Where in the guest: an absolute path, with a `/` at the end exactly for a tree.",
                r"(?!/(?:proc|sys|dev|run|tmp|var/run)(?:/|$))/(?:(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+(?:/|$))*",
            ),
            "content": text("The contents."),
            "from": reference("localPath"),
            "owner": pattern("user, user:group or :group.", &format!("(?:{ACCOUNT}|[0-9]+)(?::(?:{ACCOUNT}|[0-9]+))?|:(?:{ACCOUNT}|[0-9]+)")),
            "permissions": pattern("Octal digits in quotes, such as \"0644\".", "(?:0o)?[0-7]{3,5}"),
            "append": boolean("Writes behind what is there.", false),
            "encoding": words("How `content` is written.", &["text/plain", "b64", "base64"]),
        }),
    );
    file["oneOf"] = json!([
        {"required": ["content"], "properties": {"path": {"not": {"pattern": "/$"}}}},
        {"required": ["from"], "properties": {"encoding": false}},
    ]);
    file
}

fn access() -> Value {
    let name = pattern("The name that labs use, and the path at the front door.", NAME);
    let user = pattern("A user of the recipe.", ACCOUNT);
    let ttyd = json!({
        "description": "A ttyd of the recipe's own; without it, the distribution's.",
        "anyOf": [
            object("A file beside the recipe.", &["file", "digest"], &json!({
                "file": reference("localPath"),
                "digest": reference("digest"),
            })),
            object("A file elsewhere.", &["url", "digest"], &json!({
                "url": each("The address, for each architecture.", &reference("address")),
                "digest": each("The digest, for each architecture.", &reference("digest")),
            })),
        ],
    });
    json!({
        "description": "A way into the machine.",
        "anyOf": [
            object("A shell in the browser (ttyd).", &["name", "type", "user"], &json!({
                "name": name, "type": words("The type.", &["terminal"]), "user": user, "ttyd": ttyd,
            })),
            object("A desktop in the browser (a VNC server and noVNC).", &["name", "type", "user"], &json!({
                "name": name, "type": words("The type.", &["desktop"]), "user": user,
                "geometry": pattern("WIDTHxHEIGHT in pixels (default: 1280x800).", "[0-9]{3,4}x[0-9]{3,4}"),
            })),
            object("A web server of the machine's own.", &["name", "type", "port"], &json!({
                "name": name, "type": words("The type.", &["http"]),
                "port": or_expression(
                    "Its port in the guest; 7681 is the front door's.",
                    json!({"type": "integer", "minimum": 1, "maximum": 65535, "not": {"const": crate::resolved::FRONT_DOOR_PORT}}),
                ),
            })),
        ],
    })
}
