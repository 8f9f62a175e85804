//! Detached OpenPGP signatures, checked by gpgv or sqv with a given set of keys.

use std::io;

use fs_err as fs;
use labwright_core::Cancel;
use labwright_host::{Invocation, Tool, ToolError};

/// Why a signature was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// Neither program that checks signatures is installed.
    #[error("cannot check a signature: install gpgv (or sqv)")]
    NoTool,
    /// The signature is bad, or by none of the keys.
    #[error("the signature is not valid")]
    Bad(#[source] ToolError),
    /// The program could not do its work.
    #[error("could not check a signature")]
    Tool(#[source] ToolError),
    /// Its input could not be written.
    #[error("could not check a signature")]
    Io(#[source] io::Error),
}

/// Checks that `signature` was made over `data` by one of the keys in `keyring` (binary OpenPGP keys).
///
/// The keys are given, so no key of the user or of the host counts.
pub(crate) fn verify(data: &[u8], signature: &[u8], keyring: &[u8], cancel: &Cancel) -> Result<(), SignatureError> {
    let dir = tempfile::tempdir().map_err(SignatureError::Io)?;
    let place = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).map(|()| path).map_err(SignatureError::Io)
    };
    let keyring = place("keys.gpg", keyring)?;
    let signature = place("signature", signature)?;
    let data = place("data", data)?;
    let call = if Tool::Gpgv.find().is_ok() {
        // Of several signatures on one list, gpgv wants all to be good; SHA-1 counts for nothing.
        Invocation::new(Tool::Gpgv)
            .arg("--homedir")
            .arg(dir.path())
            .args(["--quiet", "--weak-digest", "SHA1", "--keyring"])
            .arg(&keyring)
            .arg(&signature)
            .arg(&data)
    } else if Tool::Sqv.find().is_ok() {
        Invocation::new(Tool::Sqv).arg("--keyring").arg(&keyring).arg(&signature).arg(&data)
    } else {
        return Err(SignatureError::NoTool);
    };
    match call.run(cancel) {
        Ok(_) => Ok(()),
        Err(error @ ToolError::Failed { .. }) => Err(SignatureError::Bad(error)),
        Err(error) => Err(SignatureError::Tool(error)),
    }
}
