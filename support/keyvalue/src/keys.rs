//! The keys of a flag whose type is an object.

use crate::node::{Member, Node};
use crate::shape::{Choice, Shape};
use crate::{Error, nearest};

/// All that can stand between the commas of a flag.
#[derive(Debug)]
pub(crate) struct Keys<'s> {
    /// What `key=value` sets, in order of declaration, hidden keys included.
    pub(crate) members: Vec<Member<'s>>,
    /// The words that exclude one another, if the type has such.
    pub(crate) modes: Option<Modes<'s>>,
}

/// An enum whose variants are keys of their own: `off`, `tty`, `file=/tmp/log`.
#[derive(Debug)]
pub(crate) struct Modes<'s> {
    /// The member that the mode is stored in.
    pub(crate) json: &'s str,
    /// The modes there are.
    pub(crate) all: Vec<Mode<'s>>,
}

/// One variant of such an enum.
#[derive(Debug)]
pub(crate) struct Mode<'s> {
    /// The word in a flag.
    pub(crate) flag: String,
    /// The variant in JSON.
    pub(crate) json: &'s str,
    /// The variant's doc comment.
    pub(crate) doc: Option<&'s str>,
    /// The member that `word=value` stores the value in; without one the word stands alone.
    pub(crate) place: Option<Member<'s>>,
}

/// Modes that mean nothing without a place; types without a member for it do not have the mode.
const NEED_PLACE: [&str; 2] = ["File", "Socket"];

/// What a name between two commas refers to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Found {
    /// The member with this index.
    Member(usize),
    /// The member with this index, by an old name of it.
    Alias(usize),
    /// The mode with this index.
    Mode(usize),
}

impl<'s> Keys<'s> {
    /// The keys of the object at `node`.
    pub(crate) fn of(node: &Node<'s>) -> Self {
        let mut members = node.members();
        members.retain(|member| !member.is_skipped());
        let mut members: Vec<_> = members
            .into_iter()
            .flat_map(|member| member.parts().unwrap_or_else(|| vec![member]))
            .collect();
        let is_mode = |m: &Member<'s>| m.node.text("x-flag-syntax") == Some("modes");
        let modes = match members.iter().position(is_mode) {
            Some(at) => {
                let mode = members.remove(at);
                Some(Modes::of(&mode, &mut members))
            }
            None => None,
        };
        Self { members, modes }
    }

    /// What `name` refers to.
    pub(crate) fn find(&self, name: &str) -> Option<Found> {
        if let Some(at) = self.members.iter().position(|member| member.flag == name) {
            return Some(Found::Member(at));
        }
        let modes = self.modes.as_ref().map_or(&[][..], |modes| &modes.all);
        if let Some(at) = modes.iter().position(|mode| mode.flag == name) {
            return Some(Found::Mode(at));
        }
        let known_as = |member: &Member<'s>| member.aliases().any(|alias| alias == name);
        self.members.iter().position(known_as).map(Found::Alias)
    }

    /// The error of there being no such key as `name`.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        // The JSON name of a key that is called something else here is a likely mistake.
        let by_json = || Some(self.shown().find(|m| m.json == name)?.flag);
        let known: Vec<_> = self.names().collect();
        let suggestion = by_json().or_else(|| nearest(name, known.iter().copied()));
        Error::UnknownKey {
            key: name.to_owned(),
            suggestion: suggestion.map(str::to_owned),
            known: known.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The members that help shows.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &Member<'s>> {
        let json_only = |m: &Member<'s>| matches!(Shape::of(&m.node), Shape::JsonOnly(_));
        self.members
            .iter()
            .filter(move |m| !m.is_hidden() && !json_only(m))
    }

    /// The names that help shows: first the modes, then the members.
    fn names(&self) -> impl Iterator<Item = &str> {
        let modes = self.modes.iter().flat_map(|modes| &modes.all);
        modes
            .map(|mode| mode.flag.as_str())
            .chain(self.shown().map(|member| member.flag))
    }
}

impl<'s> Modes<'s> {
    /// The modes that `mode`, an enum, has. Takes the places they need out of `members`.
    fn of(mode: &Member<'s>, members: &mut Vec<Member<'s>>) -> Self {
        let mut all = Vec::new();
        for word in Choice::of(&mode.node).words {
            let name = word.json.to_lowercase();
            let at = members.iter().position(|member| member.json == name);
            let place = at.map(|at| members.remove(at));
            if place.is_some() || !NEED_PLACE.contains(&word.json) {
                all.push(Mode {
                    flag: word.flag,
                    json: word.json,
                    doc: word.doc,
                    place,
                });
            }
        }
        // The words alone first: schemars puts variants without doc comments before the others.
        all.sort_by_key(|mode: &Mode<'s>| mode.place.is_some());
        Self {
            json: mode.json,
            all,
        }
    }

    /// The error of no mode being given.
    pub(crate) fn missing(&self) -> Error {
        Error::NoMode {
            modes: self.all.iter().map(Mode::usage).collect(),
        }
    }
}

impl Mode<'_> {
    /// How the mode is written: `tty`, `file=<path>`.
    pub(crate) fn usage(&self) -> String {
        match &self.place {
            Some(place) => format!("{}={}", self.flag, Shape::of(&place.node).label()),
            None => self.flag.clone(),
        }
    }
}

impl Member<'_> {
    /// How the key is written: `size=<size>`.
    pub(crate) fn usage(&self) -> String {
        format!("{}={}", self.flag, Shape::of(&self.node).label())
    }
}
