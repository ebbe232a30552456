//! What a value is, as far as its text is concerned: the schema boiled down.

use serde_json::{Map, Number, Value};

use crate::node::{Member, Node};

/// The ways in which a value can be written in a flag.
#[derive(Debug)]
pub(crate) enum Shape<'s> {
    /// `on` or `off`.
    Toggle,
    /// A plain decimal number.
    Integer(Range<'s>),
    /// A number of bytes, such as `512M`.
    Size(Range<'s>),
    /// A hexadecimal number, such as `0xe9`.
    Hex(Range<'s>),
    /// A number with a fraction.
    Real,
    /// Any text, in quotes where it needs them; the `format` of the schema.
    Text(Option<&'s str>),
    /// One of a few words.
    Choice(Choice<'s>),
    /// An object of integers, such as `1:2:3:4`.
    Colon(Fields<'s>),
    /// A list of objects with two members each, such as `[0@[1,2],3@[4]]`.
    Pairs(Fields<'s>),
    /// A list of integers, such as `[0,2-4]`.
    Ranges(Range<'s>),
    /// A list of texts, such as `[a,b]`.
    Texts,
    /// An object of booleans, as the list of those that are true.
    TrueSet(Fields<'s>),
    /// Something that has no text, and why.
    JsonOnly(&'static str),
}

impl<'s> Shape<'s> {
    /// The shape of the values at `node`.
    pub(crate) fn of(node: &Node<'s>) -> Self {
        match node.text("x-flag-syntax") {
            Some("size") => Self::Size(Range::of(node)),
            Some("hex") => Self::Hex(Range::of(node)),
            Some("colon") => Self::colon(node),
            Some("pairs") => Self::pairs(node),
            Some("true-set") => Self::true_set(node),
            Some("ranges") | None => Self::by_type(node),
            Some("modes") => Self::JsonOnly("\"modes\" is for an enum member of the whole flag"),
            Some(_) => Self::JsonOnly("its x-flag-syntax is not one that exists"),
        }
    }

    fn by_type(node: &Node<'s>) -> Self {
        let choice = Choice::of(node);
        if !choice.words.is_empty() {
            Self::Choice(choice)
        } else if node.is_type("boolean") {
            Self::Toggle
        } else if node.is_type("integer") {
            Self::Integer(Range::of(node))
        } else if node.is_type("number") {
            Self::Real
        } else if node.is_type("string") {
            Self::Text(node.text("format"))
        } else if node.is_type("array") {
            Self::list(node)
        } else if node.is_type("object") {
            Self::JsonOnly("it is an object")
        } else {
            Self::JsonOnly("it can be of several types")
        }
    }

    fn list(node: &Node<'s>) -> Self {
        let simple = |item: &Node<'s>| item.text("x-flag-syntax").is_none();
        match node.items().filter(simple) {
            Some(item) if item.is_type("integer") => Self::Ranges(Range::of(&item)),
            Some(item) if item.is_type("string") && item.variants().is_empty() => Self::Texts,
            _ => Self::JsonOnly("it is a list of things that are neither numbers nor texts"),
        }
    }

    fn colon(node: &Node<'s>) -> Self {
        let fields = Fields::of(node);
        let integer = |m: &Member<'s>| matches!(Self::of(&m.node), Self::Integer(_));
        match !fields.members.is_empty() && fields.members.iter().all(integer) {
            true => Self::Colon(fields),
            false => Self::JsonOnly("\"colon\" is for an object of integers"),
        }
    }

    fn pairs(node: &Node<'s>) -> Self {
        // Pairs within pairs are left out because they could go on for ever.
        let simple = |m: &Member<'s>| {
            m.node.text("x-flag-syntax") != Some("pairs")
                && !matches!(Self::of(&m.node), Self::JsonOnly(_))
        };
        match node.items().map(|item| Fields::of(&item)) {
            Some(two) if two.members.len() == 2 && two.members.iter().all(simple) => {
                Self::Pairs(two)
            }
            _ => Self::JsonOnly("\"pairs\" is for a list of objects with two simple members"),
        }
    }

    fn true_set(node: &Node<'s>) -> Self {
        let fields = Fields::of(node);
        let off = |m: &Member<'s>| m.node.get("default") == Some(&Value::Bool(false));
        match !fields.members.is_empty() && fields.members.iter().all(off) {
            true => Self::TrueSet(fields),
            false => {
                Self::JsonOnly("\"true-set\" is for an object of booleans that default to false")
            }
        }
    }

    /// How the value is written, for help texts: `<u32>`, `on|off`, `[<u16>,...]`.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Toggle => "on|off".to_owned(),
            Self::Integer(range) => format!("<{}>", range.name),
            Self::Size(_) => "<size>".to_owned(),
            Self::Hex(_) => "0x<hex>".to_owned(),
            Self::Real => "<number>".to_owned(),
            Self::Text(format) => format!("<{}>", format.unwrap_or("string")),
            Self::Choice(choice) => choice.shown().collect::<Vec<_>>().join("|"),
            Self::Colon(Fields { members, .. }) => {
                let parts: Vec<_> = members.iter().map(|m| format!("<{}>", m.flag)).collect();
                parts.join(":")
            }
            Self::Pairs(pair) => format!("[{},...]", pair.pair_label()),
            Self::Ranges(range) => format!("[<{}>,...]", range.name),
            Self::Texts => "[<string>,...]".to_owned(),
            Self::TrueSet(fields) => format!("[{}]", fields.names().join(",")),
            Self::JsonOnly(_) => "<json>".to_owned(),
        }
    }
}

/// The members of an object whose text has no room for their names.
#[derive(Debug)]
pub(crate) struct Fields<'s> {
    node: Node<'s>,
    /// Those that the text is made of, in order of declaration.
    pub(crate) members: Vec<Member<'s>>,
}

impl<'s> Fields<'s> {
    fn of(node: &Node<'s>) -> Self {
        let mut members = node.members();
        members.retain(|member| !member.is_skipped());
        Self {
            node: node.clone(),
            members,
        }
    }

    /// The names of the members in a flag.
    pub(crate) fn names(&self) -> Vec<&'s str> {
        self.members.iter().map(|member| member.flag).collect()
    }

    /// How a pair is written: `<u32>@<u32>`.
    pub(crate) fn pair_label(&self) -> String {
        let labels: Vec<_> = self
            .members
            .iter()
            .map(|m| Shape::of(&m.node).label())
            .collect();
        labels.join("@")
    }

    /// Whether `object` has nothing to say beyond the members that the text is made of.
    pub(crate) fn cover(&self, object: &Map<String, Value>) -> bool {
        object.iter().all(|(name, value)| {
            self.members.iter().any(|member| member.json == name) || self.node.is_unset(name, value)
        })
    }
}

/// The integers that a schema allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Range<'s> {
    /// The least, at least that of an `i64`: JSON numbers go no lower.
    pub(crate) min: i128,
    /// The greatest, at most that of a `u64`: JSON numbers go no higher.
    pub(crate) max: i128,
    /// What help calls the type: `u32`.
    pub(crate) name: &'s str,
}

impl<'s> Range<'s> {
    fn of(node: &Node<'s>) -> Self {
        let (name, min, max) = match node.text("format") {
            Some("uint8") => ("u8", 0, u8::MAX.into()),
            Some("uint16") => ("u16", 0, u16::MAX.into()),
            Some("uint32") => ("u32", 0, u32::MAX.into()),
            Some("uint64") => ("u64", 0, u64::MAX.into()),
            Some("int8") => ("i8", i8::MIN.into(), i8::MAX.into()),
            Some("int16") => ("i16", i16::MIN.into(), i16::MAX.into()),
            Some("int32") => ("i32", i32::MIN.into(), i32::MAX.into()),
            Some("int64") => ("i64", i64::MIN.into(), i64::MAX.into()),
            _ => ("integer", i64::MIN.into(), u64::MAX.into()),
        };
        let bound = |keyword| node.get(keyword).and_then(integer);
        Self {
            min: bound("minimum").map_or(min, |bound| bound.max(min)),
            max: bound("maximum").map_or(max, |bound| bound.min(max)),
            name,
        }
    }

    /// The number as JSON, or what is wrong with it.
    pub(crate) fn number(&self, number: Option<i128>) -> Result<Value, String> {
        let fits = number.filter(|number| (self.min..=self.max).contains(number));
        let json = fits.and_then(|number| match u64::try_from(number) {
            Ok(number) => Some(Number::from(number)),
            Err(_) => i64::try_from(number).ok().map(Number::from),
        });
        json.map(Value::Number)
            .ok_or_else(|| format!("is out of range: must be from {} to {}", self.min, self.max))
    }
}

/// A JSON number as an integer.
pub(crate) fn integer(value: &Value) -> Option<i128> {
    value
        .as_u64()
        .map(i128::from)
        .or_else(|| value.as_i64().map(i128::from))
}

/// The words for the variants of an enum.
#[derive(Debug)]
pub(crate) struct Choice<'s> {
    /// Each accepted word and its variant; of two words for one variant the first is written.
    pub(crate) words: Vec<Word<'s>>,
    /// Whether upper and lower case differ.
    exact: bool,
}

/// A word for a variant of an enum.
#[derive(Debug)]
pub(crate) struct Word<'s> {
    /// The word in a flag.
    pub(crate) flag: String,
    /// The variant in JSON.
    pub(crate) json: &'s str,
    /// The variant's doc comment.
    pub(crate) doc: Option<&'s str>,
}

impl<'s> Choice<'s> {
    /// The words for the values at `node`; none if it has no enum.
    pub(crate) fn of(node: &Node<'s>) -> Self {
        let map = node.get("x-flag-values").and_then(Value::as_object);
        let mut words = Vec::new();
        for (json, doc) in node.variants() {
            let given = map
                .into_iter()
                .flatten()
                .filter(|(_, variant)| *variant == json);
            let before = words.len();
            words.extend(given.map(|(flag, _)| Word {
                flag: flag.clone(),
                json,
                doc,
            }));
            let flag = json.to_lowercase();
            // `{"unknown": null}` takes a variant out of the flag's words.
            let removed = map
                .and_then(|map| map.get(&flag))
                .is_some_and(Value::is_null);
            if words.len() == before && !removed {
                words.push(Word { flag, json, doc });
            }
        }
        Self {
            words,
            exact: node.is_set("x-flag-case"),
        }
    }

    /// The variant that a word stands for.
    pub(crate) fn variant(&self, text: &str) -> Option<&'s str> {
        let same = |word: &&Word<'s>| match self.exact {
            true => word.flag == text,
            false => word.flag.eq_ignore_ascii_case(text),
        };
        self.words.iter().find(same).map(|word| word.json)
    }

    /// The word for a variant.
    pub(crate) fn word(&self, variant: &str) -> Option<&str> {
        self.words
            .iter()
            .find(|word| word.json == variant)
            .map(|word| word.flag.as_str())
    }

    /// One word for each variant.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &str> {
        let first =
            |(at, word): &(usize, &Word<'s>)| *at == 0 || self.words[at - 1].json != word.json;
        self.words
            .iter()
            .enumerate()
            .filter(first)
            .map(|(_, word)| word.flag.as_str())
    }
}
