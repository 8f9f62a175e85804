use std::path::{Path, PathBuf};

use labwright_builder::Runner;
use labwright_core::{Arch, ByteSize};
use labwright_host::{Tool, ToolError};
use labwright_vm::{Accelerator, Probe};
use rustix::thread::{CapabilitySet, capabilities};

use crate::commands::Context;
use crate::error::{CommandError, Kind};

/// What was found on the host. Nothing was changed to find it.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) arch: Option<Arch>,
    /// Every tool and where it is.
    pub(super) tools: Vec<(Tool, Option<PathBuf>)>,
    pub(super) root: bool,
    /// May mount file systems and make namespaces.
    pub(super) admin: bool,
    pub(super) loop_devices: bool,
    pub(super) fuse: bool,
    /// All kinds of namespace that a build uses.
    pub(super) namespaces: bool,
    /// Why KVM is not used, or nothing if it works.
    pub(super) kvm: Result<(), String>,
    /// Why the vm runner cannot work, or nothing if it can.
    pub(super) vm_obstacle: Option<String>,
    pub(super) free_disk: ByteSize,
    pub(super) disk_path: PathBuf,
    pub(super) free_memory: Option<ByteSize>,
}

/// Looks at the host.
pub(super) fn look(context: &Context<'_>) -> Result<Host, CommandError> {
    let (free_disk, disk_path) = free_disk(&context.settings.home)?;
    Ok(Host {
        arch: Arch::host(),
        tools: Tool::ALL.into_iter().map(|tool| (tool, tool.find().ok())).collect(),
        root: rustix::process::geteuid().is_root(),
        admin: capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN)),
        loop_devices: opens("/dev/loop-control"),
        fuse: opens("/dev/fuse"),
        namespaces: ["mnt", "pid", "uts", "ipc", "net"]
            .iter()
            .all(|kind| Path::new("/proc/self/ns").join(kind).exists()),
        kvm: kvm(context)?,
        vm_obstacle: Arch::host()
            .and_then(|arch| Runner::vm_obstacle(arch, &context.settings.appliance(), context.settings.kernel(None))),
        free_disk,
        disk_path,
        free_memory: fs_err::read_to_string("/proc/meminfo").ok().as_deref().and_then(available_memory),
    })
}

/// Whether a device can be opened for reading and writing, which is all that using it needs.
fn opens(device: &str) -> bool {
    fs_err::OpenOptions::new().read(true).write(true).open(device).is_ok()
}

/// Whether KVM runs a guest here; the answer is remembered for the boot of the host.
fn kvm(context: &Context<'_>) -> Result<Result<(), String>, CommandError> {
    let Some(arch) = Arch::host() else { return Ok(Err("the processor is unknown".to_owned())) };
    match labwright_vm::probe(arch, &context.settings.kvm_probe(), context.cancel) {
        Ok(Probe { accelerator: Accelerator::Kvm, .. }) => Ok(Ok(())),
        Ok(Probe { accelerator: Accelerator::Tcg, reason }) => Ok(Err(reason)),
        Err(ToolError::Cancelled(cancelled)) => Err(cancelled.into()),
        // Without QEMU there is nothing to probe with, and the report says so elsewhere.
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// Free space of the file system that has `dir`, or will have it once it is made.
fn free_disk(dir: &Path) -> Result<(ByteSize, PathBuf), CommandError> {
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).map_err(|source| {
        CommandError::new(Kind::Host, source)
            .context(format!("could not ask for the free space of {}", existing.display()))
    })?;
    Ok((ByteSize::from_bytes(stat.f_bavail.saturating_mul(stat.f_frsize)), existing.to_owned()))
}

/// The `MemAvailable` line of /proc/meminfo.
fn available_memory(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(ByteSize::from_bytes(kib * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kibibytes() {
        let text = "MemTotal:       24638096 kB\nMemAvailable:   23069432 kB\n";
        assert_eq!(available_memory(text), Some(ByteSize::from_bytes(23_069_432 * 1024)));
        assert_eq!(available_memory("MemTotal: 1 kB\n"), None);
    }
}
