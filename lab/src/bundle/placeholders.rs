//! What an operator fills in.

use std::collections::{BTreeMap, BTreeSet};

use crate::LockedLab;
use crate::manifests::{Manifests, to_yaml};

/// What the operator of a session knows: the names that [`super::routed`] asks for, and a quotation mark, which cannot
/// be lost where a value is filled in (see [`super::secrets`]).
const OPERATORS: [&str; 8] =
    ["host", "router_namespace", "gateway", "gateway_namespace", "ingress_class", "tls_secret", "entry_point", "quote"];

/// Each stands as `${name}` in the texts, which `envsubst` and Flux's postBuild replace. The name is the secret's or the
/// operator's own word, unless the lab has the word behind a dollar of its own.
pub(super) struct Placeholders {
    secrets: BTreeMap<String, String>,
    operators: BTreeMap<&'static str, String>,
}

impl Placeholders {
    pub(super) fn new(locked: &LockedLab, manifests: &Manifests) -> Self {
        let text = to_yaml(manifests.objects());
        let mut taken: BTreeSet<String> = locked.lab().secrets.keys().cloned().collect();
        let mut free = |name: &str, own: bool| {
            let is_free = |name: &String, taken: &BTreeSet<String>| {
                !taken.contains(name) && !text.contains(&format!("${name}")) && !text.contains(&format!("${{{name}"))
            };
            let mut free = name.to_owned();
            if own {
                taken.remove(name);
            }
            while !is_free(&free, &taken) {
                free.push('_');
            }
            taken.insert(free.clone());
            free
        };
        let secrets = locked.lab().secrets.keys().map(|name| (name.clone(), free(name, true))).collect();
        let operators = OPERATORS.into_iter().map(|name| (name, free(name, false))).collect();
        Self { secrets, operators }
    }

    /// The variable of a secret.
    pub(super) fn variable(&self, secret: &str) -> &str {
        &self.secrets[secret]
    }

    /// The placeholder of a secret's value.
    pub(super) fn secret(&self, name: &str) -> String {
        format!("${{{}}}", self.variable(name))
    }

    /// The placeholder of what an operator knows.
    pub(super) fn operator(&self, name: &str) -> String {
        format!("${{{}}}", self.operators[name])
    }
}
