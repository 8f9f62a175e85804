//! What a machine reads from its disk: secrets of a build, what must not be in anybody's image, and the whole tree.
//!
//! The bytes are read by the host, at full speed; the files, and with them the file system, only by the machine.

use std::path::Path;
use std::time::Duration;

use labwright_appliance::orders::{Order, Reply};
use labwright_core::{ByteSize, Cancel, NamedSecret, Reporter};
use labwright_disk::inspect::Format;
use labwright_guest::audit::{Finding, InTree, Needles};
use labwright_guest::client;
use labwright_guest::protocol::{Action, Request};
use labwright_vm::{DiskFormat, Drive, Internet};

use super::VmRunner;
use super::session::{Conversation, Failed, Result, Session, VmError, explain};
use crate::chroot::finished::add_contents;
use crate::chroot::wire;
use crate::chroot::{Leak, SessionError, leaks};
use crate::layer_files::LayerFiles;

/// How long looking into all files may take: an emulated machine reads some 10 MB/s.
const SEARCH: Duration = Duration::from_hours(4);

/// More than that of any disk that is worth a list.
const MOST_FOUND: usize = 100_000;

impl Session {
    /// Looks for secrets in the finished disk: in its bytes, and if there are any, for the files that have them.
    pub(crate) fn search(
        &mut self,
        secrets: &[NamedSecret],
        cancel: &Cancel,
    ) -> std::result::Result<Vec<Leak>, SessionError> {
        let result = self.find(secrets, cancel);
        self.explained(result)
    }

    fn find(&mut self, secrets: &[NamedSecret], cancel: &Cancel) -> Result<Vec<Leak>> {
        let hits = leaks::in_raw(&self.layers.reader()?, &Needles::secrets(secrets), cancel)?;
        // What is compressed is seen in the files only.
        if hits.is_empty() && !self.is_btrfs {
            return Ok(Vec::new());
        }
        let files = self.files(secrets, false, cancel)?;
        Ok(leaks::places(hits, files))
    }

    /// What the machine finds in files.
    fn files(&mut self, secrets: &[NamedSecret], keys: bool, cancel: &Cancel) -> Result<Vec<InTree>> {
        const WHAT: &str = "look into the files";
        let mut found = Vec::new();
        let order = Order::Search { secrets: secrets.to_vec(), keys };
        let mut reply = self.order(&order, WHAT, SEARCH, cancel)?;
        loop {
            match reply {
                Reply::Found(some) if found.len() < MOST_FOUND => found.extend(some),
                Reply::Searched => return Ok(found),
                _ => return Err(VmError::Confused.into()),
            }
            reply = self.exchange(None, WHAT, SEARCH, cancel)?;
        }
    }

    /// Looks for what must not be in an image on a disk that nobody has open, and changes nothing: the machine cannot
    /// write to it.
    pub(crate) fn audit(
        runner: &VmRunner,
        order: wire::Audit,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<Vec<Finding>, SessionError> {
        let work = order.work.clone();
        explain(&work, audit(runner, order, reporter, cancel), false)
    }

    /// Writes the tree of a disk that nobody has open as a tar archive.
    pub(crate) fn archive(
        runner: &VmRunner,
        order: wire::Archive,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<(), SessionError> {
        let work = order.work.clone();
        explain(&work, archive(runner, order, reporter, cancel), false)
    }
}

/// A machine with a finished disk, which it cannot write to.
fn open(
    runner: &VmRunner,
    work: &Path,
    (disk, size): (wire::BaseFile, ByteSize),
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Session> {
    let (format, drive_format) =
        if disk.qcow2 { (Format::Qcow2, DiskFormat::Qcow2) } else { (Format::Raw, DiskFormat::Raw) };
    let layers = LayerFiles::open([(disk.path.as_path(), format)])?;
    let drive = Drive { format: drive_format, ..Drive::qcow2(disk.path) }.read_only();
    // A system that attacks the machine reaches nothing from there.
    let (session, _) = Session::boot(runner, work, (drive, size), &layers, Internet::Cut, reporter, cancel)?;
    Ok(session)
}

fn archive(runner: &VmRunner, order: wire::Archive, reporter: &dyn Reporter, cancel: &Cancel) -> Result<()> {
    let mut sink = fs_err::File::create(&order.destination)?;
    let mut session = open(runner, &order.work, (order.disk, order.size), reporter, cancel)?;
    let request = Request::new(Path::new(""), vec![Action::Archive]);
    let sent = session.converse(request, true, reporter, cancel, |Conversation { request, writer, reader, .. }| {
        client::receive_archive(writer, reader, request, &mut sink)
    });
    session.explained(sent).map_err(Failed)?;
    session.close().map_err(Failed)
}

fn audit(runner: &VmRunner, order: wire::Audit, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Vec<Finding>> {
    let wire::Audit { work, disk, size, secrets } = order;
    let mut session = open(runner, &work, (disk, size), reporter, cancel)?;
    let hits = leaks::in_raw(&session.layers.reader()?, &Needles::secrets_and_keys(&secrets), cancel)?;
    let step = wire::Step { request: Request::new(Path::new(""), vec![Action::Audit]), sources: Vec::new() };
    let mut findings = session.run_step(step, true, reporter, cancel)?.findings;
    let files = session.files(&secrets, true, cancel)?;
    session.close().map_err(Failed)?;
    add_contents(&mut findings, hits, files);
    findings.sort();
    Ok(findings)
}
