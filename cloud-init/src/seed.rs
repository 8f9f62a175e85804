use std::io::{self, Cursor, Write as _};

use serde_json::{Map, Value, json};

use crate::yaml;

/// The size of a seed disk: as small as FAT12 tools accept, with room for far more than a seed.
const SIZE: usize = 1 << 20;

/// The documents of a NoCloud seed.
///
/// Source: cloud-init documentation, "NoCloud": a vfat file system labelled `CIDATA` with the files `user-data`,
/// `meta-data` and, if wanted, `network-config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    /// From [`crate::user_data`].
    pub user_data: String,
    /// From [`meta_data`].
    pub meta_data: String,
    /// From [`network_config`]; `None` lets cloud-init ask DHCP on the first network card.
    pub network_config: Option<String>,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The user-data holds the credential.
        f.debug_struct("Seed")
            .field("meta_data", &self.meta_data)
            .field("network_config", &self.network_config)
            .finish_non_exhaustive()
    }
}

/// The seed does not fit on its disk.
#[derive(Debug, thiserror::Error)]
#[error("could not write `{file}` onto the seed disk of {SIZE} bytes")]
pub struct SeedError {
    /// The file of the seed.
    pub file: &'static str,
    /// The reason.
    pub source: io::Error,
}

impl Seed {
    /// The raw disk image: the same documents give the same bytes on any day.
    pub fn image(&self) -> Result<Vec<u8>, SeedError> {
        let mut disk = Cursor::new(vec![0; SIZE]);
        let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ").volume_id(0x4c42_5752);
        fatfs::format_volume(&mut disk, options).map_err(|source| SeedError { file: "file system", source })?;
        {
            // Without its `chrono` feature, fatfs dates everything to the first day of FAT, which suits us.
            let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())
                .map_err(|source| SeedError { file: "file system", source })?;
            let root = volume.root_dir();
            let files = [
                ("meta-data", Some(&self.meta_data)),
                ("user-data", Some(&self.user_data)),
                ("network-config", self.network_config.as_ref()),
            ];
            for (file, content) in files {
                let Some(content) = content else { continue };
                let mut entry = root.create_file(file).map_err(|source| SeedError { file, source })?;
                entry.write_all(content.as_bytes()).map_err(|source| SeedError { file, source })?;
                entry.flush().map_err(|source| SeedError { file, source })?;
            }
        }
        Ok(disk.into_inner())
    }
}

/// The meta-data: a new `instance_id` makes cloud-init do its work of a first boot again.
pub fn meta_data(instance_id: &str, hostname: Option<&str>) -> String {
    let mut map = Map::new();
    map.insert("instance-id".to_owned(), json!(instance_id));
    if let Some(hostname) = hostname {
        map.insert("local-hostname".to_owned(), json!(hostname));
    }
    yaml::write(&map)
}

/// A network card of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its MAC address.
    pub mac: String,
    /// `ADDRESS/PREFIX`; `None` asks DHCP.
    pub address: Option<String>,
}

/// A network-config that asks DHCP on the card with this MAC address.
///
/// The card is found by address and named `eth0`, because that is the one way of saying it that every renderer of
/// cloud-init (netplan, networkd, ifupdown) follows; a pattern for names is not.
pub fn network_config(mac: &str) -> String {
    let card = json!({"type": "physical", "name": "eth0", "mac_address": mac, "subnets": [{"type": "dhcp"}]});
    let mut map = Map::new();
    map.insert("version".to_owned(), json!(1));
    map.insert("config".to_owned(), json!([card]));
    yaml::write(&map)
}

/// A network-config for the cards of a machine in a cluster, the first of which is on the pod network. Cards are found by
/// their addresses and named `eth0`, `eth1`, … A card with an address of its own gets no route but that to its network.
///
/// Machines find each other by names without a dot, through the search domain that DHCP gives on the pod network. By itself
/// networkd takes none from DHCP, and resolved asks no server for such a name without one; only version 2 of the format has
/// a word for it (`use-domains`), which dhclient needs not.
///
/// Source: systemd.network(5), `UseDomains=`; netplan, "DHCP overrides".
pub fn network_config_of(cards: &[Card]) -> String {
    let cards = cards.iter().enumerate().map(|(at, card)| {
        let name = format!("eth{at}");
        let mut config = json!({"match": {"macaddress": card.mac}, "set-name": name});
        if let Some(address) = &card.address {
            config["addresses"] = json!([address]);
        } else {
            config["dhcp4"] = json!(true);
            if at == 0 {
                config["dhcp4-overrides"] = json!({"use-domains": true});
            }
        }
        (name, config)
    });
    let mut map = Map::new();
    map.insert("version".to_owned(), json!(2));
    map.insert("ethernets".to_owned(), Value::Object(cards.collect()));
    yaml::write(&map)
}
