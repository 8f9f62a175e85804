use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use labwright_core::{Arch, Cancel};
use labwright_host::{Invocation, Tool, ToolError};
use serde::{Deserialize, Serialize};

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself, through /dev/kvm.
    Kvm,
    /// QEMU's emulation: works everywhere, ten to thirty times slower.
    Tcg,
}

/// The accelerator that works here, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What to use.
    pub accelerator: Accelerator,
    /// Why, for people: a lower-case fragment without a final period.
    pub reason: String,
}

/// An answer that was found before, with all that it depends on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    key: String,
    probe: Probe,
}

/// How long the tiny guest may take. A good host needs a fraction of a second, and so does emulation.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How often the tiny guest is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The status with which QEMU ends when the tiny guest writes 0x10 to `isa-debug-exit`: twice that and one.
const MARK: i32 = 33;

/// A boot sector that enters 64-bit mode, executes an instruction that only real (or fully emulated) processors know,
/// and ends QEMU. `probe.s` beside this file is its source, with the command that assembles it.
const BOOT_SECTOR: [u8; 208] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xf3,
    0xab, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00,
    0x66, 0xb8, 0xa0, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x66,
    0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x0f, 0x30, 0x66, 0x0f, 0x01, 0x16, 0xc0, 0x7c, 0x0f,
    0x20, 0xc0, 0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0x66, 0xea, 0x5f, 0x7c, 0x00, 0x00, 0x08, 0x00,
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xd0, 0x49, 0xba, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x41,
    0x52, 0x58, 0x4c, 0x39, 0xd0, 0x75, 0x27, 0x31, 0xc9, 0xb8, 0x07, 0x00, 0x00, 0x00, 0x0f, 0xa2, 0x0f, 0xba, 0xe3,
    0x08, 0x73, 0x14, 0xb9, 0x04, 0x00, 0x00, 0x00, 0xb8, 0x03, 0x00, 0x00, 0x00, 0xc4, 0xe2, 0x71, 0xf7, 0xc0, 0x83,
    0xf8, 0x30, 0x75, 0x04, 0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x92,
    0x00, 0x00, 0x17, 0x00, 0xa8, 0x7c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
];

/// An arm64 program that asks the firmware interface (PSCI) to switch the machine off: `movz w0, #8`,
/// `movk w0, #0x8400, lsl #16`, `hvc #0`, and a loop in case nobody listens.
const ARM_PROGRAM: [u8; 16] =
    [0x00, 0x01, 0x80, 0x52, 0x00, 0x80, 0xb0, 0x72, 0x02, 0x00, 0x00, 0xd4, 0x00, 0x00, 0x00, 0x14];

/// Finds out which accelerator works for guests of an architecture.
///
/// That /dev/kvm opens proves nothing: there are hosts where it does and every guest dies. So a tiny guest runs under
/// KVM, and the answer is kept in `cache_file` until the host boots again or gets another QEMU. Without a working KVM
/// the answer is [`Accelerator::Tcg`] with a reason; an error means that QEMU is missing or that stopping was asked
/// for.
pub fn probe(arch: Arch, cache_file: &Path, cancel: &Cancel) -> Result<Probe, ToolError> {
    let tcg = |reason: String| Ok(Probe { accelerator: Accelerator::Tcg, reason });
    let qemu = tool(arch).find()?;
    if Arch::host() != Some(arch) {
        return tcg(format!("KVM runs only guests of the host's own architecture, not {arch}"));
    }
    if let Err(error) = fs_err::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return tcg(match error.kind() {
            io::ErrorKind::NotFound => "this host has no /dev/kvm".to_owned(),
            io::ErrorKind::PermissionDenied => "no permission to use /dev/kvm (join the group kvm)".to_owned(),
            _ => error.to_string(),
        });
    }
    let key = key(&qemu);
    if let Some(key) = &key
        && let Some(probe) = recall(cache_file, key)
    {
        return Ok(probe);
    }
    let probe = match run_tiny_guest(arch, Accelerator::Kvm, cancel)? {
        None => Probe { accelerator: Accelerator::Kvm, reason: "a guest ran under KVM".to_owned() },
        Some(reason) => Probe { accelerator: Accelerator::Tcg, reason: format!("/dev/kvm opens, but {reason}") },
    };
    if let Some(key) = key
        && let Err(error) = remember(cache_file, &Remembered { key, probe: probe.clone() })
    {
        tracing::warn!(%error, "could not remember which accelerator works");
    }
    Ok(probe)
}

fn tool(arch: Arch) -> Tool {
    match arch {
        Arch::Amd64 => Tool::QemuSystemX86,
        Arch::Arm64 => Tool::QemuSystemAarch64,
    }
}

/// What an answer depends on: this boot of the host and this QEMU. `None` where that cannot be found out.
fn key(qemu: &Path) -> Option<String> {
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let meta = fs_err::metadata(qemu).ok()?;
    let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {} {changed}", boot.trim(), qemu.display(), meta.len()))
}

fn recall(cache_file: &Path, key: &str) -> Option<Probe> {
    let remembered: Remembered = serde_json::from_slice(&fs_err::read(cache_file).ok()?).ok()?;
    (remembered.key == key).then_some(remembered.probe)
}

fn remember(cache_file: &Path, remembered: &Remembered) -> io::Result<()> {
    let dir = cache_file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut file, remembered)?;
    file.persist(cache_file)?;
    Ok(())
}

/// Runs the tiny guest; `None` if it did what it should, else what went wrong.
fn run_tiny_guest(arch: Arch, accelerator: Accelerator, cancel: &Cancel) -> Result<Option<String>, ToolError> {
    let name = match accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Tcg => "emulation",
    };
    let file = match write_program(arch) {
        Ok(file) => file,
        Err(error) => return Ok(Some(format!("the test guest could not be written: {error}"))),
    };
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    let path = file.path().to_string_lossy().into_owned();
    let qemu = Invocation::new(tool(arch))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "128M"])
        .args(["-accel", accel, "-cpu", cpu]);
    let (qemu, expected) = match arch {
        Arch::Amd64 => {
            let disk = serde_json::json!({
                "driver": "raw", "node-name": "disk", "read-only": true,
                "file": {"driver": "file", "filename": path, "read-only": true},
            });
            let qemu = qemu
                .args(["-machine", "q35,usb=off,vmport=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
                .args(["-device", "virtio-blk-pci,drive=disk,bootindex=0", "-blockdev", &disk.to_string()]);
            (qemu, MARK)
        }
        Arch::Arm64 => (qemu.args(["-machine", "virt,gic-version=max", "-kernel", &path]), 0),
    };
    let begin = Instant::now();
    let mut running = qemu.spawn()?;
    loop {
        cancel.check()?;
        match running.check() {
            Ok(()) => {}
            Err(ToolError::Failed { status, .. }) if status.code() == Some(expected) => return Ok(None),
            Err(ToolError::Failed { status, stderr, .. }) => {
                let words = stderr.lines().next().unwrap_or("without a word");
                return Ok(Some(format!("QEMU ended with {status} under {name}: {words}")));
            }
            Err(error) => return Err(error),
        }
        // QEMU only pauses a guest that KVM cannot run on.
        if let Some(line) = running.stderr_text().lines().find(|line| line.contains("KVM internal error")) {
            return Ok(Some(format!("a test guest died under it ({line})")));
        }
        if begin.elapsed() > TIME_LIMIT {
            return Ok(Some(format!("a test guest did not end within {} s under {name}", TIME_LIMIT.as_secs())));
        }
        thread::sleep(POLL);
    }
}

fn write_program(arch: Arch) -> io::Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    let mut bytes = match arch {
        Arch::Amd64 => BOOT_SECTOR.to_vec(),
        Arch::Arm64 => ARM_PROGRAM.to_vec(),
    };
    if arch == Arch::Amd64 {
        bytes.resize(510, 0);
        bytes.extend([0x55, 0xaa]);
        // SeaBIOS does not read from a disk that is smaller than a cylinder.
        bytes.resize(1 << 20, 0);
    }
    fs_err::write(file.path(), bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_guest_runs_under_emulation() {
        for arch in Arch::ALL {
            if !crate::has_qemu(arch) {
                continue;
            }
            assert_eq!(run_tiny_guest(arch, Accelerator::Tcg, &Cancel::new()).unwrap(), None, "{arch}");
        }
    }

    #[test]
    fn the_answer_is_remembered_for_this_boot_and_this_qemu() {
        if !crate::has_qemu(Arch::Amd64) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/probe.json");
        let Some(arch) = Arch::host() else { return };
        let first = probe(arch, &file, &Cancel::new()).unwrap();
        if !file.exists() {
            // No usable /dev/kvm at all: nothing was tried, nothing needs remembering.
            assert_eq!(first.accelerator, Accelerator::Tcg);
            return;
        }
        // What is said from now on can only come from the file.
        let mut remembered: Remembered = serde_json::from_slice(&fs_err::read(&file).unwrap()).unwrap();
        remembered.probe.reason = "as remembered".to_owned();
        remember(&file, &remembered).unwrap();
        assert_eq!(probe(arch, &file, &Cancel::new()).unwrap(), remembered.probe);
        // Another boot, and a broken file, are no answer.
        assert_eq!(recall(&file, "another boot"), None);
        fs_err::write(&file, "{").unwrap();
        assert_eq!(recall(&file, &remembered.key), None);
    }

    #[test]
    fn a_guest_of_another_architecture_is_emulated() {
        let other = if Arch::host() == Some(Arch::Amd64) { Arch::Arm64 } else { Arch::Amd64 };
        if !crate::has_qemu(other) {
            return;
        }
        let probe = probe(other, Path::new("/nonexistent/probe.json"), &Cancel::new()).unwrap();
        assert_eq!(probe.accelerator, Accelerator::Tcg);
        assert!(probe.reason.contains(other.as_str()), "{}", probe.reason);
    }
}
