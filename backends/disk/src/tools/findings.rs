//! What a check of an image finds.

/// The most findings that are kept as text.
const MOST_NOTES: usize = 20;

/// What was found in an image. Lengths are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Contradictions that are still there.
    pub errors: u64,
    /// Contradictions that were there.
    pub repairs: u64,
    /// Bytes of the file that nothing points to.
    pub leaks: u64,
    /// Bytes of the disk that are in the file.
    pub used: u64,
    /// The first findings, in words.
    pub notes: Vec<String>,
}

impl Findings {
    pub(crate) fn error(&mut self, what: impl Into<String>) {
        self.errors += 1;
        self.note(what);
    }

    pub(crate) fn repaired(&mut self, what: impl Into<String>) {
        self.repairs += 1;
        self.note(what);
    }

    pub(crate) fn leaked(&mut self, bytes: u64) {
        self.leaks += bytes;
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(what.into());
        }
    }
}
