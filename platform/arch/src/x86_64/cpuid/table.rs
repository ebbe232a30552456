//! A list of CPUID answers that can be looked up and changed by leaf.

use super::super::state::CpuidEntry;

/// Leaf whose EAX is the last basic leaf.
pub(super) const BASIC: u32 = 0;
/// Leaf whose EAX is the last extended leaf.
pub(super) const EXTENDED: u32 = 0x8000_0000;

/// The answers of one processor.
#[derive(Clone, Debug)]
pub(super) struct Table(Vec<CpuidEntry>);

impl Table {
    pub(super) fn new(entries: &[CpuidEntry]) -> Self {
        Self(entries.to_vec())
    }

    /// The first entry of `leaf` with this subleaf, or that does not depend on one.
    fn find(&self, leaf: u32, subleaf: u32) -> Option<usize> {
        self.0
            .iter()
            .position(|e| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf))
    }

    /// The answer to `leaf` and `subleaf`: all zero if the list has none.
    pub(super) fn get(&self, leaf: u32, subleaf: u32) -> CpuidEntry {
        let absent = CpuidEntry {
            leaf,
            subleaf,
            ..CpuidEntry::default()
        };
        self.find(leaf, subleaf).map_or(absent, |at| self.0[at])
    }

    /// Whether the list has an answer for `leaf`, even a zero one.
    pub(super) fn contains(&self, leaf: u32) -> bool {
        self.0.iter().any(|e| e.leaf == leaf)
    }

    /// Replaces or adds an answer.
    pub(super) fn set(&mut self, entry: CpuidEntry) {
        match self.find(entry.leaf, entry.subleaf) {
            Some(at) => self.0[at] = entry,
            None => self.0.push(entry),
        }
    }

    /// Replaces or adds the answer to a leaf without subleaves.
    pub(super) fn set_plain(&mut self, leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.remove(leaf);
        self.0.push(CpuidEntry {
            leaf,
            eax,
            ebx,
            ecx,
            edx,
            ..CpuidEntry::default()
        });
    }

    /// Replaces all answers of a leaf: subleaf n gets the n-th.
    pub(super) fn set_indexed(&mut self, leaf: u32, answers: &[[u32; 4]]) {
        self.remove(leaf);
        let entries = (0u32..)
            .zip(answers)
            .map(|(subleaf, &[eax, ebx, ecx, edx])| CpuidEntry {
                leaf,
                subleaf,
                indexed: true,
                eax,
                ebx,
                ecx,
                edx,
            });
        self.0.extend(entries);
    }

    /// Changes the answer to `leaf` and `subleaf`, if the list has one.
    pub(super) fn change(&mut self, leaf: u32, subleaf: u32, change: impl FnOnce(&mut CpuidEntry)) {
        if let Some(at) = self.find(leaf, subleaf) {
            change(&mut self.0[at]);
        }
    }

    /// Changes every answer of `leaf`.
    pub(super) fn change_all(&mut self, leaf: u32, change: impl FnMut(&mut CpuidEntry)) {
        self.0
            .iter_mut()
            .filter(|e| e.leaf == leaf)
            .for_each(change);
    }

    /// All answers of `leaf`.
    pub(super) fn all(&self, leaf: u32) -> impl Iterator<Item = &CpuidEntry> {
        self.0.iter().filter(move |e| e.leaf == leaf)
    }

    /// Drops all answers of `leaf`; it then reads as zero.
    pub(super) fn remove(&mut self, leaf: u32) {
        self.0.retain(|e| e.leaf != leaf);
    }

    /// Drops the answer to one subleaf.
    pub(super) fn remove_subleaf(&mut self, leaf: u32, subleaf: u32) {
        self.0.retain(|e| e.leaf != leaf || e.subleaf != subleaf);
    }

    /// The last leaf of the range that starts at `range`.
    pub(super) fn last_leaf(&self, range: u32) -> u32 {
        self.get(range, 0).eax
    }

    /// Makes the range that starts at `range` reach at least to `last`. Leaves in between that have no answer
    /// read as zero.
    pub(super) fn extend_to(&mut self, range: u32, last: u32) {
        let mut entry = self.get(range, 0);
        entry.eax = entry.eax.max(last);
        self.set(entry);
    }

    /// The answers in order of leaf and subleaf.
    pub(super) fn into_sorted(mut self) -> Vec<CpuidEntry> {
        self.0.sort_by_key(|e| (e.leaf, e.subleaf));
        self.0
    }
}
