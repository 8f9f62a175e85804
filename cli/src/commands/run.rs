//! Boots an image on this machine: composes the image's disk, a seed with a credential, and a QEMU machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use labwright_cloud_init::{Credential, FrontDoor, Seed, SessionConfig, meta_data, user_data};
use labwright_core::{AccessFact, AccessKind, Arch, Event, ImageRef};
use labwright_disk::chain::{Backing, create_overlay};
use labwright_disk::inspect::{DiskInfo, Format as FileFormat, Limits, inspect};
use labwright_vm::{
    Accelerator, Cache, DiskFormat, Drive, Firmware, Forward, HowItEnded, Machine, RunningMachine, free_port, probe,
};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::Serialize;
use serde_json::json;

use super::image::Found;
use super::machine_dir::MachineDir;
use super::{disk_cache, image, recipe_file};
use crate::args::{Registries, Run};
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// How many characters a generated password has: 24 of 62 are more than 140 bits.
const PASSWORD_LENGTH: usize = 24;
/// How long the guest may take to shut down; an emulated one stops many services slowly.
const POWERDOWN: Duration = Duration::from_secs(90);
/// The port of SSH in the guest.
const SSH_PORT: u16 = 22;

/// What the image says about itself, as far as it does: images of other makers run too, without a front door.
#[derive(Debug)]
struct Guest {
    name: String,
    arch: Arch,
    access: Vec<AccessFact>,
    front_door: Option<u16>,
}

impl Guest {
    fn new(found: &Found) -> Self {
        match &found.platform.facts {
            Some(facts) => Self {
                name: facts.name.clone(),
                arch: found.arch,
                access: facts.access.clone(),
                front_door: facts.front_door,
            },
            None => Self { name: "lab".to_owned(), arch: found.arch, access: Vec::new(), front_door: None },
        }
    }

    /// The learner's account.
    fn user(&self) -> Option<&str> {
        self.access.iter().find_map(|access| access.user.as_deref())
    }
}

/// What a user or a script needs to get in. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    image: String,
    accelerator: Accelerator,
    /// Seconds from the start of the machine until its front door was ready; none where nothing says it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    access: Vec<Way>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh: Option<String>,
}

/// One way into the machine.
#[derive(Debug, Serialize)]
struct Way {
    name: String,
    #[serde(rename = "type")]
    kind: AccessKind,
    /// With the credential, where one is asked for.
    address: String,
}

/// Boots an image, says how to get in, and waits until it ends or Ctrl-C ends it.
pub(super) fn run(args: &Run, context: &Context<'_>) -> Result<(), CommandError> {
    let reference = reference(&args.image)?;
    let images = image::images(context, &Registries::default(), &[])?;
    let found = image::find(&reference, &images, context)?;
    let guest = Guest::new(&found);
    let disk = disk_cache::get(&found, &images, context)?;
    let info = inspect(&disk, &Limits::default())?;

    fs_err::create_dir_all(&context.settings.home).map_err(files_failed)?;
    let probe = probe(guest.arch, &context.settings.kvm_probe(), context.cancel)?;
    if probe.accelerator == Accelerator::Tcg {
        context.ui.note(format!(
            "KVM is not used: {}; the machine is emulated, which takes about ten times as long",
            probe.reason
        ));
    }

    let dir = MachineDir::create(&context.settings.machines()).map_err(files_failed)?;
    let credential = guest.front_door.map(|_| new_credential(&guest)).transpose()?;
    let ports = Ports::choose(args, &guest).map_err(files_failed)?;
    let session = session(args, &guest, credential.as_ref())?;
    let machine = machine(args, &guest, &disk, info, probe.accelerator, &session, &ports, &dir, context)?;

    let begin = format!("boot {}", found.name);
    context.ui.reporter().event(Event::Started { step: begin.clone() });
    let mut running = RunningMachine::start(machine, context.cancel)?;
    let ready = wait_ready(&mut running, &ports, args, context);
    if let (Some(console), true) = (&args.console, dir.file(CONSOLE).exists()) {
        // Kept also when the machine did not become ready: that is when it is wanted.
        fs_err::copy(dir.file(CONSOLE), console).map_err(files_failed)?;
    }
    let boot = ready?;
    let outcome = boot.map_or_else(String::new, |boot| format!("ready after {:.1} s", boot.as_secs_f64()));
    context.ui.reporter().event(Event::Finished { step: begin, outcome });

    let answer = answer(found.name, &guest, probe.accelerator, boot, credential.as_ref(), &ports);
    context.ui.result(&answer, || text(&answer))?;
    if !args.exit_when_ready {
        context.ui.note("Ctrl-C powers the machine down");
        match running.wait_end(Duration::MAX, context.cancel) {
            Ok(_) => context.ui.note("the machine shut itself down"),
            // Stopping it is the usual end of this command and no failure.
            Err(labwright_vm::VmError::Cancelled(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if running.powerdown(POWERDOWN)? != HowItEnded::PoweredDown {
        context.ui.warning("the machine did not shut down in time and was ended");
    }
    dir.close().map_err(files_failed)
}

const CONSOLE: &str = "console.log";

fn files_failed(source: std::io::Error) -> CommandError {
    CommandError::new(Kind::Host, source).context("could not prepare the machine's files")
}

/// The image that is meant: text with a slash that is there is a recipe's path, all else a reference.
fn reference(text: &str) -> Result<ImageRef, CommandError> {
    let path = Path::new(text);
    let is_path = matches!(text, "." | "..")
        || path.extension().is_some_and(|extension| extension == "yaml")
        || (text.contains('/') && path.exists());
    if !is_path {
        return text.parse().map_err(|source| {
            CommandError::new(Kind::Usage, source)
                .context(format!("`{text}` is neither a recipe that is there nor an image"))
        });
    }
    let loaded = recipe_file::load_recipe(path, &[])?;
    Ok(ImageRef::Local { name: loaded.recipe.name, tag: Some(loaded.recipe.version) })
}

/// A credential for this run: the name is the first terminal's user.
fn new_credential(guest: &Guest) -> Result<Credential, CommandError> {
    let user = guest.user().unwrap_or("lab");
    let password: String = rand::rng().sample_iter(&Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
    Credential::new(user, password).map_err(|source| {
        CommandError::new(Kind::Input, source).context(format!("`{user}` cannot be the name of a credential"))
    })
}

/// Ports of the host that lead into the guest.
#[derive(Debug)]
struct Ports {
    /// The front door's, in the guest and here.
    front_door: Option<Forward>,
    /// Services of the guest's own.
    http: Vec<Forward>,
    ssh: Option<Forward>,
}

impl Ports {
    fn choose(args: &Run, guest: &Guest) -> std::io::Result<Self> {
        let free = |guest_port| Ok::<_, std::io::Error>(Forward { host_port: free_port()?, guest_port });
        let front_door = match (guest.front_door, args.port) {
            (Some(guest_port), Some(host_port)) => Some(Forward { host_port, guest_port }),
            (Some(guest_port), None) => Some(free(guest_port)?),
            (None, _) => None,
        };
        let own = guest.access.iter().filter(|access| access.kind == AccessKind::Http);
        let mut http = own.map(|access| free(access.port)).collect::<Result<Vec<_>, _>>()?;
        if let (None, Some(port), Some(first)) = (front_door, args.port, http.first_mut()) {
            first.host_port = port;
        }
        let ssh = args.ssh_key.as_ref().map(|_| free(SSH_PORT)).transpose()?;
        Ok(Self { front_door, http, ssh })
    }

    fn all(&self) -> Vec<Forward> {
        self.front_door.iter().chain(&self.http).chain(&self.ssh).copied().collect()
    }

    /// The port here of an access.
    fn of(&self, guest_port: u16) -> Option<u16> {
        self.all().into_iter().find(|forward| forward.guest_port == guest_port).map(|forward| forward.host_port)
    }
}

/// What the guest is told at boot.
fn session(args: &Run, guest: &Guest, credential: Option<&Credential>) -> Result<SessionConfig, CommandError> {
    let mut session = SessionConfig {
        hostname: Some(guest.name.clone()),
        credential: credential.cloned(),
        ..SessionConfig::default()
    };
    if let Some(file) = &args.ssh_key {
        let text = fs_err::read_to_string(file).map_err(|source| CommandError::new(Kind::Usage, source))?;
        let keys: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        if keys.is_empty() || keys.iter().any(|key| key.contains("PRIVATE KEY")) {
            return Err(CommandError::sentence(Kind::Usage, format!("{} is not a public SSH key", file.display()))
                .hint("the public key is the file that ends with .pub"));
        }
        match guest.user().map(str::to_owned) {
            Some(user) => session.ssh_authorized_keys = BTreeMap::from([(user, keys)]),
            // An image without a learner has cloud-init's own default user.
            None => drop(session.extra.insert("ssh_authorized_keys".to_owned(), json!(keys))),
        }
    }
    Ok(session)
}

#[expect(clippy::too_many_arguments, reason = "one call, which joins what the steps before it found")]
fn machine(
    args: &Run,
    guest: &Guest,
    disk: &Path,
    info: DiskInfo,
    accelerator: Accelerator,
    session: &SessionConfig,
    ports: &Ports,
    dir: &MachineDir,
    context: &Context<'_>,
) -> Result<Machine, CommandError> {
    let overlay = dir.file("overlay.qcow2");
    // QEMU is given the whole graph, so the name in the overlay is never followed.
    let backing = Backing { name: "image".to_owned(), format: info.format };
    create_overlay(&overlay, &backing, info.virtual_size, context.cancel)
        .map_err(|source| CommandError::new(Kind::Host, source))?;
    let seed = Seed {
        user_data: user_data(session),
        meta_data: meta_data(&instance_id(), session.hostname.as_deref()),
        network_config: None,
    };
    let seed = seed.image().map_err(|source| CommandError::new(Kind::Bug, source))?;
    // The directory is private, and so is the credential in the seed.
    fs_err::write(dir.file("seed.img"), seed).map_err(files_failed)?;

    let mut machine = Machine::new(guest.arch, accelerator, dir.file(CONSOLE), dir.file("qmp"));
    guest.name.clone_into(&mut machine.name);
    machine.cpus = u32::from(args.cpus);
    machine.memory = args.memory;
    let format = match info.format {
        FileFormat::Qcow2 => DiskFormat::Qcow2,
        FileFormat::Raw => DiskFormat::Raw,
    };
    let mut root = Drive::qcow2(overlay).over(disk, format);
    // It is thrown away at the end, so nothing needs to reach the host's disk.
    root.cache = Cache::IgnoreFlushes;
    machine.disks = vec![root, Drive::raw(dir.file("seed.img")).read_only()];
    machine.forwards = ports.all();
    if args.uefi || guest.arch == Arch::Arm64 {
        machine.firmware =
            Firmware::uefi(guest.arch, &dir.file("vars.fd")).map_err(files_failed)?.ok_or_else(|| {
                CommandError::sentence(Kind::Host, "this machine has no UEFI firmware for guests")
                    .hint("apt-get install ovmf (for amd64) or qemu-efi-aarch64 (for arm64)")
            })?;
    }
    Ok(machine)
}

/// A name for this boot, so that cloud-init does its work of a first boot.
fn instance_id() -> String {
    let id: u64 = rand::rng().random();
    format!("labwright-{id:016x}")
}

/// Waits until the guest can be used; none where nothing in it tells.
fn wait_ready(
    running: &mut RunningMachine,
    ports: &Ports,
    args: &Run,
    context: &Context<'_>,
) -> Result<Option<Duration>, CommandError> {
    let (port, path) = match (ports.front_door, ports.http.first()) {
        (Some(door), _) => (door.host_port, FrontDoor::READY_PATH),
        (None, Some(http)) => (http.host_port, "/"),
        (None, None) => {
            context.ui.note("the image has no access, so nothing tells when it is ready");
            return Ok(None);
        }
    };
    Ok(Some(running.wait_ready(port, path, Duration::from_secs(args.timeout), context.cancel)?))
}

fn answer(
    image: String,
    guest: &Guest,
    accelerator: Accelerator,
    boot: Option<Duration>,
    credential: Option<&Credential>,
    ports: &Ports,
) -> Answer {
    let ways = guest.access.iter().filter_map(|access| {
        let port = ports.of(access.port)?;
        let login = match (access.kind, credential) {
            (AccessKind::Terminal | AccessKind::Desktop, Some(credential)) => {
                format!("{}:{}@", credential.user(), credential.password())
            }
            _ => String::new(),
        };
        let address = format!("http://{login}127.0.0.1:{port}{}", access.path);
        Some(Way { name: access.name.clone(), kind: access.kind, address })
    });
    let ssh_user = guest.user();
    Answer {
        image,
        accelerator,
        boot_seconds: boot.map(|boot| boot.as_secs_f64()),
        user: credential.map(|credential| credential.user().to_owned()),
        password: credential.map(|credential| credential.password().to_owned()),
        access: ways.collect(),
        ssh: ports.ssh.map(|ssh| match ssh_user {
            Some(user) => format!("ssh -p {} {user}@127.0.0.1", ssh.host_port),
            None => format!("ssh -p {} 127.0.0.1", ssh.host_port),
        }),
    }
}

fn text(answer: &Answer) -> String {
    let mut lines: Vec<String> =
        answer.access.iter().map(|way| format!("{:<9} {}", format!("{}:", way.name), way.address)).collect();
    lines.extend(answer.user.iter().map(|user| format!("user:     {user}")));
    lines.extend(answer.password.iter().map(|password| format!("password: {password}")));
    lines.extend(answer.ssh.iter().map(|ssh| format!("ssh:      {ssh}")));
    lines.extend(answer.boot_seconds.map(|seconds| format!("ready after {seconds:.1} s")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        let access = |name: &str, kind, port, path: &str, user: Option<&str>| AccessFact {
            name: name.to_owned(),
            kind,
            port,
            path: path.to_owned(),
            user: user.map(str::to_owned),
        };
        Guest {
            name: "shell".to_owned(),
            arch: Arch::Amd64,
            access: vec![
                access("shell", AccessKind::Terminal, 7681, "/shell/", Some("student")),
                access("site", AccessKind::Http, 8080, "/", None),
            ],
            front_door: Some(7681),
        }
    }

    #[test]
    fn the_answer_has_the_credential_only_where_it_is_asked_for() {
        let credential = Credential::new("student", "secret").unwrap();
        let ports = Ports {
            front_door: Some(Forward { host_port: 4001, guest_port: 7681 }),
            http: vec![Forward { host_port: 4002, guest_port: 8080 }],
            ssh: Some(Forward { host_port: 4003, guest_port: 22 }),
        };
        let boot = Some(Duration::from_millis(61_250));
        let answer = answer("shell:1.0.0".to_owned(), &guest(), Accelerator::Tcg, boot, Some(&credential), &ports);
        assert_eq!(
            text(&answer),
            "\
shell:    http://student:secret@127.0.0.1:4001/shell/
site:     http://127.0.0.1:4002/
user:     student
password: secret
ssh:      ssh -p 4003 student@127.0.0.1
ready after 61.2 s"
        );
    }

    #[test]
    fn every_run_has_another_credential() {
        let (one, two) = (new_credential(&guest()).unwrap(), new_credential(&guest()).unwrap());
        assert_eq!((one.user(), one.password().len()), ("student", PASSWORD_LENGTH));
        assert_ne!(one.password(), two.password());
    }

    #[test]
    fn a_name_is_an_image_and_a_path_a_recipe() {
        assert_eq!(reference("shell:1.0.0").unwrap().to_string(), "shell:1.0.0");
        assert_eq!(reference("oci:out:1.0.0").unwrap().to_string(), "oci:out:1.0.0");
        assert_eq!(reference("./no-such-recipe.yaml").unwrap_err().kind, Kind::Input);
        assert_eq!(reference("no/such").unwrap_err().kind, Kind::Usage);
    }
}
