//! The texts of the front door's files.

use std::fmt::Write as _;

use super::{ConfigFile, FrontDoor, Terminal};

/// Where the account of the web server is declared.
pub(super) const SYSUSERS: &str = "/usr/lib/sysusers.d/labwright.conf";

/// An account of its own: a web application of the lab that runs as `www-data`, and may be there to be broken into,
/// must reach neither the terminals nor the front door's secrets.
const SYSUSERS_TEXT: &str = "\
u labwright-web - \"Front door of the lab\" - -
";

/// Until cloud-init has written its files, an older session's credential may still lie there. The unit is named
/// differently since cloud-init 24.3. Not part of paths.target, because that would be before cloud-init.
const PATH_UNIT: &str = "\
[Unit]
Description=Front door of the lab: waits for the session's credential
DefaultDependencies=no
After=sysinit.target basic.target cloud-init.service cloud-init-network.service
Conflicts=shutdown.target
Before=shutdown.target

[Path]
PathExists=/etc/labwright/credential
Unit=labwright-front-door.service

[Install]
WantedBy=multi-user.target
";

/// Debian's resolver answers questions of the whole local network on port 5355 (LLMNR). Nobody asked for that, and
/// of a session nothing but the front door is to be reached.
const RESOLVER: &str = "\
[Resolve]
LLMNR=no
MulticastDNS=no
";

/// All files, in the order of their paths' purpose: account, programs, resolver, units.
pub(super) fn all(door: &FrontDoor) -> Vec<ConfigFile> {
    let file = |path: String, mode: u32, content: String| ConfigFile {
        path: path.parse().expect("a constant path, or one that ends with a checked name, is absolute and clean"),
        mode,
        content,
    };
    let mut files = vec![
        file(SYSUSERS.to_owned(), 0o644, SYSUSERS_TEXT.to_owned()),
        file("/usr/lib/labwright/front-door".to_owned(), 0o755, script(door)),
        file("/usr/lib/labwright/nginx.conf".to_owned(), 0o644, nginx(door)),
        file("/etc/systemd/resolved.conf.d/labwright.conf".to_owned(), 0o644, RESOLVER.to_owned()),
        file("/etc/systemd/system/labwright-front-door.path".to_owned(), 0o644, PATH_UNIT.to_owned()),
        file("/etc/systemd/system/labwright-front-door.service".to_owned(), 0o644, service(door)),
    ];
    for terminal in door.terminals() {
        files.push(file(format!("/etc/systemd/system/{}", unit_name(terminal)), 0o644, terminal_service(terminal)));
    }
    files
}

fn unit_name(terminal: &Terminal) -> String {
    format!("labwright-terminal-{}.service", terminal.name())
}

/// The directory of a terminal's socket. The account owns it and the web server's group may enter; its set-group-id
/// bit gives the socket that group, which the account itself is not in.
fn socket_dir(terminal: &Terminal) -> String {
    format!("/run/labwright-terminals/{}", terminal.name())
}

fn socket(terminal: &Terminal) -> String {
    // ttyd takes an interface for a socket by this ending.
    format!("{}/ttyd.sock", socket_dir(terminal))
}

fn script(door: &FrontDoor) -> String {
    include_str!("templates/front-door.sh").replace("@PORT@", &door.port().to_string())
}

fn nginx(door: &FrontDoor) -> String {
    let mut index = String::new();
    if let Some(first) = door.terminals().first() {
        write!(
            index,
            "
        location = / {{
            root /usr/lib/labwright;
            try_files /-/nothing @first;
        }}

        location @first {{
            return 302 {};
        }}
",
            first.path()
        )
        .expect("writing to a string does not fail");
    }
    let mut access = String::new();
    let mut links = String::new();
    for (at, terminal) in door.terminals().iter().enumerate() {
        let (path, socket) = (terminal.path(), socket(terminal));
        let bare = path.trim_end_matches('/');
        write!(
            access,
            "
        location = {bare} {{
            root /usr/lib/labwright;
            try_files /-/nothing @slash-{at};
        }}

        location @slash-{at} {{
            return 302 {path};
        }}

        location {path} {{
            proxy_pass http://unix:{socket}:;
            # Only what was let in gets the cookie: this server's own answers, such as 401, have no such line.
            add_header Set-Cookie $front_door_cookie;
            add_header X-Content-Type-Options nosniff always;
            add_header Referrer-Policy no-referrer always;
        }}
"
        )
        .expect("writing to a string does not fail");
        let next = at + 1;
        write!(
            links,
            "
        location = /{at} {{
            auth_request /access/{at};
            proxy_pass http://unix:/run/labwright-front-door/ready.sock:/{next};
        }}

        location = /access/{at} {{
            internal;
            proxy_pass http://unix:{socket}:{path}token;
        }}
"
        )
        .expect("writing to a string does not fail");
    }
    include_str!("templates/nginx.conf")
        .replace("@INDEX@", &index)
        .replace("@ACCESS@", &access)
        .replace("@LINKS@", &links)
        .replace("@COUNT@", &door.terminals().len().to_string())
}

fn service(door: &FrontDoor) -> String {
    let terminals: Vec<String> = door.terminals().iter().map(unit_name).collect();
    let terminals = terminals.join(" ");
    let wants = if terminals.is_empty() { String::new() } else { format!("Wants={terminals}\n") };
    let after = format!("After=network.target {terminals}");
    let after = after.trim_end();
    // Ports below 1024 need a capability, which is then the only one.
    let capabilities = if door.port() < 1024 { "CAP_NET_BIND_SERVICE" } else { "" };
    let ambient = if door.port() < 1024 { "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" } else { "" };
    // The rate of restarts is bounded by RestartSec; a limit on their number would let a learner lock himself out.
    format!(
        "\
[Unit]
Description=Front door of the lab
AssertPathExists=/etc/labwright/credential
{wants}{after}
StartLimitIntervalSec=0

[Service]
Type=exec
User=labwright-web
ExecStartPre=+/usr/lib/labwright/front-door
ExecStartPre=/bin/rm -f /run/labwright-front-door/ready.sock
ExecStart=/usr/sbin/nginx -c /usr/lib/labwright/nginx.conf -g 'daemon off;'
KillSignal=SIGQUIT
TimeoutStopSec=5
Restart=always
RestartSec=2
RuntimeDirectory=labwright-front-door
RuntimeDirectoryMode=0700
UMask=0077
{ambient}CapabilityBoundingSet={capabilities}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
SystemCallArchitectures=native
"
    )
}

fn terminal_service(terminal: &Terminal) -> String {
    let (name, user, dir, socket) = (terminal.name(), terminal.user(), socket_dir(terminal), socket(terminal));
    // No sandboxing and no NoNewPrivileges: the learner may have been given sudo, and works on the whole machine.
    // The umask lets the web server's group open the socket; the learner's shell gets the usual one again.
    format!(
        "\
[Unit]
Description=Terminal {name} of the lab, as {user}
AssertPathExists=/etc/labwright/credential
StartLimitIntervalSec=0

[Service]
Type=exec
User={user}
WorkingDirectory=~
UMask=0007
ExecStartPre=+/usr/bin/install -d -o {user} -g labwright-web -m 2750 {dir}
ExecStartPre=/bin/rm -f {socket}
ExecStart=ttyd -W -b /{name} -i {socket} -m 16 -P 20 -T xterm-256color /bin/sh -c 'umask 022; exec \"$$SHELL\" -l'
Restart=always
RestartSec=2
OOMPolicy=continue
"
    )
}
