//! The kernel of the machine: out of a distribution's package, pinned by digest, kept in the home.
//!
//! Its digest is no part of a step's key: what a step leaves on the disk is made by the programs in the image and by the
//! guest program, and the chroot runner, whose layers are interchangeable with these, has the host's kernel anyway.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use labwright_appliance::{MODULES, ROLE};
use labwright_core::{Arch, Cancel, Digest, Event, Reporter};
use labwright_host::{Invocation, Tool, ToolError};
use serde::{Deserialize, Serialize};

use super::initramfs::Archive;
use super::kernel_modules::{depends, normal, order, wanted};
use super::package::{self, PackageError};
use crate::guest_program;

/// Why there is no kernel for the machine.
#[derive(Debug, thiserror::Error)]
pub enum ApplianceError {
    /// A file of the kept kernel cannot be used; the source has the path.
    #[error("could not keep the machine's kernel")]
    File {
        /// The reason, with the path.
        #[from]
        source: io::Error,
    },
    /// The package cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// apt does not give a kernel.
    #[error("could not get a kernel for the machine from the host's package sources")]
    Fetch {
        /// What apt said.
        source: ToolError,
    },
    /// No package source has a kernel.
    #[error("none of the host's package sources has a kernel for machines ({})", METAPACKAGES.join(", "))]
    NoPackage,
    /// The package is not the one that was pinned.
    #[error("the package {package} has the digest {found}, and {expected} is pinned in `{}`", pin.display())]
    Changed {
        /// Its name and version.
        package: String,
        /// The digest that was pinned.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
        /// The file with the pin.
        pin: PathBuf,
    },
    /// The package has no kernel in it.
    #[error("the package `{}` has no kernel", package.display())]
    NoKernel {
        /// The package.
        package: PathBuf,
    },
    /// The pin cannot be read.
    #[error("`{}` is not a pin of Labwright", path.display())]
    Pin {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Debian's packages that depend on the newest kernel, the smallest first, without the architecture.
const METAPACKAGES: [&str; 2] = ["linux-image-cloud-", "linux-image-"];

/// The kernel, in a kept kernel's directory.
const KERNEL: &str = "vmlinuz";
/// What the files of a kept kernel must be.
const MANIFEST: &str = "manifest.json";
/// The program in the initial RAM disk.
const PROGRAM: &str = "labwright-appliance";

/// Which package is used, so that later builds use the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    package: String,
    version: String,
    digest: Digest,
}

/// The files of a kept kernel.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// The modules that were looked for.
    wanted: Vec<String>,
    /// By name.
    digests: BTreeMap<String, Digest>,
    /// What each module needs.
    needs: BTreeMap<String, Vec<String>>,
}

/// A kernel that is there, and its modules.
#[derive(Debug)]
pub(crate) struct Appliance {
    dir: PathBuf,
    manifest: Manifest,
}

/// Whether a kernel is kept in `dir`, so that none has to be fetched.
pub(crate) fn is_kept(dir: &Path, arch: Arch) -> bool {
    read_pin(&pin_path(dir, arch)).ok().flatten().is_some_and(|pin| dir.join(pin.digest.hex()).is_dir())
}

/// The kernel that is pinned, fetched if it is not there; without a pin, the newest of the host's package sources.
pub(crate) fn obtain(
    dir: &Path,
    arch: Arch,
    own: Option<&Path>,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Appliance, ApplianceError> {
    fs_err::create_dir_all(dir)?;
    if let Some(package) = own {
        let digest = file_digest(package)?;
        return match open(&dir.join(digest.hex()))? {
            Some(appliance) => Ok(appliance),
            None => keep(dir, package, &digest),
        };
    }
    let pin_path = pin_path(dir, arch);
    let pin = read_pin(&pin_path)?;
    if let Some(pin) = &pin
        && let Some(appliance) = open(&dir.join(pin.digest.hex()))?
    {
        return Ok(appliance);
    }
    if let Some(pin) = &pin {
        // Another version of this program may want more of the package.
        let deb = deb_path(dir, &pin.digest);
        if deb.exists() && file_digest(&deb)? == pin.digest {
            return keep(dir, &deb, &pin.digest);
        }
    }
    let (package, version) = match &pin {
        Some(pin) => (pin.package.clone(), pin.version.clone()),
        None => newest(arch, cancel)?,
    };
    reporter.event(Event::Note(format!("fetching {package} {version}, the kernel of the machine for builds")));
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(dir)?;
    let deb = fetch(&package, &version, work.path(), cancel)?;
    let digest = file_digest(&deb)?;
    match pin {
        Some(pin) if pin.digest != digest => {
            let package = format!("{package} {version}");
            return Err(ApplianceError::Changed { package, expected: pin.digest, found: digest, pin: pin_path });
        }
        _ => {}
    }
    let appliance = keep(dir, &deb, &digest)?;
    fs_err::rename(&deb, deb_path(dir, &digest))?;
    let text = serde_json::to_vec_pretty(&Pin { package, version, digest }).expect("a pin is plain data");
    replace(&pin_path, &text)?;
    work.close()?;
    Ok(appliance)
}

/// Where the package itself is kept.
fn deb_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{}.deb", digest.hex()))
}

fn pin_path(dir: &Path, arch: Arch) -> PathBuf {
    dir.join(format!("{arch}.json"))
}

fn read_pin(path: &Path) -> Result<Option<Pin>, ApplianceError> {
    match fs_err::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| ApplianceError::Pin { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().expect("a pin is in a directory");
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = labwright_core::Hasher::new(labwright_core::Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// The newest kernel's package and version, as the host's apt knows them.
fn newest(arch: Arch, cancel: &Cancel) -> Result<(String, String), ApplianceError> {
    for meta in METAPACKAGES {
        let said = Invocation::new(Tool::AptCache)
            .args(["show", "--no-all-versions"])
            .arg(format!("{meta}{arch}"))
            .run(cancel);
        match said {
            Ok(output) => {
                if let Some(found) = dependency(&output.text()) {
                    return Ok(found);
                }
            }
            // apt knows no such package.
            Err(ToolError::Failed { .. }) => {}
            Err(source) => return Err(ApplianceError::Fetch { source }),
        }
    }
    Err(ApplianceError::NoPackage)
}

/// The kernel's package that a metapackage depends on, with its version.
fn dependency(record: &str) -> Option<(String, String)> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    depends.split(',').find_map(|dependency| {
        let (name, version) = dependency.trim().split_once(' ')?;
        let version = version.trim().strip_prefix("(=")?.strip_suffix(')')?.trim();
        name.starts_with("linux-image-").then(|| (name.to_owned(), version.to_owned()))
    })
}

/// Has the host's apt fetch a package, which it checks by the signatures of its sources.
fn fetch(package: &str, version: &str, dir: &Path, cancel: &Cancel) -> Result<PathBuf, ApplianceError> {
    Invocation::new(Tool::AptGet)
        .args(["-q", "download"])
        .arg(format!("{package}={version}"))
        .current_dir(dir)
        .run(cancel)
        .map_err(|source| ApplianceError::Fetch { source })?;
    for entry in fs_err::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    Err(ApplianceError::NoPackage)
}

/// Takes what the machine needs out of a package, and keeps it under the package's digest.
fn keep(dir: &Path, deb: &Path, digest: &Digest) -> Result<Appliance, ApplianceError> {
    // Which modules there are, and what each needs.
    let mut needs = BTreeMap::new();
    package::read(deb, &mut |path, content| {
        if let Some(name) = module_name(path) {
            needs.insert(name, depends(&module(path, content)?));
        }
        Ok(())
    })?;
    let taken: Vec<String> = order(&needs).into_iter().flat_map(|(_, names)| names).collect();
    needs.retain(|name, _| taken.contains(name));
    let half = tempfile::Builder::new().prefix(".half-").tempdir_in(dir)?;
    let mut digests = BTreeMap::new();
    let mut add = |name: String, bytes: &[u8]| {
        digests.insert(name.clone(), Digest::sha256(bytes));
        let path = half.path().join(name);
        fs_err::write(&path, bytes)?;
        fs_err::File::open(&path)?.sync_all()
    };
    package::read(deb, &mut |path, content| {
        if path.parent() == Some(Path::new("boot")) && file_name(path).starts_with("vmlinuz-") {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            return add(KERNEL.to_owned(), &bytes);
        }
        match module_name(path) {
            Some(name) if taken.contains(&name) => add(format!("{name}.ko"), &module(path, content)?),
            _ => Ok(()),
        }
    })?;
    if !digests.contains_key(KERNEL) {
        return Err(ApplianceError::NoKernel { package: deb.to_owned() });
    }
    let manifest = Manifest { wanted: wanted(), digests, needs };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    fs_err::write(half.path().join(MANIFEST), text)?;
    let finished = dir.join(digest.hex());
    if finished.exists() {
        // Another build was quicker, or what is there is damaged.
        match open(&finished)? {
            Some(appliance) => return Ok(appliance),
            None => fs_err::remove_dir_all(&finished)?,
        }
    }
    fs_err::rename(half.path(), &finished)?;
    Ok(Appliance { dir: finished, manifest })
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The name of a module by its file.
fn module_name(path: &Path) -> Option<String> {
    let name = file_name(path);
    let stem = [".ko", ".ko.xz", ".ko.zst"].iter().find_map(|end| name.strip_suffix(end))?;
    Some(normal(stem))
}

/// A module as the kernel takes it.
fn module(path: &Path, content: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    content.read_to_end(&mut packed)?;
    let mut bytes = Vec::new();
    package::decompress(file_name(path), io::Cursor::new(packed))?.take(package::LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A kept kernel; none if it is not there or not whole.
fn open(dir: &Path) -> Result<Option<Appliance>, ApplianceError> {
    let bytes = match fs_err::read(dir.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(None) };
    if manifest.wanted != wanted() {
        return Ok(None);
    }
    for (name, digest) in &manifest.digests {
        match fs_err::read(dir.join(name)) {
            Ok(bytes) if Digest::sha256(&bytes) == *digest => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(Appliance { dir: dir.to_owned(), manifest }))
}

impl Appliance {
    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.dir.join(KERNEL)
    }

    /// What the kernel is told: to start our program, to be quiet, and not to spend time on guarding against neighbours
    /// that this machine does not have.
    pub(crate) fn command_line() -> String {
        format!(
            "console=ttyS0 loglevel=4 panic=0 mitigations=off audit=0 random.trust_cpu=on rdinit=/{PROGRAM} -- {ROLE}"
        )
    }

    /// Writes the initial RAM disk.
    pub(crate) fn write_initramfs(&self, path: &Path) -> io::Result<()> {
        let mut archive = Archive::new(io::BufWriter::new(fs_err::File::create(path)?));
        let modules = MODULES.trim_start_matches('/');
        for dir in ["dev", "new", modules] {
            archive.directory(dir)?;
        }
        // The kernel opens it for the first process before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        archive.file(PROGRAM, 0o755, guest_program::APPLIANCE)?;
        for (set, names) in order(&self.manifest.needs) {
            let list: String = names.iter().flat_map(|name| [name.as_str(), ".ko\n"]).collect();
            archive.file(&format!("{modules}/{}", set.as_str()), 0o644, list.as_bytes())?;
        }
        for name in self.manifest.digests.keys().filter(|name| *name != KERNEL) {
            archive.file(&format!("{modules}/{name}"), 0o644, &fs_err::read(self.dir.join(name))?)?;
        }
        archive.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use labwright_core::Quiet;

    use super::*;

    #[test]
    fn a_metapackage_names_the_kernel() {
        let record = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-57-cloud-amd64 (= 6.1.192-3)\n";
        let found = ("linux-image-6.1.0-57-cloud-amd64".to_owned(), "6.1.192-3".to_owned());
        assert_eq!(dependency(record), Some(found));
        assert_eq!(dependency("Depends: linux-image-x\n"), None);
    }

    #[test]
    fn a_kept_kernel_is_whole_or_made_anew() {
        let home = tempfile::tempdir().unwrap();
        let deb = home.path().join("kernel.deb");
        let module = b"\x7fELF\0depends=virtio_ring\0";
        let files: [(&str, &[u8]); 4] = [
            ("boot/vmlinuz-1", b"kernel"),
            ("lib/modules/1/virtio-pci.ko", module),
            ("lib/modules/1/virtio_ring.ko", b"\0depends=\0"),
            ("lib/modules/1/other.ko", b"\0depends=\0"),
        ];
        fs_err::write(&deb, package::tests::package(&files)).unwrap();
        let obtain = || obtain(home.path(), Arch::Amd64, Some(&deb), &Quiet, &Cancel::new()).unwrap();
        let appliance = obtain();
        let names: Vec<&str> = appliance.manifest.digests.keys().map(String::as_str).collect();
        assert_eq!(names, ["virtio_pci.ko", "virtio_ring.ko", "vmlinuz"]);
        let ram_disk = home.path().join("initrd");
        appliance.write_initramfs(&ram_disk).unwrap();
        let bytes = fs_err::read(&ram_disk).unwrap();
        let list = b"virtio_ring.ko\nvirtio_pci.ko\n";
        assert!(bytes.windows(list.len()).any(|window| window == list));

        fs_err::write(appliance.kernel(), "kernel!").unwrap();
        assert!(open(&appliance.dir).unwrap().is_none());
        assert_eq!(fs_err::read(obtain().kernel()).unwrap(), b"kernel");
        let left: Vec<_> = fs_err::read_dir(home.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");

        // A version of this program that wanted other modules.
        let manifest = appliance.dir.join(MANIFEST);
        let text = fs_err::read_to_string(&manifest).unwrap().replace("\"virtio_blk\"", "\"virtio_scsi\"");
        fs_err::write(&manifest, text).unwrap();
        assert!(open(&appliance.dir).unwrap().is_none());
        assert!(open(&obtain().dir).unwrap().is_some());

        fs_err::write(&deb, package::tests::package(&files[1..])).unwrap();
        let error = super::obtain(home.path(), Arch::Amd64, Some(&deb), &Quiet, &Cancel::new()).unwrap_err();
        assert!(matches!(error, ApplianceError::NoKernel { .. }), "{error}");
    }
}
