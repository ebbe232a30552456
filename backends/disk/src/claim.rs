//! Keeps writes that are read, changed and written back apart from other writes to the same bytes.
//!
//! With `O_DIRECT` a write that does not begin and end with a block of the file is done by reading the whole blocks,
//! changing them and writing them back. Whatever else was written to these blocks between would be undone by that. So
//! such a write has its blocks to itself, over all lanes of the disk.
//!
//! Aligned writes need nothing of each other and are by far the most. While there is no unaligned one they only count
//! themselves, in a number of their own lane that no other lane writes. An unaligned write announces itself, waits
//! until the aligned ones that were under way are done, and from then on every write has an entry in a table, and
//! begins when no entry before it is in its way: in order of arrival, so that nothing starves and nothing waits in a
//! circle.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// The writes of one disk.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Unaligned writes that wait or are under way.
    unaligned: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: Vec<Entry>,
    lanes: Vec<Arc<Mark>>,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    start: u64,
    end: u64,
    alone: bool,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        (self.alone || other.alone) && self.start < other.end && other.start < self.end
    }
}

/// What other lanes see of a lane.
#[derive(Debug)]
struct Mark {
    /// Aligned writes under way that have no entry.
    counted: AtomicUsize,
    /// Something of the lane waits for its turn.
    waits: AtomicBool,
    bell: OwnedFd,
}

/// A lane's part in the claims.
#[derive(Debug)]
pub(crate) struct Claimant {
    claims: Arc<Claims>,
    mark: Arc<Mark>,
}

/// What a write holds from before it begins until it is done. Given back with [`Claimant::release`].
#[derive(Debug)]
pub(crate) enum Claim {
    Counted,
    Entry { ticket: u64, alone: bool },
}

impl Claims {
    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is consistent at each point where a panic could be.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells lanes that wait to look again.
    fn ring(table: &Table) {
        for mark in &table.lanes {
            if mark.waits.swap(false, Ordering::SeqCst) {
                // A full counter is the only way for this to fail, and then the bell rings already (eventfd(2)).
                let _ = rustix::io::write(&mark.bell, &1_u64.to_ne_bytes());
            }
        }
    }
}

impl Claimant {
    pub(crate) fn new(claims: Arc<Claims>) -> io::Result<Self> {
        let mark = Arc::new(Mark {
            counted: AtomicUsize::new(0),
            waits: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        claims.table().lanes.push(Arc::clone(&mark));
        Ok(Self { claims, mark })
    }

    /// Asks for the bytes from `start` to `end`, `alone` or beside other aligned writes.
    pub(crate) fn claim(&self, start: u64, end: u64, alone: bool) -> Claim {
        if alone {
            self.claims.unaligned.fetch_add(1, Ordering::SeqCst);
        } else {
            // Either this sees the unaligned write, or the unaligned write sees the count: both are sequentially
            // consistent, and each side writes before it reads.
            self.mark.counted.fetch_add(1, Ordering::SeqCst);
            if self.claims.unaligned.load(Ordering::SeqCst) == 0 {
                return Claim::Counted;
            }
            self.uncount();
        }
        let mut table = self.claims.table();
        let ticket = table.next;
        table.next += 1;
        table.entries.push(Entry {
            ticket,
            start,
            end,
            alone,
        });
        Claim::Entry { ticket, alone }
    }

    /// Whether the write can begin now. If not, the bell rings when it is worth asking again.
    pub(crate) fn may_begin(&self, claim: &Claim) -> bool {
        let Claim::Entry { ticket, .. } = claim else {
            return true;
        };
        let table = self.claims.table();
        let Some(own) = table.entries.iter().find(|entry| entry.ticket == *ticket) else {
            return true;
        };
        let counted = |mark: &Arc<Mark>| mark.counted.load(Ordering::SeqCst) > 0;
        let before = |entry: &Entry| entry.ticket < own.ticket && entry.excludes(own);
        let blocked =
            own.alone && table.lanes.iter().any(counted) || table.entries.iter().any(before);
        if blocked {
            // Whoever lets go does so first and then takes the lock to ring, so it sees this.
            self.mark.waits.store(true, Ordering::SeqCst);
        }
        !blocked
    }

    pub(crate) fn release(&self, claim: &Claim) {
        match claim {
            Claim::Counted => self.uncount(),
            Claim::Entry { ticket, alone } => {
                let mut table = self.claims.table();
                table.entries.retain(|entry| entry.ticket != *ticket);
                if *alone {
                    self.claims.unaligned.fetch_sub(1, Ordering::SeqCst);
                }
                Claims::ring(&table);
            }
        }
    }

    fn uncount(&self) {
        self.mark.counted.fetch_sub(1, Ordering::SeqCst);
        if self.claims.unaligned.load(Ordering::SeqCst) > 0 {
            Claims::ring(&self.claims.table());
        }
    }

    /// Rings when something that waits may go on.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.mark.bell.as_fd()
    }

    /// Silences the bell.
    pub(crate) fn silence(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.mark.bell, &mut count);
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        let mut table = self.claims.table();
        table.lanes.retain(|mark| !Arc::ptr_eq(mark, &self.mark));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> (Claimant, Claimant) {
        let claims = Arc::new(Claims::default());
        (
            Claimant::new(Arc::clone(&claims)).unwrap(),
            Claimant::new(claims).unwrap(),
        )
    }

    fn rings(lane: &Claimant) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&lane.mark.bell, &mut count).is_ok()
    }

    #[test]
    fn aligned_writes_only_count() {
        let (a, b) = lanes();
        let one = a.claim(0, 10, false);
        let other = b.claim(0, 10, false);
        assert!(matches!((&one, &other), (Claim::Counted, Claim::Counted)));
        a.release(&one);
        b.release(&other);
        assert!(!rings(&a) && !rings(&b));
    }

    #[test]
    fn an_unaligned_write_waits_for_aligned_ones_and_later_ones_for_it() {
        let (a, b) = lanes();
        let before = a.claim(0, 10, false);
        let alone = b.claim(5, 6, true);
        assert!(!b.may_begin(&alone));
        let after = a.claim(5, 10, false);
        let elsewhere = a.claim(10, 20, false);
        assert!(a.may_begin(&elsewhere) && !a.may_begin(&after));
        a.release(&before);
        assert!(rings(&b) && b.may_begin(&alone));
        b.release(&alone);
        assert!(rings(&a) && a.may_begin(&after));
        a.release(&after);
        a.release(&elsewhere);
        assert!(matches!(a.claim(5, 10, false), Claim::Counted));
    }

    #[test]
    fn unaligned_writes_take_turns_in_order_of_arrival() {
        let (a, b) = lanes();
        let first = a.claim(0, 4, true);
        let second = b.claim(3, 8, true);
        let third = a.claim(7, 9, true);
        assert!(a.may_begin(&first) && !b.may_begin(&second) && !a.may_begin(&third));
        a.release(&first);
        assert!(b.may_begin(&second) && !a.may_begin(&third));
        b.release(&second);
        assert!(a.may_begin(&third));
        a.release(&third);
        assert_eq!(a.claims.unaligned.load(Ordering::SeqCst), 0);
        assert!(a.claims.table().entries.is_empty());
    }
}
