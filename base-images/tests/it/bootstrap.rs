//! Makes a real Debian disk from packages and looks at what is in it; the boot itself is a whole-program test.
//!
//! The disk is kept in the target directory: a second run looks at the same one.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use labwright_base_images::{Base, Bootstrap, BootstrapError, Cache, DiskFormat, Installer, Origin, Suite, Variant};
use labwright_core::{Arch, ByteSize, Cancel, Event, Reporter};
use labwright_host::{Invocation, Tool, ToolError};

use crate::common::{Told, has};

const SECTOR: u64 = 512;
const EFI: (u64, u64) = (8192, 253_952);
const ROOT: (u64, u64) = (262_144, 6_027_264);

const TRIXIE: Bootstrap = Bootstrap { suite: Suite::Trixie, arch: Arch::Amd64, variant: Variant::Cloud };

/// Bootstraps in a chroot of this host; through a machine it is a whole-program test.
fn bootstrap(cache: &Cache, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Base, BootstrapError> {
    labwright_base_images::bootstrap(&TRIXIE, &Installer::Chroot, cache, reporter, cancel)
}

fn can_bootstrap() -> bool {
    let tools = [Tool::Mmdebstrap, Tool::QemuImg, Tool::MkfsFat, Tool::Mcopy, Tool::Sfdisk, Tool::E2fsck];
    has("root", rustix::process::geteuid().is_root())
        && has("bootstrap", tools.iter().all(|tool| tool.find().is_ok()) && Path::new("/usr/sbin/debugfs").exists())
}

/// The last words of the tools.
fn tail(told: &Told) -> String {
    let events = told.0.lock().unwrap();
    let lines = events.iter().filter_map(|event| match event {
        Event::Output { line } => Some(line.as_str()),
        _ => None,
    });
    let lines: Vec<_> = lines.collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// A disk with its root partition cut out, so that nothing needs to be mounted.
struct Opened {
    dir: tempfile::TempDir,
}

impl Opened {
    fn new(base: &Base) -> Self {
        let opened = Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        Invocation::new(Tool::QemuImg)
            .args(["convert", "-f", base.format.as_str(), "-O", "raw"])
            .arg(&base.path)
            .arg(opened.raw())
            .run(&Cancel::new())
            .unwrap();
        let mut raw = fs_err::File::open(opened.raw()).unwrap();
        raw.seek(SeekFrom::Start(ROOT.0 * SECTOR)).unwrap();
        let mut root = fs_err::File::create(opened.root()).unwrap();
        let mut chunk = vec![0; 1 << 20];
        for at in 0..(ROOT.1 * SECTOR) >> 20 {
            raw.read_exact(&mut chunk).unwrap();
            if chunk.iter().any(|&byte| byte != 0) {
                root.seek(SeekFrom::Start(at << 20)).unwrap();
                std::io::Write::write_all(&mut root, &chunk).unwrap();
            }
        }
        root.set_len(ROOT.1 * SECTOR).unwrap();
        opened
    }

    fn raw(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root.ext4")
    }

    fn debugfs(&self, request: &str) -> Vec<u8> {
        #[expect(clippy::disallowed_methods, reason = "only tests look into a file system without mounting it")]
        let output =
            std::process::Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(self.root()).output().unwrap();
        output.stdout
    }

    fn cat(&self, path: &str) -> String {
        String::from_utf8(self.debugfs(&format!("cat {path}"))).unwrap()
    }

    /// The names in a directory of the root.
    fn ls(&self, path: &str) -> Vec<String> {
        let text = String::from_utf8(self.debugfs(&format!("ls -p {path}"))).unwrap();
        let names = text.lines().filter_map(|line| line.split('/').nth(5)).filter(|name| !name.starts_with('.'));
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        names.sort();
        names
    }

    /// A file of the EFI system partition.
    fn efi(&self, path: &str) -> Vec<u8> {
        let mut image = self.raw().into_os_string();
        image.push(format!("@@{}", EFI.0 * SECTOR));
        Invocation::new(Tool::Mcopy)
            .arg("-i")
            .arg(image)
            .arg(format!("::/EFI/{path}"))
            .arg("-")
            .run(&Cancel::new())
            .unwrap()
            .stdout
    }
}

#[test]
fn build_debian_from_packages() {
    if !can_bootstrap() {
        return;
    }
    let cache = Cache::open(Path::new(env!("CARGO_TARGET_TMPDIR")).join("bases")).unwrap();
    let told = Told::default();
    let base = bootstrap(&cache, &told, &Cancel::new());
    let base = base.unwrap_or_else(|error| panic!("{error}\n{}", tail(&told)));
    assert_eq!((base.format, base.virtual_size), (DiskFormat::Qcow2, ByteSize::from_bytes(3 << 30)));
    assert_eq!(base.name, "debian trixie amd64, bootstrapped");

    let again = Told::default();
    assert_eq!(bootstrap(&cache, &again, &Cancel::new()).unwrap(), base);
    assert_eq!(*again.0.lock().unwrap(), [], "the second call made something");
    let listed = cache.list().unwrap().into_iter().find(|(listed, _)| *listed == base);
    let Some((_, Origin::Bootstrap { suite, arch, packages, release_date })) = listed else {
        panic!("{listed:?}");
    };
    assert_eq!((suite.as_str(), arch), ("trixie", Arch::Amd64));
    assert!(packages > 150, "{packages}");
    assert!(release_date.ends_with("UTC"), "{release_date}");

    let disk = Opened::new(&base);
    let uuid = check_file_system(&disk);
    let (root_partition, efi_partition) = check_partitions(&disk);
    check_boot(&disk, &uuid);
    check_configuration(&disk, &root_partition, &efi_partition);
    check_nothing_shared(&disk);
}

/// Checks partitions against the vendor's layout and returns the GUIDs of root and EFI partition.
fn check_partitions(disk: &Opened) -> (String, String) {
    let text = Invocation::new(Tool::Sfdisk).arg("--json").arg(disk.raw()).run(&Cancel::new()).unwrap().text();
    let table: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut partitions = table["partitiontable"]["partitions"].as_array().unwrap().clone();
    partitions.sort_by_key(|partition| partition["start"].as_u64());
    let found: Vec<_> = partitions
        .iter()
        .map(|partition| {
            let node = partition["node"].as_str().unwrap().rsplit_once("raw").unwrap().1.to_owned();
            let number = |key: &str| partition[key].as_u64().unwrap();
            (node, number("start"), number("size"), partition["type"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("14", (2048, 6144), "21686148-6449-6E6F-744E-656564454649"),
        ("15", EFI, "C12A7328-F81F-11D2-BA4B-00C93EC93B4C"),
        ("1", ROOT, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"),
    ];
    assert_eq!(found, expected.map(|(node, (start, size), kind)| (node.to_owned(), start, size, kind.to_owned())));
    let guid = |index: usize| partitions[index]["uuid"].as_str().unwrap().to_lowercase();
    assert_ne!(guid(0), guid(1));
    (guid(2), guid(1))
}

/// Checks the file system and returns its UUID.
fn check_file_system(disk: &Opened) -> String {
    Invocation::new(Tool::E2fsck).args(["-f", "-n"]).arg(disk.root()).run(&Cancel::new()).unwrap();
    let header = String::from_utf8(disk.debugfs("show_super_stats -h")).unwrap();
    let value = |key: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}: {header}"));
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(value("Filesystem state"), "clean");
    assert_eq!(value("Block size"), "4096");
    let features = value("Filesystem features");
    for feature in ["has_journal", "metadata_csum_seed", "orphan_file", "64bit", "resize_inode"] {
        assert!(features.split(' ').any(|found| found == feature), "{feature}: {features}");
    }
    value("Filesystem UUID")
}

fn check_boot(disk: &Opened, uuid: &str) {
    let config = disk.cat("/boot/grub/grub.cfg");
    let kernels: Vec<_> = config.lines().map(str::trim).filter(|line| line.starts_with("linux\t")).collect();
    assert!(kernels.len() >= 2, "{config}");
    for line in kernels {
        assert!(line.contains(&format!(" root=UUID={uuid} ro ")), "{line}");
        assert!(line.contains(" console=tty0 console=ttyS0,115200"), "{line}");
    }
    assert!(config.contains("set timeout=1\n"), "{config}");
    for line in config.lines().filter(|line| line.contains("--fs-uuid")) {
        assert!(line.ends_with(uuid), "{line}");
    }
    assert_eq!(&disk.debugfs("cat /usr/sbin/grub-probe")[..4], b"\x7fELF", "the stand-in was left in place");
    assert!(disk.ls("/boot/grub/i386-pc").contains(&"normal.mod".to_owned()));
    assert_eq!(disk.cat("/etc/initramfs-tools/conf.d/root_type"), "FSTYPE=ext4\n");
    assert!(disk.ls("/boot").iter().any(|name| name.starts_with("initrd.img-")), "{:?}", disk.ls("/boot"));

    let stub = format!("search.fs_uuid {uuid} root \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n");
    assert_eq!(String::from_utf8(disk.efi("debian/grub.cfg")).unwrap(), stub);
    for (program, package) in [
        ("BOOT/BOOTX64.EFI", "/usr/lib/shim/shimx64.efi.signed"),
        ("BOOT/grubx64.efi", "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
        ("BOOT/mmx64.efi", "/usr/lib/shim/mmx64.efi.signed"),
    ] {
        let found = disk.efi(program);
        assert!(found.starts_with(b"MZ"), "{program}");
        assert!(found == disk.debugfs(&format!("cat {package}")), "{program} is not {package}");
    }
    let mut head = vec![0; 512];
    fs_err::File::open(disk.raw()).unwrap().read_exact(&mut head).unwrap();
    let boot = disk.debugfs("cat /usr/lib/grub/i386-pc/boot.img");
    assert_eq!(head[..0x5a], boot[..0x5a]);
    assert_eq!(head[0x5c..0x64], 2048_u64.to_le_bytes());
}

fn check_configuration(disk: &Opened, root_partition: &str, efi_partition: &str) {
    let fstab = format!(
        "# /etc/fstab: static file system information\n\
         PARTUUID={root_partition} / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n\
         PARTUUID={efi_partition} /boot/efi vfat defaults 0 0\n"
    );
    assert_eq!(disk.cat("/etc/fstab"), fstab);
    assert_eq!(disk.cat("/etc/hostname"), "localhost\n");
    assert!(disk.cat("/etc/apt/sources.list").contains(" trixie main"), "{}", disk.cat("/etc/apt/sources.list"));
    let resolver = String::from_utf8(disk.debugfs("stat /etc/resolv.conf")).unwrap();
    assert!(resolver.contains("\"../run/systemd/resolve/stub-resolv.conf\""), "{resolver}");
    let status = disk.cat("/var/lib/dpkg/status");
    for package in ["cloud-init", "cloud-guest-utils", "grub-cloud-amd64", "linux-image-cloud-amd64", "openssh-server"]
    {
        assert!(status.contains(&format!("Package: {package}\nStatus: install ok installed\n")), "{package}");
    }
    assert!(disk.ls("/etc/grub.d").contains(&"enable_cloud".to_owned()));
}

fn check_nothing_shared(disk: &Opened) {
    let keys = disk.ls("/etc/ssh").into_iter().filter(|name| name.starts_with("ssh_host_")).collect::<Vec<_>>();
    assert_eq!(keys, Vec::<String>::new());
    assert_eq!(disk.cat("/etc/machine-id"), "");
    for line in disk.cat("/etc/shadow").lines() {
        let password = line.split(':').nth(1).unwrap();
        assert!(password.starts_with(['!', '*']), "{line}");
    }
    assert!(disk.cat("/etc/shadow").lines().any(|line| line.starts_with("root:!")), "root is not locked");
    assert_eq!(disk.ls("/var/lib/apt/lists"), ["lock", "partial"]);
    assert_eq!(disk.ls("/var/cache/apt/archives"), ["lock", "partial"]);
    for (dir, name) in [
        ("/usr/sbin", "policy-rc.d"),
        ("/usr/sbin", "grub-probe.real"),
        ("/etc/dpkg/dpkg.cfg.d", "99mmdebstrap"),
        ("/etc/apt/apt.conf.d", "99mmdebstrap"),
        ("/var/lib/systemd", "random-seed"),
        ("/dev", "disk"),
        ("/", "packages"),
    ] {
        assert!(!disk.ls(dir).contains(&name.to_owned()), "{dir}/{name} was left behind");
    }
}

/// Stops the work as soon as packages are being unpacked.
struct StopAt {
    cancel: Cancel,
    told: Told,
    stopped: Arc<OnceLock<Instant>>,
}

impl Reporter for StopAt {
    fn event(&self, event: Event) {
        if matches!(&event, Event::Output { line } if line.contains("extracting archives")) {
            let (cancel, stopped) = (self.cancel.clone(), Arc::clone(&self.stopped));
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                stopped.get_or_init(Instant::now);
                cancel.cancel();
            });
        }
        self.told.event(event);
    }
}

#[test]
fn build_that_is_stopped_leaves_nothing() {
    if !can_bootstrap() {
        return;
    }
    // A directory with a blank and a quote, because its name passes through shells.
    let dir = tempfile::Builder::new().prefix("it's a cache ").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    let cancel = Cancel::new();
    let reporter = StopAt { cancel: cancel.clone(), told: Told::default(), stopped: Arc::default() };
    let error = bootstrap(&cache, &reporter, &cancel).unwrap_err();
    let took = reporter.stopped.get().map(Instant::elapsed);
    assert!(matches!(error, BootstrapError::Tool(ToolError::Cancelled(_))), "{error:?}\n{}", tail(&reporter.told));
    for sub in ["work", "disks", "names"] {
        let left: Vec<_> = fs_err::read_dir(dir.path().join(sub)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("it's"), "{mounts}");
    assert!(took.is_some_and(|took| took < Duration::from_secs(20)), "{took:?}");
}
