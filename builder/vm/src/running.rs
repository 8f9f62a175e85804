use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use labwright_core::{Arch, Cancel};
use labwright_host::{Invocation, Running, Tool, ToolError};
use serde_json::{Value, json};

use crate::argv::overlay_nodes;
use crate::console::Watch;
use crate::{Machine, NotReady, Qmp, QmpError, VmError, console_tail, http_status};

/// How often a waiting call looks again.
const POLL: Duration = Duration::from_millis(20);

/// How often readiness is asked for.
const READY_POLL: Duration = Duration::from_millis(250);

/// How long one request for readiness may take; an emulated guest answers slowly.
const READY_ANSWER: Duration = Duration::from_secs(5);

/// How long QEMU may take to open its control socket.
const SOCKET_WAIT: Duration = Duration::from_secs(30);

/// How long QEMU may take to end after it was told to.
const QUIT_WAIT: Duration = Duration::from_secs(5);

/// What QEMU says of `ENOSPC`, in the C locale that our tools run in.
const NO_SPACE: &str = "No space left on device";

/// How many lines of the console an error shows.
const ERROR_LINES: usize = 20;

/// A machine that runs. Dropping it kills QEMU.
///
/// QEMU dies with the thread that called [`RunningMachine::start`], so start it from one that lives as long as the
/// machine should: never from a thread of a pool.
#[derive(Debug)]
pub struct RunningMachine {
    machine: Machine,
    process: Running,
    qmp: Qmp,
    started: Instant,
    watch: Watch,
    /// The names of the disks' top nodes, and their files.
    tops: Vec<(String, PathBuf)>,
    /// How many snapshots were made.
    snapshots: usize,
    /// Whether the host's disk had no room for what the guest wrote.
    lacked_room: bool,
}

/// What it took to end a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowItEnded {
    /// The guest shut itself down, or QEMU had ended before it was asked.
    PoweredDown,
    /// QEMU was told to quit: the guest did not react in time.
    Quit,
    /// QEMU was killed: it did not react either.
    Killed,
}

impl RunningMachine {
    /// Starts QEMU and connects to it; the guest runs from then on.
    pub fn start(machine: Machine, cancel: &Cancel) -> Result<Self, VmError> {
        check_paths(&machine)?;
        cancel.check()?;
        // A socket and a console of an earlier run would be taken for this one's.
        let ports = machine.ports.iter().map(|port| &port.socket);
        for stale in [&machine.qmp_socket, &machine.console_log].into_iter().chain(ports) {
            drop(fs_err::remove_file(stale));
        }
        let tool = match machine.arch {
            Arch::Amd64 => Tool::QemuSystemX86,
            Arch::Arm64 => Tool::QemuSystemAarch64,
        };
        let started = Instant::now();
        let mut process = Invocation::new(tool).args(machine.argv()).spawn()?;
        let qmp = loop {
            process.check()?;
            cancel.check()?;
            match Qmp::connect(&machine.qmp_socket) {
                Ok(qmp) => break qmp,
                Err(error @ QmpError::Connect { .. }) if started.elapsed() > SOCKET_WAIT => return Err(error.into()),
                Err(QmpError::Connect { .. }) => thread::sleep(POLL),
                // It may have ended in the middle of the handshake, and says better why.
                Err(error) => {
                    thread::sleep(POLL);
                    process.check()?;
                    return Err(error.into());
                }
            }
        };
        let watch = Watch::new(&machine.console_log);
        let disks = machine.disks.iter().enumerate();
        let tops = disks.map(|(index, drive)| (format!("disk{index}"), drive.path.clone())).collect();
        Ok(Self { machine, process, qmp, started, watch, tops, snapshots: 0, lacked_room: false })
    }

    /// What runs.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// QEMU's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The control channel.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Whether the host's disk had no room for something that the guest wrote since the start, which it saw fail.
    ///
    /// This takes what events QEMU has reported so far. Source: QEMU QMP Reference, `BLOCK_IO_ERROR`.
    pub fn lacked_room(&mut self) -> bool {
        while let Ok(Some(event)) = self.qmp.next_event(POLL) {
            let data = &event["data"];
            // A disk whose failed writes are reported to the guest has the reason in words only.
            let no_space = data["nospace"] == true || data["reason"] == NO_SPACE;
            self.lacked_room |= event["event"] == "BLOCK_IO_ERROR" && no_space;
        }
        self.lacked_room
    }

    /// The last lines of the console; empty if it cannot be read.
    pub fn console_tail(&self, lines: usize) -> String {
        console_tail(&self.machine.console_log, lines).unwrap_or_default()
    }

    /// Connects to the host's end of a port; only one connection is served at a time.
    pub fn connect(&self, port: usize) -> Result<UnixStream, VmError> {
        let path = &self.machine.ports[port].socket;
        UnixStream::connect(path).map_err(|source| VmError::Port { path: path.clone(), source })
    }

    /// The file that a disk writes to.
    pub fn top(&self, disk: usize) -> &Path {
        &self.tops[disk].1
    }

    /// Puts the empty overlay on top of a disk; what the guest writes from now on goes there. What was on top before
    /// is finished, and may be renamed at once; making sure that it is on the host's disk is the caller's matter.
    ///
    /// The guest must have nothing in flight. The overlay must have the size of the disk.
    pub fn snapshot(&mut self, disk: usize, overlay: &Path) -> Result<(), VmError> {
        if overlay.to_str().is_none() {
            return Err(VmError::Path { path: overlay.to_owned() });
        }
        self.snapshots += 1;
        let name = format!("disk{disk}-over{}", self.snapshots);
        for node in overlay_nodes(&name, overlay, self.machine.disks[disk].cache) {
            self.qmp.execute("blockdev-add", node)?;
        }
        let arguments = json!({"node": self.tops[disk].0, "overlay": name});
        self.qmp.execute("blockdev-snapshot", arguments)?;
        self.tops[disk] = (name, overlay.to_owned());
        Ok(())
    }

    /// An error once QEMU has ended or the guest's kernel has panicked.
    pub fn check(&mut self) -> Result<(), VmError> {
        if let Err(source) = self.process.check() {
            return Err(VmError::Ended { console: self.console_tail(ERROR_LINES), source });
        }
        if self.watch.panicked() {
            return Err(VmError::Panicked { console: self.console_tail(ERROR_LINES) });
        }
        Ok(())
    }

    /// Asks `GET path` of a port on 127.0.0.1 until it answers 200, and returns the time since the machine's start.
    ///
    /// Ends early when QEMU ends, the kernel panics or stopping is asked for.
    pub fn wait_ready(
        &mut self,
        port: u16,
        path: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Duration, VmError> {
        let begin = Instant::now();
        loop {
            cancel.check()?;
            self.check()?;
            let last = match http_status(port, path, READY_ANSWER) {
                Ok(200) => return Ok(self.started.elapsed()),
                Ok(status) => NotReady::Status { port, path: path.to_owned(), status },
                Err(error) => NotReady::NoAnswer { port, error },
            };
            if begin.elapsed() > timeout {
                return Err(VmError::NotReady { after: timeout, last, console: self.console_tail(ERROR_LINES) });
            }
            thread::sleep(READY_POLL);
        }
    }

    /// Waits until QEMU ends by itself, as after the guest's own shutdown; `false` if it still runs after `timeout`.
    pub fn wait_end(&mut self, timeout: Duration, cancel: &Cancel) -> Result<bool, VmError> {
        let begin = Instant::now();
        loop {
            cancel.check()?;
            if self.has_ended()? {
                return Ok(true);
            }
            if begin.elapsed() > timeout {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
    }

    /// Ends the machine: presses its power button and waits for the guest to shut down, at most `timeout`; then tells
    /// QEMU to quit; then kills it. Buffers reach the disk's file in the first two cases.
    pub fn powerdown(mut self, timeout: Duration) -> Result<HowItEnded, VmError> {
        for (command, wait, how) in
            [("system_powerdown", timeout, HowItEnded::PoweredDown), ("quit", QUIT_WAIT, HowItEnded::Quit)]
        {
            if wait.is_zero() {
                continue;
            }
            match self.qmp.execute(command, Value::Null) {
                // It may have ended before or while it was asked.
                Ok(_) | Err(QmpError::Closed { .. }) => {}
                Err(error) => {
                    tracing::warn!(command, %error, "QEMU does not obey");
                    continue;
                }
            }
            if self.wait_end(wait, &Cancel::new())? {
                return Ok(how);
            }
        }
        self.kill()?;
        Ok(HowItEnded::Killed)
    }

    /// Kills QEMU at once; what it had not written yet is lost.
    pub fn kill(self) -> Result<(), VmError> {
        let socket = self.machine.qmp_socket.clone();
        self.process.kill()?;
        drop(fs_err::remove_file(socket));
        Ok(())
    }

    fn has_ended(&mut self) -> Result<bool, VmError> {
        match self.process.check() {
            Ok(()) => Ok(false),
            Err(ToolError::Failed { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses what QEMU's command line cannot carry.
fn check_paths(machine: &Machine) -> Result<(), VmError> {
    let firmware = match &machine.firmware {
        crate::Firmware::Bios => Vec::new(),
        crate::Firmware::Uefi { code, vars } => vec![code.as_path(), vars.as_path()],
    };
    let disks = machine.disks.iter().flat_map(|drive| {
        std::iter::once(drive.path.as_path()).chain(drive.backing.iter().map(|layer| layer.path.as_path()))
    });
    let kernel = machine.kernel.iter().flat_map(|kernel| {
        std::iter::once(kernel.kernel.as_path()).chain(kernel.initrd.iter().map(std::path::PathBuf::as_path))
    });
    let sockets: Vec<&Path> = std::iter::once(&machine.qmp_socket)
        .chain(machine.ports.iter().map(|port| &port.socket))
        .map(|path| &**path)
        .collect();
    let own = std::iter::once(machine.console_log.as_path()).chain(sockets.iter().copied());
    if let Some(path) = own.chain(firmware).chain(disks).chain(kernel).find(|path| path.to_str().is_none()) {
        return Err(VmError::Path { path: path.to_owned() });
    }
    match sockets.into_iter().find(|path| path.as_os_str().len() > 107) {
        Some(path) => Err(VmError::SocketPath { path: path.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::Accelerator;

    /// A machine without a disk: its firmware finds nothing to boot and waits.
    fn machine(dir: &Path) -> Machine {
        let mut machine = Machine::new(Arch::Amd64, Accelerator::Tcg, dir.join("console.log"), dir.join("qmp.sock"));
        machine.memory = labwright_core::ByteSize::from_bytes(64 << 20);
        machine
    }

    fn start(dir: &Path) -> Option<RunningMachine> {
        crate::has_qemu(Arch::Amd64).then(|| RunningMachine::start(machine(dir), &Cancel::new()).unwrap())
    }

    fn alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn talks_to_qemu_and_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut running) = start(dir.path()) else { return };
        let pid = running.id();
        let status = running.qmp().execute("query-status", Value::Null).unwrap();
        assert_eq!(status["status"], "running");
        assert!(alive(pid));
        // Ctrl-C at a terminal is not for QEMU.
        let own = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
        assert_eq!(rustix::process::getpgid(own).unwrap(), own.unwrap());
        let error = running.qmp().execute("no-such-command", Value::Null).unwrap_err();
        assert!(matches!(&error, QmpError::Refused { class, .. } if class == "CommandNotFound"), "{error:?}");
        running.qmp().execute("stop", Value::Null).unwrap();
        assert_eq!(running.qmp().next_event(Duration::from_secs(5)).unwrap().unwrap()["event"], "STOP");
        assert_eq!(running.qmp().next_event(Duration::from_millis(20)).unwrap(), None);
        // Nothing in the guest listens to the power button.
        assert_eq!(running.powerdown(Duration::from_millis(100)).unwrap(), HowItEnded::Quit);
        assert!(!alive(pid));
        assert!(!dir.path().join("qmp.sock").exists());
    }

    #[test]
    fn a_qemu_that_is_gone_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut running) = start(dir.path()) else { return };
        running.check().unwrap();
        fs_err::write(dir.path().join("console.log"), "the last words\n").unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let port = crate::free_port().unwrap();
        let error = running.wait_ready(port, "/", Duration::from_secs(30), &Cancel::new()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, VmError::Ended { .. }), "{error:?}");
        assert_eq!(text, "the machine ended by itself; the end of its console:\nthe last words");
        assert!(matches!(running.qmp().execute("query-status", Value::Null), Err(QmpError::Closed { .. })));
        running.powerdown(Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn waits_until_the_path_answers_200() {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut running) = start(dir.path()) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
                stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
            }
        });
        let took = running.wait_ready(port, "/-/ready", Duration::from_secs(20), &Cancel::new()).unwrap();
        server.join().unwrap();
        assert!(took <= running.elapsed());
        // Nobody listens any more.
        let error = running.wait_ready(port, "/-/ready", Duration::ZERO, &Cancel::new()).unwrap_err();
        assert!(matches!(error, VmError::NotReady { last: NotReady::NoAnswer { .. }, .. }), "{error:?}");
        fs_err::write(dir.path().join("console.log"), "Kernel panic - not syncing\n").unwrap();
        let error = running.wait_ready(port, "/", Duration::from_secs(20), &Cancel::new()).unwrap_err();
        assert!(matches!(error, VmError::Panicked { .. }), "{error:?}");
        running.kill().unwrap();
    }

    #[test]
    fn stopping_on_request_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let Some(mut running) = start(dir.path()) else { return };
        let pid = running.id();
        let cancel = Cancel::new();
        cancel.cancel();
        let error = running.wait_ready(1, "/", Duration::from_secs(20), &cancel).unwrap_err();
        assert!(matches!(error, VmError::Cancelled(_)), "{error:?}");
        drop(running);
        assert!(!alive(pid));
        assert!(matches!(RunningMachine::start(machine(dir.path()), &cancel), Err(VmError::Cancelled(_))));
    }

    #[test]
    fn qemus_reason_for_not_starting_is_in_the_error() {
        if !crate::has_qemu(Arch::Amd64) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = machine(dir.path());
        wrong.disks.push(crate::Drive::qcow2(dir.path().join("missing.qcow2")));
        let error = RunningMachine::start(wrong, &Cancel::new()).unwrap_err().to_string();
        assert!(error.contains("missing.qcow2") && error.contains("No such file"), "{error}");
        let mut long = machine(dir.path());
        long.qmp_socket = dir.path().join("x".repeat(120));
        assert!(matches!(RunningMachine::start(long, &Cancel::new()), Err(VmError::SocketPath { .. })));
    }

    #[test]
    fn uefi_firmware_has_variables_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        if !crate::has_qemu(Arch::Amd64) {
            return;
        }
        let vars = dir.path().join("vars.fd");
        let Some(firmware) = crate::Firmware::uefi(Arch::Amd64, &vars).unwrap() else { return };
        let mut machine = machine(dir.path());
        machine.memory = labwright_core::ByteSize::from_bytes(256 << 20);
        machine.firmware = firmware;
        let mut running = RunningMachine::start(machine, &Cancel::new()).unwrap();
        assert_eq!(running.qmp().execute("query-status", Value::Null).unwrap()["status"], "running");
        assert_eq!(nodes(&mut running)["firmware-vars-file"], vars.to_str().unwrap());
        running.kill().unwrap();
    }

    /// The files that QEMU has open, by node.
    fn nodes(running: &mut RunningMachine) -> std::collections::BTreeMap<String, String> {
        let nodes = running.qmp().execute("query-named-block-nodes", serde_json::json!({"flat": true})).unwrap();
        let word = |node: &Value, key: &str| node[key].as_str().unwrap().to_owned();
        nodes
            .as_array()
            .unwrap()
            .iter()
            .filter(|node| node["drv"] == "file")
            .map(|node| (word(node, "node-name"), word(node, "file")))
            .collect()
    }

    #[test]
    fn only_files_that_the_machine_names_are_opened() {
        if !crate::has_qemu(Arch::Amd64) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["base.raw", "seed.img"] {
            fs_err::File::create(at(name)).unwrap().set_len(1 << 20).unwrap();
        }
        // The header names a file that does not exist: following it would fail.
        for name in ["middle.qcow2", "top.qcow2", "lone.qcow2"] {
            Invocation::new(Tool::QemuImg)
                .args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/nonexistent/base.raw"])
                .arg(at(name))
                .arg("1M")
                .run(&Cancel::new())
                .unwrap();
        }
        let mut machine = machine(dir.path());
        let top = crate::Drive::qcow2(at("top.qcow2"));
        machine.disks = vec![
            top.over(at("middle.qcow2"), crate::DiskFormat::Qcow2).over(at("base.raw"), crate::DiskFormat::Raw),
            crate::Drive::qcow2(at("lone.qcow2")).ignore_flushes(),
            crate::Drive::raw(at("seed.img")).read_only(),
        ];
        let mut running = RunningMachine::start(machine, &Cancel::new()).unwrap();
        let expected = [
            ("disk0-file", "top.qcow2"),
            ("disk0-below0-file", "middle.qcow2"),
            ("disk0-below1-file", "base.raw"),
            ("disk1-file", "lone.qcow2"),
            ("disk2-file", "seed.img"),
        ];
        let expected = expected.map(|(node, file)| (node.to_owned(), at(file).to_str().unwrap().to_owned()));
        assert_eq!(nodes(&mut running), expected.into_iter().collect());
        running.kill().unwrap();
    }
}
