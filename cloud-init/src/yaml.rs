use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Writes a mapping as YAML that YAML 1.1 and 1.2 readers understand alike.
///
/// Block style, so that a person can read it; every key and every string in double quotes, with everything but
/// printable ASCII escaped. JSON itself would nearly do, but cloud-init's reader (PyYAML) refuses a raw DEL and does
/// not join JSON's surrogate pairs.
pub(crate) fn write(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    if map.is_empty() {
        out.push_str("{}\n");
    } else {
        write_map(&mut out, map, 0, false);
    }
    out
}

fn write_map(out: &mut String, map: &Map<String, Value>, indent: usize, mut continues_line: bool) {
    for (key, value) in map {
        if !continues_line {
            push_indent(out, indent);
        }
        continues_line = false;
        push_string(out, key);
        out.push(':');
        write_nested(out, value, indent);
    }
}

/// Writes a value behind `key:`.
fn write_nested(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(out, map, indent + 2, false);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            write_list(out, list, indent + 2, false);
        }
        scalar => {
            out.push(' ');
            push_scalar(out, scalar);
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, list: &[Value], indent: usize, mut continues_line: bool) {
    for value in list {
        if !continues_line {
            push_indent(out, indent);
        }
        continues_line = false;
        out.push_str("- ");
        match value {
            Value::Object(map) if !map.is_empty() => write_map(out, map, indent + 2, true),
            Value::Array(inner) if !inner.is_empty() => write_list(out, inner, indent + 2, true),
            scalar => {
                push_scalar(out, scalar);
                out.push('\n');
            }
        }
    }
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn push_scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_string(out, text),
        // What is left are numbers, booleans, null and empty collections, which YAML writes as JSON does.
        other => out.push_str(&other.to_string()),
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            other => {
                let code = u32::from(other);
                match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                }
                .expect("writing to a string does not fail");
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let value = json!({
            "text": "yes", "odd": "a\u{7f}\u{85}\u{1f600}ß\r\n\t\"\\ #: {}", "number": 12, "float": 1.5,
            "truth": true, "nothing": null, "empty": {}, "none": [], "": "0644",
            "list": [[1, [2, "a"]], {"a": {"b": [{"c": "d", "e": []}]}, "f": "g"}, "no", []],
        });
        let text = write(value.as_object().unwrap());
        assert!(text.is_ascii());
        let again: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(again, value, "{text}");
        assert_eq!(write(&Map::new()), "{}\n");
    }

    #[test]
    fn reads_well() {
        let value = json!({"a": {"b": ["c", {"d": 1, "e": [2]}]}});
        assert_eq!(
            write(value.as_object().unwrap()),
            "\"a\":\n  \"b\":\n    - \"c\"\n    - \"d\": 1\n      \"e\":\n        - 2\n"
        );
    }
}
