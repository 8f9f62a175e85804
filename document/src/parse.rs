//! YAML text to a tree with places, within a budget.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span as ParserSpan, StructureStyle};
use labwright_core::{Diagnostic, Diagnostics, SourceFile, Span};

use crate::decoder::Words;
use crate::head::API_VERSION;
use crate::node::{Key, Kind, Node, Scalar, Style};

/// A document is a few pages of text; a file beyond this is something else.
const MAX_BYTES: usize = 1 << 20;
/// Nodes after aliases are expanded.
const MAX_NODES: usize = 20_000;
/// Bytes of all scalars after aliases are expanded.
const MAX_EXPANDED_BYTES: usize = 8 << 20;
/// The deepest document is a handful of levels.
const MAX_DEPTH: usize = 32;

/// The only document of a file; mistakes that leave the tree usable (duplicate keys) are added to `found`.
///
/// `None` when there is no tree; then `found` says why.
pub fn parse(file: &Arc<SourceFile>, words: &Words, found: &mut Vec<Diagnostic>) -> Option<Node> {
    if file.text.len() > MAX_BYTES {
        found.push(
            Diagnostic::error(file, Span::new(0, 0), format!("a file of {} bytes is too large", file.text.len()))
                .label(format!("at most {MAX_BYTES} bytes")),
        );
        return None;
    }
    let mut tree =
        Tree { file, words, found, open: Vec::new(), anchors: HashMap::new(), root: None, nodes: 0, bytes: 0 };
    let options = granit_parser::options! { emit_comments: false, emit_unresolved_aliases: true };
    let mut documents = 0;
    for next in Parser::new_from_str_with_options(&file.text, options) {
        let step = match next {
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                if documents > 1 {
                    let place = place(file, span);
                    tree.found.push(
                        Diagnostic::error(file, place, "a second YAML document")
                            .label(format!("a {} is one document", words.noun)),
                    );
                    return None;
                }
                Ok(())
            }
            Ok((event, span)) => tree.event(event, span),
            Err(error) => Err(Box::new(syntax(file, &error))),
        };
        if let Err(diagnostic) = step {
            tree.found.push(*diagnostic);
            return None;
        }
    }
    let root = tree.root;
    if root.is_none() {
        found.push(
            Diagnostic::error(file, Span::new(0, 0), "the file is empty")
                .hint(format!("a {} begins with `apiVersion: {API_VERSION}` and `kind: {}`", words.noun, words.kind)),
        );
    }
    root
}

/// Byte offsets are there whenever the parser reads from a string.
fn place(file: &SourceFile, span: ParserSpan) -> Span {
    span.byte_range().map_or_else(|| Span::new(file.text.len(), file.text.len()), Span::from)
}

/// What the parser said, with the place widened to a whole character and a hint where one is known.
fn syntax(file: &Arc<SourceFile>, error: &granit_parser::ScanError) -> Diagnostic {
    let start = error.marker().byte_offset().unwrap_or(file.text.len()).min(file.text.len());
    let width = file.text.get(start..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
    let message = format!("not valid YAML: {}", error.info().trim_end_matches('.'));
    let diagnostic = Diagnostic::error(file, Span::new(start, start + width), message);
    let before = file.text.get(..start).unwrap_or_default();
    let line = before.rsplit('\n').next().unwrap_or_default();
    match error.kind() {
        _ if before.ends_with('$') || line.contains("${{") => diagnostic
            .hint("put a value with `${{ … }}` in quotes, inside `{ }` and `[ ]` and where it has `: ` or ` #`"),
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabAtBlockScalarStart => diagnostic.hint("YAML is indented with spaces"),
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => {
            diagnostic.hint("put a text with `: ` in quotes")
        }
        ErrorKind::UnexpectedCharacter { .. } => {
            diagnostic.hint("put a text that begins with a special character in quotes")
        }
        ErrorKind::RecursionLimitExceeded => diagnostic.hint(format!("at most {MAX_DEPTH} levels")),
        _ => diagnostic,
    }
}

/// A collection whose end has not come yet.
struct Open {
    kind: Kind,
    key: Option<Key>,
    start: Span,
    flow: bool,
    anchor: usize,
    /// Where each key was first seen.
    seen: HashMap<String, Span>,
}

struct Tree<'a> {
    file: &'a Arc<SourceFile>,
    words: &'a Words,
    found: &'a mut Vec<Diagnostic>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    nodes: usize,
    bytes: usize,
}

type Step = Result<(), Box<Diagnostic>>;

impl Tree<'_> {
    fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.file, span, message)
    }

    fn event(&mut self, event: Event<'_>, at: ParserSpan) -> Step {
        let span = place(self.file, at);
        let tag = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(.., tag) | Event::MappingStart(.., tag) => tag.as_ref(),
            _ => None,
        };
        if tag.is_some() {
            let place = at.tag_span().map_or(span, |tag| place(self.file, tag));
            let diagnostic = self.error(place, "a YAML tag").label(format!("{}s have no tags", self.words.noun));
            self.found
                .push(diagnostic.hint("put the value in quotes to make it text; binary files have `encoding: b64`"));
        }
        match event {
            Event::Scalar(value, style, anchor, _) => {
                let empty = span.start == span.end;
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::SingleQuoted,
                    ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Folded => Style::Folded,
                };
                // The parser gives `~` for what was not written at all.
                let value = if empty && style == Style::Plain { String::new() } else { value.into_owned() };
                self.add(Node { kind: Kind::Scalar(Scalar { value, style }), span }, anchor)
            }
            Event::SequenceStart(style, anchor, _) => self.begin(Kind::Sequence(Vec::new()), style, span, anchor),
            Event::MappingStart(style, anchor, _) => self.begin(Kind::Mapping(Vec::new()), style, span, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser ends only what it began");
                let last = match &open.kind {
                    Kind::Sequence(items) => items.last().map(|node| node.span),
                    Kind::Mapping(entries) => entries.last().map(|(key, value)| value.span.max(key.span)),
                    Kind::Scalar(_) => None,
                };
                // The end of a block is noticed only at the next token, so the last part says where it was. An alias
                // may lie before the start.
                let end = if open.flow { span.end } else { last.map_or(open.start.end, |last| last.end) };
                let span = Span::new(open.start.start, end.max(open.start.end));
                self.add(Node { kind: open.kind, span }, open.anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err(Box::new(self.error(span, "an alias to something that contains it")));
                };
                let (nodes, bytes) = node.weight();
                self.spend(nodes, bytes, span)?;
                if self.open.len() + node.depth() > MAX_DEPTH {
                    return Err(Box::new(self.too_deep(span)));
                }
                self.place_node(node, span)
            }
            Event::UnresolvedAlias(name) => {
                let diagnostic = self.error(span, format!("no anchor is called `{name}`"));
                self.found.push(diagnostic.hint("put a text that begins with `*` in quotes"));
                // Stands in as text so that the rest of the file is still looked at.
                let scalar = Scalar { value: name.into_owned(), style: Style::DoubleQuoted };
                self.place_node(Node { kind: Kind::Scalar(scalar), span }, span)
            }
            _ => Ok(()),
        }
    }

    fn too_deep(&self, span: Span) -> Diagnostic {
        self.error(span, "nested too deeply").label(format!("at most {MAX_DEPTH} levels"))
    }

    fn begin(&mut self, kind: Kind, style: StructureStyle, start: Span, anchor: usize) -> Step {
        if self.open.len() >= MAX_DEPTH {
            return Err(Box::new(self.too_deep(start)));
        }
        let flow = style == StructureStyle::Flow;
        self.open.push(Open { kind, key: None, start, flow, anchor, seen: HashMap::new() });
        Ok(())
    }

    /// Counts against the budget: this is what stops an alias bomb.
    fn spend(&mut self, nodes: usize, bytes: usize, span: Span) -> Step {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > MAX_NODES || self.bytes > MAX_EXPANDED_BYTES {
            return Err(Box::new(
                self.error(span, "the document is too large once its aliases are expanded")
                    .label(format!("more than {MAX_NODES} values or {MAX_EXPANDED_BYTES} bytes")),
            ));
        }
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Step {
        let bytes = if let Kind::Scalar(scalar) = &node.kind { scalar.value.len() } else { 0 };
        self.spend(1, bytes, node.span)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let span = node.span;
        self.place_node(node, span)
    }

    /// Puts a node where it belongs; `at` is where the file says it (for an alias not the node's own place).
    fn place_node(&mut self, node: Node, at: Span) -> Step {
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.kind {
            Kind::Scalar(_) => {}
            Kind::Sequence(items) => items.push(node),
            Kind::Mapping(entries) => match parent.key.take() {
                None => match node.kind {
                    Kind::Scalar(scalar) => parent.key = Some(Key { name: scalar.value, span: at }),
                    _ => return Err(Box::new(self.error(at, "a key that is not text"))),
                },
                Some(key) => {
                    if let Some(first) = parent.seen.get(&key.name) {
                        let (line, column) = self.file.line_column(first.start);
                        self.found.push(
                            Diagnostic::error(self.file, key.span, format!("duplicate key `{}`", key.name))
                                .label(format!("first given at line {line}, column {column}"))
                                .hint("remove one of the two"),
                        );
                    } else {
                        parent.seen.insert(key.name.clone(), key.span);
                        entries.push((key, node));
                    }
                }
            },
        }
        Ok(())
    }
}

/// The document of a YAML file as JSON, by the core schema of YAML 1.2: what a JSON Schema validator looks at.
pub fn to_json(name: &str, text: &str, words: &Words) -> Result<serde_json::Value, Diagnostics> {
    let file = SourceFile::new(name, text);
    let mut found = Vec::new();
    match parse(&file, words, &mut found) {
        Some(root) if found.is_empty() => Ok(root.to_json()),
        _ => Err(sorted(found)),
    }
}

/// In the order of the file.
pub fn sorted(found: Vec<Diagnostic>) -> Diagnostics {
    let mut found = Diagnostics(found);
    found.sort();
    found
}
