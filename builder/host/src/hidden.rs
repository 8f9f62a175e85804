use std::ffi::OsString;
use std::process::Command;
use std::sync::Mutex;

static HIDDEN: Mutex<Vec<OsString>> = Mutex::new(Vec::new());

/// Keeps a variable of this process's environment from every program that is started from now on: it holds a secret.
pub fn hide_variable(name: impl Into<OsString>) {
    HIDDEN.lock().expect("no holder of this lock panics").push(name.into());
}

/// Takes the hidden variables out of what a program would inherit.
pub(crate) fn apply(command: &mut Command) {
    for name in HIDDEN.lock().expect("no holder of this lock panics").iter() {
        command.env_remove(name);
    }
}
