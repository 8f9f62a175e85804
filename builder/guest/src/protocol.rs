//! What the host asks of the guest program and what it hears back.
//!
//! The host sends one [`Request`]; the guest answers with [`Message`]s. Contents of files are pulled: when the guest
//! comes to a file it sends [`Message::Want`], the host answers with that file's bytes as data frames and one
//! [`FileEnd`]. So neither side ever waits for the other to read what it does not want yet.

use std::path::PathBuf;

use labwright_core::{GuestPath, LockedPackage, NamedSecret, PackageFact};
use serde::{Deserialize, Serialize};

use crate::audit::Finding;
use crate::inventory::Inventory;
use crate::seal::SealReport;

/// Where a step finds package lists that the host supplies: `lists` as apt's own update would have left them, and `index`,
/// the same with the sizes that the supplied packages have.
pub const SUPPLIED: &str = "/run/labwright-supplied";

/// One step: a root file system, how it is to be run in, and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Where the host mounted the disk's root file system, with everything that belongs below it.
    pub root: PathBuf,
    /// Whether the step shares the host's network; otherwise it has a loopback interface and nothing else.
    #[serde(default)]
    pub network: bool,
    /// The host name while the step runs; the image keeps its own.
    pub hostname: String,
    /// Seconds after which the step is ended.
    #[serde(default)]
    pub time_limit_seconds: Option<u64>,
    /// Files and directories of the host that the step sees.
    #[serde(default)]
    pub binds: Vec<Bind>,
    /// The lines of the resolv.conf that a step with network sees (`nameserver 192.0.2.1`): real servers, no stubs on
    /// a loopback address of the host's resolver.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Secrets that root finds at `/run/secrets/NAME` while the step runs, in memory. What is printed is told without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<NamedSecret>,
    /// Variables for every program of the step (proxies).
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// Further options for apt, as in `-o NAME=VALUE`.
    #[serde(default)]
    pub apt_options: Vec<(String, String)>,
    /// In which versions [`Action::AptInstall`] installs packages; none means those that apt takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<Locked>,
    /// Whether the binds have package lists at [`SUPPLIED`], which the host fetched and verified from the guest's own
    /// sources: apt in the guest then fetches none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supplied: bool,
    /// The disk as boot loaders should see it. Without it a grub in the image asks the host's devices and fails.
    #[serde(default)]
    pub disk: Option<DiskInfo>,
    /// Where a person gets a shell when an action fails, before anything is put back. The time limit does not count
    /// while they are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// What to do, in this order. [`Action::Seal`], [`Action::Audit`] and [`Action::Archive`] stand
    /// alone.
    pub actions: Vec<Action>,
}

impl Request {
    /// A step without network, limits, binds and variables.
    pub fn new(root: impl Into<PathBuf>, actions: Vec<Action>) -> Self {
        Self {
            root: root.into(),
            network: false,
            hostname: "labwright".to_owned(),
            time_limit_seconds: None,
            binds: Vec::new(),
            dns: Vec::new(),
            secrets: Vec::new(),
            environment: Vec::new(),
            apt_options: Vec::new(),
            locked: None,
            supplied: false,
            disk: None,
            terminal: None,
            actions,
        }
    }

    /// The sizes of all files that the actions want from the host, in the order of their numbers.
    pub fn file_sizes(&self) -> Vec<u64> {
        self.actions.iter().flat_map(Action::file_sizes).collect()
    }
}

/// The terminal of a person at the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// A device (`/dev/pts/3`), for a guest program on the host itself, which opens it.
    Device(PathBuf),
    /// At the other end of the protocol's streams: from [`Message::ShellOpened`] to [`Message::ShellClosed`] data frames
    /// are what is shown, and to the guest what is typed.
    Stream(WindowSize),
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What the host says, beside the data frames of what is typed, while a shell is open.
///
/// It sends one piece of at most [`TYPED_PIECE`] bytes and waits for [`Message::ShellTook`]: so its writing never waits
/// for a guest that waits for the host to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seat {
    /// The terminal has another size now.
    Resized(WindowSize),
    /// Nothing more comes from the terminal: the person has gone, or the shell has. Always the host's last word.
    Left,
}

/// The most bytes that are typed at once; any stream takes as many without being read.
pub const TYPED_PIECE: usize = 1024;

/// A file or directory of the host that a step sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the step sees it.
    pub guest: GuestPath,
    /// Whether the step may only read it.
    pub read_only: bool,
}

/// Versions of packages that were installed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// The packages.
    pub packages: Vec<LockedPackage>,
    /// What their versions mean now.
    pub rule: LockRule,
}

/// What locked versions mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockRule {
    /// They are taken where the package sources have them and the packages fit together so.
    Prefer,
    /// Each is installed in its version, or the step fails before anything is; more packages may come along.
    Keep,
    /// As [`Self::Keep`], and nothing else may come along.
    Only,
}

/// What `grub-probe` answers while the step runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskInfo {
    /// The partition table, as grub names it (`gpt`, `msdos`).
    pub partition_map: String,
    /// The file systems; the one mounted at `/` is among them.
    pub file_systems: Vec<FileSystemInfo>,
}

/// A file system of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystemInfo {
    /// Where it is mounted.
    pub mount: GuestPath,
    /// Its UUID.
    pub uuid: String,
    /// The partition's UUID; may be empty.
    pub partition_uuid: String,
    /// Its kind, as grub names it (`ext2` for ext4, `xfs`, `btrfs`, `fat`).
    pub grub_fs: String,
    /// The logical volume of LVM that it is on.
    #[serde(default)]
    pub volume: Option<VolumeInfo>,
}

/// A logical volume, by its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeInfo {
    /// Its device in every machine that boots from the disk (`/dev/mapper/vg-root`).
    pub device: String,
    /// Its name for grub (`lvmid/GROUP/VOLUME`).
    pub grub: String,
}

/// One thing to do in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Adds a package source.
    AptSource {
        /// The name of its file below `/etc/apt/sources.list.d`, without the ending.
        name: String,
        /// One or more one-line sources, or deb822 stanzas. `$RELEASE`, `$MIRROR` and `$KEY_FILE` mean what they mean in
        /// cloud-config.
        source: String,
        /// The key, armoured or not; it goes to `/etc/apt/keyrings` and the source is tied to it.
        key: Option<Vec<u8>>,
    },
    /// Fetches the package lists.
    AptUpdate,
    /// Tells the host what it needs to know to fetch packages for the guest: apt's sources, keys and preferences, and
    /// what is installed. Reports [`Report::AptState`], and changes nothing.
    AptSurvey {
        /// Packages that the base's own suites may lack, as in [`Action::AptInstall`].
        fallbacks: Vec<Fallback>,
    },
    /// Installs packages; fetches the lists first if the step has not done so. Reports as [`Report::Installed`] what came
    /// or changed its version, but for `files`.
    AptInstall {
        /// Names, each with an optional `=VERSION` or `/SUITE`.
        packages: Vec<String>,
        /// Package files from the host.
        files: Vec<AptFile>,
        /// Packages that the base's own suites may lack. Reports a [`PackageFact`] for each that came from elsewhere.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        fallbacks: Vec<Fallback>,
    },
    /// Makes an account, or amends one that exists.
    User(User),
    /// Writes a file.
    WriteFile {
        /// Where.
        path: GuestPath,
        /// Permission bits.
        mode: u32,
        /// Whose it is.
        owner: Owner,
        /// Whether to add to a file that exists.
        append: bool,
        /// Bytes that the host has for it.
        size: u64,
    },
    /// Writes a tree of files.
    Tree {
        /// The directory that it goes into; made if missing.
        destination: GuestPath,
        /// What is in it, parents before children.
        entries: Vec<TreeEntry>,
        /// Whose everything in it is, the destination's parents excepted.
        owner: Owner,
    },
    /// Sets the host name of the image.
    Hostname(String),
    /// Sets the time zone (`Europe/Berlin`).
    Timezone(String),
    /// Generates a locale and makes it the default (`en_US.UTF-8`).
    Locale(String),
    /// Enables a systemd unit.
    Enable(String),
    /// Disables a systemd unit, also against the presets of a first boot.
    Disable(String),
    /// Runs a command as root.
    Run(Command),
    /// Removes a file or a whole directory; nothing there is fine.
    RemovePath(GuestPath),
    /// Removes everything that must not be in an image. Reports a [`SealReport`], the [`Inventory`] and what an audit
    /// finds afterwards; fails if that is [the build's own](Finding::fails_build).
    Seal,
    /// Looks for what must not be in an image, and changes nothing. Reports [`Finding`]s.
    Audit,
    /// Sends the whole tree as a tar archive in data frames, and changes nothing; see
    /// [`receive_archive`](crate::client::receive_archive).
    Archive,
}

impl Action {
    /// The sizes of the files that this action wants from the host.
    pub fn file_sizes(&self) -> Vec<u64> {
        match self {
            Self::AptInstall { files, .. } => files.iter().map(|file| file.size).collect(),
            Self::WriteFile { size, .. } => vec![*size],
            Self::Tree { entries, .. } => entries
                .iter()
                .filter_map(|entry| match entry.kind {
                    EntryKind::File { size } => Some(size),
                    EntryKind::Directory | EntryKind::Symlink { .. } => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it has to meet the tree as it is, without what is put into it for programs: then it stands alone.
    pub(crate) fn wants_bare_tree(&self) -> bool {
        matches!(self, Self::Seal | Self::Audit | Self::Archive)
    }
}

/// A command in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A script for `sh -e`.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// A package that comes from the base's own suites where they have it, else alone from another suite of the base's own
/// mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// The package.
    pub package: String,
    /// The suite to take it from otherwise (`unstable`).
    pub suite: String,
}

/// A package file that the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AptFile {
    /// Its file name, ending in `.deb`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Whose a file is, by the guest's own names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The account.
    pub user: String,
    /// The group; none means the account's primary group.
    pub group: Option<String>,
}

impl Owner {
    /// The superuser and its group.
    pub fn root() -> Self {
        Self { user: "root".to_owned(), group: None }
    }
}

/// Something in a [`Action::Tree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeEntry {
    /// The path below the destination, with `/` between its components; no `.`, `..` or empty component.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits; symbolic links have none.
    pub mode: u32,
}

/// The kinds of things in a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Bytes that the host has for it.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: String,
    },
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number; none means the next free one.
    pub uid: Option<u32>,
    /// Its full name.
    pub gecos: Option<String>,
    /// Its home.
    pub home: Option<GuestPath>,
    /// Its login shell, which must exist.
    pub shell: Option<GuestPath>,
    /// Its primary group, which must exist; none means one of its own.
    pub primary_group: Option<String>,
    /// Further groups, which must exist.
    pub groups: Vec<String>,
    /// Whether it is a system account.
    pub system: bool,
    /// Whether to do without a home.
    pub no_create_home: bool,
    /// Whether the account counts as locked. Either way there is no password.
    pub lock_passwd: bool,
    /// Lines for its `authorized_keys`.
    pub ssh_authorized_keys: Vec<String>,
    /// Rules for sudo, without the account's name (`ALL=(ALL) NOPASSWD:ALL`).
    pub sudo: Vec<String>,
}

impl User {
    /// An account with a home, a group of its own and no way to log in by password.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            uid: None,
            gecos: None,
            home: None,
            shell: None,
            primary_group: None,
            groups: Vec::new(),
            system: false,
            no_create_home: false,
            lock_passwd: true,
            ssh_authorized_keys: Vec::new(),
            sudo: Vec::new(),
        }
    }
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// An action begins.
    ActionStarted {
        /// Its place in the request.
        index: usize,
    },
    /// A program printed a line.
    Output {
        /// The line without its end, at most 4 KiB; bytes that are not UTF-8 are replaced.
        line: String,
    },
    /// The guest waits for a file.
    Want {
        /// Its number, counted through all actions of the request.
        file: usize,
    },
    /// A fact that an action found out.
    Report(Report),
    /// A shell is open in the failing state; see [`Terminal::Stream`].
    ShellOpened {
        /// Why, and how to leave it: lines for the person.
        words: String,
    },
    /// The shell has what was typed: the next piece may come.
    ShellTook,
    /// The shell has ended, and nothing more of it comes. The host answers with [`Seat::Left`], unless it has said so.
    ShellClosed,
    /// An action is done.
    ActionFinished {
        /// Its place in the request.
        index: usize,
    },
    /// The step failed; nothing follows.
    Failed(Failure),
    /// The step is done, everything in the guest is ended and put back; nothing follows.
    Done,
}

/// A fact about what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// A package from elsewhere was installed.
    Package(PackageFact),
    /// Some of the packages that an [`Action::AptInstall`] brought; those of all reports together are all.
    Installed(Vec<LockedPackage>),
    /// The image was sealed.
    Sealed(SealReport),
    /// An audit found something.
    Finding(Finding),
    /// A piece of a file that apt's choice depends on.
    AptState(AptState),
    /// Some of the installed packages; those of all reports together are all.
    Inventory(Inventory),
}

/// A piece of a file, for [`Action::AptSurvey`]. Those of one file follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AptState {
    /// The file's path in the guest.
    pub path: String,
    /// Some of its bytes.
    pub piece: Vec<u8>,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The action's place in the request; none where the surroundings could not be made.
    pub index: Option<usize>,
    /// What is wrong: a lower-case fragment.
    pub reason: String,
    /// The exit status of the program that failed.
    pub exit_status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The time limit of the request, if that was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_limit_seconds: Option<u64>,
    /// Whether it failed because packages cannot be as [`Request::locked`] has them.
    #[serde(default)]
    pub not_as_locked: bool,
    /// The last lines that the action's programs printed.
    pub last_lines: Vec<String>,
}

/// What the host says behind a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileEnd {
    /// All bytes were sent.
    Complete,
    /// The host could not go on.
    Abort {
        /// Why.
        reason: String,
    },
}
