use std::collections::BTreeSet;

use labwright_core::{Arch, ByteSize};
use labwright_host::Tool;
use serde::Serialize;

use super::probe::Host;

/// Less free space than this gets a line: a build of a small image needs about as much.
const SPACE_FOR_A_BUILD: ByteSize = ByteSize::from_bytes(4 << 30);
/// Less available memory than this gets a line: the default of `run`, and room for QEMU itself.
const MEMORY_FOR_A_RUN: ByteSize = ByteSize::from_bytes(1280 << 20);

/// The answer of `doctor`. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) jobs: Vec<Job>,
    pub(super) tools: Vec<Found>,
    pub(super) host: Vec<Fact>,
    /// Packages that the main jobs lack.
    pub(super) install: Vec<&'static str>,
}

/// Something that a user wants done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    pub(super) name: &'static str,
    /// Whether Labwright is of no use without.
    pub(super) main: bool,
    pub(super) possible: bool,
    pub(super) missing: Vec<String>,
}

/// A tool and where it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    pub(super) program: &'static str,
    pub(super) path: Option<String>,
    pub(super) package: &'static str,
    pub(super) needed_for: Vec<&'static str>,
}

/// A property of the host that is no tool.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    pub(super) detail: String,
}

/// A job's name, whether it is a main one, and the tools without which it is impossible.
type Need = (&'static str, bool, Vec<Tool>);

const BUILD: &str = "build images";
const CHROOT: &str = "build in a chroot";
const MACHINE: &str = "build in a machine";
const BOOTSTRAP: &str = "make a base from packages";
const RUN: &str = "run images";

fn needs(arch: Option<Arch>) -> Vec<Need> {
    vec![
        (BUILD, true, vec![Tool::QemuImg]),
        (BOOTSTRAP, true, vec![Tool::Mmdebstrap, Tool::Mke2fs, Tool::MkfsFat, Tool::Mcopy, Tool::Mmd, Tool::Tar]),
        (RUN, true, vec![Tool::QemuImg, emulator(arch)]),
        (CHROOT, false, vec![Tool::QemuImg, Tool::QemuStorageDaemon, Tool::E2fsck, Tool::Resize2fs]),
        (MACHINE, false, of_machine(arch)),
        ("verify signed downloads", false, vec![Tool::Gpgv]),
    ]
}

fn emulator(arch: Option<Arch>) -> Tool {
    if arch == Some(Arch::Arm64) { Tool::QemuSystemAarch64 } else { Tool::QemuSystemX86 }
}

fn of_machine(arch: Option<Arch>) -> Vec<Tool> {
    vec![Tool::QemuImg, emulator(arch), Tool::Mke2fs]
}

/// What root lacks for the packages of a base, if they cannot be installed in a machine either; nothing else.
fn lacking_for_bootstrap(host: &Host, present: &impl Fn(Tool) -> bool) -> Vec<String> {
    let privileges = lacking_privileges(host);
    if privileges.is_empty() {
        return Vec::new();
    }
    let tools = of_machine(host.arch).into_iter().chain([Tool::Debugfs]).filter(|tool| !usable(*tool, present));
    let machine: Vec<String> = tools.map(|tool| tool.program().to_owned()).chain(host.vm_obstacle.clone()).collect();
    if machine.is_empty() { Vec::new() } else { [privileges, machine].concat() }
}

impl Report {
    pub(super) fn new(host: &Host) -> Self {
        let present = |tool: Tool| host.tools.iter().any(|(other, path)| *other == tool && path.is_some());
        let needs = needs(host.arch);
        let mut jobs = Vec::new();
        let mut install = BTreeSet::new();
        for (name, main, tools) in &needs {
            let lacking: Vec<Tool> = tools.iter().copied().filter(|tool| !usable(*tool, &present)).collect();
            if *main {
                install.extend(lacking.iter().map(|tool| first_package(*tool)));
            }
            let mut missing: Vec<String> = lacking.iter().map(|tool| tool.program().to_owned()).collect();
            if *name == CHROOT {
                missing.extend(lacking_privileges(host));
            }
            if *name == BOOTSTRAP {
                missing.extend(lacking_for_bootstrap(host, &present));
            }
            if *name == MACHINE && missing.is_empty() {
                missing.extend(host.vm_obstacle.clone());
            }
            jobs.push(Job { name, main: *main, possible: missing.is_empty(), missing });
        }
        // One way to build is enough.
        let lacks = |name| jobs.iter().find(|job: &&Job| job.name == name).map_or(&[][..], |job| &job.missing[..]);
        let either = [CHROOT, MACHINE].map(lacks);
        if either.iter().all(|missing| !missing.is_empty()) {
            let missing = either.concat();
            for (_, _, tools) in needs.iter().filter(|need| [CHROOT, MACHINE].contains(&need.0)) {
                let lacking = tools.iter().copied().filter(|tool| !usable(*tool, &present));
                install.extend(lacking.map(first_package));
            }
            let build = jobs.iter_mut().filter(|job| job.name == BUILD);
            build.for_each(|job| (job.possible, job.missing) = (false, missing.clone()));
        }
        let tools = host
            .tools
            .iter()
            .map(|(tool, path)| Found {
                program: tool.program(),
                path: path.as_ref().map(|path| path.display().to_string()),
                package: tool.package(),
                needed_for: needs.iter().filter(|need| need.2.contains(tool)).map(|need| need.0).collect(),
            })
            .collect();
        let install = install.into_iter().collect();
        Self { version: env!("CARGO_PKG_VERSION"), jobs, tools, host: facts(host), install }
    }

    /// The report for people.
    pub(super) fn text(&self) -> String {
        let mut lines = vec!["Jobs".to_owned()];
        for job in &self.jobs {
            let missing = if job.possible { String::new() } else { format!(" (missing: {})", job.missing.join(", ")) };
            lines.push(format!("  {} {}{missing}", mark(job.possible), job.name));
        }
        lines.push("\nHost".to_owned());
        lines.extend(self.host.iter().map(|fact| format!("  {} {}: {}", mark(fact.ok), fact.name, fact.detail)));
        lines.push("\nTools".to_owned());
        for tool in &self.tools {
            let detail = match &tool.path {
                Some(path) => path.clone(),
                None if tool.needed_for.is_empty() => format!("not installed (package {})", tool.package),
                None => format!("not installed (package {}), needed to {}", tool.package, tool.needed_for.join(", ")),
            };
            lines.push(format!("  {} {}: {detail}", mark(tool.path.is_some()), tool.program));
        }
        lines.join("\n")
    }
}

const fn mark(ok: bool) -> &'static str {
    if ok { "yes" } else { "no " }
}

/// Whether the tool, or the one that does the same, is there.
fn usable(tool: Tool, present: &dyn Fn(Tool) -> bool) -> bool {
    present(tool) || (tool == Tool::Gpgv && present(Tool::Sqv))
}

/// The package to install where several may have the tool.
fn first_package(tool: Tool) -> &'static str {
    match tool {
        // qemu-utils has it from Debian 13 on, qemu-system-common before; both come with qemu-system-x86.
        Tool::QemuStorageDaemon => "qemu-system-common",
        tool => tool.package(),
    }
}

fn lacking_privileges(host: &Host) -> Vec<String> {
    let all = [
        (host.root, "root"),
        (host.admin || !host.root, "the capability CAP_SYS_ADMIN"),
        (host.loop_devices || !host.root, "loop devices"),
        (host.fuse || !host.root, "FUSE"),
        (host.namespaces, "namespaces"),
    ];
    all.into_iter().filter(|(there, _)| !there).map(|(_, name)| name.to_owned()).collect()
}

fn facts(host: &Host) -> Vec<Fact> {
    let fact = |name, ok, yes: &str, no: &str| Fact { name, ok, detail: if ok { yes } else { no }.to_owned() };
    let mut facts = vec![
        Fact {
            name: "architecture",
            ok: host.arch.is_some(),
            detail: host.arch.map_or_else(|| "neither amd64 nor arm64".to_owned(), |arch| arch.to_string()),
        },
        fact(
            "root",
            host.root,
            "this process is root",
            "this process is not root; builds take the vm runner, which is slower",
        ),
        fact(
            "privileges",
            host.admin,
            "may mount",
            "lacks CAP_SYS_ADMIN, so it cannot mount (a container without --privileged?)",
        ),
        fact(
            "loop devices",
            host.loop_devices,
            "usable",
            "/dev/loop-control cannot be opened; the chroot runner needs it",
        ),
        fact("FUSE", host.fuse, "usable", "/dev/fuse cannot be opened (modprobe fuse); the chroot runner needs it"),
        fact("namespaces", host.namespaces, "usable", "the kernel lacks some of: mount, pid, uts, ipc, network"),
    ];
    facts.push(Fact {
        name: "KVM",
        ok: host.kvm.is_ok(),
        detail: match &host.kvm {
            Ok(()) => "works".to_owned(),
            Err(why) => format!("not used: {why}; machines run under emulation, about ten times slower"),
        },
    });
    facts.push(Fact {
        name: "disk space",
        ok: host.free_disk >= SPACE_FOR_A_BUILD,
        detail: format!("{} free at {}", host.free_disk.human(), host.disk_path.display()),
    });
    if let Some(memory) = host.free_memory {
        facts.push(Fact {
            name: "memory",
            ok: memory >= MEMORY_FOR_A_RUN,
            detail: format!("{} available", memory.human()),
        });
    }
    facts
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn host(missing: &[Tool]) -> Host {
        Host {
            arch: Some(Arch::Amd64),
            tools: Tool::ALL
                .into_iter()
                .map(|tool| (tool, (!missing.contains(&tool)).then(|| PathBuf::from("/usr/bin").join(tool.program()))))
                .collect(),
            root: true,
            admin: true,
            loop_devices: true,
            fuse: true,
            namespaces: true,
            kvm: Err("a tiny guest died".to_owned()),
            vm_obstacle: None,
            free_disk: ByteSize::from_bytes(79 << 30),
            disk_path: "/root".into(),
            free_memory: Some(ByteSize::from_bytes(22 << 30)),
        }
    }

    #[test]
    fn a_missing_tool_prevents_its_jobs_only() {
        let report = Report::new(&host(&[Tool::Mcopy, Tool::Gpgv, Tool::QemuStorageDaemon]));
        let impossible: Vec<(&str, String)> =
            report.jobs.iter().filter(|job| !job.possible).map(|job| (job.name, job.missing.join(","))).collect();
        assert_eq!(impossible, [(BOOTSTRAP, "mcopy".to_owned()), (CHROOT, "qemu-storage-daemon".to_owned())]);
        assert_eq!(report.install, ["mtools"]);
        let text = report.text();
        assert!(
            text.contains("\n  no  mcopy: not installed (package mtools), needed to make a base from packages\n"),
            "{text}"
        );
        assert!(text.contains("\n  no  KVM: not used: a tiny guest died; machines run"), "{text}");
    }

    #[test]
    fn without_root_images_are_still_built_and_run() {
        let report = Report::new(&Host { root: false, admin: false, loop_devices: false, ..host(&[]) });
        let jobs: Vec<(bool, &[String])> = report.jobs.iter().map(|job| (job.possible, &job.missing[..])).collect();
        let root = &["root".to_owned()][..];
        assert_eq!(jobs[..5], [(true, &[][..]), (true, &[]), (true, &[]), (false, root), (true, &[])]);
        assert_eq!(report.install, Vec::<&str>::new());
    }

    #[test]
    fn a_base_is_made_by_root_or_in_a_machine() {
        let lacks = |report: &Report| report.jobs.iter().find(|job| job.name == BOOTSTRAP).unwrap().missing.clone();
        let ordinary = |missing: &[Tool]| Host { root: false, admin: false, ..host(missing) };
        assert_eq!(lacks(&Report::new(&host(&[Tool::Debugfs]))), Vec::<String>::new());
        assert_eq!(lacks(&Report::new(&ordinary(&[Tool::Debugfs]))), ["root", "debugfs"]);
        let no_kernel = Host { vm_obstacle: Some("there is no kernel".to_owned()), ..ordinary(&[]) };
        assert_eq!(lacks(&Report::new(&no_kernel)), ["root", "there is no kernel"]);
    }

    #[test]
    fn without_any_runner_nothing_is_built() {
        let report = Report::new(&Host { root: false, admin: false, ..host(&[Tool::Mke2fs]) });
        assert_eq!((report.jobs[0].name, report.jobs[0].possible), (BUILD, false));
        assert_eq!(report.jobs[0].missing, ["root", "mke2fs"]);
        assert_eq!(report.install, ["e2fsprogs"]);
    }
}
