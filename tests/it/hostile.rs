//! Commands in a machine that want out, want everything or never end, and machines that stand still: each ends in bounded
//! time, with a reason, and leaves nothing behind.

use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use labwright_tests::said;

use crate::runners::{can_emulate, nobody, share_kernel};
use crate::world::{World, can_build, files};

/// What a recipe does that wants out: each line must fail in the machine, or the build does.
fn wants_out(closed: u16, proxy: u16) -> String {
    format!(
        r#"disk: {{size: 400Mi}}
runcmd:
  - |
    refused() {{ if "$@" 2>/dev/null; then echo "allowed: $*"; exit 9; fi; }}
    refused mknod /root/disk b 254 0
    refused mknod /dev/vda b 254 0
    refused test -e /dev/vda
    refused dd if=/dev/zero of=/dev/vda bs=1M count=32
    refused mount -t tmpfs none /mnt
    refused sh -c 'echo b > /proc/sysrq-trigger'
    refused sh -c 'echo 1 > /proc/sys/kernel/panic'
    refused sh -c 'echo 1 > /sys/block/vda/device/reset'
    refused ls /scratch /dev/vport0p1 /proc/1/root/scratch
    refused perl -e 'exit(syscall(169, 0xfee1dead, 672274793, 0x01234567) != 0)'
    refused perl -e 'use Socket; exit(!socket(my $raw, AF_INET, SOCK_RAW, 6))'
    kill -9 1
    refused bash -c 'exec 3<>/dev/tcp/10.0.2.2/{closed}'
    refused bash -c 'exec 3<>/dev/tcp/10.0.2.4/{closed}'
    refused bash -c 'exec 3<>/dev/tcp/fec0::2/{closed}'
    bash -c 'exec 3<>/dev/tcp/10.0.2.2/{proxy}'
    bash -c 'exec 3<>/dev/tcp/10.0.2.3/53' || echo no server for names here
    for name in one two three; do
      setsid sh -c "while :; do date >> /opt/$name; sleep 0.1; done" >/dev/null 2>&1 </dev/null &
    done
    sleep 1
"#
    )
}

/// A machine whose processor is stopped from outside, in the middle of a step with a limit of so many seconds.
const STOPPED_LIMIT: u64 = 5;

#[test]
fn machine_withstands_hostile_commands_and_standing_still() {
    if !can_build() || !can_emulate() {
        return;
    }
    // It waits most of its time, so it does that beside the others.
    let still = World::new(
        "still",
        &format!(
            "disk: {{size: 400Mi}}\nruncmd: [\"echo it runs; sleep 600\"]\ntimeouts: {{runcmd: {STOPPED_LIMIT}s}}\n"
        ),
    );
    share_kernel(&still.home());
    let mut stopped = still.start(&["--runner", "vm"]);
    stop_machine(&still, &mut stopped);
    let since = Instant::now();
    share_kernel(&still.home());

    stays_in();
    wants_everything();
    never_ends();

    let code = stopped.wait().unwrap().code();
    let words = fs_err::read_to_string(still.lab.path().join("stderr")).unwrap();
    let seconds = STOPPED_LIMIT + 180;
    assert_eq!(code, Some(3), "{words}");
    assert!(words.contains(&format!("the machine did not end the step within {seconds} s")), "{words}");
    assert!(words.contains("it runs"), "{words}");
    eprintln!("a machine that stood still was given up by {:?}", since.elapsed());
    still.assert_nothing_left("a machine that stood still");
    still.assert_believable();
}

/// Waits until the step runs, and stops QEMU as a debugger does.
fn stop_machine(world: &World, build: &mut Child) {
    let said = world.lab.path().join("stderr");
    let end = Instant::now() + Duration::from_mins(7);
    while !fs_err::read_to_string(&said).unwrap().contains(r#""line":"it runs""#) {
        let words = || fs_err::read_to_string(&said).unwrap();
        assert!(build.try_wait().unwrap().is_none() && Instant::now() < end, "no step ran: {}", words());
        std::thread::sleep(Duration::from_millis(20));
    }
    let machine = format!("{}/work/", world.home().display());
    for process in files(Path::new("/proc")) {
        let line = fs_err::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.contains("qemu-system") && line.contains(&machine) {
            let id = process.file_name().unwrap().to_str().unwrap().to_owned();
            Command::new("kill").args(["-STOP", &id]).assert().success();
            return;
        }
    }
    panic!("the build has no machine");
}

fn stays_in() {
    let (closed, proxy) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = [&closed, &proxy].map(|listener| listener.local_addr().unwrap().port());
    let world = World::new("out", &wants_out(ports[0], ports[1]));
    share_kernel(&world.home());
    let mut command = nobody(&world, &["build", "--format", "json", "--runner", "vm", "r"]);
    command.env("http_proxy", format!("http://127.0.0.1:{}", ports[1]));
    let said = said(&mut command);
    assert_eq!(said.code, 0, "{said}");
    for listener in [&closed, &proxy] {
        listener.set_nonblocking(true).unwrap();
    }
    assert!(closed.accept().is_err(), "the machine reached a service of the host");
    assert!(proxy.accept().is_ok(), "the machine did not reach its proxy");
    world.assert_nothing_left("commands that want out");
    let disk = world.disk(&world.only_disk());
    disk.check();
    assert_ne!(disk.read("/opt/three"), "", "the daemon ran");
}

fn wants_everything() {
    for (name, script, words) in [
        // Much to say before, which the build neither loses nor stumbles over.
        (
            "disk",
            "yes a flood of many lines | head -c 3000000; dd if=/dev/zero of=/opt/all bs=1M",
            "No space left on device",
        ),
        // Each may take half of the memory.
        (
            "memory",
            "for dir in /tmp /run /dev/shm; do head -c 8G /dev/zero > $dir/all & done; wait; echo over; exit 7",
            "ended by signal 9",
        ),
    ] {
        let world = World::new(name, &format!("disk: {{size: 400Mi}}\nruncmd: [\"{script}\"]\n"));
        share_kernel(&world.home());
        let begin = Instant::now();
        let said = world.build(&["--runner", "vm"]);
        let end = &said.err[said.err.len().saturating_sub(2000)..];
        eprintln!("all of the {name}: {:?}, {} bytes of words\n{end}", begin.elapsed(), said.err.len());
        assert_eq!(said.code, 5, "{end}");
        assert!(end.contains(words), "{end}");
        let lines = said.err.matches(r#""line":"a flood of many lines""#).count();
        assert!(name != "disk" || lines >= 3_000_000 / 22, "{lines} lines\n{end}");
        world.assert_nothing_left(name);
        world.assert_believable();
        assert!(world.layers().iter().all(|(step, ..)| step != "commands"), "{name}");
    }
}

fn never_ends() {
    let script = "yes & yes no & bomb() { bomb | bomb & }; (bomb) & sleep 600";
    let world =
        World::new("endless", &format!("disk: {{size: 400Mi}}\nruncmd: [\"{script}\"]\ntimeouts: {{runcmd: 10s}}\n"));
    share_kernel(&world.home());
    let begin = Instant::now();
    let said = world.build(&["--runner", "vm"]);
    eprintln!("without end: {:?}, {} bytes of words", begin.elapsed(), said.err.len());
    let end = &said.err[said.err.len().saturating_sub(2000)..];
    assert_eq!(said.code, 5, "{end}");
    assert!(end.contains("the time limit of 10 s is over"), "{end}");
    world.assert_nothing_left("commands without end");
    // The next build of the same home works.
    world.recipe("disk: {size: 400Mi}\nruncmd: [\"true\"]\n");
    world.build_well(&["--runner", "vm"]);
}
