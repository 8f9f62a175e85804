//! The command line of a machine: every device is named, nothing is left to QEMU's defaults.

use std::path::Path;

use labwright_core::Arch;
use serde_json::{Value, json};

use crate::{Accelerator, Cache, DiskFormat, Drive, Firmware, Internet, Machine, NoRoom, Screen};

impl Machine {
    /// QEMU's arguments, without the program's name. Paths that are not UTF-8 are refused at start.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = Argv::default();
        argv.flag("-nodefaults").flag("-no-user-config");
        argv.option("-name", escape(&self.name));
        argv.option("-display", "none");
        // What QEMU never needs for these machines: old system calls, more rights, other programs, priorities.
        argv.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        let (accelerator, cpu) = match (self.accelerator, self.arch) {
            (Accelerator::Kvm, _) => ("kvm", "host"),
            // Five-level page tables and real pointer authentication only cost time under emulation, and copying by single
            // bytes, which fast processors are good at (13 % of the processor time of a small installation).
            (Accelerator::Tcg, Arch::Amd64) => ("tcg,thread=multi", "max,la57=off,erms=off,fsrm=off"),
            (Accelerator::Tcg, Arch::Arm64) => ("tcg,thread=multi", "max,pauth-impdef=on"),
        };
        let mut board = match self.arch {
            Arch::Amd64 => "q35,usb=off,vmport=off",
            Arch::Arm64 => "virt,gic-version=max",
        }
        .to_owned();
        if let Firmware::Uefi { .. } = self.firmware {
            board.push_str(",pflash0=firmware-code,pflash1=firmware-vars");
        }
        argv.option("-machine", board).option("-accel", accelerator).option("-cpu", cpu);
        argv.option("-smp", self.cpus.to_string());
        argv.option("-m", format!("{}M", self.memory.bytes() >> 20));
        argv.option("-rtc", "base=utc");
        if let Firmware::Uefi { code, vars } = &self.firmware {
            argv.option("-blockdev", firmware_node("firmware-code", code, true).to_string());
            argv.option("-blockdev", firmware_node("firmware-vars", vars, false).to_string());
        }
        if let Some(kernel) = &self.kernel {
            // A machine that serves a program of ours has nothing to say after a restart of its own.
            argv.flag("-no-reboot");
            argv.option("-kernel", text(&kernel.kernel));
            if let Some(initrd) = &kernel.initrd {
                argv.option("-initrd", text(initrd));
            }
            argv.option("-append", kernel.append.clone());
        }
        for (index, drive) in self.disks.iter().enumerate() {
            for node in disk_nodes(index, drive) {
                argv.option("-blockdev", node.to_string());
            }
            let mut device = format!("virtio-blk-pci,id=vd{index},drive=disk{index}");
            if self.no_room == NoRoom::Fail {
                device.push_str(",werror=report,rerror=report");
            }
            // A kernel that QEMU loads has the first place already.
            if self.kernel.is_none() {
                device.push_str(",bootindex=");
                device.push_str(&index.to_string());
            }
            argv.option("-device", device);
        }
        let mut network = format!(
            "user,id=net0,restrict={}",
            match self.internet {
                Internet::Reachable => "off",
                Internet::Cut => "on",
            }
        );
        for forward in &self.forwards {
            network.push_str(",hostfwd=tcp:127.0.0.1:");
            network.push_str(&forward.host_port.to_string());
            network.push_str("-:");
            network.push_str(&forward.guest_port.to_string());
        }
        argv.option("-netdev", network);
        // Without its boot ROM the card is not tried as a boot device, which would only cost time.
        argv.option("-device", format!("virtio-net-pci,netdev=net0,mac={},romfile=", self.mac));
        argv.option("-device", "virtio-rng-pci");
        if self.arch == Arch::Amd64 && self.screen == Screen::Vga {
            argv.option("-device", "VGA");
        }
        if !self.ports.is_empty() {
            argv.option("-device", "virtio-serial-pci,id=ports");
        }
        for (index, port) in self.ports.iter().enumerate() {
            let socket = escape(&text(&port.socket));
            argv.option("-chardev", format!("socket,id=port{index},path={socket},server=on,wait=off"));
            let name = escape(&port.name);
            argv.option("-device", format!("virtserialport,bus=ports.0,chardev=port{index},name={name}"));
        }
        argv.option("-chardev", format!("file,id=console,path={}", escape(&text(&self.console_log))));
        argv.option("-serial", "chardev:console");
        let socket = escape(&text(&self.qmp_socket));
        argv.option("-chardev", format!("socket,id=qmp,path={socket},server=on,wait=off"));
        argv.option("-mon", "chardev=qmp,mode=control");
        argv.0
    }
}

#[derive(Debug, Default)]
struct Argv(Vec<String>);

impl Argv {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.into());
        self
    }
}

/// The whole graph of a drive, from the bottom up, each layer named: nothing that stands in a qcow2 header is followed.
fn disk_nodes(index: usize, drive: &Drive) -> Vec<Value> {
    let mut nodes = Vec::new();
    let mut below = Value::Null;
    for (depth, layer) in drive.backing.iter().enumerate().rev() {
        let name = format!("disk{index}-below{depth}");
        nodes.extend(node(&name, &layer.path, layer.format, true, drive.cache, below));
        below = name.into();
    }
    nodes.extend(node(&format!("disk{index}"), &drive.path, drive.format, drive.read_only, drive.cache, below));
    nodes
}

/// The nodes of an overlay that is not connected yet: a snapshot does that.
pub(crate) fn overlay_nodes(name: &str, path: &Path, cache: Cache) -> [Value; 2] {
    node(name, path, DiskFormat::Qcow2, false, cache, Value::Null)
}

/// A file and what is in it. They are separate nodes: one inside the other would be opened anew by its name when a
/// snapshot makes it read-only, and a finished overlay may have another name by then.
fn node(name: &str, path: &Path, format: DiskFormat, read_only: bool, cache: Cache, backing: Value) -> [Value; 2] {
    let cache = json!({"direct": false, "no-flush": cache == Cache::IgnoreFlushes});
    let file_name = format!("{name}-file");
    let mut node = json!({
        "driver": format.as_str(),
        "node-name": name,
        "read-only": read_only,
        "discard": "unmap",
        "cache": cache,
        "file": file_name,
    });
    let file = json!({
        "driver": "file",
        "node-name": file_name,
        "filename": text(path),
        "locking": "on",
        "read-only": read_only,
        "discard": "unmap",
        "cache": cache,
    });
    if format == DiskFormat::Qcow2 {
        node["backing"] = backing;
    }
    [file, node]
}

fn firmware_node(name: &str, path: &Path, read_only: bool) -> Value {
    json!({
        "driver": "raw",
        "node-name": name,
        "read-only": read_only,
        "file": {"driver": "file", "node-name": format!("{name}-file"), "filename": text(path), "read-only": read_only},
    })
}

pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Doubles commas, as QEMU's `key=value` lists want it.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use labwright_core::ByteSize;

    use super::*;
    use crate::{DirectKernel, Forward};

    /// One option a line, with its value behind it.
    fn show(machine: &Machine) -> String {
        let mut text = String::new();
        for word in machine.argv() {
            text.push(if word.starts_with('-') { '\n' } else { ' ' });
            text.push_str(&word);
        }
        text
    }

    #[test]
    fn a_bios_machine_with_an_overlay_and_a_seed() {
        let mut machine = Machine::new(Arch::Amd64, Accelerator::Kvm, "/run/lab/a,b.log", "/run/lab/qmp.sock");
        machine.cpus = 2;
        machine.memory = ByteSize::from_bytes(2 << 30);
        let disk = Drive::qcow2("/run/lab/over,lay \"1\".qcow2").ignore_flushes();
        machine.disks.push(disk.over("/store/disk.qcow2", DiskFormat::Qcow2).over("/store/base.raw", DiskFormat::Raw));
        machine.disks.push(Drive::raw("/run/lab/seed.img").read_only());
        machine.forwards.push(Forward { host_port: 40000, guest_port: 8080 });
        machine.forwards.push(Forward { host_port: 40001, guest_port: 22 });
        insta::assert_snapshot!(show(&machine));
    }

    #[test]
    fn a_uefi_machine_without_internet() {
        let mut machine = Machine::new(Arch::Amd64, Accelerator::Tcg, "/c.log", "/q.sock");
        machine.firmware = Firmware::Uefi { code: "/fw/code.fd".into(), vars: "/run/vars.fd".into() };
        machine.internet = Internet::Cut;
        machine.disks.push(Drive::qcow2("/disk.qcow2"));
        insta::assert_snapshot!(show(&machine));
    }

    #[test]
    fn an_arm_machine_with_a_kernel_of_its_own() {
        let mut machine = Machine::new(Arch::Arm64, Accelerator::Tcg, "/c.log", "/q.sock");
        machine.kernel = Some(DirectKernel {
            kernel: "/k/vmlinuz".into(),
            initrd: Some("/k/initrd".into()),
            append: "console=ttyAMA0 panic=-1".to_owned(),
        });
        insta::assert_snapshot!(show(&machine));
    }
}
