//! What a recipe finds on a disk that another recipe made.

use labwright_core::{AccessKind, Arch, ByteSize, ImageForm, Span};

use crate::decode::Decoder;
use crate::load::Feature;
use crate::resolved::{Access, Recipe};

/// The recipe that another one starts from, with everything below it: what the upper one may name, and what it must fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    name: String,
    architectures: Vec<Arch>,
    disk_size: Option<ByteSize>,
    users: Vec<String>,
    access: Vec<(String, AccessKind)>,
    form: ImageForm,
    boots: bool,
}

impl Below {
    /// The disk of `recipe`, which itself stands on `below`.
    pub fn new(recipe: &Recipe, below: Option<&Self>) -> Self {
        let mut users: Vec<String> = below.map(|below| below.users.clone()).unwrap_or_default();
        users.extend(recipe.users.iter().map(|user| user.name.clone()));
        let own: Vec<(String, AccessKind)> =
            recipe.access.iter().map(|access| (access.name.clone(), access.kind())).collect();
        let mut access: Vec<(String, AccessKind)> = below.map(|below| below.access.clone()).unwrap_or_default();
        access.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
        access.extend(own);
        Self {
            name: recipe.name.clone(),
            architectures: recipe.architectures.clone(),
            disk_size: recipe.disk_size.or(below.and_then(|below| below.disk_size)),
            users,
            access,
            form: recipe.output.form(),
            boots: recipe.base.boots() && below.is_none_or(|below| below.boots),
        }
    }

    /// What the image of the recipe is for.
    pub fn form(&self) -> ImageForm {
        self.form
    }

    /// The ways in that the disk offers, by name.
    pub fn access(&self) -> &[(String, AccessKind)] {
        &self.access
    }

    /// The size of the disk, where a recipe of the chain gives one.
    pub fn disk_size(&self) -> Option<ByteSize> {
        self.disk_size
    }

    /// Whether a machine can boot from the disk, as far as its recipes tell.
    pub(crate) fn boots(&self) -> bool {
        self.boots
    }

    pub(crate) fn users(&self) -> impl Iterator<Item = &str> {
        self.users.iter().map(String::as_str)
    }
}

/// Whether the recipe starts from another one's disk.
pub(crate) fn is_on_a_recipe(decoder: &Decoder<'_>) -> bool {
    base_place(decoder).is_some()
}

fn base_place(decoder: &Decoder<'_>) -> Option<Span> {
    decoder.context.features.iter().find(|(feature, _)| *feature == Feature::BaseRecipe).map(|(_, span)| *span)
}

/// Finds what does not fit on the disk below. `disk` and `access` come with their places.
pub(crate) fn fit(
    decoder: &mut Decoder<'_>,
    architectures: &[Arch],
    disk: Option<(ByteSize, Span)>,
    access: (&[Access], Span),
) {
    let (Some(below), Some(base)) = (decoder.context.below, base_place(decoder)) else { return };
    let name = &below.name;
    for arch in architectures.iter().filter(|arch| !below.architectures.contains(arch)) {
        decoder.push(decoder.error(base, format!("the base recipe `{name}` is not for {arch}, and this one is")));
    }
    if let (Some((size, span)), Some(least)) = (disk, below.disk_size)
        && size < least
    {
        let text = format!("the base recipe `{name}` has a disk of {least}: disks never shrink");
        decoder.push(decoder.error(span, text));
    }
    for own in access.0 {
        let other = below.access.iter().find(|(other, kind)| *other == own.name && *kind != own.kind());
        if let Some((other, kind)) = other {
            let text = format!("the base recipe `{name}` has an access `{other}` of the type {}", kind.as_str());
            decoder.push(decoder.error(access.1, text).hint("give this one another name"));
        }
    }
}
