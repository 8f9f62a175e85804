//! The program `labwright-guest`: what its two roles do.

use std::io::BufWriter;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use labwright_core::Mask;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::UnshareFlags;

use crate::apt::Apt;
use crate::audit::{self, Finding};
use crate::error::{Doing, StepError};
use crate::protocol::{Action, Command, Failure, Message, Report, Request};
use crate::session::{Program, Session, end_everything};
use crate::stand_in::{self, StandIn};
use crate::{archive, boot, files, inventory, no_sync, seal, settings, shell, space};

/// How much of an archive is sent at a time, in bytes.
const PIECE: usize = 256 << 10;

/// Runs the program with the arguments behind its name: `step` is what the host starts.
pub fn main(arguments: &[String]) -> ExitCode {
    match arguments {
        [role] if role == "step" => step(),
        [role] if role == "init" => init(),
        [role, shell] if role == "shell" => shell::become_shell(shell),
        _ => {
            complain("usage: labwright-guest step (the protocol of labwright is spoken on stdin and stdout)");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "this program's stderr is for what cannot be said in the protocol")]
fn complain(text: &str) {
    eprintln!("labwright-guest: {text}");
}

/// The outer process: makes a PID namespace and waits for its first process, which does everything.
///
/// The kernel ends the inner process, and so everything in its namespace, when this one ends for whatever reason.
fn step() -> ExitCode {
    let started = space::unshare(UnshareFlags::NEWPID).and_then(|()| {
        #[expect(clippy::disallowed_methods, reason = "this program starts itself as the first of a PID namespace")]
        let mut command = std::process::Command::new("/proc/self/exe");
        // The pipe tells the inner process that this one still lives.
        command.arg("init").env_clear().stderr(std::process::Stdio::piped());
        command.spawn().to("start the first process of the step")
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return fail_early(&error),
    };
    if let Some(mut words) = child.stderr.take() {
        drop(std::io::copy(&mut words, &mut std::io::stderr()));
    }
    match child.wait() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // It could not tell by itself.
        Ok(status) => match status.signal() {
            Some(signal) => fail_early(&StepError::Gone { signal }),
            None => ExitCode::FAILURE,
        },
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn standard_streams() -> Result<Session, StepError> {
    let input: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).to("take stdin")?;
    let output: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).to("take stdout")?;
    Ok(Session::new(input, output))
}

fn fail_early(error: &StepError) -> ExitCode {
    let told = standard_streams().and_then(|mut session| tell_failure(&mut session, None, error));
    if told.is_err() {
        complain(&error.chain());
    }
    ExitCode::FAILURE
}

fn tell_failure(session: &mut Session, index: Option<usize>, error: &StepError) -> Result<(), StepError> {
    let last_lines = session.last_lines();
    session.say(&Message::Failed(Failure {
        index,
        reason: session.masked(&error.chain()),
        exit_status: error.exit_status(),
        signal: error.signal(),
        time_limit_seconds: error.time_limit(),
        not_as_locked: error.is_about_the_lock(),
        last_lines,
    }))
}

/// The inner process: PID 1 of the step.
fn init() -> ExitCode {
    if rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).is_err() || is_orphan() {
        return ExitCode::FAILURE;
    }
    let mut session = match standard_streams() {
        Ok(session) => session,
        Err(error) => return fail_early(&error),
    };
    let result = session.read_request().map_err(StepError::from).map_err(|error| (None, error));
    let result = result.and_then(|request| run(&mut session, &request));
    let told = match result {
        Ok(()) => session.say(&Message::Done),
        Err((index, error)) => tell_failure(&mut session, index, &error).and(Err(error)),
    };
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the outer process ended before the kernel was asked to end us with it.
fn is_orphan() -> bool {
    let stderr = rustix::stdio::stderr();
    let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

type Failed = (Option<usize>, StepError);

fn run(session: &mut Session, request: &Request) -> Result<(), Failed> {
    let bare_only = request.actions.iter().any(Action::wants_bare_tree);
    let early = |error| (None, error);
    if bare_only && request.actions.len() > 1 {
        return Err(early(StepError::NotAlone));
    }
    session.limit(request.time_limit_seconds, &request.environment);
    session.hide(Mask::new(request.secrets.iter().map(|secret| &secret.value)));
    rustix::process::setsid().to("leave the host's session").map_err(early)?;
    session.seat = request.terminal.as_ref().map(shell::Seat::take).transpose().map_err(early)?;
    space::keep_descriptors_to_ourselves().map_err(early)?;
    let bare = space::enter(request).map_err(early)?;
    space::scope_sockets().map_err(early)?;
    no_sync::pretend_to_sync().map_err(early)?;
    space::drop_capabilities().map_err(early)?;
    if bare_only {
        return act_all(session, request, &bare);
    }
    drop(bare);
    with_stand_ins(session, request)
}

fn with_stand_ins(session: &mut Session, request: &Request) -> Result<(), Failed> {
    let early = |error| (None, error);
    let mut stand_ins = Vec::new();
    if fs_err::metadata("/usr/sbin").is_ok_and(|metadata| metadata.is_dir()) {
        stand_ins.push(StandIn::put("/usr/sbin/policy-rc.d", &stand_in::policy(), 0o755).map_err(early)?);
    }
    if request.network && fs_err::metadata("/etc").is_ok() {
        let text = stand_in::resolv_conf(&request.dns);
        stand_ins.push(StandIn::put("/etc/resolv.conf", &text, 0o644).map_err(early)?);
    }
    let runs_programs =
        request.actions.iter().any(|action| matches!(action, Action::AptInstall { .. } | Action::Run(_)));
    let diverted = match &request.disk {
        Some(disk) if runs_programs => boot::divert(session, disk).map_err(early)?,
        _ => false,
    };
    if let (true, Some(disk)) = (diverted, &request.disk)
        && let Some(text) = boot::root_type(disk)
        && fs_err::metadata(boot::INITRAMFS_HOOKS).is_ok_and(|metadata| metadata.is_dir())
    {
        let path = format!("{}/labwright", boot::INITRAMFS_HOOKS);
        stand_ins.push(StandIn::put(&path, &text, 0o644).map_err(early)?);
    }
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .to("open the root")
        .map_err(early)?;
    let (kernels, roots) = (boot::kernels(), boot::roots());
    let mut result = act_all(session, request, &root);
    if result.is_ok() && diverted && boot::kernels() != kernels {
        result = boot::update_menu(session).map_err(early);
    }
    if result.is_ok() {
        result = boot::check_roots(&roots, &boot::roots(), request.disk.as_ref()).map_err(early);
    }
    // Nobody of the guest may be there while its files are put back.
    end_everything();
    session.limit_cleanup();
    let mut cleaned = if diverted { boot::restore(session) } else { Ok(()) };
    for stand_in in stand_ins {
        let closed = stand_in.close();
        cleaned = cleaned.and(closed);
    }
    result.and(cleaned.map_err(early))
}

fn act_all(session: &mut Session, request: &Request, root: &OwnedFd) -> Result<(), Failed> {
    let mut apt = Apt::new(request);
    let mut file = 0;
    let mut commands = 0;
    for (index, action) in request.actions.iter().enumerate() {
        let here = |error| (Some(index), error);
        session.forget_lines();
        session.set_next_file(file);
        session.say(&Message::ActionStarted { index }).map_err(here)?;
        let mut result = act(session, &mut apt, action, root);
        if let Action::Run(command) = action {
            commands += 1;
            result = result.map_err(|error| StepError::Command {
                number: commands,
                text: beginning(command),
                source: Box::new(error),
            });
        }
        if let Err(error) = result {
            offer_shell(session, &error);
            return Err(here(error));
        }
        session.say(&Message::ActionFinished { index }).map_err(here)?;
        file += action.file_sizes().len();
    }
    Ok(())
}

/// Enough of a command to tell it from the others.
fn beginning(command: &Command) -> String {
    const LENGTH: usize = 60;
    let text = match command {
        Command::Shell(script) => script.trim().lines().next().unwrap_or_default().to_owned(),
        Command::Exec(argv) => argv.join(" "),
    };
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Opens a shell in the failing state, if that was asked for.
fn offer_shell(session: &mut Session, error: &StepError) {
    // A host that cannot be talked to is not there any more.
    if !matches!(error.innermost(), StepError::Talk(_))
        && let Some(seat) = session.seat.take()
        && let reason = session.masked(&error.chain())
        && let Err(trouble) = shell::offer(session, seat, &reason)
    {
        // The step's own failure is the one to tell in the protocol.
        complain(&format!("could not offer a shell: {}", trouble.chain()));
    }
}

fn act(session: &mut Session, apt: &mut Apt, action: &Action, root: &OwnedFd) -> Result<(), StepError> {
    match action {
        Action::AptSource { name, source, key } => apt.source(name, source, key.as_deref()),
        Action::AptUpdate => apt.update(session),
        Action::AptSurvey { fallbacks } => apt.survey(session, fallbacks),
        Action::AptInstall { packages, files, fallbacks } => apt.install(session, packages, files, fallbacks),
        Action::User(user) => settings::user(session, user),
        Action::WriteFile { path, mode, owner, append, size } => {
            files::write_file(session, Path::new(path.as_str()), *mode, owner, *append, *size)
        }
        Action::Tree { destination, entries, owner } => {
            files::tree(session, Path::new(destination.as_str()), entries, owner)
        }
        Action::Hostname(name) => settings::hostname(name),
        Action::Timezone(zone) => settings::timezone(zone),
        Action::Locale(locale) => settings::locale(session, locale),
        Action::Enable(unit) => settings::enable(session, unit),
        Action::Disable(unit) => settings::disable(session, unit),
        Action::Run(command) => run_command(session, command),
        Action::RemovePath(path) => files::remove(Path::new(path.as_str().trim_end_matches('/'))),
        Action::Seal => {
            let report = seal::seal(&bare_tree(root))?;
            session.say(&Message::Report(Report::Sealed(report)))?;
            let (own, told): (Vec<Finding>, Vec<Finding>) =
                audit::tree(&bare_tree(root))?.into_iter().partition(Finding::fails_build);
            tell(session, told)?;
            for piece in inventory::read(&bare_tree(root))?.pieces(inventory::PER_REPORT) {
                session.say(&Message::Report(Report::Inventory(piece)))?;
            }
            if own.is_empty() { Ok(()) } else { Err(StepError::NotSealed { findings: own }) }
        }
        Action::Audit => tell(session, audit::tree(&bare_tree(root))?),
        Action::Archive => {
            let pieces = BufWriter::with_capacity(PIECE, session.data());
            archive::write(&bare_tree(root), pieces)
        }
    }
}

/// The guest's own files, without what is mounted over them for a step.
fn bare_tree(root: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))
}

fn tell(session: &mut Session, findings: Vec<Finding>) -> Result<(), StepError> {
    findings.into_iter().try_for_each(|finding| session.say(&Message::Report(Report::Finding(finding))))
}

fn run_command(session: &mut Session, command: &Command) -> Result<(), StepError> {
    match command {
        Command::Exec(argv) if argv.is_empty() => {
            Err(StepError::Invalid { what: "the command", value: String::new(), rule: "it has a program" })
        }
        Command::Exec(argv) => session.run(&Program::from_argv(argv.clone())),
        // Of a file: an argument's length is limited.
        Command::Shell(script) => {
            let path = "/run/labwright/script";
            files::write_text(path, 0o600, script)?;
            let result = session.run(&Program::new("/bin/sh").args(&["-e", path]));
            files::remove(Path::new(path))?;
            result
        }
    }
}
