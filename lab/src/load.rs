//! Reading a lab, and finding its images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use labwright_core::{AccessKind, Diagnostic, Diagnostics, ImageFacts, SourceFile, Span, did_you_mean};
use labwright_document::{Files, listed, parse, sorted};

use crate::decode::{self, Context, Decoder, ImageUse, WORDS};
use crate::lock::{LockedImage, LockedLab};
use crate::resolved::{Lab, MachineKind};

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

/// Reads, resolves and validates a lab.
///
/// `name` is what messages call the file, `dir` the directory that its paths are relative to, and `overrides` the
/// values of variables that take the place of their defaults.
///
/// The error holds all mistakes of the file, and its warnings, in file order.
pub fn load(
    name: &str,
    text: &str,
    (dir, files): (&Path, &dyn Files),
    overrides: &BTreeMap<String, String>,
    origin: Origin,
) -> Result<Loaded, Diagnostics> {
    let file = SourceFile::new(name, text);
    let mut found = Vec::new();
    let Some(root) = parse(&file, &WORDS, &mut found) else { return Err(sorted(found)) };
    let context = Context { origin, secrets: Vec::new(), used_secrets: Vec::new(), uses: Vec::new() };
    let mut decoder = Decoder::new(&file, (dir, files), found, WORDS, context);
    let lab = decode::lab(&mut decoder, &root, overrides);
    let uses = decoder.context.uses;
    let found = sorted(decoder.found);
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
    /// Where the lab names a machine's image, for messages about it.
    pub fn image_span(&self, machine: &str) -> Span {
        self.uses.iter().find(|one| one.machine == machine).map(|one| one.image).unwrap_or_default()
    }

    /// What is wrong between the lab and the images of its virtual machines, as far as the images are known: a machine
    /// without an entry in `images` is left out. `None` in it is an image that says nothing of itself.
    pub fn check_images(&self, images: &BTreeMap<String, Option<ImageFacts>>) -> Diagnostics {
        let mut found = Vec::new();
        for one in &self.uses {
            match images.get(&one.machine) {
                Some(Some(facts)) => self.check_image(one, facts, &mut found),
                Some(None) => found.extend(one.access.iter().map(|(name, span)| {
                    Diagnostic::error(&self.file, *span, format!("the image does not say that it offers `{name}`"))
                        .hint("Labwright did not build it; add `{name: site, type: http, port: 8080}`, `console` or `screen`")
                })),
                None => {}
            }
        }
        sorted(found)
    }

    fn check_image(&self, one: &ImageUse, facts: &ImageFacts, found: &mut Vec<Diagnostic>) {
        let mut behind_door = None;
        for (name, span) in &one.access {
            match facts.access.iter().find(|access| access.name == *name) {
                Some(access) if access.kind != AccessKind::Http => behind_door = behind_door.or(Some((name, *span))),
                Some(_) => {}
                None => {
                    let message = format!("the image of `{}` offers no access `{name}`", one.machine);
                    let diagnostic = Diagnostic::error(&self.file, *span, message);
                    let names: Vec<&str> = facts.access.iter().map(|access| access.name.as_str()).collect();
                    found.push(match did_you_mean(name, names.iter().copied()) {
                        Some(meant) => diagnostic.hint(format!("did you mean `{meant}`?")),
                        None if names.is_empty() => diagnostic.hint("its recipe has no `access`"),
                        None => diagnostic.hint(format!("it offers {}", listed(&names))),
                    });
                }
            }
        }
        let Some(vm) = self.lab.machine(&one.machine).and_then(|machine| machine.vm()) else { return };
        if let Some((name, span)) = behind_door
            && !vm.users.iter().any(|user| user.password.is_some())
        {
            let message = format!("nobody could open `{name}`: the session gives no user of this machine a password");
            found.push(Diagnostic::error(&self.file, span, message).hint(
                "add `users: [{name: student, password: \"${{ secrets.student_password }}\"}]`; these open the machine's front door",
            ));
        }
        if let (Some(span), Some(size)) = (one.size, vm.settings.storage.as_ref().and_then(|storage| storage.size))
            && size < facts.virtual_size
        {
            let message = format!("{size} is too small for this image's disk of {}", facts.virtual_size);
            found.push(
                Diagnostic::error(&self.file, span, message).hint("leave `size` out to take what the image needs"),
            );
        }
    }

    /// The lab with its images, one for each machine; or what is wrong between the two.
    ///
    /// # Panics
    ///
    /// If `images` lacks a machine of the lab.
    pub fn lock(self, images: BTreeMap<String, LockedImage>) -> Result<LockedLab, Diagnostics> {
        let facts = images.iter().map(|(name, image)| (name.clone(), image.facts.clone())).collect();
        let found = self.check_images(&facts);
        if found.has_errors() {
            return Err(found);
        }
        for machine in &self.lab.machines {
            assert!(images.contains_key(&machine.name), "every machine has an image");
        }
        Ok(LockedLab::new(self.lab, images))
    }

    /// Whether a machine of this name is a container.
    pub fn is_container(&self, machine: &str) -> bool {
        self.lab.machine(machine).is_some_and(|machine| matches!(machine.kind, MachineKind::Container(_)))
    }
}
