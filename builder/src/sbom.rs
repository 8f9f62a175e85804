//! The list of what is on a disk, as CycloneDX 1.6 in JSON.

use std::fmt::Write as _;

use labwright_core::{Digest, ImageFacts};
use labwright_guest::inventory::{InstalledPackage, Inventory};
use serde_json::{Value, json};

use crate::engine::Artifact;

/// The identifier of the image within its document.
const IMAGE: &str = "image";

impl Artifact {
    /// The packages on the disk as a CycloneDX 1.6 document, for the image that has this manifest.
    ///
    /// `created` (RFC 3339) is the only point in time that gets in; without it the document has none. The same disk,
    /// facts and manifest give the same bytes.
    pub fn sbom(&self, manifest: &Digest, created: Option<&str>) -> Vec<u8> {
        document(&self.inventory, &self.facts, manifest, created)
    }
}

/// What an inventory cannot tell, as a sentence for people; none where it tells all that package managers know.
pub(crate) fn lack(inventory: &Inventory) -> Option<String> {
    match (inventory.unread.is_empty(), inventory.dpkg) {
        (true, true) => None,
        (true, false) => Some("the disk has no package database of dpkg: its SBOM lists no packages".to_owned()),
        (false, _) => {
            Some(format!("the SBOM lists no packages of {}: only dpkg's are read", inventory.unread.join(" and ")))
        }
    }
}

/// Names are in sorted order everywhere, so the bytes do not depend on how `serde_json` was built.
fn document(inventory: &Inventory, facts: &ImageFacts, manifest: &Digest, created: Option<&str>) -> Vec<u8> {
    let mut components: Vec<Value> = inventory.distribution.iter().map(|name| system(name, inventory)).collect();
    components.extend(inventory.packages.iter().map(|package| library(package, inventory)));
    // What is no package (files, what commands fetch) is in no list, so nobody knows whether the list is complete.
    let aggregate = if lack(inventory).is_none() { "unknown" } else { "incomplete" };
    let mut image = json!({
        "bom-ref": IMAGE,
        "hashes": [{"alg": algorithm(manifest), "content": manifest.hex()}],
        "name": facts.name,
        "type": "container",
        "version": facts.version,
    });
    if let Some(lack) = lack(inventory) {
        let properties = json!([{"name": "dev.labwright:packages", "value": lack}]);
        image = json!({
            "bom-ref": image["bom-ref"],
            "hashes": image["hashes"],
            "name": image["name"],
            "properties": properties,
            "type": image["type"],
            "version": image["version"],
        });
    }
    let tool = json!({"name": "labwright", "type": "application", "version": facts.tool_version});
    let metadata = match created {
        Some(created) => json!({"component": image, "timestamp": created, "tools": {"components": [tool]}}),
        None => json!({"component": image, "tools": {"components": [tool]}}),
    };
    let document = json!({
        "bomFormat": "CycloneDX",
        "components": components,
        "compositions": [{"aggregate": aggregate, "assemblies": [IMAGE]}],
        "metadata": metadata,
        "specVersion": "1.6",
        "version": 1,
    });
    serde_json::to_vec(&document).expect("a JSON value has string keys and no failing parts")
}

fn algorithm(digest: &Digest) -> &'static str {
    match digest.algorithm() {
        labwright_core::Algorithm::Sha256 => "SHA-256",
        labwright_core::Algorithm::Sha512 => "SHA-512",
    }
}

fn system(name: &str, inventory: &Inventory) -> Value {
    let reference = format!("os:{name}");
    match &inventory.release {
        Some(release) => {
            json!({"bom-ref": reference, "name": name, "type": "operating-system", "version": release})
        }
        None => json!({"bom-ref": reference, "name": name, "type": "operating-system"}),
    }
}

fn library(package: &InstalledPackage, inventory: &Inventory) -> Value {
    let purl = purl(package, inventory);
    json!({
        "bom-ref": purl,
        "name": package.name,
        "purl": purl,
        "type": "library",
        "version": package.version,
    })
}

/// The package URL of a package of dpkg. Scanners know a package's flaws by its source package, `upstream`.
///
/// Source: ECMA-427, Package-URL; the type `deb` in its registry of types.
fn purl(package: &InstalledPackage, inventory: &Inventory) -> String {
    let vendor = inventory.distribution.as_deref().unwrap_or("debian");
    let mut purl = format!(
        "pkg:deb/{}/{}@{}?arch={}",
        encoded(vendor),
        encoded(&package.name),
        encoded(&package.version),
        encoded(&package.architecture)
    );
    if let (Some(distribution), Some(release)) = (&inventory.distribution, &inventory.release) {
        purl.push_str("&distro=");
        purl.push_str(&encoded(&format!("{distribution}-{release}")));
    }
    if (&package.source, &package.source_version) != (&package.name, &package.version) {
        let version = if package.source_version == package.version {
            String::new()
        } else {
            format!("@{}", package.source_version)
        };
        purl.push_str("&upstream=");
        purl.push_str(&encoded(&format!("{}{version}", package.source)));
    }
    purl
}

/// Everything but letters, digits, `.-_~` and the colon becomes `%XX`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, source: &str, source_version: &str) -> InstalledPackage {
        InstalledPackage {
            name: name.to_owned(),
            architecture: "amd64".to_owned(),
            version: version.to_owned(),
            source: source.to_owned(),
            source_version: source_version.to_owned(),
        }
    }

    fn inventory() -> Inventory {
        Inventory {
            distribution: Some("debian".to_owned()),
            release: Some("13".to_owned()),
            dpkg: true,
            unread: Vec::new(),
            packages: vec![
                package("g++", "4:14.2.0-1", "gcc-defaults", "1.220"),
                package("libc6", "2.41-12+deb13u1~x", "glibc", "2.41-12+deb13u1~x"),
                package("sed", "4.9-2", "sed", "4.9-2"),
            ],
        }
    }

    fn facts() -> ImageFacts {
        serde_json::from_value(json!({
            "name": "shell", "version": "1.0.0", "arch": "amd64", "virtualSize": "1Gi", "base": "debian-13",
            "baseDigest": Digest::sha256(b"base"), "recipeDigest": Digest::sha256(b"recipe"),
            "buildKey": Digest::sha256(b"key"), "toolVersion": "9.9.9",
        }))
        .unwrap()
    }

    #[test]
    fn package_urls_are_encoded_as_their_standard_says() {
        let inventory = inventory();
        let urls: Vec<String> = inventory.packages.iter().map(|one| purl(one, &inventory)).collect();
        assert_eq!(
            urls,
            [
                "pkg:deb/debian/g%2B%2B@4:14.2.0-1?arch=amd64&distro=debian-13&upstream=gcc-defaults%401.220",
                "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1~x?arch=amd64&distro=debian-13&upstream=glibc",
                "pkg:deb/debian/sed@4.9-2?arch=amd64&distro=debian-13",
            ]
        );
        let strange = Inventory { distribution: None, release: None, ..inventory };
        assert_eq!(purl(&package("ä b", "1", "ä b", "1"), &strange), "pkg:deb/debian/%C3%A4%20b@1?arch=amd64");
    }

    #[test]
    fn a_document_has_no_clock_and_says_what_it_lacks() {
        let manifest = Digest::sha256(b"manifest");
        let read = |inventory: &Inventory, created| -> Value {
            serde_json::from_slice(&document(inventory, &facts(), &manifest, created)).unwrap()
        };
        let whole = read(&inventory(), None);
        assert_eq!((&whole["bomFormat"], &whole["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
        assert_eq!(whole["metadata"]["component"]["hashes"][0]["content"], manifest.hex());
        assert_eq!(whole["metadata"].get("timestamp"), None);
        assert_eq!(whole["components"].as_array().unwrap().len(), 4);
        assert_eq!(
            (&whole["components"][0]["type"], &whole["components"][0]["version"]),
            (&"operating-system".into(), &"13".into())
        );
        assert_eq!(whole["compositions"][0]["aggregate"], "unknown");
        assert_eq!(read(&inventory(), Some("2023-11-14T22:13:20Z"))["metadata"]["timestamp"], "2023-11-14T22:13:20Z");

        let other = Inventory { unread: vec!["rpm".to_owned()], ..Inventory::default() };
        let other = read(&other, None);
        assert_eq!(other["compositions"][0]["aggregate"], "incomplete");
        let said = &other["metadata"]["component"]["properties"][0]["value"];
        assert_eq!(said, "the SBOM lists no packages of rpm: only dpkg's are read");
        assert_eq!(other["components"], json!([]));
    }
}
