//! The seed disk, read by other people's programs.

use crate::support::{command, has};
use labwright_cloud_init::{Card, Seed, meta_data, network_config, network_config_of};

fn seed() -> Seed {
    Seed {
        user_data: "#cloud-config\n{}\n".to_owned(),
        meta_data: meta_data("session-1", Some("attacker")),
        network_config: Some(network_config("52:54:00:6c:61:62")),
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = command(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn others_find_the_label_and_the_documents() {
    if !has("mtools", &["/usr/bin/mtype", "/usr/sbin/fsck.fat", "/usr/sbin/blkid"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("seed.img");
    let disk = disk.to_str().unwrap();
    let seed = seed();
    fs_err::write(disk, seed.image().unwrap()).unwrap();
    run("/usr/sbin/fsck.fat", &["-n", disk]);
    assert_eq!(run("/usr/sbin/blkid", &["-p", "-o", "value", "-s", "LABEL", "-s", "TYPE", disk]), "CIDATA\nvfat\n");
    for (name, content) in [
        ("user-data", &seed.user_data),
        ("meta-data", &seed.meta_data),
        ("network-config", seed.network_config.as_ref().unwrap()),
    ] {
        assert_eq!(run("/usr/bin/mtype", &["-i", disk, &format!("::{name}")]), *content);
    }
}

#[test]
fn the_same_seed_is_the_same_disk() {
    assert!(seed().image().unwrap() == seed().image().unwrap());
    assert!(seed().image().unwrap() != Seed { network_config: None, ..seed() }.image().unwrap());
}

#[test]
fn a_seed_that_does_not_fit_says_so() {
    let error = Seed { user_data: "x".repeat(2 << 20), ..seed() }.image().unwrap_err();
    assert_eq!(error.to_string(), "could not write `user-data` onto the seed disk of 1048576 bytes");
}

#[test]
fn documents() {
    assert_eq!(meta_data("i", None), "\"instance-id\": \"i\"\n");
    insta::assert_snapshot!(format!("{}---\n{}", seed().meta_data, seed().network_config.unwrap()));
}

#[test]
fn cards_are_named_in_their_order() {
    let card = |mac: &str, address: Option<&str>| Card { mac: mac.to_owned(), address: address.map(str::to_owned) };
    let config = network_config_of(&[card("06:00:00:00:00:01", None), card("06:00:00:00:00:02", Some("10.0.0.5/24"))]);
    insta::assert_snapshot!(config);
}
