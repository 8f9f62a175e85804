//! From the written tree to the resolved recipe.

mod access;
mod base;
mod files;
mod output;
mod packages;
mod recipe;
mod users;

use labwright_core::Span;
use labwright_document::Words;
pub(crate) use labwright_document::{Fields, Text, expected, listed, shown};

use crate::below::Below;
use crate::load::Feature;

pub(crate) use recipe::{KIND, recipe};

/// What the decoders of one recipe share.
pub(crate) type Decoder<'a> = labwright_document::Decoder<'a, Context<'a>>;

/// What recipes need besides.
#[derive(Debug, Default)]
pub(crate) struct Context<'a> {
    pub(crate) features: Vec<(Feature, Span)>,
    /// What a base that is a recipe brings; none also where nobody has looked.
    pub(crate) below: Option<&'a Below>,
}

impl Context<'_> {
    pub(crate) fn feature(&mut self, feature: Feature, span: Span) {
        if !self.features.iter().any(|(known, _)| *known == feature) {
            self.features.push((feature, span));
        }
    }
}

/// Words for people.
pub(crate) const WORDS: Words = Words {
    noun: "recipe",
    kind: KIND,
    elsewhere: &ELSEWHERE,
    fixed: "`${{ … }}` works in values, but not in what identifies a recipe or defines a variable",
    elsewhere_names: &[(
        "secrets",
        "a recipe knows no secrets of a session; build secrets are files, see `build_secrets`",
    )],
};

/// Keys that people know from elsewhere, with what a recipe has instead.
const ELSEWHERE: [(&str, &str); 22] = [
    ("<<", "YAML 1.2 has no merge keys; write the keys out, or use a whole value again with an anchor and an alias"),
    ("bootcmd", "a recipe runs nothing at boot; write a systemd unit with `write_files` and enable it in `runcmd`"),
    ("chpasswd", "no image has a known password; a lab gives each session its own"),
    ("content_from", "the key is `from`"),
    ("defer", "files are always written after packages and users"),
    ("expiredate", "do it in `runcmd`"),
    ("fqdn", "the key is `hostname`"),
    ("group", "the keys are `primary_group` and `groups`"),
    ("hashed_passwd", "no image has a known password; a lab gives each session its own"),
    ("home", "the key is `homedir`"),
    ("keyid", "give the key itself: `key: ./keys/NAME.asc`"),
    ("keyserver", "give the key itself: `key: ./keys/NAME.asc`"),
    ("mode", "the key is `permissions`"),
    ("package_upgrade", "a recipe does not upgrade its base; take a newer base instead"),
    ("passwd", "no image has a known password; a lab gives each session its own"),
    ("password", "no image has a known password; a lab gives each session its own"),
    ("plain_text_passwd", "no image has a known password; a lab gives each session its own"),
    ("power_state", "a build never boots the machine"),
    ("source", "a file comes from `content` or, beside the recipe, `from`"),
    ("ssh_import_id", "a build asks no one for keys; write them into `ssh_authorized_keys`"),
    ("ssh_pwauth", "do it with `write_files` below /etc/ssh/sshd_config.d/"),
    ("uname", "the key is `name`"),
];
