//! Where steps run. The engine gives the same orders to every runner and does not know which one it drives.

use std::path::Path;

use labwright_core::{Arch, Cancel, NamedSecret, Reporter};
use labwright_host::Tool;
use rustix::thread::{CapabilitySet, capabilities};

use crate::chroot::session::Session as ChrootSession;
use crate::chroot::{Leak, SessionError, wire};
use crate::vm::session::Session as VmSession;
use crate::vm::{VmRunner, appliance};

/// A way to run steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Runner {
    /// In namespaces of the host, at native speed. Needs root.
    #[default]
    Chroot,
    /// In a small machine. Needs no privilege, and KVM to be fast.
    Vm(VmRunner),
}

impl Runner {
    /// Why the chroot runner cannot work here: a fragment for people; none where it can.
    pub fn chroot_obstacle() -> Option<String> {
        let admin = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        if !rustix::process::geteuid().is_root() || !admin {
            return Some("this process is not root, or may not mount".to_owned());
        }
        let device = ["/dev/loop-control", "/dev/fuse"]
            .into_iter()
            .find(|device| fs_err::OpenOptions::new().read(true).write(true).open(device).is_err());
        if let Some(device) = device {
            return Some(format!("{device} cannot be opened"));
        }
        missing(&[Tool::QemuImg, Tool::QemuStorageDaemon, Tool::E2fsck, Tool::Resize2fs])
    }

    /// Why the vm runner cannot work here: a fragment for people; none where it can.
    pub fn vm_obstacle(arch: Arch, appliance_dir: &Path, own_kernel: Option<&Path>) -> Option<String> {
        let machine = match arch {
            Arch::Amd64 => Tool::QemuSystemX86,
            Arch::Arm64 => Tool::QemuSystemAarch64,
        };
        missing(&[Tool::QemuImg, machine, Tool::Mke2fs]).or_else(|| {
            if let Some(kernel) = own_kernel.filter(|kernel| !kernel.is_file()) {
                return Some(format!("the machine's kernel package {} is no file", kernel.display()));
            }
            let fetched = own_kernel.is_some() || appliance::is_kept(appliance_dir, arch);
            let without = missing(&[Tool::AptCache, Tool::AptGet]).filter(|_| !fetched)?;
            Some(format!("there is no kernel for the machine yet, and to fetch one {without}"))
        })
    }
}

/// The first tool that is not here, as a fragment.
fn missing(tools: &[Tool]) -> Option<String> {
    let tool = tools.iter().find(|tool| tool.find().is_err())?;
    Some(format!("{} is missing (package {})", tool.program(), tool.package()))
}

/// A disk that is open for building.
#[derive(Debug)]
pub(crate) enum Session {
    /// In a worker's namespaces.
    Chroot(ChrootSession),
    /// In a machine.
    Vm(Box<VmSession>),
}

impl Session {
    /// Opens a disk. `program` is this program, which some runners start anew.
    pub(crate) fn open(
        runner: &Runner,
        program: &Path,
        open: wire::Open,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(Self, wire::Opened), SessionError> {
        match runner {
            Runner::Chroot => {
                let (session, opened) = ChrootSession::open(program, open, reporter, cancel)?;
                Ok((Self::Chroot(session), opened))
            }
            Runner::Vm(runner) => {
                let (session, opened) = VmSession::open(runner, open, reporter, cancel)?;
                Ok((Self::Vm(Box::new(session)), opened))
            }
        }
    }

    /// Grows the root partition and its file system to the size of the disk.
    pub(crate) fn grow(&mut self, reporter: &dyn Reporter, cancel: &Cancel) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.grow(reporter, cancel),
            Self::Vm(session) => session.grow(cancel),
        }
    }

    /// Runs a step in the root file system and returns what the guest reported.
    pub(crate) fn step(
        &mut self,
        step: wire::Step,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<serde_json::Value>, SessionError> {
        match self {
            Self::Chroot(session) => session.step(step, reporter, cancel),
            Self::Vm(session) => session.step(step, reporter, cancel),
        }
    }

    /// Finishes the overlay being written and goes on in `next`, which records the finished one as `finished_as`.
    /// What the file system has freed is dropped from the overlay first.
    pub(crate) fn commit(
        &mut self,
        next: &Path,
        finished_as: String,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.commit(next, finished_as, reporter, cancel),
            Self::Vm(session) => session.commit(next, finished_as, cancel),
        }
    }

    /// Looks for secrets in the finished disk.
    pub(crate) fn search(
        &mut self,
        secrets: Vec<NamedSecret>,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<Leak>, SessionError> {
        match self {
            Self::Chroot(session) => session.search(secrets, reporter, cancel),
            Self::Vm(session) => session.search(&secrets, cancel),
        }
    }

    /// Writes the disk as one compressed qcow2 file.
    pub(crate) fn flatten(
        &mut self,
        destination: &Path,
        compression: wire::Compression,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<wire::Flattened, SessionError> {
        match self {
            Self::Chroot(session) => session.flatten(destination, compression, reporter, cancel),
            Self::Vm(session) => session.flatten(destination, compression, reporter, cancel),
        }
    }

    /// Lets go of the disk.
    pub(crate) fn close(self, reporter: &dyn Reporter) -> Result<(), SessionError> {
        match self {
            Self::Chroot(session) => session.close(reporter),
            Self::Vm(session) => session.close(),
        }
    }
}
