//! How a text is written as a scalar.

use std::fmt::Write as _;

/// Words that some reader of YAML 1.1 or 1.2 takes for a truth or for nothing, in whatever case.
const RESERVED: [&str; 11] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"];

/// Units behind which a number is a text to every reader. No unit of one letter that is an exponent (`1E`) is among them.
const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "m", "s"];

/// The text as a scalar on one line.
pub(super) fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else if reads_better_in_single_quotes(text) {
        format!("'{text}'")
    } else {
        quoted(text)
    }
}

/// Whether double quotes would need escapes and single ones none: JSON in a text, say.
fn reads_better_in_single_quotes(text: &str) -> bool {
    text.contains(['"', '\\']) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\'')
}

/// Whether every reader takes the bare text for this very text, wherever it stands in block style.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    if text.ends_with([' ', ':']) || text.contains(": ") || text.contains("  ") || !text.chars().all(is_plain_inside) {
        return false;
    }
    match first {
        '0'..='9' => has_unit(text) || is_dotted(text),
        '/' => true,
        // The letters of `$(NAME)` in Kubernetes; `${name}` has braces and is quoted already.
        '$' => text.starts_with("$("),
        letter => letter.is_alphabetic() && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word)),
    }
}

fn is_plain_inside(character: char) -> bool {
    match character {
        ' ' | '(' | ')' | '\'' | '$' | '%' | '+' | ',' | '-' | '.' | '/' | ':' | ';' | '=' | '?' | '@' | '_' | '~' => {
            true
        }
        other => other.is_alphanumeric(),
    }
}

/// `20Gi`, `500m`, `0s`.
fn has_unit(text: &str) -> bool {
    UNITS.iter().any(|unit| {
        text.strip_suffix(unit)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// `10.0.0.0/8`, `1.2.0`: with two dots it is no number.
fn is_dotted(text: &str) -> bool {
    let (numbers, prefix) = text.split_once('/').map_or((text, None), |(numbers, prefix)| (numbers, Some(prefix)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    numbers.split('.').count() > 2 && numbers.split('.').all(digits) && prefix.is_none_or(digits)
}

/// The text in double quotes, in ASCII but for letters.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            letter if letter.is_alphanumeric() => out.push(letter),
            other => {
                match u32::from(other) {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                }
                .expect("writing to a string does not fail");
            }
        }
    }
    out.push('"');
    out
}

/// The head of a block literal for the text (`|`, `|-`, `|+`), if it can be written as one.
pub(super) fn literal(text: &str) -> Option<&'static str> {
    // A reader finds the indentation by the first line, so that begins with something to see.
    let begins = text.chars().next().is_some_and(|first| !first.is_whitespace());
    let printable = |character: char| matches!(character, '\n' | ' '..='~') || character.is_alphanumeric();
    if !begins || !text.contains('\n') || !text.chars().all(printable) {
        return None;
    }
    Some(match text.len() - text.trim_end_matches('\n').len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    })
}
