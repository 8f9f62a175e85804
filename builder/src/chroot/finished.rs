//! The worker's look at a finished disk: for an audit the known places, every file, and every byte; else its whole tree.

use std::path::Path;

use labwright_core::Cancel;
use labwright_disk::chain::{Chain, ChainSpec};
use labwright_disk::device::Disk;
use labwright_disk::inspect::Format;
use labwright_disk::loop_device::Access;
use labwright_disk::system::System;
use labwright_guest::audit::{Finding, InTree, Needles, PRIVATE_KEY, Severity, in_tree};
use labwright_guest::client::{self, Outcome};
use labwright_guest::protocol::{Action, Request};
use labwright_host::Peer;

use super::leaks;
use super::wire::{self, Leak};
use super::worker::{Failed, GUEST, Result, enter_work, guest_failure};
use crate::layer_files::LayerFiles;

/// What packages bring along is for everyone to read: keys of test suites are no secret.
const PUBLIC: [&str; 5] = ["/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/"];
const LOCAL: &str = "/usr/local/";

/// Does something with the tree of a disk, which is mounted at `mnt`.
///
/// Its file system is mounted read-only, without replaying a journal, and nothing on it has any power; the kernel's code
/// for the file system is still exposed to it.
fn with_tree<T>(work: &Path, disk: wire::BaseFile, look: impl FnOnce() -> Result<T>) -> Result<T> {
    enter_work(work)?;
    let format = if disk.qcow2 { Format::Qcow2 } else { Format::Raw };
    let spec =
        ChainSpec { lower: vec![(disk.path, format)], top: None, mount_point: "disk.raw".into(), socket: "q".into() };
    let chain = Chain::open(&spec, &Cancel::new())?;
    let raw = Disk::File(chain.export_path().to_owned());
    let mut system = System::open(raw, "mnt", Path::new("look"), Access::ReadOnly).map_err(Failed::system)?;
    system.mount(Access::ReadOnly).map_err(Failed::system)?;
    let found = look()?;
    system.unmount().map_err(Failed::system)?;
    chain.close()?;
    Ok(found)
}

/// Looks for what must not be in an image.
pub(super) fn audit(order: wire::Audit) -> Result<Vec<Finding>> {
    let format = if order.disk.qcow2 { Format::Qcow2 } else { Format::Raw };
    let reader = LayerFiles::open([(order.disk.path.as_path(), format)])?.reader()?;
    let needles = Needles::secrets_and_keys(&order.secrets);
    let hits = leaks::in_raw(&reader, &needles, &Cancel::new())?;
    let (mut findings, files) = with_tree(&order.work, order.disk, || {
        Ok((places(&order.work)?.findings, in_tree(Path::new("mnt"), &needles)?))
    })?;
    add_contents(&mut findings, hits, files);
    findings.sort();
    Ok(findings)
}

/// Writes the tree as a tar archive.
pub(super) fn archive(order: wire::Archive) -> Result<()> {
    with_tree(&order.work, order.disk, || {
        let mut sink = fs_err::File::create(&order.destination)?;
        let (mut guest, request) = guest(&order.work, Action::Archive)?;
        let (mut stdin, mut stdout) = guest.pipes().expect("the pipes were not taken before");
        client::receive_archive(&mut stdin, &mut stdout, &request, &mut sink).map_err(|error| guest_failure(&error))
    })
}

/// The guest program, and what it is asked to do in the tree: links lead nowhere else there.
fn guest(work: &Path, action: Action) -> Result<(Peer, Request)> {
    Ok((Peer::child(&work.join(GUEST), &["step"])?, Request::new(work.join("mnt"), vec![action])))
}

/// The guest program's audit.
fn places(work: &Path) -> Result<Outcome> {
    let (mut guest, request) = guest(work, Action::Audit)?;
    let (mut stdin, mut stdout) = guest.pipes().expect("the pipes were not taken before");
    let mut no_files = |_| Err(std::io::ErrorKind::NotFound.into());
    let outcome = client::run_step(&mut stdin, &mut stdout, &request, &mut no_files, &mut |_| {});
    outcome.map_err(|error| guest_failure(&error))
}

/// Adds what was found in bytes and files to what was found in known places.
pub(crate) fn add_contents(findings: &mut Vec<Finding>, hits: Vec<leaks::RawHit>, files: Vec<InTree>) {
    for Leak { secret, encoding, place } in leaks::places(hits, files) {
        let known = findings.iter().any(|finding| finding.path == place);
        let public = !place.starts_with(LOCAL) && PUBLIC.iter().any(|dir| place.starts_with(dir));
        let in_file = place.starts_with('/');
        let remedy = if in_file {
            "remove it, and change it where it was known: whoever has the image has it"
        } else {
            "drop free blocks before the disk is copied (fstrim, discard), and change it where it was known"
        };
        let finding = |id: &str, what: String| Finding {
            severity: Severity::Error,
            id: id.to_owned(),
            path: place.clone(),
            what,
            remedy: remedy.to_owned(),
        };
        if secret != PRIVATE_KEY {
            findings.push(finding("secret/value", format!("the secret `{secret}` {encoding}")));
        } else if in_file && !known && !public {
            findings.push(finding("credential/private-key", "a private key".to_owned()));
        } else if !in_file {
            findings.push(finding("credential/deleted-private-key", "a private key".to_owned()));
        }
    }
}
