//! What stands in a text for a value until the text is a template.

use crate::LockedLab;

/// Marks that no text of the lab contains, so that whatever looks like one is one.
///
/// The brace makes the writer of YAML quote every text that has a mark in it: what replaces it may look like a number,
/// or contain what would begin a comment or a mapping.
pub(super) struct Marks {
    open: String,
}

const CLOSE: &str = "}@";

impl Marks {
    pub(super) fn new(locked: &LockedLab) -> Self {
        let texts = serde_json::to_string(locked.lab()).expect("a lab has texts, numbers and lists only");
        let mut open = "@{labwright:".to_owned();
        let mut count = 0;
        while texts.contains(&open) {
            count += 1;
            open = format!("@{{labwright{count}:");
        }
        Self { open }
    }

    pub(super) fn mark(&self, name: &str) -> String {
        format!("{}{name}{CLOSE}", self.open)
    }

    /// The text with `text` of what stands between marks and `value` of the name in each mark.
    pub(super) fn replace(
        &self,
        marked: &str,
        mut text: impl FnMut(&str) -> String,
        mut value: impl FnMut(&str) -> String,
    ) -> String {
        let mut out = String::new();
        let mut rest = marked;
        while let Some((before, behind)) = rest.split_once(&self.open) {
            let (name, behind) = behind.split_once(CLOSE).expect("marks are whole");
            out.push_str(&text(before));
            out.push_str(&value(name));
            rest = behind;
        }
        out + &text(rest)
    }
}
