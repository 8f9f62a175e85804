//! The programs that deploy.

use std::io::Write;
use std::process::{Command, Stdio};

/// Whether the programs are there; says loudly what is skipped, and panics where `LABWRIGHT_REQUIRE` names the need.
pub(crate) fn have(need: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| command(program).arg("--help").output().is_err());
    missing.is_none_or(|program| skip(need, program))
}

/// Whether kubectl is there, and not older than the components of kustomize.
pub(crate) fn have_kubectl() -> bool {
    if !have("kubectl", &["kubectl", "envsubst"]) {
        return false;
    }
    let version = run(command("kubectl").args(["version", "--client"]), "");
    // Versions with kustomize 2 have no such line.
    version.contains("Kustomize Version:") || skip("kubectl", "kubectl of 1.21 or later")
}

/// Says that something is missing, and no.
pub(crate) fn skip(need: &str, missing: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "tests are told by the environment what must be there")]
    let required = std::env::var("LABWRIGHT_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == need), "{need} is required, but there is no {missing}");
    #[expect(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
    {
        eprintln!("SKIPPED: needs {missing}");
    }
    false
}

#[expect(clippy::disallowed_methods, reason = "the tests use programs that deploy labs without ours")]
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// What a program that must succeed makes of its stdin.
pub(crate) fn run(command: &mut Command, stdin: &str) -> String {
    try_run(command, stdin).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The same, or what it says of its failure.
pub(crate) fn try_run(command: &mut Command, stdin: &str) -> Result<String, String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut pipe = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        // A program that fails early does not read everything.
        scope.spawn(move || drop(pipe.write_all(stdin.as_bytes())));
        child.wait_with_output().expect("it ends")
    });
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
