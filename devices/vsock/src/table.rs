//! All connections: found by their ports, and taken in turn.

use std::collections::{HashMap, VecDeque};

use crate::conn::{Conn, Key, Phase};

/// Connections at a time, as the reference has them.
pub(crate) const MOST_CONNECTIONS: usize = 1023;

/// A place for a connection. It can be in the queue when its connection has gone, and is never in it twice.
#[derive(Debug, Default)]
struct Place {
    conn: Option<Conn>,
    queued: bool,
}

/// The connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    /// Those that have something for the guest, in the order of their turns.
    queue: VecDeque<usize>,
}

impl Table {
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.places.len() >= MOST_CONNECTIONS
    }

    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Adds a connection; `None` if there is no place for it. The guest knows it unless it is
    /// [`Phase::Greeting`].
    pub(crate) fn insert(&mut self, conn: Conn) -> Option<usize> {
        if self.is_full() {
            return None;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        if conn.phase != Phase::Greeting {
            self.by_key.insert(conn.key, at);
        }
        self.places[at].conn = Some(conn);
        Some(at)
    }

    /// Gives a connection its ports, by which the guest knows it.
    pub(crate) fn name(&mut self, at: usize, key: Key) {
        if let Some(conn) = self.get_mut(at) {
            conn.key = key;
            self.by_key.insert(key, at);
        }
    }

    /// The guest may use its ports for another connection.
    pub(crate) fn unname(&mut self, at: usize) {
        let Some(conn) = self.places.get(at).and_then(|place| place.conn.as_ref()) else {
            return;
        };
        if self.by_key.get(&conn.key) == Some(&at) {
            self.by_key.remove(&conn.key);
        }
    }

    pub(crate) fn find(&self, key: Key) -> Option<usize> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut Conn> {
        self.places.get_mut(at)?.conn.as_mut()
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<Conn> {
        self.unname(at);
        let conn = self.places.get_mut(at)?.conn.take()?;
        self.free.push(at);
        Some(conn)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives a connection a turn, after all others that have one coming.
    pub(crate) fn queue(&mut self, at: usize) {
        if let Some(place) = self.places.get_mut(at)
            && !std::mem::replace(&mut place.queued, true)
        {
            self.queue.push_back(at);
        }
    }

    /// Gives back a turn that could not be taken: it comes first again.
    pub(crate) fn queue_first(&mut self, at: usize) {
        if let Some(place) = self.places.get_mut(at)
            && !std::mem::replace(&mut place.queued, true)
        {
            self.queue.push_front(at);
        }
    }

    /// Whose turn it is.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let at = self.queue.pop_front()?;
        if let Some(place) = self.places.get_mut(at) {
            place.queued = false;
        }
        Some(at)
    }

    /// Places there are, for looking at each.
    pub(crate) fn places(&self) -> std::ops::Range<usize> {
        0..self.places.len()
    }
}
