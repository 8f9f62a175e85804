//! The syntax of names and values that only labs have; each rule says in words what it wants.

use ipnet::Ipv4Net;
use labwright_document::Wanted;
use labwright_document::rules::{Rule, all, is_label};

use crate::resolved::KubevirtVersion;

/// Whether a namespace is the cluster's own, or its operators': a session there would cut it off and take its room.
pub fn is_reserved_namespace(name: &str) -> bool {
    ["default", "cdi", "kubevirt", "longhorn-system", "rook-ceph"].contains(&name)
        || ["kube-", "openshift", "kubevirt-", "cdi-", "cattle-"].iter().any(|start| name.starts_with(start))
}

/// A machine's name, which is also that of a Kubernetes Service: RFC 1035 wants a letter first.
pub(crate) fn machine(text: &str) -> Rule {
    if is_label(text, 32) && text.starts_with(|c: char| c.is_ascii_lowercase()) {
        Ok(())
    } else {
        Err("a machine's name (a small letter, then small letters, digits and `-` between them, at most 32 characters)")
    }
}

/// A name of a Kubernetes object: a DNS subdomain.
pub(crate) fn object(text: &str) -> Rule {
    if text.len() <= 253 && text.split('.').all(|label| is_label(label, 63)) {
        Ok(())
    } else {
        Err("a name of a Kubernetes object (small letters, digits, `-` and `.`)")
    }
}

/// `[NAMESPACE/]NAME` of a NetworkAttachmentDefinition.
pub(crate) fn attachment(text: &str) -> Rule {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if namespace.is_none_or(|namespace| is_label(namespace, 63)) && object(name).is_ok() {
        Ok(())
    } else {
        Err("a name of a NetworkAttachmentDefinition (NAME or NAMESPACE/NAME)")
    }
}

/// A name of a volume of a virtual machine.
pub(crate) fn volume(text: &str) -> Rule {
    if is_label(text, 63) { Ok(()) } else { Err("a name of a volume (small letters, digits and `-` between them)") }
}

/// A private range of addresses with room for machines.
pub(crate) fn cidr(text: &str) -> Result<Ipv4Net, Wanted> {
    let wanted = "a range of IPv4 addresses (such as 10.10.20.0/24, from /8 to /29)";
    let net: Ipv4Net = text.parse().map_err(|_| wanted)?;
    if net.trunc() == net && (8..=29).contains(&net.prefix_len()) { Ok(net) } else { Err(wanted) }
}

/// A minor version of KubeVirt.
pub(crate) fn kubevirt_version(text: &str) -> Result<KubevirtVersion, Wanted> {
    text.parse().map_err(|_| "a version of KubeVirt that is known (1.5, 1.6, 1.7, 1.8 or 1.9)")
}

/// An SPDX licence expression, as far as its characters tell.
pub(crate) fn license(text: &str) -> Rule {
    let inner = all(text, |byte| byte.is_ascii_alphanumeric() || b"-.+:() ".contains(&byte));
    if inner && !text.trim().is_empty() { Ok(()) } else { Err("an SPDX licence expression (such as CC-BY-4.0)") }
}

/// A text inside a secret's value: characters that need no care in YAML, shells, environment variables and templates.
pub(crate) fn secret_text(text: &str) -> Rule {
    if all(text, |byte| (0x20..0x7f).contains(&byte) && !b"\"'\\`$".contains(&byte)) {
        Ok(())
    } else {
        Err("a text for a secret (printable ASCII without quotes, `\\` and `$`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "attacker", "web-1"] {
            assert_eq!(machine(good), Ok(()), "{good}");
        }
        for bad in ["1web", "Web", "a.b", "-a", "a-", "", &"a".repeat(33)] {
            assert!(machine(bad).is_err(), "{bad}");
        }
        assert!(object("u1.medium").is_ok() && object("u1..x").is_err() && object("U1").is_err());
        assert!(attachment("labs/lan").is_ok() && attachment("lan").is_ok() && attachment("a/b/c").is_err());
    }

    #[test]
    fn values() {
        assert!(cidr("10.10.20.0/24").is_ok());
        for bad in ["10.10.20.1/24", "10.0.0.0/30", "10.0.0.0", "0.0.0.0/0", "fd00::/64"] {
            assert!(cidr(bad).is_err(), "{bad}");
        }
        assert!(secret_text("FLAG{").is_ok() && secret_text("a$b").is_err() && secret_text("\u{e4}").is_err());
    }
}
