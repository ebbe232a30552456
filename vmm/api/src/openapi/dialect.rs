//! From JSON Schema 2020-12, which the types have, to the schema object of OpenAPI 3.0.3 (section 4.7.24), which is
//! older and knows no `const`, no type `null` and nothing beside `$ref`.

use serde_json::{Map, Value, json};

use super::schemas;

/// Rewrites a schema and all within it.
pub(super) fn convert(schema: Value) -> Value {
    let Value::Object(mut members) = schema else {
        // `true`: anything.
        return json!({});
    };
    members.retain(|key, _| !key.starts_with("x-") && key != "$schema" && key != "title");
    members.shift_remove("$defs");
    if let Some(Value::String(about)) = members.get_mut("description") {
        // Links to items lead nowhere from here.
        *about = about.replace("[`", "`").replace("`]", "`");
    }
    null_type(&mut members);
    choices(&mut members);
    number(&mut members);
    inside(&mut members);
    reference(&mut members);
    default(&mut members);
    Value::Object(members)
}

/// Defaults that are plain. That a member can be left out, `required` says, so that null says nothing; and an object as
/// a default, makers of clients do not understand, so that the description has it.
fn default(members: &mut Map<String, Value>) {
    match members.get("default") {
        Some(Value::Null) => drop(members.shift_remove("default")),
        Some(Value::Object(_)) => {
            let mut value = members.shift_remove("default").unwrap_or_default();
            if let Value::Object(value) = &mut value {
                value.retain(|_, member| !member.is_null());
            }
            say_default(members, &value);
        }
        _ => {}
    }
}

/// Adds a default to the description, unless it is empty.
pub(super) fn say_default(members: &mut Map<String, Value>, value: &Value) {
    if value.as_object().is_some_and(Map::is_empty) {
        return;
    }
    let about = members.get("description").and_then(Value::as_str);
    let text = format!("{}\n\nDefault: `{value}`", about.unwrap_or_default());
    members.insert("description".into(), text.into());
}

/// `"type": ["string", "null"]`.
fn null_type(members: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = members.get_mut("type") else {
        return;
    };
    let count = types.len();
    types.retain(|one| one != "null");
    let nullable = types.len() < count;
    if let [one] = types.as_slice() {
        let one = one.clone();
        members.insert("type".into(), one);
    }
    if nullable {
        members.insert("nullable".into(), true.into());
    }
}

/// `anyOf` with null, and `oneOf` of constants.
fn choices(members: &mut Map<String, Value>) {
    if let Some(Value::Array(mut any)) = members.shift_remove("anyOf") {
        let count = any.len();
        any.retain(|one| one["type"] != "null");
        if any.len() < count {
            members.insert("nullable".into(), true.into());
        }
        let list = if any.len() == 1 { "allOf" } else { "anyOf" };
        members.insert(list.into(), any.into());
    }
    let constant = |one: &Value| {
        let value = one.get("const")?.as_str()?.to_owned();
        let about = one.get("description").and_then(Value::as_str)?.to_owned();
        Some((value, about))
    };
    let constants: Option<Vec<(String, String)>> = members
        .get("oneOf")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(constant).collect());
    if let Some(constants) = constants {
        members.shift_remove("oneOf");
        let about = members.get("description").and_then(Value::as_str);
        let mut text = about.unwrap_or_default().to_owned();
        for (value, about) in &constants {
            text.push_str(&format!("\n- `{value}`: {}", about.replace('\n', " ")));
        }
        let values: Vec<&str> = constants.iter().map(|(value, _)| value.as_str()).collect();
        members.insert("description".into(), text.into());
        members.insert("type".into(), "string".into());
        members.insert("enum".into(), json!(values));
    }
    if let Some(value) = members.shift_remove("const") {
        members.insert("enum".into(), json!([value]));
    }
}

/// The formats of numbers that 3.0.3 has (section 4.4); what fits into none is the largest.
fn number(members: &mut Map<String, Value>) {
    if members.get("type").is_none_or(|one| one != "integer") {
        return;
    }
    let format = match members.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "int8" | "int16" | "int32") => "int32",
        _ => "int64",
    };
    members.insert("format".into(), format.into());
}

/// Schemas within this one.
fn inside(members: &mut Map<String, Value>) {
    let mut each = |key: &str, change: fn(Value) -> Value| {
        if let Some(value) = members.get_mut(key) {
            *value = change(value.take());
        }
    };
    each("items", convert);
    each("additionalProperties", |value| match value {
        Value::Bool(_) => value,
        schema => convert(schema),
    });
    let list = |value: Value| match value {
        Value::Array(all) => all.into_iter().map(convert).collect(),
        other => other,
    };
    each("allOf", list);
    each("anyOf", list);
    each("oneOf", list);
    each("properties", |value| match value {
        Value::Object(all) => all
            .into_iter()
            .map(|(name, schema)| (name, convert(schema)))
            .collect(),
        other => other,
    });
    switches(members);
}

/// A switch that can be left out is off then. Where a type leaves it out of what it writes, its schema does not say so.
fn switches(members: &mut Map<String, Value>) {
    let required = members.get("required").cloned().unwrap_or_default();
    let required = |name: &str| {
        required
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == name))
    };
    let Some(Value::Object(all)) = members.get_mut("properties") else {
        return;
    };
    for (name, member) in all {
        let Value::Object(member) = member else {
            continue;
        };
        let plain = member.get("type").is_some_and(|one| one == "boolean");
        if plain
            && !required(name)
            && !member.contains_key("nullable")
            && !member.contains_key("default")
        {
            member.insert("default".into(), false.into());
        }
    }
}

/// `$ref`, which stands alone, and to where the schemas are.
fn reference(members: &mut Map<String, Value>) {
    let Some(Value::String(to)) = members.shift_remove("$ref") else {
        return;
    };
    let name = to.rsplit('/').next().unwrap_or_default();
    let reference = schemas::reference(name);
    if members.is_empty() {
        if let Value::Object(reference) = reference {
            *members = reference;
        }
    } else {
        members.insert("allOf".into(), json!([reference]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_mark() {
        assert_eq!(
            convert(json!({"type": ["string", "null"], "default": null})),
            json!({"type": "string", "nullable": true})
        );
        assert_eq!(
            convert(json!({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]})),
            json!({"nullable": true, "allOf": [{"$ref": "#/components/schemas/A"}]})
        );
    }

    #[test]
    fn a_default_of_members_is_in_the_description() {
        let schema =
            json!({"description": "It.", "$ref": "#/$defs/A", "default": {"a": 1, "b": null}});
        let schema = convert(schema);
        assert_eq!(schema["description"], "It.\n\nDefault: `{\"a\":1}`");
        assert!(schema.get("default").is_none());
        let nothing =
            convert(json!({"description": "It.", "type": "object", "default": {"b": null}}));
        assert_eq!(nothing["description"], "It.");
    }

    #[test]
    fn links_to_items_are_their_words() {
        let schema = convert(json!({"description": "A device in [`Info::device_tree`]."}));
        assert_eq!(schema["description"], "A device in `Info::device_tree`.");
    }

    #[test]
    fn constants_are_an_enumeration() {
        let schema = json!({"description": "Which.", "oneOf": [
            {"const": "A", "description": "First."},
            {"const": "B", "description": "Second,\nlast."},
        ]});
        assert_eq!(
            convert(schema),
            json!({
                "description": "Which.\n- `A`: First.\n- `B`: Second, last.",
                "type": "string",
                "enum": ["A", "B"],
            })
        );
        assert_eq!(convert(json!({"const": 3})), json!({"enum": [3]}));
    }

    #[test]
    fn numbers_have_the_formats_that_there_are() {
        let of = |format: &str| convert(json!({"type": "integer", "format": format}));
        assert_eq!(of("uint16")["format"], "int32");
        assert_eq!(of("uint32")["format"], "int64");
        assert_eq!(of("uint")["format"], "int64");
    }

    #[test]
    fn nothing_stands_beside_a_reference() {
        let to = "#/components/schemas/DiskConfig";
        assert_eq!(
            convert(json!({"$ref": "#/$defs/DiskConfig"})),
            json!({"$ref": to})
        );
        assert_eq!(
            convert(json!({"$ref": "#/$defs/DiskConfig", "description": "It.", "x-flag": "d"})),
            json!({"description": "It.", "allOf": [{"$ref": to}]})
        );
    }

    #[test]
    fn what_is_within_is_rewritten_too() {
        let schema = json!({
            "$schema": "s", "title": "T", "type": "object", "additionalProperties": false,
            "properties": {"list": {"type": "array", "items": true, "x-flag": "l"}},
            "$defs": {"A": {}},
        });
        assert_eq!(
            convert(schema),
            json!({
                "type": "object", "additionalProperties": false,
                "properties": {"list": {"type": "array", "items": {}}},
            })
        );
    }

    #[test]
    fn a_switch_is_off_unless_it_says_otherwise() {
        let switch = |more: Value| {
            let mut switch = json!({"type": "boolean"});
            switch
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            switch
        };
        let schema = json!({"required": ["b"], "properties": {
            "a": switch(json!({})), "b": switch(json!({})), "c": switch(json!({"default": true})),
        }});
        let members = convert(schema)["properties"].take();
        assert_eq!(members["a"]["default"], false);
        assert!(members["b"].get("default").is_none());
        assert_eq!(members["c"]["default"], true);
    }
}
