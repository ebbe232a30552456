//! Limiters that several devices share, by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Limiter;

/// The groups of one machine. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Groups(Arc<Mutex<BTreeMap<String, Limiter>>>);

impl Groups {
    /// Adds a group, until the guard is dropped. `None` if there is one of this name.
    #[must_use]
    pub fn add(&self, id: &str, limiter: Limiter) -> Option<Member> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.contains_key(id) {
            return None;
        }
        groups.insert(id.to_owned(), limiter);
        Some(Member {
            groups: self.clone(),
            id: id.to_owned(),
        })
    }

    /// The limiter of a group.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Limiter> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(id).cloned()
    }

    /// Names of the groups, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.keys().cloned().collect()
    }
}

/// While it lives, its group is there. Devices that have the limiter keep it.
#[derive(Debug)]
pub struct Member {
    groups: Groups,
    id: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut groups = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.remove(&self.id);
    }
}
