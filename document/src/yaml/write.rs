use super::{Map, Yaml, scalar};

const STEP: usize = 2;

/// A mapping as a document in block style, with a line end behind it.
pub fn write(map: &Map) -> String {
    let mut out = String::new();
    if map.is_empty() {
        out.push_str("{}\n");
    }
    write_map(&mut out, map, 0, false);
    out
}

fn write_map(out: &mut String, map: &Map, indent: usize, mut continues_line: bool) {
    for (key, value) in map.iter() {
        if !continues_line {
            push_indent(out, indent);
        }
        continues_line = false;
        out.push_str(&scalar::scalar(key));
        out.push(':');
        match value {
            Yaml::Map(map) if !map.is_empty() => {
                out.push('\n');
                write_map(out, map, indent + STEP, false);
            }
            Yaml::List(list) if !list.is_empty() => {
                out.push('\n');
                write_list(out, list, indent + STEP, false);
            }
            other => {
                out.push(' ');
                write_leaf(out, other, indent + STEP);
            }
        }
    }
}

fn write_list(out: &mut String, list: &[Yaml], indent: usize, mut continues_line: bool) {
    for value in list {
        if !continues_line {
            push_indent(out, indent);
        }
        continues_line = false;
        out.push_str("- ");
        match value {
            Yaml::Map(map) if !map.is_empty() => write_map(out, map, indent + STEP, true),
            Yaml::List(list) if !list.is_empty() => write_list(out, list, indent + STEP, true),
            other => write_leaf(out, other, indent + STEP),
        }
    }
}

/// Writes what needs no further nesting, and the end of the line. `indent` is that of a literal's lines.
fn write_leaf(out: &mut String, value: &Yaml, indent: usize) {
    match value {
        Yaml::Bool(true) => out.push_str("true"),
        Yaml::Bool(false) => out.push_str("false"),
        Yaml::Int(number) => out.push_str(&number.to_string()),
        Yaml::List(_) => out.push_str("[]"),
        Yaml::Map(_) => out.push_str("{}"),
        Yaml::Text(text) => match scalar::literal(text) {
            Some(head) => return write_literal(out, head, text, indent),
            None => out.push_str(&scalar::scalar(text)),
        },
    }
    out.push('\n');
}

fn write_literal(out: &mut String, head: &str, text: &str, indent: usize) {
    out.push_str(head);
    out.push('\n');
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        if !line.is_empty() {
            push_indent(out, indent);
        }
        out.push_str(line);
        out.push('\n');
    }
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}
