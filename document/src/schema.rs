//! Parts of JSON Schemas (draft 2020-12) of documents before their expressions are evaluated.

use serde_json::{Value, json};

/// A DNS label of at most 32 characters.
pub const NAME: &str = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?";
/// A user or group name.
pub const ACCOUNT: &str = "[a-z_][a-z0-9_-]{0,31}";
/// A plain name of a file.
pub const FILE_NAME: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";
/// A length of time.
pub const DURATION: &str = "(?=.)(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?";
/// A semantic version without build metadata.
pub const SEMVER: &str =
    r"(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*)(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?";

/// A mapping with no other keys than these.
pub fn object(description: &str, required: &[&str], properties: &Value) -> Value {
    let mut object = json!({
        "description": description,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// A text in which expressions may stand anywhere.
pub fn text(description: &str) -> Value {
    json!({"description": description, "type": "string"})
}

/// A text that matches a pattern unless it has expressions, whose values a schema does not know.
pub fn pattern(description: &str, pattern: &str) -> Value {
    json!({"description": description, "type": "string", "pattern": format!(r"^(?:{pattern})$|\$\{{\{{")})
}

/// One of a few words, or an expression.
pub fn words(description: &str, words: &[&str]) -> Value {
    pattern(description, &words.join("|"))
}

/// A value that is no text, or an expression that becomes one.
pub fn or_expression(description: &str, mut value: Value) -> Value {
    value["description"] = json!(description);
    json!({"description": description, "anyOf": [value, {"type": "string", "pattern": r"\$\{\{"}]})
}

/// `true` or `false`, or an expression.
pub fn boolean(description: &str, default: bool) -> Value {
    let mut value = or_expression(description, json!({"type": "boolean"}));
    value["default"] = json!(default);
    value
}

/// A list of items of one kind.
pub fn list(description: &str, items: &Value) -> Value {
    json!({"description": description, "type": "array", "items": items})
}

/// A definition of this schema.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// The `variables` of a document.
pub fn variables() -> Value {
    json!({
        "description": "Values for `${{ NAME }}` in the document's texts.",
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": object("A variable.", &[], &json!({
            "default": {
                "description": "Its value where none is given when building; without it, one must be given.",
                "type": ["string", "number", "boolean"],
                "not": {"type": "string", "pattern": r"\$\{\{"},
            },
            "description": {"description": "What it is for.", "type": "string"},
        })),
    })
}
