//! The front door: terminals behind one web server on one port.

use labwright_core::GuestPath;

mod files;

/// A terminal in the browser: ttyd as one account of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    name: String,
    user: String,
}

/// The port and the terminals behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontDoor {
    port: u16,
    terminals: Vec<Terminal>,
}

/// The front door cannot be built like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrontDoor {
    /// The name becomes a path and a unit's name.
    #[error("`{0}` is not a name for an access: a DNS label of at most 32 characters")]
    Name(String),
    /// The account's name becomes part of a unit.
    #[error("`{0}` is not a name for an account: a-z, 0-9, `_` and `-`, at most 32 characters")]
    User(String),
    /// Two terminals with one name.
    #[error("two accesses have the name `{0}`")]
    Duplicate(String),
    /// No server listens on port 0.
    #[error("the port of the front door is 1 to 65535")]
    Port,
}

/// Files, packages and units to be put into a guest's root file system. Nothing here is secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestConfig {
    /// Packages that must be installed first, by their names in Debian and Ubuntu. ttyd is not among them, because
    /// not every distribution has it: it must be in `/usr/bin` or `/usr/local/bin`, version 1.7.4 or newer.
    pub packages: Vec<String>,
    /// Files to write, all owned by root.
    pub files: Vec<ConfigFile>,
    /// Commands to run as root inside the guest's root file system once the files are there, with their arguments.
    /// They need neither network nor a running service manager, and may run twice.
    pub commands: Vec<Vec<String>>,
    /// Units to enable.
    pub enable: Vec<String>,
    /// Units to disable where they exist: the packages of web server and terminal enable them.
    pub disable: Vec<String>,
}

/// A file owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Where.
    pub path: GuestPath,
    /// Its permissions (`0o644`).
    pub mode: u32,
    /// The whole text.
    pub content: String,
}

impl Terminal {
    /// The terminal at `/NAME/` in which the account `user` works.
    pub fn new(name: impl Into<String>, user: impl Into<String>) -> Result<Self, InvalidFrontDoor> {
        let (name, user) = (name.into(), user.into());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let label = name.len() <= 32
            && name.bytes().all(|byte| plain(byte) || byte == b'-')
            && name.bytes().next().is_some_and(plain)
            && name.bytes().last().is_some_and(plain);
        if !label {
            return Err(InvalidFrontDoor::Name(name));
        }
        let account = user.len() <= 32
            && user.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'_')
            && user.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !account {
            return Err(InvalidFrontDoor::User(user));
        }
        Ok(Self { name, user })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The account.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The path at the front door, with a slash at both ends.
    pub fn path(&self) -> String {
        format!("/{}/", self.name)
    }
}

impl FrontDoor {
    /// The path that answers 200 without a credential once every terminal behind the door answers, else 503.
    pub const READY_PATH: &str = "/-/ready";

    /// A front door on `port`, with its terminals in the recipe's order.
    pub fn new(port: u16, terminals: Vec<Terminal>) -> Result<Self, InvalidFrontDoor> {
        if port == 0 {
            return Err(InvalidFrontDoor::Port);
        }
        for (at, terminal) in terminals.iter().enumerate() {
            if terminals[..at].iter().any(|other| other.name == terminal.name) {
                return Err(InvalidFrontDoor::Duplicate(terminal.name.clone()));
            }
        }
        Ok(Self { port, terminals })
    }

    /// The port in the guest.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The terminals.
    pub fn terminals(&self) -> &[Terminal] {
        &self.terminals
    }
}

/// Everything that a guest needs for its front door. The credential is not part of it: [`crate::user_data`] brings
/// it at boot, and until then nothing listens.
pub fn front_door(door: &FrontDoor) -> GuestConfig {
    let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    GuestConfig {
        packages: strings(&["nginx", "openssl"]),
        files: files::all(door),
        commands: vec![
            strings(&["systemd-sysusers", files::SYSUSERS]),
            strings(&["install", "-d", "-m", "0700", "/etc/labwright"]),
        ],
        enable: strings(&["labwright-front-door.path"]),
        // Debian's packages enable both: a web server on port 80, and a login on port 7681.
        disable: strings(&["nginx.service", "ttyd.service"]),
    }
}
