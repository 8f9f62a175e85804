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
pub fn network_config(mac: &str) -> String {
    network_config_of(&[Card { mac: mac.to_owned(), address: None }])
}

/// A network-config for these cards. One with an address of its own gets no route but that to its network.
///
/// A card is found by address and named `eth0`, `eth1`, …, because that is the one way of saying it that every renderer
/// of cloud-init (netplan, networkd, ifupdown) follows; a pattern for names is not.
pub fn network_config_of(cards: &[Card]) -> String {
    let cards: Vec<Value> = cards
        .iter()
        .enumerate()
        .map(|(at, card)| {
            let subnet = match &card.address {
                Some(address) => json!({"type": "static", "address": address}),
                None => json!({"type": "dhcp"}),
            };
            json!({"type": "physical", "name": format!("eth{at}"), "mac_address": card.mac, "subnets": [subnet]})
        })
        .collect();
    let mut map = Map::new();
    map.insert("version".to_owned(), json!(1));
    map.insert("config".to_owned(), json!(cards));
    yaml::write(&map)
}
