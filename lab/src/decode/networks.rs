//! `networks`, and the machines' places in them.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use labwright_core::{Diagnostic, Span};
use labwright_document::rules as shared;
use labwright_document::{Node, Text};

use super::{Decoder, refer};
use crate::resolved::{Interface, Network};
use crate::rules;

const KEYS: [&str; 3] = ["name", "cidr", "internet"];
/// The network of a lab that declares none: every machine is on it.
const IMPLICIT: &str = "default";

/// The networks, and how far their addresses are taken.
#[derive(Debug, Default)]
pub(super) struct Networks {
    pub(super) declared: Vec<Network>,
    names: Vec<Text>,
    addresses: BTreeMap<String, Vec<(std::net::Ipv4Addr, Span)>>,
    used: Vec<String>,
}

/// The networks in the order of the file; one that all machines are on where none is declared.
pub(super) fn networks(decoder: &mut Decoder<'_>, node: Option<&Node>) -> Networks {
    let Some(node) = node else {
        let only = Network { name: IMPLICIT.to_owned(), cidr: None, internet: false, attachment: None };
        return Networks { declared: vec![only], ..Networks::default() };
    };
    let mut networks = Networks { names: super::names_in(decoder, Some(node)), ..Networks::default() };
    let mut seen = Vec::new();
    for item in decoder.list(node, "`networks`").unwrap_or_default() {
        let Some(fields) = decoder.fields(item, "a network", &KEYS) else { continue };
        let name = decoder
            .required(&fields, "name", "a network")
            .and_then(|node| decoder.checked(node, "`name`", shared::name));
        let cidr = fields.get("cidr").and_then(|node| decoder.read(node, "`cidr`", rules::cidr));
        let internet = fields.get("internet").and_then(|node| decoder.boolean(node, "`internet`")).unwrap_or(false);
        let Some(name) = name else { continue };
        decoder.unique(&mut seen, &name, "network");
        networks.declared.push(Network { name: name.value, cidr, internet, attachment: None });
    }
    networks
}

impl Networks {
    /// The names that may be referred to.
    pub(super) fn names(&self) -> &[Text] {
        &self.names
    }

    /// `interfaces` of a machine.
    pub(super) fn interfaces(
        &mut self,
        decoder: &mut Decoder<'_>,
        node: Option<&Node>,
        machine: Span,
    ) -> Vec<Interface> {
        if self.names.is_empty() && self.declared.iter().any(|network| network.name == IMPLICIT) {
            if let Some(node) = node {
                let diagnostic = decoder.error(node.span, "the lab declares no networks");
                decoder.push(diagnostic.hint("leave `interfaces` out: all machines are on one network then"));
            }
            return vec![Interface { network: IMPLICIT.to_owned(), address: None }];
        }
        let Some(node) = node else {
            let warning = Diagnostic::warning(decoder.file, machine, "this machine is on no network");
            decoder.push(warning.hint("give it `interfaces: [{network: NAME}]` if other machines are to reach it"));
            return Vec::new();
        };
        let mut found: Vec<Interface> = Vec::new();
        let mut seen = Vec::new();
        for item in decoder.list(node, "`interfaces`").unwrap_or_default() {
            let Some(fields) = decoder.fields(item, "an interface", &["network", "address"]) else { continue };
            let network = decoder
                .required(&fields, "network", "an interface")
                .and_then(|node| decoder.text(node, "`network`"))
                .and_then(|text| Some(Text { value: refer(decoder, &text, "network", &self.names)?, ..text }));
            let address = fields.get("address").map(|node| (node, decoder.text(node, "`address`")));
            let Some(network) = network else { continue };
            decoder.unique(&mut seen, &network, "network");
            let address = match address {
                Some((_, Some(text))) => match self.address(decoder, &network.value, &text) {
                    Some(address) => Some(address),
                    None => continue,
                },
                Some((_, None)) => continue,
                None => None,
            };
            self.used.push(network.value.clone());
            found.push(Interface { network: network.value, address });
        }
        found
    }

    /// A machine's address, once in its network and inside the network's range.
    fn address(&mut self, decoder: &mut Decoder<'_>, network: &str, text: &Text) -> Option<std::net::Ipv4Addr> {
        let Ok(address) = text.value.parse::<std::net::Ipv4Addr>() else {
            decoder.push(decoder.not(text, "an IPv4 address (such as 10.10.20.5)"));
            return None;
        };
        let declared = self.declared.iter_mut().find(|known| known.name == network)?;
        // Addresses without a range mean the usual one.
        let usual = Ipv4Net::new(address, 24).map(|net| net.trunc());
        let range = match declared.cidr {
            Some(range) => range,
            None => *declared.cidr.insert(usual.ok()?),
        };
        let wrong = if !range.contains(&address) {
            Some((format!("{address} is outside of the network `{network}`"), format!("its range is {range}")))
        } else if address == range.network() || address == range.broadcast() {
            Some((format!("{address} is no machine's address in {range}"), "it means the network itself".to_owned()))
        } else if Some(address) == range.hosts().next() {
            let next = "gateways take the first address of a network; take another one".to_owned();
            Some((format!("{address} is the first address of {range}"), next))
        } else {
            None
        };
        if let Some((message, hint)) = wrong {
            decoder.push(decoder.error(text.span, message).hint(hint));
            return None;
        }
        let taken = self.addresses.entry(network.to_owned()).or_default();
        decoder.once(taken, address, text.span, "address")?;
        Some(address)
    }

    /// Warns of networks that no machine is on.
    pub(super) fn unused(&self, decoder: &mut Decoder<'_>) {
        for name in self.names.iter().filter(|name| !self.used.contains(&name.value)) {
            let message = format!("no machine is on the network `{}`", name.value);
            decoder.push(Diagnostic::warning(decoder.file, name.span, message));
        }
    }
}
