//! The inspection of disks that qemu-img made.

use std::ffi::OsStr;
use std::path::Path;

use labwright_disk::inspect::{CompressionKind, InspectError, Limits, Refusal, inspect};

use crate::support::{has_qemu, prose, qemu_img, raw, scratch};

fn create(path: &Path, options: &str, size: &str) {
    let args: [&OsStr; 7] =
        ["-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), "-o".as_ref(), options.as_ref(), path.as_ref(), size.as_ref()];
    qemu_img("create", &args);
}

fn refusal(path: &Path) -> Refusal {
    match inspect(path, &Limits::default()).unwrap_err() {
        InspectError::Refused { reason, .. } => reason,
        error @ InspectError::Read { .. } => panic!("{error:?}"),
    }
}

#[test]
fn honest_images_of_qemu_are_accepted() {
    if !has_qemu() {
        return;
    }
    let dir = scratch();
    let disk = raw(
        &dir.path().join("disk.raw"),
        (3 << 20) + 512,
        &[(100_000, prose(1, 2_000_000)), ((3 << 20) + 10, vec![1])],
    );
    let made = dir.path().join("disk.qcow2");
    let variants = [
        ("compat=0.10", false, None),
        ("compat=1.1", false, None),
        ("cluster_size=512", false, None),
        ("cluster_size=2M", false, None),
        ("extended_l2=on,cluster_size=128k", false, None),
        ("lazy_refcounts=on", false, None),
        ("preallocation=metadata", false, None),
        ("refcount_bits=1", false, None),
        ("compat=0.10", true, Some(CompressionKind::Deflate)),
        ("compression_type=zstd", true, Some(CompressionKind::Zstd)),
        ("compression_type=zlib,cluster_size=4k", true, Some(CompressionKind::Deflate)),
    ];
    for (options, compressed, compression) in variants {
        let mut args: Vec<&OsStr> =
            vec!["-f".as_ref(), "raw".as_ref(), "-O".as_ref(), "qcow2".as_ref(), "-o".as_ref(), options.as_ref()];
        if compressed {
            args.push("-c".as_ref());
        }
        args.extend([disk.path().as_os_str(), made.as_os_str()]);
        qemu_img("convert", &args);
        let info = inspect(&made, &Limits::default()).unwrap_or_else(|error| panic!("{options}: {error:?}"));
        assert_eq!((info.virtual_size, info.compression), ((3 << 20) + 512, compression), "{options}");
    }
    create(&made, "compat=1.1", "40G");
    assert_eq!(inspect(&made, &Limits::default()).unwrap().virtual_size, 40 << 30);
}

#[test]
fn images_of_qemu_that_lead_elsewhere_are_refused() {
    if !has_qemu() {
        return;
    }
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    create(&path("backed"), "backing_file=/etc/hostname,backing_fmt=raw", "1M");
    assert_eq!(refusal(&path("backed")), Refusal::BackingFile);
    create(&path("data"), &format!("data_file={}", path("data.raw").display()), "1M");
    assert_eq!(refusal(&path("data")), Refusal::DataFile);
    create(&path("snapshot"), "compat=1.1", "1M");
    qemu_img("snapshot", &["-c".as_ref(), "one".as_ref(), path("snapshot").as_ref()]);
    assert_eq!(refusal(&path("snapshot")), Refusal::Snapshots { count: 1 });
    create(&path("bitmap"), "compat=1.1", "1M");
    qemu_img("bitmap", &["--add".as_ref(), path("bitmap").as_ref(), "b".as_ref()]);
    assert_eq!(refusal(&path("bitmap")), Refusal::Bitmaps);
    let luks = path("luks");
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let args: [&OsStr; 9] = [
        "-q".as_ref(),
        "--object".as_ref(),
        "secret,id=s,data=x".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-o".as_ref(),
        options.as_ref(),
        luks.as_ref(),
        "1M".as_ref(),
    ];
    qemu_img("create", &args);
    assert_eq!(refusal(&path("luks")), Refusal::Encrypted);
    for (format, reason) in [
        ("vmdk", "VMDK"),
        ("vdi", "VDI"),
        ("vhdx", "VHDX"),
        ("qed", "QED"),
        ("vpc", "VHD"),
        ("parallels", "a Parallels disk"),
    ] {
        qemu_img("create", &["-q".as_ref(), "-f".as_ref(), format.as_ref(), path(format).as_ref(), "16M".as_ref()]);
        assert_eq!(refusal(&path(format)), Refusal::OtherFormat { format: reason });
    }
}
