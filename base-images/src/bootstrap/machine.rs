//! Packages are fetched and the disk is made by an ordinary user; what runs scripts of packages as root is done in a
//! machine.

use std::path::PathBuf;

use fs_err as fs;
use labwright_core::{ByteSize, Event};
use labwright_host::{Invocation, Tool};

use super::debugfs::Debugfs;
use super::{BootstrapError, DISK, FETCH, FINISH, INSTALL, Making, PREPARE, STATUS, SecondStage, image};

/// Where the script finds the directory with packages, in the disk's root.
const SHOWN_AT: &str = "/run/labwright-bootstrap";

/// The accounts of the root.
const ACCOUNTS: &str = "/etc/passwd";

/// Where apt fetches lists as an account of its own. The guest program hides it from steps, so apt cannot give it away.
const PARTIAL_LISTS: &str = "/var/lib/apt/lists/partial";

/// The number of an account in the text of [`ACCOUNTS`].
fn uid_of(name: &str, accounts: &str) -> Option<u32> {
    let of = |line: &str| -> Option<u32> {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    };
    accounts.lines().find_map(of)
}

/// A disk whose packages are not installed yet.
#[derive(Debug)]
pub(super) struct Prepared {
    disk: PathBuf,
    input: PathBuf,
}

impl Prepared {
    /// What is to be done with it as root.
    pub(super) fn second_stage(&self, making: &Making<'_>) -> SecondStage<'_> {
        let Making { spec, ids, .. } = *making;
        let words = [SHOWN_AT, spec.suite.as_str(), &ids.file_system, &ids.root_partition, &ids.efi_partition];
        SecondStage {
            disk: &self.disk,
            size: ByteSize::from_bytes(image::DISK_BYTES),
            input: &self.input,
            shown_at: SHOWN_AT,
            script: format!("exec sh {SHOWN_AT}/install.sh {}\n", words.map(super::shell_quoted).join(" ")),
        }
    }
}

/// Finishes a disk whose packages are installed, and returns a directory with those files of its root that are still
/// needed.
pub(super) fn finish(making: &Making<'_>) -> Result<PathBuf, BootstrapError> {
    let Making { spec, work, ids, cancel, .. } = *making;
    let files = work.join("files");
    let loaders = if spec.boots() { &image::LOADER_FILES[..] } else { &[] };
    let wanted: Vec<&str> = loaders.iter().copied().chain([STATUS, ACCOUNTS]).collect();
    let file_system = file_system(making);
    file_system.dump(&wanted, &files, cancel)?;
    if let Some(uid) = uid_of("_apt", &making.read(&files.join(ACCOUNTS.trim_start_matches('/')))?) {
        file_system.give(PARTIAL_LISTS, uid, cancel)?;
    }
    if spec.boots() {
        image::install_loaders(&work.join(DISK), &files, work, ids, cancel)?;
    }
    Ok(files)
}

fn file_system<'a>(making: &Making<'a>) -> Debugfs<'a> {
    Debugfs { dir: making.work, disk: DISK, offset: image::ROOT_OFFSET }
}

/// Makes a disk with the essential packages extracted, and beside it a directory with all packages and what installs them.
pub(super) fn prepare(making: &Making<'_>) -> Result<Prepared, BootstrapError> {
    let Making { spec, work, ids, reporter, cancel } = *making;
    let (disk, input) = (work.join(DISK), work.join("input"));
    fs::create_dir(&input).map_err(|source| BootstrapError::disk(&input, source))?;
    let prepare = spec.boots().then_some(("input/prepare.sh", PREPARE));
    for (name, script) in prepare.into_iter().chain([("input/finish.sh", FINISH), ("input/install.sh", INSTALL)]) {
        making.write(name, script)?;
    }
    let to = input.to_string_lossy();
    let packages = spec.packages();
    let args: Vec<&str> = [&*to, spec.suite.as_str(), spec.arch.as_str()].into_iter().chain(packages).collect();
    let fetch = super::hook(&making.write("fetch.sh", FETCH)?, &args);
    let root = work.join("root");
    // "Chrootless" is meant for installing so, which few packages can; extracting them needs nothing. The checks and
    // the clean-up that are left out are about installing.
    Invocation::new(Tool::Mmdebstrap)
        .args(["--mode=chrootless", "--format=directory", "--variant=extract", "--dpkgopt=force-unsafe-io"])
        .arg("--skip=check/chrootless,chroot/mount,cleanup/apt,cleanup/mmdebstrap")
        .arg(format!("--architectures={}", spec.arch))
        .arg("--include=?essential")
        .arg(format!("--extract-hook={}", making.date_hook()))
        .arg(format!("--extract-hook={fetch}"))
        .arg(spec.suite.as_str())
        .arg(&root)
        // It has apt and tar do the work, and without a PID namespace nobody else ends them.
        .with_family()
        .stream(cancel, &|line| reporter.event(Event::Output { line: line.to_owned() }))?;
    image::make_disk(&disk, &root, &work.join("mke2fs.conf"), ids, cancel)?;
    file_system(making).own(&root, cancel)?;
    fs::remove_dir_all(&root).map_err(|source| BootstrapError::disk(&root, source))?;
    Ok(Prepared { disk, input })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_number() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\nbad\n";
        assert_eq!(uid_of("_apt", accounts), Some(42));
        assert_eq!(uid_of("apt", accounts), None);
    }
}
