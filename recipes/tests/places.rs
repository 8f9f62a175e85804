//! Exact places, limits, and no panic on any text.

mod support;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use labwright_core::Diagnostics;
use support::{full, load_text};

const HEAD: &str = "# ☃☃☃\napiVersion: labwright/v1alpha1\nkind: Recipe\nmetadata: {name: a, version: 1.0.0}\nbase: {bootstrap: debian, suite: trixie}\n";

/// The texts that the mistakes of a recipe point at.
fn pointed(text: &str) -> Vec<String> {
    let Err(Diagnostics(mistakes)) = load_text(text) else { return Vec::new() };
    mistakes.iter().map(|mistake| text[mistake.span.start..mistake.span.end].to_owned()).collect()
}

#[test]
fn points_at_the_exact_word_in_an_expression() {
    for (what, value, expected) in [
        ("plain", "hostname: ☃${{ usr }}", "usr"),
        ("plain on two lines", "hostname: a\n   b ${{ usr }}", "usr"),
        ("double-quoted", "hostname: \"☃ ${{ usr }}\"", "usr"),
        ("single-quoted", "hostname: 'it''s ${{ usr }}'", "usr"),
        ("literal", "runcmd:\n  - |\n    ☃ one\n      two\n\n    x ${{ usr }}", "usr"),
        ("literal with its own indentation", "runcmd:\n  - |2\n      one\n    x ${{ usr }}", "usr"),
        ("literal with empty lines first", "runcmd:\n  - |\n\n    x ${{ usr }}", "usr"),
        ("folded", "runcmd:\n  - >-\n    one\n    x ${{ usr }}", "usr"),
        ("escaped: the whole scalar", "hostname: \"\\t${{ usr }}\"", "\"\\t${{ usr }}\""),
        ("through an alias: where it was written", "x: &x ${{ usr }}\nhostname: *x", "x|usr"),
    ] {
        let text = format!("{HEAD}{value}\n");
        assert_eq!(pointed(&text).join("|"), expected, "{what}");
        let windows = text.replace('\n', "\r\n");
        assert_eq!(pointed(&windows).join("|"), expected, "{what}, with Windows line ends");
        let marked = format!("\u{feff}{text}");
        assert_eq!(pointed(&marked).join("|"), expected, "{what}, with a byte order mark");
    }
}

#[test]
fn an_anchor_used_twice_is_wrong_once() {
    let text = format!("{HEAD}users:\n  - &u {{name: Student}}\n  - *u\n");
    assert_eq!(pointed(&text), ["Student"]);
}

#[test]
fn an_alias_bomb_ends_quickly() {
    let mut text = format!("{HEAD}a0: &a0 [x, x]\n");
    for level in 1..200 {
        let alias = format!("*a{}", level - 1);
        let aliases = [alias.as_str(); 4].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").expect("a string takes everything");
    }
    let start = Instant::now();
    let mistakes = load_text(&text).expect_err("a bomb is no recipe");
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
    assert!(mistakes.0[0].message.contains("too large"), "{mistakes}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_is_a_diagnostic() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("{HEAD}packages: {}{}\n", open.repeat(100_000), close.repeat(100_000));
        load_text(&text).expect_err("nothing is so deep");
    }
    let steps = (0..2000).map(|level| " ".repeat(level)).collect::<Vec<_>>().join("- \n");
    load_text(&format!("{HEAD}packages:\n{steps}")).expect_err("nothing is so deep");
}

#[test]
fn a_large_file_is_a_diagnostic() {
    let mistakes = load_text(&"#".repeat(2 << 20)).expect_err("too large");
    assert!(mistakes.0[0].message.contains("too large"), "{mistakes}");
}

#[test]
fn no_truncation_and_no_deletion_panics() {
    let text = fs_err::read_to_string(full().join("recipe.yaml")).expect("the recipe is there");
    let render = |text: &str| {
        if let Err(mistakes) = load_text(text) {
            // Only one in a hundred is drawn: drawing is slow, and the places are checked for all.
            if text.len().is_multiple_of(101) {
                mistakes.render(false);
            }
            for mistake in mistakes.0 {
                assert!(text.get(mistake.span.start..mistake.span.end).is_some(), "{mistake:?}");
            }
        }
    };
    for (at, c) in text.char_indices() {
        render(&text[..at]);
        let deleted = format!("{}{}", &text[..at], &text[at + c.len_utf8()..]);
        render(&deleted);
    }
}
