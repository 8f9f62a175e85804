//! The part of a bootstrap that runs scripts of packages as root, in a machine without network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use labwright_appliance::SCRATCH;
use labwright_appliance::orders::Order;
use labwright_base_images::SecondStage;
use labwright_core::{Cancel, Reporter};
use labwright_guest::protocol::{Action, Bind, Command, Request};
use labwright_vm::{Drive, Internet};

use super::session::{Failed, Result, Session, VmError, explain, shared};
use super::{VmRunner, index, repack};
use crate::chroot::{SessionError, worker};
use crate::layer_files::LayerFiles;

/// How long installing some 250 packages may take, in seconds: emulated on two busy processors it was a quarter of an hour.
const LIMIT: u64 = 3 * 60 * 60;

impl Session {
    /// Does the second stage of a bootstrap on its disk. `work` is for everything that is half-made.
    pub(crate) fn bootstrap(
        runner: &VmRunner,
        stage: &SecondStage<'_>,
        work: &Path,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> std::result::Result<(), SessionError> {
        explain(work, install(runner, stage, work, reporter, cancel), false)
    }
}

fn install(
    runner: &VmRunner,
    stage: &SecondStage<'_>,
    work: &Path,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<()> {
    unpack(stage.input, cancel)?;
    // What is on the disk before counts for nothing if the machine does not come to its end.
    let drive = Drive::raw(stage.disk).ignore_flushes();
    let none = LayerFiles::open([])?;
    let (mut session, _) = Session::boot(runner, work, (drive, stage.size), &none, Internet::Cut, reporter, cancel)?;
    session.has_stand_ins = false;
    session.make_scratch(Some(stage.input), cancel)?;
    fs_err::remove_dir_all(stage.input)?;
    let mut request = Request::new("", vec![Action::Run(Command::Shell(stage.script.clone()))]);
    request.time_limit_seconds = Some(LIMIT);
    request.binds = vec![Bind {
        host: SCRATCH.into(),
        guest: stage.shown_at.parse().expect("a constant that is a path"),
        read_only: false,
    }];
    let done = session
        .guest(request, &[], false, reporter, cancel)
        .and_then(|outcome| worker::reports(outcome).map_err(shared))
        .and_then(|_| session.expect_done(&Order::Commit { trim: true }, "write everything to the disk", cancel));
    session.explained(done).map_err(Failed)?;
    session.machine.kill()?;
    Ok(())
}

/// Writes the packages in `archives` again without compression, and leaves in `lists` just those, in their new sizes: the
/// machine's apt then has the choice of the host's apt, and need not read about seventy thousand others.
fn unpack(input: &Path, cancel: &Cancel) -> Result<()> {
    let (archives, lists) = (input.join("archives"), input.join("lists"));
    let mut packages = Vec::new();
    for entry in fs_err::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            packages.push(path);
        }
    }
    let next = AtomicUsize::new(0);
    let sizes = Mutex::new(BTreeMap::new());
    let work = || -> std::result::Result<(), VmError> {
        while let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
            cancel.check()?;
            let digest = repack::digest(package)?.hex().to_owned();
            let plain = package.with_extension("plain");
            let size = repack::uncompressed(package, &plain)?;
            fs_err::rename(&plain, package)?;
            sizes.lock().expect("no holder of this lock panics").insert(digest, size);
        }
        Ok(())
    };
    repack::on_all_processors(work)?;
    let sizes = sizes.into_inner().expect("no holder of this lock panics");
    for entry in fs_err::read_dir(&lists)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("_Packages") {
            let cut = path.with_extension("cut");
            index::write_only(&path, &cut, &sizes)?;
            fs_err::rename(&cut, &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_fetched_is_left_in_the_lists() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["archives/partial", "lists/partial"] {
            fs_err::create_dir_all(dir.path().join(name)).unwrap();
        }
        // Not in the form of a package: it is handed over as it is.
        fs_err::write(dir.path().join("archives/a_1.deb"), "one").unwrap();
        let digest = labwright_core::Digest::sha256(b"one");
        let list = dir.path().join("lists/mirror_Packages");
        let package = |name: &str, digest: &str| format!("Package: {name}\nSize: 9\nSHA256: {digest}\n\n");
        let text = [package("a", digest.hex()), package("a", "00"), package("b", "01")].concat();
        fs_err::write(&list, text).unwrap();
        unpack(dir.path(), &Cancel::new()).map_err(|failed| failed.0).unwrap();
        assert_eq!(fs_err::read_to_string(&list).unwrap(), package("a", digest.hex()).replace("Size: 9", "Size: 3"));
        assert_eq!(fs_err::read_to_string(dir.path().join("archives/a_1.deb")).unwrap(), "one");
    }
}
