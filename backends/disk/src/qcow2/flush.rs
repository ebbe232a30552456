//! Bringing changes to the file, while other lanes go on: what is to be written is copied first, and syncs are waited for
//! without the owner's place. So a lane that makes room, or meets data for the first time, does not wait for the disk
//! that another lane flushes to.
//!
//! One flush at a time ([`Turn`]). A change that comes while one is under way is part of the next; pages that the copies
//! are of stay in memory until they are in the file, as changed ones do.

use std::io;
use std::sync::{MutexGuard, PoisonError};

use super::cache::{Copied, Stage};
use super::map::{L1, L2, Map};
use super::owner::{Freed, Owner, Writer};
use super::refcounts::Counts;
use crate::storage::Storage;

/// Who has it is the one that flushes. Taken before the owner's place.
pub(crate) struct Turn<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

/// What a flush brings to the file.
struct Plan {
    counts: Counts,
    /// Of L2 tables, and of the L1 table.
    tables: [Copied; 2],
    /// Pointed to by nothing in the file when all of it is there.
    freed: Vec<Freed>,
}

const TABLES: [Stage; 2] = [L2, L1];

impl Writer {
    /// Waits until nobody flushes.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn(self.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings everything that is changed now to the files, in an order that is safe at any point.
    ///
    /// # Errors
    /// If that fails. What was not brought there is kept for the next time.
    pub(crate) fn flush(
        &self,
        _turn: &Turn<'_>,
        map: &Map,
        file: &dyn Storage,
        data: &dyn Storage,
    ) -> io::Result<()> {
        let plan = Plan::new(&mut self.lock(), map);
        let written = plan.write(map, file, data);
        self.end(plan, written, &mut self.lock(), map, file)
    }

    /// As [`Writer::flush`], for who needs that nothing changes meanwhile.
    ///
    /// # Errors
    /// As [`Writer::flush`].
    pub(crate) fn flush_as_owner(
        &self,
        _turn: &Turn<'_>,
        owner: &mut Owner,
        map: &Map,
        file: &dyn Storage,
        data: &dyn Storage,
    ) -> io::Result<()> {
        let plan = Plan::new(owner, map);
        let written = plan.write(map, file, data);
        self.end(plan, written, owner, map, file)
    }

    fn end(
        &self,
        plan: Plan,
        written: io::Result<()>,
        owner: &mut Owner,
        map: &Map,
        file: &dyn Storage,
    ) -> io::Result<()> {
        let done = written.is_ok();
        owner.refcounts.end_write(plan.counts, done);
        for stage in TABLES {
            map.end_write(stage, done);
        }
        if let Err(error) = written {
            owner.freed.splice(0..0, plan.freed);
            return Err(error);
        }
        let result = self.release(owner, plan.freed, map, file);
        let is_changed = TABLES.iter().any(|stage| map.changes(*stage) > 0);
        if owner.freed.is_empty() && !owner.refcounts.is_changed() && !is_changed {
            self.set_unchanged(owner);
        }
        result
    }

    /// Counts down what was freed, except what a transfer that is under way may use.
    fn release(
        &self,
        owner: &mut Owner,
        freed: Vec<Freed>,
        map: &Map,
        file: &dyn Storage,
    ) -> io::Result<()> {
        let oldest = self.epochs.oldest();
        let bits = map.header().cluster_bits;
        for Freed {
            epoch,
            first,
            count,
        } in freed
        {
            if epoch >= oldest {
                owner.free(epoch, first, count);
                continue;
            }
            for cluster in first..first + count {
                let is_free = owner.refcounts.release(cluster)?;
                if is_free && self.gives_back {
                    // Nobody needs what is there. If this fails the space is used again all the same.
                    let _ = file.punch(cluster << bits, 1 << bits);
                }
            }
        }
        Ok(())
    }
}

impl Plan {
    fn new(owner: &mut Owner, map: &Map) -> Self {
        Self {
            freed: std::mem::take(&mut owner.freed),
            counts: owner.refcounts.begin_write(),
            tables: TABLES.map(|stage| map.begin_write(stage)),
        }
    }

    /// One stage after the other, each durable before the next.
    fn write(&self, map: &Map, file: &dyn Storage, data: &dyn Storage) -> io::Result<()> {
        self.counts.write(file, || {
            if map.header().external_data.is_some() {
                data.flush()?;
            }
            file.flush()
        })?;
        // Of a new L2 table the first contents are durable by now, so that the L1 table can be written with it.
        if self.tables.iter().any(|pages| !pages.is_empty()) {
            for (at, bytes) in self.tables.iter().flatten() {
                file.write(*at, bytes)?;
            }
            file.flush()?;
        }
        Ok(())
    }
}
