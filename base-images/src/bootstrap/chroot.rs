//! Packages are installed in a chroot of this host, by mmdebstrap as root.

use std::path::PathBuf;

use labwright_core::Event;
use labwright_host::{Invocation, Tool};

use super::{BootstrapError, DISK, FINISH, Making, PREPARE, image};

/// Makes the disk, and returns the directory with its root.
pub(super) fn make(making: &Making<'_>) -> Result<PathBuf, BootstrapError> {
    let Making { spec, work, ids, reporter, cancel } = *making;
    let root = work.join("root");
    let prepare = if spec.boots() {
        let prepare = super::hook(&making.write("prepare.sh", PREPARE)?, &[&ids.root_partition, &ids.efi_partition]);
        Some(format!("--essential-hook={prepare}"))
    } else {
        None
    };
    let finish = [spec.suite.as_str(), &ids.file_system, &ids.root_partition];
    let finish = super::hook(&making.write("finish.sh", FINISH)?, &finish);
    // In namespaces of its own, mmdebstrap and all that it starts end with the one process that we can kill, and
    // its mounts with them.
    Invocation::new(Tool::Unshare)
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(Tool::Mmdebstrap.find()?)
        .args(["--mode=root", "--format=directory", "--variant=minbase", "--dpkgopt=force-unsafe-io"])
        .arg(format!("--architectures={}", spec.arch))
        .arg(format!("--include={}", spec.packages().join(",")))
        .args(prepare)
        .arg(format!("--customize-hook={finish}"))
        .arg(format!("--customize-hook={}", making.date_hook()))
        .arg(spec.suite.as_str())
        .arg(&root)
        .stream(cancel, &|line| reporter.event(Event::Output { line: line.to_owned() }))?;
    let disk = work.join(DISK);
    image::make_disk(&disk, &root, &root.join("etc/mke2fs.conf"), ids, cancel)?;
    if spec.boots() {
        image::install_loaders(&disk, &root, work, ids, cancel)?;
    }
    Ok(root)
}
