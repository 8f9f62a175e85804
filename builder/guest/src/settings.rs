//! Accounts, names, time, language and units of the image.

use std::path::Path;

use rustix::fs::{Gid, Uid};

use crate::accounts;
use crate::error::{Doing, StepError};
use crate::files;
use crate::protocol::User;
use crate::session::{Program, Session};

fn need(path: &str, purpose: &'static str) -> Result<(), StepError> {
    match fs_err::metadata(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(StepError::Missing { path: path.to_owned(), purpose }),
    }
}

fn invalid(what: &'static str, value: &str, rule: &'static str) -> StepError {
    StepError::Invalid { what, value: value.to_owned(), rule }
}

/// Does [`crate::protocol::Action::User`].
pub(crate) fn user(session: &mut Session, user: &User) -> Result<(), StepError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.$".contains(&byte);
    let first = user.name.bytes().next();
    if !first.is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_') || !user.name.bytes().all(plain) {
        return Err(invalid("the user name", &user.name, "lower-case letters, digits, `_` and `-`"));
    }
    if user.gecos.as_deref().is_some_and(|gecos| gecos.contains([':', '\n'])) {
        return Err(invalid("the full name", user.gecos.as_deref().unwrap_or_default(), "no `:` and one line"));
    }
    for group in user.groups.iter().chain(&user.primary_group) {
        accounts::group(group)?;
    }
    if let Some(shell) = &user.shell {
        need(shell.as_str(), "log in with it")?;
    }
    let existing = accounts::account(&user.name)?;
    let mut program = Program::new(if existing.is_some() { "usermod" } else { "useradd" });
    let mut changes = false;
    let mut option = |program: Program, flag: &str, value: Option<String>| match value {
        Some(value) => {
            changes = true;
            program.arg(flag).arg(value)
        }
        None => program,
    };
    let path = |path: &Option<labwright_core::GuestPath>| {
        path.as_ref().map(|path| path.as_str().trim_end_matches('/').to_owned())
    };
    program = option(program, "--uid", user.uid.map(|uid| uid.to_string()));
    program = option(program, "--comment", user.gecos.clone());
    program = option(program, "--shell", path(&user.shell));
    program = option(program, "--gid", user.primary_group.clone());
    program = option(program, "--groups", Some(user.groups.join(",")).filter(|groups| !groups.is_empty()));
    // Neither is a password: the first counts as locked, the second as an account without one to type.
    let password = if user.lock_passwd { "!" } else { "*" };
    if existing.is_none() {
        program = option(program, "--home-dir", path(&user.home));
        program = program.arg("--password").arg(password);
        program = program.arg(if user.no_create_home { "--no-create-home" } else { "--create-home" });
        if user.system {
            program = program.arg("--system");
        }
        if user.primary_group.is_none() {
            program = program.arg("--user-group");
        }
        session.run(&program.arg(&user.name))?;
    } else {
        if !user.groups.is_empty() {
            program = program.arg("--append");
        }
        if changes {
            session.run(&program.arg(&user.name))?;
        }
        if user.lock_passwd && user.name != "root" {
            session.run(&Program::new("usermod").args(&["--lock", &user.name]))?;
        }
    }
    let account = accounts::account(&user.name)?.ok_or_else(|| StepError::NoUser { name: user.name.clone() })?;
    if !user.ssh_authorized_keys.is_empty() {
        let dir = Path::new(&account.home).join(".ssh");
        let owner = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        files::directory(&dir, 0o700, owner)?;
        let mut text = String::new();
        for key in &user.ssh_authorized_keys {
            text.push_str(key.trim_end());
            text.push('\n');
        }
        let file = dir.join("authorized_keys");
        files::replace(&file, 0o600, owner, &mut |out| {
            std::io::Write::write_all(out, text.as_bytes()).doing("write", &file)
        })?;
    }
    sudo(session, user)
}

fn sudo(session: &mut Session, user: &User) -> Result<(), StepError> {
    if user.sudo.is_empty() {
        return Ok(());
    }
    need("/etc/sudoers.d", "give rights by sudo (package sudo)")?;
    let mut text = String::new();
    for rule in &user.sudo {
        if rule.contains('\n') {
            return Err(invalid("the sudo rule", rule, "one line"));
        }
        text.extend([user.name.as_str(), " ", rule, "\n"]);
    }
    // sudo ignores names with dots in them.
    let path = format!("/etc/sudoers.d/90-labwright-{}", user.name.replace('.', "_"));
    files::write_text(&path, 0o440, &text)?;
    let result = session.run(&Program::new("visudo").args(&["--check", "--quiet", "--file", &path]));
    if result.is_err() {
        files::remove(Path::new(&path))?;
    }
    result
}

/// Does [`crate::protocol::Action::Hostname`].
pub(crate) fn hostname(name: &str) -> Result<(), StepError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        return Err(invalid("the host name", name, "letters, digits, `-` and `.`, at most 64"));
    }
    files::write_text("/etc/hostname", 0o644, &format!("{name}\n"))?;
    let hosts = match fs_err::read_to_string("/etc/hosts") {
        Ok(text) => text,
        Err(_) => "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned(),
    };
    files::write_text("/etc/hosts", 0o644, &name_host(&hosts, name))
}

/// Gives the machine's own address of Debian's tradition this name.
fn name_host(hosts: &str, name: &str) -> String {
    let line = match name.split_once('.') {
        Some((short, _)) => format!("127.0.1.1 {name} {short}"),
        None => format!("127.0.1.1 {name}"),
    };
    let mut lines: Vec<&str> = hosts.lines().collect();
    let own = lines.iter().position(|line| line.split_whitespace().next() == Some("127.0.1.1"));
    if let Some(at) = own {
        lines[at] = &line;
    } else {
        let at = lines.iter().position(|line| line.starts_with("127.0.0.1")).map_or(0, |at| at + 1);
        lines.insert(at, &line);
    }
    lines.join("\n") + "\n"
}

/// Does [`crate::protocol::Action::Timezone`].
pub(crate) fn timezone(zone: &str) -> Result<(), StepError> {
    let plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    if !zone.split('/').all(plain) {
        return Err(invalid("the time zone", zone, "a name as `Europe/Berlin`"));
    }
    need("/usr/share/zoneinfo/UTC", "set a time zone (package tzdata)")?;
    let target = format!("/usr/share/zoneinfo/{zone}");
    if !fs_err::metadata(&target).is_ok_and(|metadata| metadata.is_file()) {
        return Err(invalid("the time zone", zone, "one that the guest knows"));
    }
    files::remove(Path::new("/etc/localtime"))?;
    rustix::fs::symlink(&target, "/etc/localtime").doing("make the link", "/etc/localtime")?;
    files::write_text("/etc/timezone", 0o644, &format!("{zone}\n"))
}

/// Does [`crate::protocol::Action::Locale`].
pub(crate) fn locale(session: &mut Session, locale: &str) -> Result<(), StepError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@-".contains(&byte);
    if locale.is_empty() || !locale.bytes().all(plain) {
        return Err(invalid("the locale", locale, "a name as `en_US.UTF-8`"));
    }
    if !matches!(locale, "C" | "POSIX" | "C.UTF-8") {
        need("/usr/sbin/locale-gen", "generate a locale (package locales)")?;
        let supported =
            fs_err::read_to_string("/usr/share/i18n/SUPPORTED").doing("read", "/usr/share/i18n/SUPPORTED")?;
        let line = supported
            .lines()
            .find(|line| line.split_whitespace().next() == Some(locale))
            .ok_or_else(|| invalid("the locale", locale, "one that the guest knows, with its character set"))?;
        let wanted = fs_err::read_to_string("/etc/locale.gen").unwrap_or_default();
        files::write_text("/etc/locale.gen", 0o644, &want_locale(&wanted, line.trim()))?;
        session.run(&Program::new("locale-gen"))?;
    }
    if fs_err::metadata("/usr/sbin/update-locale").is_ok() {
        return session.run(&Program::new("update-locale").arg(format!("LANG={locale}")));
    }
    files::write_text("/etc/default/locale", 0o644, &format!("LANG={locale}\n"))
}

/// Asks for a locale in the text of `/etc/locale.gen`, where all are listed as comments.
fn want_locale(text: &str, wanted: &str) -> String {
    let mut found = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start_matches(['#', ' ']).trim_end() == wanted {
            if !found {
                lines.push(wanted);
            }
            found = true;
        } else {
            lines.push(line);
        }
    }
    if !found {
        lines.push(wanted);
    }
    lines.join("\n") + "\n"
}

fn unit(name: &str) -> Result<&str, StepError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.@:-\\".contains(&byte);
    if name.starts_with('-') || name.is_empty() || !name.bytes().all(plain) {
        return Err(invalid("the unit", name, "a name as `nginx.service`"));
    }
    need("/usr/bin/systemctl", "handle units (package systemd)")?;
    Ok(name)
}

/// Does [`crate::protocol::Action::Enable`].
pub(crate) fn enable(session: &mut Session, name: &str) -> Result<(), StepError> {
    let name = unit(name)?;
    files::remove(Path::new(&preset(name)))?;
    session.run(&Program::new("systemctl").args(&["enable", name]))
}

/// Does [`crate::protocol::Action::Disable`].
pub(crate) fn disable(session: &mut Session, name: &str) -> Result<(), StepError> {
    let name = unit(name)?;
    session.run(&Program::new("systemctl").args(&["disable", name]))?;
    // A machine without an id applies its presets at its first boot; without this they would enable the unit again.
    let full = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    files::write_text(&preset(name), 0o644, &format!("disable {full}\n"))
}

fn preset(name: &str) -> String {
    format!("/etc/systemd/system-preset/10-labwright-{name}.preset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_line_in_hosts() {
        assert_eq!(
            name_host("127.0.0.1 localhost\n::1 localhost\n", "lab.example"),
            "127.0.0.1 localhost\n127.0.1.1 lab.example lab\n::1 localhost\n"
        );
        assert_eq!(name_host("127.0.1.1\told\n", "lab"), "127.0.1.1 lab\n");
        assert_eq!(name_host("", "lab"), "127.0.1.1 lab\n");
    }

    #[test]
    fn a_locale_is_asked_for_once() {
        let text = "# head\n# de_DE.UTF-8 UTF-8\n# en_US.UTF-8 UTF-8\n";
        let wanted = "# head\n# de_DE.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n";
        assert_eq!(want_locale(text, "en_US.UTF-8 UTF-8"), wanted);
        assert_eq!(want_locale(wanted, "en_US.UTF-8 UTF-8"), wanted);
        assert_eq!(want_locale("", "en_US.UTF-8 UTF-8"), "en_US.UTF-8 UTF-8\n");
    }
}
