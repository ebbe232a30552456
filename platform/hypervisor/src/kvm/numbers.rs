//! Numbers that are lent out and come back: memory slots, interrupt numbers.

use std::collections::BTreeSet;

/// Lends the numbers from `next` to below `end`; the lowest that came back first.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
    end: u32,
    returned: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn new(first: u32, end: u32) -> Self {
        Self {
            next: first,
            end,
            returned: BTreeSet::new(),
        }
    }

    /// A number that nobody has, if there is one.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.returned.pop_first() {
            return Some(number);
        }
        let number = self.next;
        (number < self.end).then(|| {
            self.next += 1;
            number
        })
    }

    /// Takes back what [`Numbers::take`] gave.
    pub(super) fn give_back(&mut self, number: u32) {
        debug_assert!(number < self.next, "{number} was never lent");
        self.returned.insert(number);
    }
}
