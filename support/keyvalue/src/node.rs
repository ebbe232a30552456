//! Reads a JSON schema as `schemars` writes it: references, options and flattening resolved.

use schemars::Schema;
use serde_json::{Map, Value};

/// The most schemas that one place is described by. Ours need four: the bound is there to end a
/// schema that refers to itself.
const MAX_LAYERS: usize = 32;

/// One place in a schema, described by several schemas on top of each other.
///
/// A field of type `Option<T>` is `{"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}` with the
/// field's own attributes beside it. All that describe the place are its layers, the field's own
/// first, and a keyword is that of the first layer which has it.
#[derive(Clone, Debug)]
pub(crate) struct Node<'s> {
    root: &'s Schema,
    layers: Vec<&'s Map<String, Value>>,
}

impl<'s> Node<'s> {
    /// The place that the whole of `root` describes.
    pub(crate) fn root(root: &'s Schema) -> Self {
        Self {
            root,
            layers: Vec::new(),
        }
        .with(root.as_value())
    }

    /// The place that `schema`, a part of the same root, describes.
    pub(crate) fn part(&self, schema: &'s Value) -> Self {
        Self {
            root: self.root,
            layers: Vec::with_capacity(2),
        }
        .with(schema)
    }

    /// This place with `schema` as a further description.
    fn with(mut self, schema: &'s Value) -> Self {
        self.add(schema);
        self
    }

    fn add(&mut self, schema: &'s Value) {
        let Some(layer) = schema.as_object() else {
            return;
        };
        if self.layers.len() == MAX_LAYERS {
            return;
        }
        self.layers.push(layer);
        if let Some(target) = layer.get("$ref").and_then(Value::as_str)
            && let Some(schema) = self.root.pointer(target)
        {
            self.add(schema);
        }
        for schema in list(layer, "allOf") {
            self.add(schema);
        }
        // Of an option, what it is when it is there.
        for key in ["anyOf", "oneOf"] {
            let mut alternatives = list(layer, key).filter(|schema| !is_null(schema));
            if let (Some(only), None) = (alternatives.next(), alternatives.next()) {
                self.add(only);
            }
        }
    }

    /// This place as each of the things it may be; empty if it can be only one.
    ///
    /// What it has in any case is part of each alternative. An alternative's own alternatives are
    /// left alone.
    pub(crate) fn alternatives(&self) -> Vec<Self> {
        let several = |layer: &&'s Map<String, Value>| {
            let schemas = ["oneOf", "anyOf"]
                .into_iter()
                .flat_map(|key| list(layer, key));
            let schemas: Vec<_> = schemas.filter(|schema| !is_null(schema)).collect();
            (schemas.len() > 1).then_some(schemas)
        };
        let schemas = self.layers.iter().find_map(several).unwrap_or_default();
        schemas
            .into_iter()
            .map(|schema| self.clone().with(schema))
            .collect()
    }

    /// A keyword of this place.
    pub(crate) fn get(&self, keyword: &str) -> Option<&'s Value> {
        self.layers.iter().find_map(|layer| layer.get(keyword))
    }

    /// A keyword that is a string.
    pub(crate) fn text(&self, keyword: &str) -> Option<&'s str> {
        self.get(keyword)?.as_str()
    }

    /// Whether a keyword is there and true.
    pub(crate) fn is_set(&self, keyword: &str) -> bool {
        self.get(keyword) == Some(&Value::Bool(true))
    }

    /// Whether values here can be of JSON type `name`.
    pub(crate) fn is_type(&self, name: &str) -> bool {
        match self.get("type") {
            Some(Value::String(only)) => only == name,
            Some(Value::Array(several)) => several.iter().any(|one| one == name),
            _ => false,
        }
    }

    /// What one entry of an array here is.
    pub(crate) fn items(&self) -> Option<Self> {
        Some(self.part(self.get("items")?))
    }

    /// The member `name` of an object here.
    pub(crate) fn property(&self, name: &str) -> Option<Self> {
        let schema = self
            .layers
            .iter()
            .find_map(|layer| layer.get("properties")?.get(name))?;
        Some(self.part(schema))
    }

    /// Whether values here are objects that are written as `a=1,b=2`.
    pub(crate) fn has_keys(&self) -> bool {
        self.is_type("object") && self.get("x-flag-syntax").is_none()
    }

    /// Whether objects here have members with fixed names.
    pub(crate) fn has_properties(&self) -> bool {
        self.get("properties").is_some()
    }

    /// The members of an object here, in order of declaration.
    pub(crate) fn members(&self) -> Vec<Member<'s>> {
        let properties = |layer: &&'s Map<String, Value>| layer.get("properties")?.as_object();
        let mut members = Vec::<Member<'s>>::new();
        for (json, schema) in self.layers.iter().filter_map(properties).flatten() {
            // Two layers can describe the same member, one of them in more detail: the first.
            if self.layers.len() == 1 || members.iter().all(|known| known.json != json) {
                members.push(Member::new(json, self.part(schema)));
            }
        }
        members
    }

    /// Whether an object here must have the member `name`.
    pub(crate) fn requires(&self, name: &str) -> bool {
        self.layers
            .iter()
            .any(|layer| list(layer, "required").any(|required| required == name))
    }

    /// Whether `value` is what an object here has as its member `name` when that is not set.
    pub(crate) fn is_unset(&self, name: &str, value: &Value) -> bool {
        let default = self.property(name).and_then(|member| member.get("default"));
        value == default.unwrap_or(&Value::Null)
    }

    /// The variants of an enum without data, each with its doc comment.
    pub(crate) fn variants(&self) -> Vec<(&'s str, Option<&'s str>)> {
        let mut variants = Vec::new();
        for layer in &self.layers {
            add_variants(layer, &mut variants);
            for schema in list(layer, "oneOf").filter_map(Value::as_object) {
                add_variants(schema, &mut variants);
            }
            if !variants.is_empty() {
                break;
            }
        }
        variants
    }
}

/// The variants that one schema allows by `const` or `enum`.
fn add_variants<'s>(
    schema: &'s Map<String, Value>,
    variants: &mut Vec<(&'s str, Option<&'s str>)>,
) {
    let doc = || schema.get("description")?.as_str();
    match schema.get("const") {
        Some(Value::String(variant)) => variants.push((variant, doc())),
        _ => variants.extend(list(schema, "enum").filter_map(|v| Some((v.as_str()?, None)))),
    }
}

/// The entries of a keyword that is an array; none if it is not there.
fn list<'s>(
    schema: &'s Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = &'s Value> + use<'s> {
    schema
        .get(keyword)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Whether a schema allows `null` and nothing else.
fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
        || schema.get("const").is_some_and(Value::is_null)
}

/// The first sentence of a doc comment, on one line and without its full stop.
pub(crate) fn first_sentence(doc: &str) -> String {
    let paragraph = doc.split("\n\n").next().unwrap_or_default();
    let mut sentence = String::with_capacity(paragraph.len());
    for word in paragraph.split_whitespace() {
        // A new sentence: this tells it from `e.g. this`.
        if sentence.ends_with('.') && word.starts_with(char::is_uppercase) {
            break;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(word);
    }
    if sentence.ends_with('.') {
        sentence.pop();
    }
    sentence
}

/// A member of an object, and the key of a flag that sets it.
#[derive(Clone, Debug)]
pub(crate) struct Member<'s> {
    /// Its name in JSON.
    pub(crate) json: &'s str,
    /// Where in the JSON member it is (JSON pointer, RFC 6901), if several keys set parts of one member; else empty.
    pub(crate) below: &'s str,
    /// Its name in a flag: the same unless `x-flag` says otherwise.
    pub(crate) flag: &'s str,
    /// What it holds.
    pub(crate) node: Node<'s>,
}

impl<'s> Member<'s> {
    fn new(json: &'s str, node: Node<'s>) -> Self {
        Self {
            json,
            below: "",
            flag: node.text("x-flag").unwrap_or(json),
            node,
        }
    }

    /// The keys for parts of this member, by `x-flag-keys`; none if it is set as a whole.
    pub(crate) fn parts(&self) -> Option<Vec<Self>> {
        let keys = self.node.get("x-flag-keys")?.as_object()?;
        let part = |(flag, below): (&'s String, &'s Value)| {
            let below = below.as_str().filter(|below| below.starts_with('/'))?;
            let mut steps = below.split('/').skip(1);
            let node = steps.try_fold(self.node.clone(), |node, name| node.property(name))?;
            Some(Self {
                json: self.json,
                below,
                flag,
                node,
            })
        };
        Some(keys.iter().filter_map(part).collect())
    }

    /// Its value in `object`.
    pub(crate) fn get<'v>(&self, object: &'v Map<String, Value>) -> Option<&'v Value> {
        object.get(self.json)?.pointer(self.below)
    }

    /// Sets its value in `object`, and makes what is around it.
    pub(crate) fn put(&self, object: &mut Map<String, Value>, value: Value) {
        let path: Vec<_> = self.below.split('/').skip(1).collect();
        let whole = path.into_iter().rev().fold(value, |value, name| {
            Value::Object(Map::from_iter([(name.to_owned(), value)]))
        });
        match object.get_mut(self.json) {
            Some(there) => merge(there, whole),
            None => drop(object.insert(self.json.to_owned(), whole)),
        }
    }

    /// Whether an object of type `root` must have it: `object` is what there is of it. What a part is a part of can
    /// be missing as a whole.
    pub(crate) fn is_due(&self, root: &Node<'s>, object: &Map<String, Value>) -> bool {
        let Some((around, name)) = self.below.rsplit_once('/') else {
            return root.requires(self.json);
        };
        let whole = root.property(self.json);
        let holder = around.split('/').skip(1);
        let holder = whole.and_then(|whole| {
            let mut steps = holder;
            steps.try_fold(whole, |node, name| node.property(name))
        });
        self.has_holder(object) && holder.is_some_and(|holder| holder.requires(name))
    }

    /// Whether there is what it is a part of; always so if it is no part.
    pub(crate) fn has_holder(&self, object: &Map<String, Value>) -> bool {
        self.below.rsplit_once('/').is_none_or(|(around, _)| {
            let whole = object.get(self.json);
            whole.is_some_and(|whole| whole.pointer(around).is_some_and(Value::is_object))
        })
    }

    /// Whether it must be there whatever else is.
    pub(crate) fn is_required(&self, root: &Node<'s>) -> bool {
        self.below.is_empty() && root.requires(self.json)
    }

    /// Further names in a flag, for old command lines.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = &'s str> + use<'s> {
        names(self.node.get("x-flag-alias"))
    }

    /// Further names in JSON, for old request bodies.
    pub(crate) fn json_aliases(&self) -> impl Iterator<Item = &'s str> + use<'s> {
        names(self.node.get("x-json-alias"))
    }

    /// Whether it is accepted in a flag but not shown.
    pub(crate) fn is_hidden(&self) -> bool {
        self.node.is_set("x-flag-hidden")
    }

    /// Whether it exists in JSON only.
    pub(crate) fn is_skipped(&self) -> bool {
        self.node.is_set("x-flag-skip")
    }

    /// What the member is when a flag does not set it.
    pub(crate) fn default(&self) -> Option<Fallback<'s>> {
        match self.node.get("x-flag-default") {
            Some(Value::String(text)) if text.starts_with('=') => Some(Fallback::Same(&text[1..])),
            Some(value) => Some(Fallback::Flag(value)),
            None => self.node.get("default").map(Fallback::Type),
        }
    }
}

/// Adds what is in `more` to `value`. Both are objects, down to one value.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(object), Value::Object(more)) => {
            for (name, more) in more {
                match object.get_mut(&name) {
                    Some(there) => merge(there, more),
                    None => drop(object.insert(name, more)),
                }
            }
        }
        (value, more) => *value = more,
    }
}

/// The names that an extension attribute lists; a single one need not be in a list.
fn names(value: Option<&Value>) -> impl Iterator<Item = &str> + use<'_> {
    let several = value.and_then(Value::as_array).into_iter().flatten();
    several.chain(value).filter_map(Value::as_str)
}

/// What a member is when a flag does not set it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fallback<'s> {
    /// What its type says, for JSON as well: serde fills it in.
    Type(&'s Value),
    /// A value for flags only, where JSON has no default.
    Flag(&'s Value),
    /// The value of another key of the same flag.
    Same(&'s str),
}

#[cfg(test)]
mod tests;
