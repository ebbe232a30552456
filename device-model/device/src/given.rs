//! Open descriptors that a user gives to devices.
//!
//! A device's configuration is plain data and has only their numbers. The descriptors themselves are kept here, by the
//! id of the device that they are for, for as long as the machine's configuration has that device: a device that is
//! built gets copies, so that it can be built again after a shutdown.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors for one device. Copies of the value are the same descriptors; the last one closes them.
#[derive(Clone, Debug, Default)]
pub struct Descriptors(Arc<[OwnedFd]>);

impl Descriptors {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their numbers in this process.
    pub fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd)
    }

    /// Descriptors of their own for the same open files.
    ///
    /// # Errors
    /// If the process can have no more.
    pub fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.iter().map(OwnedFd::try_clone).collect()
    }
}

impl From<Vec<OwnedFd>> for Descriptors {
    fn from(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors.into())
    }
}

/// The same descriptors, not only the same files.
impl PartialEq for Descriptors {
    fn eq(&self, other: &Self) -> bool {
        self.numbers().eq(other.numbers())
    }
}

/// The descriptors of all devices, by the device's id. The machine's owner fills it, and
/// [provides](crate::Board::provide) it to devices.
#[derive(Debug, Default)]
pub struct Given(Mutex<HashMap<String, Descriptors>>);

impl Given {
    /// Gives descriptors to the device with this id, instead of those that it had.
    pub fn give(&self, id: &str, descriptors: Descriptors) {
        self.lock().insert(id.to_owned(), descriptors);
    }

    /// Takes back what the device with this id was given. The device keeps its copies.
    pub fn take_back(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Takes all back.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// What the device with this id was given.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<Descriptors> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Descriptors>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(number: RawFd) -> bool {
        std::path::Path::new(&format!("/proc/self/fd/{number}")).exists()
    }

    #[test]
    fn what_is_taken_back_is_closed_and_copies_stay() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let descriptors = Descriptors::from(vec![OwnedFd::from(file)]);
        let number = descriptors.numbers().next().unwrap();
        let given = Given::default();
        given.give("_net0", descriptors);
        assert_eq!(given.of("_net0").unwrap().len(), 1);
        assert!(given.of("_net1").is_none());
        let copies = given.of("_net0").unwrap().duplicate().unwrap();
        assert_ne!(copies[0].as_raw_fd(), number);
        given.take_back("_net0");
        assert!(given.of("_net0").is_none());
        assert!(is_open(copies[0].as_raw_fd()) && !is_open(number));
    }
}
