//! Which runner builds, and why.

use std::path::Path;

use labwright_base_images::chroot_obstacle;
use labwright_builder::{Runner, VmRunner};
use labwright_core::Arch;
use labwright_vm::{Accelerator, Probe, probe};

use crate::args::RunnerChoice;
use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// The runner to use, which is said together with the reason where the user left the choice to us.
pub(super) fn choose(
    choice: RunnerChoice,
    kernel: Option<&Path>,
    arch: Arch,
    context: &Context<'_>,
) -> Result<Runner, CommandError> {
    let chroot = Runner::chroot_obstacle();
    match (choice, chroot) {
        (RunnerChoice::Auto, None) => {
            context.ui.note("runner: chroot, the fastest that works here");
            Ok(Runner::Chroot)
        }
        (RunnerChoice::Chroot, None) => Ok(Runner::Chroot),
        (RunnerChoice::Chroot, Some(obstacle)) => {
            Err(CommandError::sentence(Kind::Host, format!("the chroot runner does not work here: {obstacle}"))
                .hint("run it as root, or take `--runner vm`, which needs no privilege"))
        }
        (RunnerChoice::Auto, Some(obstacle)) => {
            let (runner, how) = machine(kernel, arch, context)
                .map_err(|error| error.context(format!("no runner works here; the chroot runner: {obstacle}")))?;
            context.ui.note(format!("runner: vm ({obstacle}), {how}"));
            Ok(Runner::Vm(runner))
        }
        (RunnerChoice::Vm, _) => {
            let (runner, how) = machine(kernel, arch, context)?;
            context.ui.note(format!("runner: vm, {how}"));
            Ok(Runner::Vm(runner))
        }
    }
}

/// Where the user wants steps to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    /// The way.
    pub(super) choice: RunnerChoice,
    /// The kernel package for a machine, instead of the distribution's own.
    pub(super) kernel: Option<&'a Path>,
}

/// The machine that installs the packages of a bootstrapped base; none if a chroot of this host does.
///
/// That needs less than a build's chroot: no loop devices and no FUSE.
pub(super) fn of_bootstrap(
    wish: Wish<'_>,
    arch: Arch,
    context: &Context<'_>,
) -> Result<Option<VmRunner>, CommandError> {
    let why = match (wish.choice, chroot_obstacle()) {
        // The obstacle, if there is any, is told by whoever meets it.
        (RunnerChoice::Chroot, _) | (RunnerChoice::Auto, None) => return Ok(None),
        (RunnerChoice::Auto, Some(obstacle)) => format!(" ({obstacle})"),
        (RunnerChoice::Vm, _) => String::new(),
    };
    let (runner, how) = machine(wish.kernel, arch, context)
        .map_err(|error| error.context(format!("the base's packages must be installed in a machine{why}")))?;
    context.ui.note(format!("the base's packages are installed in a machine{why}, {how}"));
    Ok(Some(runner))
}

/// The runner that takes over for a disk which the chosen one cannot open, for `reason`. Said as well; nothing where the
/// user chose.
pub(super) fn instead(
    choice: RunnerChoice,
    reason: &str,
    kernel: Option<&Path>,
    arch: Arch,
    context: &Context<'_>,
) -> Result<Option<Runner>, CommandError> {
    if choice != RunnerChoice::Auto {
        return Ok(None);
    }
    let (runner, how) = machine(kernel, arch, context).map_err(|error| error.context(reason.to_owned()))?;
    context.ui.note(format!("runner: vm after all ({reason}), {how}"));
    Ok(Some(Runner::Vm(runner)))
}

/// The vm runner, and how fast it will be.
fn machine(kernel: Option<&Path>, arch: Arch, context: &Context<'_>) -> Result<(VmRunner, String), CommandError> {
    let appliance_dir = context.settings.appliance();
    if let Some(obstacle) = Runner::vm_obstacle(arch, &appliance_dir, kernel) {
        let text = format!("the vm runner does not work here: {obstacle}");
        return Err(CommandError::sentence(Kind::Host, text).hint("`labwright doctor` says what to install"));
    }
    let Probe { accelerator, reason } = probe(arch, &context.settings.kvm_probe(), context.cancel)?;
    let how = match accelerator {
        Accelerator::Kvm => "with KVM".to_owned(),
        Accelerator::Tcg => format!("emulated, which takes several times as long: {reason}"),
    };
    let runner =
        VmRunner { accelerator, kernel: kernel.map(Path::to_owned), appliance_dir, patience: VmRunner::PATIENCE };
    Ok((runner, how))
}
