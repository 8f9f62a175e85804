use labwright_core::ByteSize;

/// Limits of registries for one blob, by the end of the host name: name, bytes, and what else to know.
///
/// Sources: GitHub, "Working with the container registry"; AWS, "Amazon ECR service quotas" and "Amazon ECR Public
/// service quotas"; Microsoft, "Azure Container Registry service tiers". Read in November 2026.
const LIMITS: [(&str, u64, &str); 4] = [
    ("ghcr.io", 10_000_000_000, "and an upload may take at most ten minutes"),
    ("public.ecr.aws", 10_000 << 20, ""),
    (".amazonaws.com", 52_000 << 20, ""),
    (".azurecr.io", 200 << 30, ""),
];

/// From here on, registries that are not in the list are likely to have trouble.
const LARGE: u64 = 19 << 29;

/// Warnings about blobs (sizes in bytes) that a registry is known to refuse, or likely to.
pub fn size_warnings(registry: &str, sizes: impl IntoIterator<Item = u64>) -> Vec<String> {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let limit = LIMITS.iter().find(|(end, _, _)| host == end.trim_start_matches('.') || host.ends_with(end));
    sizes
        .into_iter()
        .filter_map(|size| {
            let human = ByteSize::from_bytes(size).human();
            match limit {
                Some((_, limit, note)) if size > *limit => {
                    let note = if note.is_empty() { String::new() } else { format!(", {note}") };
                    let limit = ByteSize::from_bytes(*limit).human();
                    Some(format!("{registry} takes blobs of at most {limit}{note}: it will refuse this layer of {human}"))
                }
                None if size > LARGE => Some(format!(
                    "many registries refuse blobs of more than 10 GB, and this layer has {human}: compress the disk, or ask the owner of {registry}"
                )),
                Some(_) | None => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_only_of_what_does_not_fit() {
        assert_eq!(size_warnings("ghcr.io", [1, 10_000_000_000]), Vec::<String>::new());
        assert_eq!(
            size_warnings("ghcr.io", [10_000_000_001, 5]),
            [
                "ghcr.io takes blobs of at most 9.3 GiB, and an upload may take at most ten minutes: it will refuse this layer of 9.3 GiB"
            ]
        );
        assert_eq!(size_warnings("1.dkr.ecr.eu-west-1.amazonaws.com", [20 << 30]), Vec::<String>::new());
        assert_eq!(
            size_warnings("registry.example:5000", [LARGE, LARGE + 1]),
            [
                "many registries refuse blobs of more than 10 GB, and this layer has 9.5 GiB: compress the disk, or ask the owner of registry.example:5000"
            ]
        );
    }
}
