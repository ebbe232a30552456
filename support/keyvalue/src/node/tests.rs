use schemars::json_schema;

use super::{Node, first_sentence};

#[test]
fn references_options_and_parts_are_layers() {
    let schema = json_schema!({
        "description": "the field",
        "anyOf": [{"$ref": "#/$defs/Of%20%3CT%3E"}, {"type": "null"}],
        "$defs": {"Of <T>": {"description": "the type", "allOf": [{"type": "integer", "minimum": 3}]}},
    });
    let node = Node::root(&schema);
    assert!(node.is_type("integer"));
    assert_eq!(node.text("description"), Some("the field"));
    assert_eq!(
        node.get("minimum").and_then(serde_json::Value::as_u64),
        Some(3)
    );
    assert!(node.alternatives().is_empty());
}

#[test]
fn members_of_all_layers_are_there_once() {
    let schema = json_schema!({
        "properties": {"b": {"type": "boolean"}, "a": {}},
        "required": ["a"],
        "allOf": [{"properties": {"c": {}, "b": {"type": "integer"}}, "required": ["c"]}],
    });
    let node = Node::root(&schema);
    let members = node.members();
    assert_eq!(
        members.iter().map(|member| member.json).collect::<Vec<_>>(),
        ["b", "a", "c"]
    );
    assert!(members[0].node.is_type("boolean"));
    assert!(node.requires("a") && node.requires("c") && !node.requires("b"));
}

#[test]
fn variants_come_with_their_docs() {
    let schema = json_schema!({
        "oneOf": [
            {"type": "string", "enum": ["C", "D"]},
            {"type": "string", "const": "A", "description": "first"},
        ],
    });
    assert_eq!(
        Node::root(&schema).variants(),
        [("C", None), ("D", None), ("A", Some("first"))]
    );
}

#[test]
fn sentences_end_before_a_capital_letter() {
    assert_eq!(first_sentence("One. Two."), "One");
    assert_eq!(
        first_sentence("Some, e.g. these\nthree. Then more"),
        "Some, e.g. these three"
    );
    assert_eq!(first_sentence("No stop\n\nAnother paragraph"), "No stop");
    assert_eq!(first_sentence(""), "");
}
