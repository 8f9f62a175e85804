//! Everything that is written into a guest, whole: a change to any of it is a change that somebody reviews.

use std::fmt::Write as _;

use labwright_cloud_init::{FrontDoor, GuestConfig, InvalidFrontDoor, Terminal, front_door};

fn door(port: u16, terminals: &[(&str, &str)]) -> FrontDoor {
    FrontDoor::new(port, terminals.iter().map(|(name, user)| Terminal::new(*name, *user).unwrap()).collect()).unwrap()
}

fn show(config: &GuestConfig) -> String {
    let mut text = String::new();
    writeln!(text, "packages: {:?}", config.packages).unwrap();
    writeln!(text, "commands: {:?}", config.commands).unwrap();
    writeln!(text, "enable: {:?}", config.enable).unwrap();
    writeln!(text, "disable: {:?}", config.disable).unwrap();
    for file in &config.files {
        write!(text, "\n======== {:04o} {}\n{}", file.mode, file.path, file.content).unwrap();
    }
    text
}

#[test]
fn one_terminal() {
    insta::assert_snapshot!(show(&front_door(&door(8080, &[("shell", "student")]))));
}

#[test]
fn two_terminals_on_a_low_port() {
    let config = front_door(&door(80, &[("shell", "student"), ("admin-shell", "root")]));
    insta::assert_snapshot!(show(&config));
}

#[test]
fn names_become_parts_of_units_and_are_checked_for_it() {
    for (name, user, why) in [
        ("", "student", InvalidFrontDoor::Name(String::new())),
        ("-", "student", InvalidFrontDoor::Name("-".to_owned())),
        ("a/b", "student", InvalidFrontDoor::Name("a/b".to_owned())),
        ("Shell", "student", InvalidFrontDoor::Name("Shell".to_owned())),
        ("shell", "stu dent", InvalidFrontDoor::User("stu dent".to_owned())),
        ("shell", "%h", InvalidFrontDoor::User("%h".to_owned())),
        ("shell", "1", InvalidFrontDoor::User("1".to_owned())),
    ] {
        assert_eq!(Terminal::new(name, user), Err(why), "{name} {user}");
    }
    let twice = vec![Terminal::new("a", "x").unwrap(), Terminal::new("a", "y").unwrap()];
    assert_eq!(FrontDoor::new(1, twice), Err(InvalidFrontDoor::Duplicate("a".to_owned())));
    assert_eq!(FrontDoor::new(0, Vec::new()), Err(InvalidFrontDoor::Port));
}
