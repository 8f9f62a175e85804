use std::sync::Mutex;
use std::time::Instant;

use labwright_vm::Accelerator;

use super::*;
use crate::vm::package::tests::package;

/// A kernel that QEMU takes for one and that does nothing for ever.
fn kernel() -> Vec<u8> {
    /// Sectors of 512 bytes before the part that is loaded high; the first is the boot sector.
    const SETUP: usize = 5;
    let mut image = vec![0; (SETUP + 1) * 512];
    image[0x1f1] = u8::try_from(SETUP - 1).unwrap();
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    // A jump over the header, to `cli; hlt` and back.
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6e]);
    image[0x270..0x274].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfc]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x0206_u16.to_le_bytes());
    // Loaded high; the RAM disk may lie anywhere below 2 GiB.
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image
}

#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Reporter for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what they may not skip")]
fn machine_that_never_starts_is_given_up() {
    if Arch::host() != Some(Arch::Amd64) || Tool::QemuSystemX86.find().is_err() || Tool::Mke2fs.find().is_err() {
        let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == "qemu"), "LABWRIGHT_REQUIRE names qemu, which is missing");
        eprintln!("SKIPPED: needs qemu");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let size = ByteSize::from_bytes(64 << 20);
    fs_err::write(at("kernel.deb"), package(&[("boot/vmlinuz-1", &kernel())])).unwrap();
    fs_err::File::create(at("base.raw")).unwrap().set_len(size.bytes()).unwrap();
    fs_err::create_dir(at("work")).unwrap();
    let runner = VmRunner {
        accelerator: Accelerator::Tcg,
        kernel: Some(at("kernel.deb")),
        appliance_dir: at("appliance"),
        patience: Duration::from_secs(2),
    };
    let open = wire::Open {
        work: at("work"),
        base: wire::BaseFile { path: at("base.raw"), qcow2: false },
        layers: Vec::new(),
        top: "t0.qcow2".into(),
        backing: "base".to_owned(),
        size,
    };
    let (warnings, begin) = (Warnings::default(), Instant::now());
    let error = Session::open(&runner, open, &warnings, &Cancel::new()).unwrap_err();
    assert_eq!(error.to_string(), "the machine did not start within 2 s");
    assert!(matches!(&error, SessionError::Machine(error) if matches!(**error, VmError::Silent { .. })), "{error:?}");
    assert!(begin.elapsed() >= runner.patience * STARTS, "{:?}", begin.elapsed());
    let again = "the machine did not start in time; starting it again";
    assert_eq!(*warnings.0.lock().unwrap(), [again, again]);
}
