//! What a recipe's packages step installed, as it stands in the lock file.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use labwright_core::{Digest, LockedPackage};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The packages that a recipe's packages step installed, and what had been asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageLock {
    /// The digest of what the recipe asked for: names, files, package sources.
    #[serde(rename = "for")]
    request: Digest,
    /// In their text form, a line for each.
    #[serde(deserialize_with = "packages")]
    packages: Unique<String, String>,
}

impl PackageLock {
    /// What was installed when `request` was asked for.
    pub fn new(request: Digest, packages: impl IntoIterator<Item = LockedPackage>) -> Self {
        Self { request, packages: Unique(packages.into_iter().map(|package| package.to_entry()).collect()) }
    }

    /// What had been asked for.
    pub fn request(&self) -> &Digest {
        &self.request
    }

    /// The packages, in the order of [`LockedPackage`], which is not that of the file.
    pub fn packages(&self) -> Vec<LockedPackage> {
        let read = |(package, version): (&String, &String)| LockedPackage::from_entry(package, version);
        let mut packages: Vec<LockedPackage> = self.packages.0.iter().filter_map(|entry| read(entry).ok()).collect();
        packages.sort();
        packages
    }
}

/// Checks each package while reading, so that [`PackageLock::packages`] loses none.
fn packages<'de, D: Deserializer<'de>>(from: D) -> Result<Unique<String, String>, D::Error> {
    let found = Unique::<String, String>::deserialize(from)?;
    for (package, version) in &found.0 {
        LockedPackage::from_entry(package, version).map_err(D::Error::custom)?;
    }
    Ok(found)
}

/// A map whose text must not have a key twice, as a merge of two versions of a file may leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Unique<K, V>(pub(super) BTreeMap<K, V>);

impl<K, V> Default for Unique<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K, V> Unique<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, K: Deserialize<'de> + Ord + Serialize, V: Deserialize<'de>> Deserialize<'de> for Unique<K, V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Entries(PhantomData))
    }
}

struct Entries<K, V>(PhantomData<(K, V)>);

impl<'de, K: Deserialize<'de> + Ord + Serialize, V: Deserialize<'de>> Visitor<'de> for Entries<K, V> {
    type Value = Unique<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = BTreeMap::new();
        while let Some(key) = map.next_key::<K>()? {
            let name = serde_json::to_string(&key).unwrap_or_default();
            if found.insert(key, map.next_value()?).is_some() {
                return Err(A::Error::custom(format!("{name} is there twice")));
            }
        }
        Ok(Unique(found))
    }
}
