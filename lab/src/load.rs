//! Reading a lab, and finding its images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use labwright_core::{AccessKind, ByteSize, Diagnostic, Diagnostics, ImageFacts, ImageForm, SourceFile, did_you_mean};
use labwright_document::{Files, Kind, Node, listed, parse, sorted};

use crate::decode::{self, Context, Decoder, ImageUse, WORDS};
use crate::lock::{LockedImage, LockedLab};
use crate::resolved::Lab;

/// Where a lab's text comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The author's directory: recipes and solve scripts are there.
    Source,
    /// A published bundle: recipes and solve scripts are not, and images stand in its lock.
    Bundle,
}

/// A lab without errors, and what else its text says.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The lab.
    pub lab: Lab,
    /// What works and is likely not meant.
    pub warnings: Diagnostics,
    /// The text, for further messages about it.
    pub file: Arc<SourceFile>,
    uses: Vec<ImageUse>,
}

/// What a lab may want of an image: known from a built image, and before that from its recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOffer {
    /// What the image is for.
    pub form: ImageForm,
    /// The ways in, by name.
    pub access: Vec<(String, AccessKind)>,
    /// The size that the guest sees, where it is known.
    pub virtual_size: Option<ByteSize>,
}

impl From<&ImageFacts> for ImageOffer {
    fn from(facts: &ImageFacts) -> Self {
        Self {
            form: facts.form,
            access: facts.access.iter().map(|access| (access.name.clone(), access.kind)).collect(),
            virtual_size: Some(facts.virtual_size),
        }
    }
}

/// Whether a text is a lab, by its `kind`; `false` also where it is no document at all.
pub fn is_lab(name: &str, text: &str) -> bool {
    let file = SourceFile::new(name, text);
    let kind = parse(&file, &WORDS, &mut Vec::new()).and_then(|root| scalar(&root, "kind").map(str::to_owned));
    kind.as_deref() == Some(WORDS.kind)
}

/// The recipes that a lab names, as far as its text can be read: also where it has mistakes, so that theirs are found in
/// the same run.
pub fn recipes_in(name: &str, text: &str) -> Vec<String> {
    let file = SourceFile::new(name, text);
    let Some(root) = parse(&file, &WORDS, &mut Vec::new()) else { return Vec::new() };
    let Some(Node { kind: Kind::Sequence(machines), .. }) = entry(&root, "machines") else { return Vec::new() };
    let images = machines.iter().filter_map(|machine| scalar(machine, "image"));
    let mut found: Vec<String> = Vec::new();
    for image in images.filter(|image| image.starts_with(['.', '/'])) {
        if !found.iter().any(|known| known == image) {
            found.push(image.to_owned());
        }
    }
    found
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Kind::Mapping(entries) = &node.kind else { return None };
    entries.iter().find(|(known, _)| known.name == key).map(|(_, node)| node)
}

fn scalar<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &entry(node, key)?.kind {
        Kind::Scalar(scalar) => Some(&scalar.value),
        _ => None,
    }
}

/// Reads, resolves and validates a lab.
///
/// `name` is what messages call the file, `dir` the directory that its paths are relative to, and `overrides` the
/// values of variables that take the place of their defaults. `offers` is what recipes offer, by their path as the lab
/// writes it; what is not in it is not checked.
///
/// The error holds all mistakes of the file, and its warnings, in file order.
pub fn load(
    name: &str,
    text: &str,
    (dir, files): (&Path, &dyn Files),
    overrides: &BTreeMap<String, String>,
    origin: Origin,
    offers: &BTreeMap<String, ImageOffer>,
) -> Result<Loaded, Diagnostics> {
    let file = SourceFile::new(name, text);
    let mut found = Vec::new();
    let Some(root) = parse(&file, &WORDS, &mut found) else { return Err(sorted(found)) };
    let context = Context { origin, secrets: Vec::new(), used_secrets: Vec::new(), uses: Vec::new() };
    let mut decoder = Decoder::new(&file, (dir, files), found, WORDS, context);
    let lab = decode::lab(&mut decoder, &root, overrides);
    let uses = decoder.context.uses;
    let mut found = decoder.found;
    for one in &uses {
        if let Some(offer) = one.recipe.as_ref().and_then(|recipe| offers.get(recipe)) {
            check_image(&file, one, Some(offer), &mut found);
        }
    }
    let found = sorted(found);
    match lab {
        Some(lab) if !found.has_errors() => Ok(Loaded { lab, warnings: found, file, uses }),
        _ => Err(found),
    }
}

/// The document of a lab as JSON, by the core schema of YAML 1.2: what a JSON Schema validator looks at.
pub fn to_json(name: &str, text: &str) -> Result<serde_json::Value, Diagnostics> {
    labwright_document::to_json(name, text, &WORDS)
}

impl Loaded {
    /// What is wrong between the lab and the images of its machines, as far as the images are known: a machine
    /// without an entry in `images` is left out. `None` in it is an image that says nothing of itself.
    pub fn check_images(&self, images: &BTreeMap<String, Option<ImageOffer>>) -> Diagnostics {
        let mut found = Vec::new();
        for one in &self.uses {
            if let Some(offer) = images.get(&one.machine) {
                check_image(&self.file, one, offer.as_ref(), &mut found);
            }
        }
        sorted(found)
    }

    /// The lab with its images, one for each machine; or what is wrong between the two.
    ///
    /// # Panics
    ///
    /// If `images` lacks a machine of the lab.
    pub fn lock(self, images: BTreeMap<String, LockedImage>) -> Result<LockedLab, Diagnostics> {
        let facts =
            images.iter().map(|(name, image)| (name.clone(), image.facts.as_ref().map(ImageOffer::from))).collect();
        let found = self.check_images(&facts);
        if found.has_errors() {
            return Err(found);
        }
        for machine in &self.lab.machines {
            assert!(images.contains_key(&machine.name), "every machine has an image");
        }
        Ok(LockedLab::new(self.lab, images))
    }
}

/// What a machine wants and its image does not offer; `None` is an image that says nothing of itself.
fn check_image(file: &Arc<SourceFile>, one: &ImageUse, offer: Option<&ImageOffer>, found: &mut Vec<Diagnostic>) {
    let Some(offer) = offer else {
        found.extend(one.access.iter().map(|(name, span)| {
            Diagnostic::error(file, *span, format!("the image does not say that it offers `{name}`"))
                .hint("Labwright did not build it; add `{name: site, type: http, port: 8080}`, `console` or `screen`")
        }));
        return;
    };
    let (wanted, span) = one.form;
    if offer.form != wanted {
        let (what, of, hint) = match wanted {
            ImageForm::ContainerDisk => ("a virtual machine", "a container image", "write `kind: container`"),
            ImageForm::Container => (
                "a container",
                "the disk of a virtual machine",
                "write `kind: vm`, or `output: {container: {}}` in its recipe",
            ),
        };
        let message = format!("`{}` is {what}, and its image is {of}", one.machine);
        found.push(Diagnostic::error(file, span, message).hint(hint));
        return;
    }
    let mut behind_door = None;
    for (name, span) in &one.access {
        match offer.access.iter().find(|(offered, _)| offered == name) {
            Some((_, kind)) if *kind != AccessKind::Http => behind_door = behind_door.or(Some((name, *span))),
            Some(_) => {}
            None => {
                let message = format!("the image of `{}` offers no access `{name}`", one.machine);
                let diagnostic = Diagnostic::error(file, *span, message);
                let names: Vec<&str> = offer.access.iter().map(|(name, _)| name.as_str()).collect();
                found.push(match did_you_mean(name, names.iter().copied()) {
                    Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
                    None if names.is_empty() => diagnostic.hint("its recipe has no `access`"),
                    None => diagnostic.hint(format!("it offers {}", listed(&names))),
                });
            }
        }
    }
    if let Some((name, span)) = behind_door.filter(|_| !one.has_password) {
        let message = format!("nobody could open `{name}`: the session gives no user of this machine a password");
        found.push(Diagnostic::error(file, span, message).hint(
            "add `users: [{name: student, password: \"${{ secrets.student_password }}\"}]`; these open the machine's front door",
        ));
    }
    if let (Some((size, span)), Some(needed)) = (one.size, offer.virtual_size)
        && size < needed
    {
        let message = format!("{size} is too small for this image's disk of {needed}");
        found.push(Diagnostic::error(file, span, message).hint("leave `size` out to take what the image needs"));
    }
}
