//! A QEMU machine as data: its command line, its control channel, its console, and the wait until it is ready.
//!
//! This crate decides nothing about disks or sessions, and it never follows a name that stands in a disk: which
//! files are opened is said in full by the [`Machine`]. It starts processes only through `labwright-host`, and never
//! talks to the user.
//!
//! Main types: [`Machine`] becomes a [`RunningMachine`]; [`probe`] finds out which [`Accelerator`] works here;
//! [`Qmp`] talks to QEMU.
//!
//! ```
//! use labwright_core::{Arch, ByteSize};
//! use labwright_vm::{Accelerator, Drive, Machine};
//!
//! let mut machine = Machine::new(Arch::Amd64, Accelerator::Tcg, "/run/lab/console.log", "/run/lab/qmp.sock");
//! machine.disks.push(Drive::qcow2("/run/lab/disk.qcow2"));
//! machine.memory = "2Gi".parse().unwrap();
//! assert!(machine.argv().contains(&"q35,usb=off,vmport=off".to_owned()));
//! ```

mod accelerator;
mod argv;
mod console;
mod error;
mod firmware;
mod http;
mod machine;
mod qmp;
mod running;

pub use accelerator::{Accelerator, Probe, probe};
pub use console::console_tail;
pub use error::{NotReady, QmpError, VmError};
pub use firmware::{Firmware, find_uefi};
pub use http::{HttpError, free_port, http_status};
pub use machine::{Cache, DirectKernel, DiskFormat, Drive, Forward, Internet, Layer, Machine, NoRoom, Port, Screen};
pub use qmp::Qmp;
pub use running::{HowItEnded, RunningMachine};

/// For tests: whether QEMU is here; says so if not, and panics if LABWRIGHT_REQUIRE names `qemu`.
#[cfg(test)]
fn has_qemu(arch: labwright_core::Arch) -> bool {
    use labwright_core::Arch;
    use labwright_host::Tool;
    let tool = match arch {
        Arch::Amd64 => Tool::QemuSystemX86,
        Arch::Arm64 => Tool::QemuSystemAarch64,
    };
    if tool.find().is_ok() {
        return true;
    }
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what they may not skip")]
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    // arm64 machines are a convenience: nobody's tests depend on them.
    let needed = arch == Arch::Amd64 && required.split(',').any(|word| word == "qemu");
    assert!(!needed, "LABWRIGHT_REQUIRE names qemu, and {} is missing", tool.program());
    eprintln!("SKIPPED: needs {}", tool.program());
    false
}
