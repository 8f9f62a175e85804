//! Which modules of a kernel the machine needs, and in which order they are loaded.

use std::collections::BTreeMap;

use labwright_appliance::ModuleSet;

/// What each set is made of. Modules that a kernel has built in are not missed.
const WANTED: [(ModuleSet, &[&str]); 5] = [
    (
        ModuleSet::Machine,
        // crc32c-intel makes the checksums of ext4 and btrfs cheap.
        &["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "crc32c-intel"],
    ),
    (ModuleSet::Xfs, &["xfs"]),
    (ModuleSet::Btrfs, &["xxhash_generic", "blake2b_generic", "btrfs"]),
    // vfat asks for its tables of characters by name, and there is no modprobe.
    (ModuleSet::Vfat, &["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "vfat"]),
    (ModuleSet::Lvm, &["dm_mod"]),
];

/// Every name that is wanted: what a kept kernel was made for.
pub(crate) fn wanted() -> Vec<String> {
    WANTED.iter().flat_map(|(_, names)| *names).map(|name| normal(name)).collect()
}

/// The names of the modules that a module needs, as its `.modinfo` section says.
///
/// A kernel package has no modules.dep: depmod writes it where the package is installed.
pub(crate) fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let text = String::from_utf8_lossy(&value[..end]);
    text.split(',').filter(|name| !name.is_empty()).map(normal).collect()
}

/// The name of a module; dashes and underscores mean the same.
pub(crate) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The modules of each set in the order in which they are loaded. `graph` has what each module needs; what is not in
/// it is built in.
pub(crate) fn order(graph: &BTreeMap<String, Vec<String>>) -> Vec<(ModuleSet, Vec<String>)> {
    let order = |names: &[&str]| {
        let mut order = Vec::new();
        for name in names {
            visit(&normal(name), graph, &mut order, &mut Vec::new());
        }
        order
    };
    WANTED.iter().map(|(set, names)| (*set, order(names))).collect()
}

fn visit(name: &str, graph: &BTreeMap<String, Vec<String>>, order: &mut Vec<String>, above: &mut Vec<String>) {
    let Some(needs) = graph.get(name) else { return };
    if order.iter().any(|done| done == name) || above.iter().any(|waiting| waiting == name) {
        return;
    }
    above.push(name.to_owned());
    for need in needs {
        visit(need, graph, order, above);
    }
    above.pop();
    order.push(name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(depends(b"\x7fELF..\0license=GPL\0depends=virtio-ring,virtio\0name=x\0"), ["virtio_ring", "virtio"]);
        assert_eq!(depends(b"\0depends=\0"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let graph = [
            ("virtio_pci", vec!["virtio_ring", "virtio"]),
            ("virtio", vec!["virtio_ring"]),
            ("virtio_ring", vec![]),
            ("virtio_net", vec!["failover", "virtio"]),
            ("failover", vec!["virtio_net"]),
            ("unused", vec![]),
        ];
        let graph = graph
            .map(|(name, needs)| (name.to_owned(), needs.into_iter().map(str::to_owned).collect()))
            .into_iter()
            .collect();
        let order = order(&graph);
        assert_eq!(order[0].1, ["virtio_ring", "virtio", "virtio_pci", "failover", "virtio_net"]);
        assert_eq!(order[1], (ModuleSet::Xfs, Vec::new()));
    }
}
