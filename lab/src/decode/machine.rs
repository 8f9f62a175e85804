//! `machines`.

use labwright_core::{ByteSize, Diagnostic, ImageForm, ImageRef, Span};
use labwright_document::rules as shared;
use labwright_document::{Fields, FileKind, Kind, LocalPath, Node, Text, Want, shown};

use super::kubevirt::{self, Defaults};
use super::networks::Networks;
use super::{Decoder, ImageUse, value};
use crate::load::Origin;
use crate::resolved::{
    Access, AccessSpec, Container, ImageSource, Machine, MachineKind, Ready, Resources, User, Vm, VmSettings,
};
use crate::rules;
use crate::value::Value;

const KEYS: [&str; 13] = [
    "name",
    "kind",
    "image",
    "resources",
    "interfaces",
    "users",
    "access",
    "ready",
    "hidden",
    "env",
    "command",
    "args",
    "kubevirt",
];
/// Ways into any virtual machine, which need nothing in the guest.
const CONSOLE: &str = "console";
const SCREEN: &str = "screen";

/// A machine with less does not boot, a container may.
const MIN_MEMORY: ByteSize = ByteSize::from_bytes(16 << 20);
const MAX_MEMORY: ByteSize = ByteSize::from_bytes(1 << 40);
const MAX_CPUS: i64 = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum MachineType {
    Vm,
    Container,
}

impl MachineType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Container => "container",
        }
    }

    /// What an image is for that it runs.
    const fn image(self) -> ImageForm {
        match self {
            Self::Vm => ImageForm::ContainerDisk,
            Self::Container => ImageForm::Container,
        }
    }

    /// The keys that only the other kind has.
    const fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Vm => &["env", "command", "args"],
            Self::Container => &["users", "kubevirt"],
        }
    }
}

/// The machines in the order of the file.
pub(super) fn machines(
    decoder: &mut Decoder<'_>,
    node: &Node,
    networks: &mut Networks,
    defaults: &Defaults,
) -> Vec<Machine> {
    let items = decoder.list(node, "`machines`").unwrap_or_default();
    if items.is_empty() {
        decoder.push(decoder.error(node.span, "a lab needs at least one machine"));
    }
    let mut seen = Vec::new();
    items.iter().filter_map(|item| machine(decoder, item, networks, defaults, &mut seen)).collect()
}

fn machine(
    decoder: &mut Decoder<'_>,
    node: &Node,
    networks: &mut Networks,
    defaults: &Defaults,
    seen: &mut Vec<Text>,
) -> Option<Machine> {
    let fields = decoder.fields(node, "a machine", &KEYS)?;
    let name =
        decoder.required(&fields, "name", "a machine").and_then(|node| decoder.checked(node, "`name`", rules::machine));
    if let Some(name) = &name {
        decoder.unique(seen, name, "machine");
    }
    let types = [MachineType::Vm, MachineType::Container].map(|kind| (kind.as_str(), kind));
    let kind = match fields.get("kind") {
        Some(node) => decoder.choice(node, "a kind of machine", &types)?,
        None => MachineType::Vm,
    };
    for (key, span, _) in fields.iter().filter(|(key, ..)| kind.foreign().contains(key)) {
        decoder.push(decoder.error(span, format!("`{key}` does not go with the kind `{}`", kind.as_str())));
    }
    let head = name.as_ref().map_or_else(|| node.head(&decoder.file.text), |name| name.span);
    let image_node = decoder.required(&fields, "image", "a machine");
    let image = image_node.and_then(|node| image(decoder, node));
    let own_resources = fields.get("resources").and_then(|node| resources(decoder, node));
    let interfaces = networks.interfaces(decoder, fields.get("interfaces"), head);
    let users = fields.get("users").map(|node| users(decoder, node)).unwrap_or_default();
    let mut offered = Vec::new();
    let access = fields.get("access").map(|node| access(decoder, node, kind, &mut offered)).unwrap_or_default();
    let ready = fields.get("ready").and_then(|node| ready(decoder, node)).unwrap_or_default();
    let hidden = fields.get("hidden").and_then(|node| decoder.boolean(node, "`hidden`")).unwrap_or(false);
    let (settings, size) = match fields.get("kubevirt") {
        Some(node) => kubevirt::machine(decoder, node, defaults),
        None => defaults.settings(decoder, None),
    };
    let settings = sized(decoder, &fields, settings, own_resources.is_some());
    let resources = match (own_resources, &settings.instancetype) {
        (None, Some(_)) if kind == MachineType::Vm => None,
        (own, _) => Some(own.unwrap_or_default()),
    };
    let (name, image) = (name?, image?);
    let storage = settings.storage.as_ref().and_then(|storage| storage.size);
    decoder.context.uses.push(ImageUse {
        machine: name.value.clone(),
        recipe: match &image {
            ImageSource::Recipe(path) => Some(path.written.clone()),
            ImageSource::Reference(_) => None,
        },
        form: (kind.image(), image_node.map_or(name.span, |node| node.span)),
        access: offered,
        has_password: users.iter().any(|user| user.password.is_some()),
        size: storage.zip(size).filter(|_| kind == MachineType::Vm),
    });
    let kind = match kind {
        MachineType::Vm => MachineKind::Vm(Box::new(Vm { users, settings })),
        MachineType::Container => MachineKind::Container(Container {
            env: fields.get("env").map(|node| decoder.env(node, value)).unwrap_or_default(),
            command: fields.get("command").map(|node| decoder.words(node, "`command`")).unwrap_or_default(),
            args: fields.get("args").map(|node| decoder.words(node, "`args`")).unwrap_or_default(),
        }),
    };
    Some(Machine { name: name.value, kind, image, resources, interfaces, access, ready, hidden })
}

/// A machine's `resources` win over the lab's instancetype; beside an instancetype of its own they are a mistake.
fn sized(decoder: &mut Decoder<'_>, fields: &Fields<'_>, settings: VmSettings, has_resources: bool) -> VmSettings {
    if !has_resources || settings.instancetype.is_none() {
        return settings;
    }
    let own = fields.get("kubevirt").and_then(|node| match &node.kind {
        Kind::Mapping(entries) => entries.iter().find(|(key, _)| key.name == "instancetype").map(|(key, _)| key.span),
        _ => None,
    });
    if let Some(span) = own {
        let diagnostic = decoder.error(span, "a machine has both `resources` and an `instancetype`");
        decoder.push(
            diagnostic.hint("an instancetype says how many processors and how much memory; remove one of the two"),
        );
    }
    VmSettings { instancetype: None, ..settings }
}

/// `image`: a recipe by its path, or a reference.
fn image(decoder: &mut Decoder<'_>, node: &Node) -> Option<ImageSource> {
    // Recipes are looked for before a lab's variables have values.
    let is_path = matches!(&node.kind, Kind::Scalar(scalar) if scalar.value.starts_with(['.', '/']));
    let text = if is_path { decoder.fixed_text(node, "the path of a recipe") } else { decoder.text(node, "`image`") }?;
    if is_path {
        return recipe(decoder, &text).map(ImageSource::Recipe);
    }
    match text.value.parse::<ImageRef>() {
        Ok(reference) => Some(ImageSource::Reference(reference)),
        Err(error) => {
            let message = format!("`{}` is not a reference to an image", shown(&text.value));
            let diagnostic = decoder.error(text.span, message).hint(error.to_string());
            // What looks like a directory of a recipe likely is one.
            let beside = decoder.dir.join(&text.value);
            decoder.push(match decoder.files.kind(&beside) {
                Ok(Some(_)) => diagnostic.hint(format!("for a recipe beside the lab, write `./{}`", text.value)),
                _ => diagnostic,
            });
            None
        }
    }
}

/// A recipe, or the directory of one; a published lab has none, and needs none.
fn recipe(decoder: &mut Decoder<'_>, text: &Text) -> Option<LocalPath> {
    if decoder.context.origin == Origin::Bundle {
        return Some(LocalPath { written: text.value.clone(), path: decoder.dir.join(&text.value) });
    }
    let (path, kind) = decoder.local(text, Want::FileOrDirectory)?;
    let inside = path.path.join("recipe.yaml");
    if kind == FileKind::Directory && !matches!(decoder.files.kind(&inside), Ok(Some(FileKind::File))) {
        let message = format!("`{}` is a directory without a recipe.yaml", shown(&text.value));
        decoder.push(decoder.error(text.span, message));
        return None;
    }
    Some(path)
}

fn resources(decoder: &mut Decoder<'_>, node: &Node) -> Option<Resources> {
    let fields = decoder.fields(node, "`resources`", &["cpus", "memory"])?;
    let cpus = fields.get("cpus").map(|node| decoder.integer(node, "`cpus`", 1..=MAX_CPUS));
    let memory = fields.get("memory").map(|node| decoder.size(node, "`memory`", MIN_MEMORY..=MAX_MEMORY));
    let usual = Resources::default();
    Some(Resources {
        cpus: match cpus {
            Some(cpus) => u16::try_from(cpus?).ok()?,
            None => usual.cpus,
        },
        memory: match memory {
            Some(memory) => memory?,
            None => usual.memory,
        },
    })
}

fn users(decoder: &mut Decoder<'_>, node: &Node) -> Vec<User> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for item in decoder.list(node, "`users`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a user", &["name", "password", "ssh_authorized_keys"]) else {
            continue;
        };
        let name = decoder
            .required(&fields, "name", "a user")
            .and_then(|node| decoder.checked(node, "`name`", shared::account));
        let password = fields.get("password").map(|node| password(decoder, node));
        let mut keys = Vec::new();
        if let Some(node) = fields.get("ssh_authorized_keys") {
            for item in decoder.list(node, "`ssh_authorized_keys`").unwrap_or_default() {
                keys.extend(decoder.checked(item, "an SSH key", shared::ssh_key).map(|text| text.value));
            }
        }
        let Some(name) = name else { continue };
        decoder.unique(&mut seen, &name, "user");
        let password = match password {
            Some(Some(password)) => Some(password),
            // What is wrong with it was said.
            Some(None) | None => None,
        };
        found.push(User { name: name.value, password, ssh_authorized_keys: keys });
    }
    found
}

/// A password: a secret of the session, never one that stands in the lab.
fn password(decoder: &mut Decoder<'_>, node: &Node) -> Option<Value> {
    let password = value(decoder, node, "`password`")?;
    if password.as_secret().is_some() {
        return Some(password);
    }
    let diagnostic = decoder.error(node.span, "a password is one secret of the session");
    decoder.push(diagnostic.hint(
        "declare `secrets: {student_password: {type: password}}` and write `password: \"${{ secrets.student_password }}\"`",
    ));
    None
}

fn access(decoder: &mut Decoder<'_>, node: &Node, kind: MachineType, offered: &mut Vec<(String, Span)>) -> Vec<Access> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    let mut ports: Vec<(i64, Span)> = Vec::new();
    for item in decoder.list(node, "`access`").unwrap_or_default() {
        let one = match &item.kind {
            Kind::Scalar(_) => named(decoder, item, kind, offered),
            _ => http(decoder, item, &mut ports),
        };
        let Some((name, spec)) = one else { continue };
        decoder.unique(&mut seen, &name, "access");
        found.push(Access { name: name.value, spec });
    }
    found
}

/// An access by its name: the image's, or one that every virtual machine has.
fn named(
    decoder: &mut Decoder<'_>,
    node: &Node,
    kind: MachineType,
    offered: &mut Vec<(String, Span)>,
) -> Option<(Text, AccessSpec)> {
    let name = decoder.checked(node, "an access", shared::name)?;
    if kind == MachineType::Container {
        let diagnostic = decoder.error(name.span, "a container offers no access by name");
        decoder.push(diagnostic.hint("write `{name: site, type: http, port: 8080}`"));
        return None;
    }
    let spec = match name.value.as_str() {
        CONSOLE => AccessSpec::Console,
        SCREEN => AccessSpec::Screen,
        _ => {
            offered.push((name.value.clone(), name.span));
            AccessSpec::Image
        }
    };
    Some((name, spec))
}

/// `{name: site, type: http, port: 8080}`.
fn http(decoder: &mut Decoder<'_>, node: &Node, ports: &mut Vec<(i64, Span)>) -> Option<(Text, AccessSpec)> {
    let fields = decoder.fields(node, "an access", &["name", "type", "port"])?;
    let name = decoder
        .required(&fields, "name", "an access")
        .and_then(|node| decoder.checked(node, "`name`", shared::name))
        .and_then(|name| {
            if ![CONSOLE, SCREEN].contains(&name.value.as_str()) {
                return Some(name);
            }
            let message = format!("`{}` is what KubeVirt gives every virtual machine", name.value);
            decoder.push(decoder.error(name.span, message).hint("give this access another name"));
            None
        });
    let kind = decoder.required(&fields, "type", "an access").and_then(|node| {
        let text = decoder.text(node, "`type`")?;
        if text.value == "http" {
            return Some(());
        }
        let diagnostic = decoder.error(text.span, format!("`{}` is not an access that a lab adds", shown(&text.value)));
        decoder.push(diagnostic.hint("a lab adds `type: http`; what the image offers stands by its name: `[shell]`"));
        None
    });
    let port = decoder.required(&fields, "port", "an access").and_then(|node| {
        let port = decoder.integer(node, "`port`", 1..=65_535)?;
        decoder.once(ports, port, node.span, "port")?;
        u16::try_from(port).ok()
    });
    kind?;
    Some((name?, AccessSpec::Http { port: port? }))
}

fn ready(decoder: &mut Decoder<'_>, node: &Node) -> Option<Ready> {
    let fields = decoder.fields(node, "`ready`", &["timeout"])?;
    let node = decoder.required(&fields, "timeout", "`ready`")?;
    decoder.read(node, "`timeout`", shared::duration).map(|timeout| Ready { timeout })
}

/// Warns of a lab that no learner can enter.
pub(super) fn no_way_in(decoder: &mut Decoder<'_>, machines: &[Machine], span: Span) {
    let closed = |machine: &Machine| machine.access.is_empty() || machine.hidden;
    if !machines.is_empty() && machines.iter().all(closed) {
        let warning = Diagnostic::warning(decoder.file, span, "no machine has an access that the learner sees");
        decoder.push(warning.hint("add `access: [shell]` to a machine whose image offers it, or `access: [console]`"));
    }
}
