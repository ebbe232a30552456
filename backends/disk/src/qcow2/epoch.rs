//! Who may still use a place in the file that was given up.
//!
//! A transfer that is under way was begun with what the tables said at that time. A cluster that was given up since
//! must not be used for anything else before the transfer is done: it would land in somebody else's data. So each
//! lane says since when its oldest transfer has been under way, in epochs: one ends whenever clusters were given up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No transfer is under way.
const NONE: u64 = u64::MAX;

/// The epochs of an image.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    now: AtomicU64,
    marks: Mutex<Vec<Arc<AtomicU64>>>,
}

/// A lane's part.
#[derive(Debug)]
pub(crate) struct Visitor {
    epochs: Arc<Epochs>,
    /// Since when the oldest transfer of the lane has been under way.
    mark: Arc<AtomicU64>,
    /// Epochs with the number of transfers that were begun in each, the oldest first.
    under_way: VecDeque<(u64, usize)>,
}

impl Epochs {
    fn marks(&self) -> MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch that clusters are given up in.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    /// Ends the epoch, after the tables were changed.
    pub(crate) fn end(&self) {
        self.now.fetch_add(1, Ordering::SeqCst);
    }

    /// Nobody uses what was given up before this epoch.
    pub(crate) fn oldest(&self) -> u64 {
        let marks = self.marks();
        let oldest = marks.iter().map(|mark| mark.load(Ordering::SeqCst)).min();
        oldest.unwrap_or(NONE)
    }
}

impl Visitor {
    pub(crate) fn new(epochs: Arc<Epochs>) -> Self {
        let mark = Arc::new(AtomicU64::new(NONE));
        epochs.marks().push(Arc::clone(&mark));
        Self {
            epochs,
            mark,
            under_way: VecDeque::new(),
        }
    }

    /// To be called before the tables are looked at. What they say can be used until [`Visitor::leave`].
    pub(crate) fn enter(&mut self) -> u64 {
        let now = self.epochs.now();
        match self.under_way.back_mut() {
            Some((epoch, count)) if *epoch == now => *count += 1,
            _ => self.under_way.push_back((now, 1)),
        }
        // Before the tables are looked at: who gives something up sees it, or is seen.
        self.publish(Ordering::SeqCst);
        now
    }

    pub(crate) fn leave(&mut self, epoch: u64) {
        let mut entries = self.under_way.iter_mut();
        if let Some((_, count)) = entries.find(|(of, _)| *of == epoch) {
            *count -= 1;
        }
        while self.under_way.front().is_some_and(|(_, count)| *count == 0) {
            self.under_way.pop_front();
        }
        // Seen too late is safe. A barrier here would wait for all that the transfer has just written.
        self.publish(Ordering::Release);
    }

    fn publish(&self, order: Ordering) {
        let oldest = self.under_way.front().map_or(NONE, |(epoch, _)| *epoch);
        if self.mark.load(Ordering::Relaxed) != oldest {
            self.mark.store(oldest, order);
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.epochs
            .marks()
            .retain(|mark| !Arc::ptr_eq(mark, &self.mark));
    }
}

#[test]
fn what_was_given_up_is_free_when_transfers_that_began_before_are_done() {
    let epochs = Arc::new(Epochs::default());
    let (mut one, mut other) = (
        Visitor::new(Arc::clone(&epochs)),
        Visitor::new(Arc::clone(&epochs)),
    );
    let before = one.enter();
    let given_up = epochs.now();
    epochs.end();
    let after = other.enter();
    let last = one.enter();
    assert!(epochs.oldest() <= given_up);
    one.leave(before);
    assert!(epochs.oldest() > given_up);
    one.leave(last);
    other.leave(after);
    assert_eq!(epochs.oldest(), NONE);
    let kept = one.enter();
    assert_eq!(epochs.oldest(), kept);
    drop(one);
    assert_eq!(epochs.oldest(), NONE);
}
