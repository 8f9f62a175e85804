//! The front door's real files with the real nginx, openssl and shell of this machine: only the paths are replaced.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use crate::support::{Backend, Door, Request};
use labwright_cloud_init::{FrontDoor, Terminal, front_door};

const BASIC: (&str, &str) = ("Authorization", "Basic c3R1ZGVudDpzM2NyOmV0IHcwcmQ="); // student:s3cr:et w0rd

fn status(door: &Door, path: &str, headers: &[(&str, &str)]) -> u16 {
    door.get(path, headers).status
}

#[test]
fn the_credential_opens_and_nothing_else_does() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");

    for path in ["/", "/shell", "/shell/", "/shell/token", "/shell/ws", "/nothing", "/-/nothing", "/-/ready/"] {
        let answer = door.get(path, &[]);
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.header("www-authenticate"), Some(r#"Basic realm="Labwright""#), "{path}");
        assert_eq!(answer.header("set-cookie"), None, "{path}");
        assert!(!answer.text.contains("shell"), "{path}: {}", answer.text);
    }
    for wrong in [
        "Basic c3R1ZGVudDp3cm9uZw==",         // student:wrong
        "Basic cm9vdDpzM2NyOmV0IHcwcmQ=",     // root:s3cr:et w0rd
        "Basic c3R1ZGVudDpzM2NyOmV0IHcwcmQh", // the password and one character more
        "Bearer c3R1ZGVudDpzM2NyOmV0IHcwcmQ=",
    ] {
        assert_eq!(status(&door, "/shell/", &[("Authorization", wrong)]), 401, "{wrong}");
    }

    let answer = door.get("/shell/", &[BASIC]);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("server"), Some("nginx"));
    for (path, to) in [("/", "/shell/"), ("/shell", "/shell/")] {
        let answer = door.get(path, &[BASIC]);
        assert_eq!((answer.status, answer.header("location")), (302, Some(to)), "{path}");
    }
    assert_eq!(status(&door, "/nothing", &[BASIC]), 404);
}

#[test]
fn the_cookie_opens_without_the_credential() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");

    let answer = door.get("/shell/", &[BASIC]);
    let line = answer.header("set-cookie").unwrap();
    let (cookie, attributes) = line.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict");
    let (name, token) = cookie.split_once('=').unwrap();
    assert!(name.starts_with("labwright_") && name.len() == 18, "{name}");
    assert_eq!(token.len(), 64);
    let secure = door.get("/shell/", &[BASIC, ("X-Forwarded-Proto", "https")]);
    assert!(secure.header("set-cookie").unwrap().ends_with("; SameSite=Strict; Secure"));

    let again = door.get("/shell/", &[("Cookie", cookie)]);
    assert_eq!((again.status, again.header("set-cookie")), (200, None));
    assert_eq!(status(&door, "/shell/", &[("Cookie", &format!("other=1; {cookie}"))]), 200);
    let wrong = format!("{name}={}", "0".repeat(64));
    for cookie in [&wrong, &format!("{name}=off"), &format!("{name}="), &format!("labwright={token}")] {
        assert_eq!(status(&door, "/shell/", &[("Cookie", cookie)]), 401, "{cookie}");
    }
}

#[test]
fn a_page_from_elsewhere_is_refused_whatever_it_knows() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");
    let port = door.port;

    let own = format!("http://127.0.0.1:{port}");
    for path in ["/shell/", "/-/ready"] {
        assert_eq!(status(&door, path, &[BASIC, ("Origin", &own)]), 200, "{path}");
        for foreign in [
            "http://evil.example".to_owned(),
            format!("http://evil.example:{port}"),
            "http://127.0.0.1".to_owned(),
            format!("http://127.0.0.1:{port}.evil.example"),
            format!("http://127x0.0.1:{port}"),
            "null".to_owned(),
            "|".to_owned(),
            format!("http://a|127.0.0.1:{port}"),
        ] {
            assert_eq!(status(&door, path, &[BASIC, ("Origin", &foreign)]), 403, "{path} {foreign}");
        }
    }
    let https = [BASIC, ("Origin", "https://Lab.example"), ("Host", "lab.example")];
    assert_eq!(status(&door, "/shell/", &https), 200);
}

#[test]
fn what_the_learner_runs_sees_no_secret_and_steers_nothing() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");

    // The backend echoes the request, and sends headers that would set a cookie and redirect inside nginx.
    let answer = door.get("/shell/?a=b", &[BASIC, ("Cookie", "mine=1"), ("X-Kept", "yes")]);
    let port = door.port;
    assert_eq!(answer.status, 200);
    let mut lines: Vec<&str> = answer.body.lines().filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["GET /shell/?a=b HTTP/1.1", &format!("Host: 127.0.0.1:{port}"), "X-Kept: yes"]);
    assert!(!answer.text.contains("evil"), "{}", answer.text);
}

#[test]
fn ready_means_that_every_terminal_answers() {
    let Some(door) = Door::open(&["one", "two", "three"]) else { return };
    let mut backends: Vec<_> = ["one", "two"].iter().map(|name| Backend::serve(&door, name)).collect();
    let ready = || {
        let answer = door.get("/-/ready", &[]);
        assert_eq!(answer.header("set-cookie"), None);
        (answer.status, answer.body)
    };
    let not_ready = (503, "not ready\n".to_owned());
    assert_eq!(ready(), not_ready);
    backends.push(Backend::serve(&door, "three"));
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    drop(backends.remove(0));
    assert_eq!(ready(), not_ready);
    assert_eq!(door.get("/", &[BASIC]).header("location"), Some("/one/"));
    assert_eq!(status(&door, "/one/", &[BASIC]), 502);
}

#[test]
fn a_websocket_passes_with_the_cookie_alone() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");
    let cookie = door.get("/shell/", &[BASIC]).header("set-cookie").unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let origin = format!("http://127.0.0.1:{}", door.port);
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Origin", &origin)];

    assert_eq!(status(&door, "/shell/ws", &upgrade), 401);
    let mut headers = upgrade.to_vec();
    headers.push(("Cookie", cookie));
    let mut request = Request::send(door.port, "/shell/ws", &headers);
    let head = request.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for word in ["id\n", "exit\n"] {
        request.write(word);
        assert_eq!(request.read_until("\n"), word);
    }
}

#[test]
fn guessing_is_slowed_down_for_those_without_the_cookie_only() {
    let Some(door) = Door::open(&["shell"]) else { return };
    let _shell = Backend::serve(&door, "shell");
    let cookie = door.get("/shell/", &[BASIC]).header("set-cookie").unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let statuses: Vec<u16> = (0..100).map(|_| status(&door, "/shell/", &[])).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    for _ in 0..50 {
        assert_eq!(status(&door, "/shell/", &[("Cookie", cookie)]), 200);
    }
}

#[test]
fn the_helper_leaves_no_secret_where_others_read() {
    let Some(door) = Door::prepare(&["shell"]) else { return };
    door.write_credential("student:s3cr:et w0rd\n");
    assert!(door.run_helper());
    let dir = door.root.path().join("secrets");
    let mode = |path: &std::path::Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o750);
    let mut names = Vec::new();
    for entry in fs_err::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o640, "{path:?}");
        assert!(!fs_err::read_to_string(&path).unwrap().contains("s3cr"), "{path:?}");
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["cookie.conf", "htpasswd", "listen.conf"]);
    let htpasswd = fs_err::read_to_string(dir.join("htpasswd")).unwrap();
    assert!(htpasswd.starts_with("student:$6$"), "{htpasswd}");
    // The stand-in for openssl wrote its arguments down, and called the real one.
    assert_eq!(door.openssl_calls(), "passwd -6 -stdin\nrand -hex 32\nrand -hex 4\n");
}

#[test]
fn two_boots_have_two_cookies() {
    let Some(door) = Door::prepare(&["shell"]) else { return };
    door.write_credential("student:s3cr:et w0rd\n");
    let cookie = || {
        assert!(door.run_helper());
        fs_err::read_to_string(door.root.path().join("secrets/cookie.conf")).unwrap()
    };
    assert_ne!(cookie(), cookie());
}

#[test]
fn no_credential_no_front_door() {
    let Some(door) = Door::prepare(&["shell"]) else { return };
    assert!(!door.run_helper(), "without the file");
    for half in ["", "student:s3cr:et w0rd", "student\n", ":word\n", "student:\n"] {
        door.write_credential(half);
        assert!(!door.run_helper(), "{half:?}");
    }
    assert!(!door.root.path().join("secrets").exists());
    assert!(!door.starts(), "nginx must not start without the derived files");
    thread::sleep(Duration::from_millis(50));
    assert!(std::net::TcpStream::connect(("127.0.0.1", door.port)).is_err());
}

#[test]
fn systemd_takes_the_units() {
    if !crate::support::has("systemd", &["/usr/bin/systemd-analyze"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path.trim_start_matches('/'));
    let door = FrontDoor::new(80, vec![Terminal::new("shell", "student").unwrap()]).unwrap();
    let mut units = Vec::new();
    for file in front_door(&door).files {
        fs_err::create_dir_all(at(file.path.as_str()).parent().unwrap()).unwrap();
        fs_err::write(at(file.path.as_str()), &file.content).unwrap();
        fs_err::set_permissions(at(file.path.as_str()), std::fs::Permissions::from_mode(file.mode)).unwrap();
        if file.path.as_str().starts_with("/etc/systemd/system/") {
            units.push(at(file.path.as_str()));
        }
    }
    assert_eq!(units.len(), 3);
    // Whatever the units call must exist in the root that is looked at.
    for program in ["/usr/bin/ttyd", "/usr/sbin/nginx", "/usr/bin/install", "/bin/rm"] {
        fs_err::create_dir_all(at(program).parent().unwrap()).unwrap();
        fs_err::write(at(program), "").unwrap();
        fs_err::set_permissions(at(program), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = crate::support::command("/usr/bin/systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(format!("--root={}", root.path().display()))
        .args(&units)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
