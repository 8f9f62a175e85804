//! `labwright-guest step`: does one step of a build inside a disk's root file system.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    labwright_guest::program::main(&arguments)
}
