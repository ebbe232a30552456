//! What a lane remembers of where clusters are, so that most requests need no table and no lock.
//!
//! Only data is remembered, and only in whole clusters: what is somewhere else, or nowhere, is looked up each time.
//! What was remembered counts as long as no place was given up since ([`Map::generation`]): clusters that come into being
//! change nothing of it.

use super::header::Header;
use super::map::Map;
use super::narrow;

/// Clusters that are remembered; each takes 32 bytes.
const MOST: usize = 1024;

#[derive(Clone, Copy)]
struct Entry {
    cluster: u64,
    host: u64,
    generation: u64,
    /// Its data can be written where it is.
    own: bool,
}

/// Clusters that one lane has met, each in the place that its number gives.
#[derive(Default)]
pub(crate) struct Known {
    entries: Vec<Entry>,
    generation: u64,
}

impl Known {
    /// To be called before anything is looked up, and after `Visitor::enter`: what a place that is remembered was given up for
    /// is not there before the visitor leaves.
    pub(crate) fn begin(&mut self, map: &Map) {
        self.generation = map.generation();
    }

    /// Where in the file bytes of the disk from `at` on are, and how many of the next `most` follow each other there. If
    /// anything of that is not known, nothing is given.
    pub(crate) fn find(
        &self,
        header: &Header,
        at: u64,
        most: u64,
        own: bool,
    ) -> Option<(u64, u64)> {
        let mut number = at >> header.cluster_bits;
        let within = at & (header.cluster() - 1);
        let host = self.host(number, own)?;
        let mut count = header.cluster() - within;
        while count < most {
            number += 1;
            if self.host(number, own)? != host + within + count {
                break;
            }
            count += header.cluster();
        }
        Some((host + within, count.min(most)))
    }

    fn host(&self, number: u64, own: bool) -> Option<u64> {
        let entry = self.entries.get(narrow(number) % MOST)?;
        let is_it = entry.cluster == number && entry.generation == self.generation;
        (is_it && (entry.own || !own)).then_some(entry.host)
    }

    /// Remembers that `count` bytes of the disk from `at` on are data at `start` in the file.
    pub(crate) fn note(&mut self, header: &Header, at: u64, start: u64, count: u64, own: bool) {
        // Of a cluster with parts, some may be elsewhere.
        if header.extended_l2 {
            return;
        }
        if self.entries.is_empty() {
            let nothing = Entry {
                cluster: u64::MAX,
                host: 0,
                generation: 0,
                own: false,
            };
            self.entries = vec![nothing; MOST];
        }
        let within = at & (header.cluster() - 1);
        let first = at >> header.cluster_bits;
        let last = (at + count - 1) >> header.cluster_bits;
        for number in first..=last {
            let place = &mut self.entries[narrow(number) % MOST];
            let was_own =
                place.cluster == number && place.generation == self.generation && place.own;
            *place = Entry {
                cluster: number,
                host: start - within + ((number - first) << header.cluster_bits),
                generation: self.generation,
                own: own || was_own,
            };
        }
    }
}
