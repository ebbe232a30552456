//! The bottom layer: quotes, brackets and separators, nothing of what they mean.
//!
//! A double quote opens a stretch in which `,`, `@`, `[` and `]` are plain characters; a doubled
//! quote inside such a stretch stands for the quote itself. Brackets nest, and protect the
//! separators between them. [`check`] runs once over the whole text; the other functions take
//! pieces of a text that passed it, of which [`split`] and [`brackets`] make balanced pieces again.

use std::borrow::Cow;

use crate::Error;

/// Fails if a quote or a bracket of `text` has no partner.
pub(crate) fn check(text: &str) -> Result<(), Error> {
    let mut quote = None;
    let mut open = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' if quote.is_some() => quote = None,
            b'"' => quote = Some(at),
            _ if quote.is_some() => {}
            b'[' => open.push(at),
            b']' => {
                open.pop().ok_or_else(|| unbalanced("\"]\"", text, at))?;
            }
            _ => {}
        }
    }
    if let Some(at) = quote {
        return Err(unbalanced("double quote", text, at));
    }
    match open.last() {
        Some(at) => Err(unbalanced("\"[\"", text, *at)),
        None => Ok(()),
    }
}

fn unbalanced(what: &'static str, text: &str, at: usize) -> Error {
    let position = text[..at].chars().count() + 1;
    Error::Unbalanced {
        what,
        position,
        text: text.to_owned(),
    }
}

/// The byte offsets in `text` of the characters `wanted` that neither quotes nor brackets protect.
fn unprotected(text: &str, wanted: u8) -> impl Iterator<Item = usize> {
    let mut quoted = false;
    let mut depth = 0_usize;
    text.bytes().enumerate().filter_map(move |(at, byte)| {
        let free = !quoted && depth == 0;
        match byte {
            b'"' => quoted = !quoted,
            b'[' if !quoted => depth += 1,
            b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        (free && byte == wanted).then_some(at)
    })
}

/// The pieces of `text` between commas, trimmed; no piece at all if there is only white space.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    let end = (!text.is_empty()).then_some(text.len());
    let mut start = 0;
    unprotected(text, b',').chain(end).map(move |at| {
        let piece = text[start..at].trim();
        start = at + 1;
        piece
    })
}

/// The trimmed texts on both sides of the first `@`.
pub(crate) fn split_pair(text: &str) -> Option<(&str, &str)> {
    let at = unprotected(text, b'@').next()?;
    Some((text[..at].trim(), text[at + 1..].trim()))
}

/// What is between the brackets, if one pair of them encloses all of `text`.
pub(crate) fn brackets(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    // In `[a][b]` the first bracket does not belong to the last one.
    (unprotected(inner, b']').next().is_none()).then_some(inner)
}

/// `text` without its quotes.
pub(crate) fn unquote(text: &str) -> Cow<'_, str> {
    if !text.contains('"') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '"' {
            plain.push(c);
        } else if quoted && rest.next_if_eq(&'"').is_some() {
            plain.push('"');
        } else {
            quoted = !quoted;
        }
    }
    Cow::Owned(plain)
}

/// `text` in quotes if it would not be read back as itself without them.
pub(crate) fn quote(text: &str) -> Cow<'_, str> {
    let special = |c| matches!(c, '"' | ',' | '[' | ']' | '@');
    if !text.is_empty() && text.trim() == text && !text.contains(special) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
}

#[cfg(test)]
mod tests;
