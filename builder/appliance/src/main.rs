//! `labwright-appliance`: the first process of the vm runner's machine, and the guest program in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match arguments.as_slice() {
        [role] if role == labwright_appliance::ROLE => labwright_appliance::main(),
        // The steps are done by the guest program, which is the same code as in the chroot runner.
        _ => labwright_guest::program::main(&arguments),
    }
}
