//! Finds the name that was meant by a name that does not exist.

/// Words longer than this, in characters, are not compared: no name in any schema is, and the
/// cost of a comparison grows with the product of both lengths.
const LONGEST: usize = 64;

/// The one of `known` that `word` was probably meant to be.
///
/// Nearness is the number of letters to insert, delete, replace or swap with their neighbour,
/// upper and lower case being the same. Names that differ in more than a third of their letters
/// are not near: a wrong guess is worse than none. Of two names equally near, the first wins.
///
/// ```
/// assert_eq!(keyvalue::nearest("siez", ["size", "shared"]), Some("size"));
/// assert_eq!(keyvalue::nearest("colour", ["size", "shared"]), None);
/// ```
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = letters(word)?;
    let mut best = None;
    for name in known {
        let Some(candidate) = letters(name) else {
            continue;
        };
        let distance = distance(&word, &candidate);
        let close = distance <= (word.len().max(candidate.len()) + 1) / 3;
        if close && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// The letters of a word in lower case, or nothing if there are too many to compare.
fn letters(word: &str) -> Option<Vec<char>> {
    let letters: Vec<char> = word
        .chars()
        .take(LONGEST + 1)
        .flat_map(char::to_lowercase)
        .collect();
    (letters.len() <= LONGEST).then_some(letters)
}

/// The optimal string alignment distance: Levenshtein's, with a swap of neighbours as one step.
fn distance(from: &[char], to: &[char]) -> usize {
    // Rows of the usual table: the one being filled and the two above it.
    let mut above2 = vec![0; to.len() + 1];
    let mut above: Vec<usize> = (0..=to.len()).collect();
    let mut row = vec![0; to.len() + 1];
    for (i, a) in from.iter().enumerate() {
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = above[j] + usize::from(a != b);
            row[j + 1] = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i - 1] == *b && to[j - 1] == *a {
                row[j + 1] = row[j + 1].min(above2[j - 1] + 1);
            }
        }
        // The oldest row becomes the one to fill.
        std::mem::swap(&mut above2, &mut above);
        std::mem::swap(&mut above, &mut row);
    }
    above[to.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    fn between(a: &str, b: &str) -> usize {
        distance(
            &a.chars().collect::<Vec<_>>(),
            &b.chars().collect::<Vec<_>>(),
        )
    }

    #[test]
    fn distances() {
        assert_eq!(between("", ""), 0);
        assert_eq!(between("", "abc"), 3);
        assert_eq!(between("abc", ""), 3);
        assert_eq!(between("kitten", "sitting"), 3);
        assert_eq!(between("siez", "size"), 1);
        assert_eq!(between("readonyl", "readonly"), 1);
        assert_eq!(between("abcd", "badc"), 2);
    }

    #[test]
    fn the_closest_name_wins_and_the_first_of_equals() {
        assert_eq!(
            nearest("hotplug_siez", ["hotplugged_size", "hotplug_size"]),
            Some("hotplug_size")
        );
        assert_eq!(nearest("bat", ["bar", "baz"]), Some("bar"));
        assert_eq!(nearest("SIZE", ["size"]), Some("size"));
    }

    #[test]
    fn far_names_are_not_guessed() {
        assert_eq!(nearest("x", ["y", "id"]), None);
        assert_eq!(nearest("", ["y", "id"]), None);
        assert_eq!(nearest("path", ["tap", "mac"]), None);
        assert_eq!(nearest("anything", []), None);
    }

    #[test]
    fn absurdly_long_words_are_not_compared() {
        let long = "a".repeat(1 << 20);
        assert_eq!(nearest(&long, [long.as_str()]), None);
    }
}
