//! A guest that counts its room and remembers what was typed.

use std::sync::{Arc, Mutex};

use super::wait_until;
use crate::Receiver;

#[derive(Clone, Debug)]
pub(super) struct Typed(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    room: usize,
    bytes: Vec<u8>,
}

impl Typed {
    pub(super) fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            room,
            bytes: Vec::new(),
        })))
    }

    /// The guest has read some. The caller rings the bell.
    pub(super) fn make_room(&self, more: usize) {
        self.0.lock().unwrap().room += more;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, wanted: &[u8]) {
        wait_until(|| self.bytes().len() >= wanted.len());
        assert_eq!(self.bytes(), wanted);
    }
}

impl Receiver for Typed {
    fn room(&mut self) -> usize {
        self.0.lock().unwrap().room
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap();
        state.room = state
            .room
            .checked_sub(bytes.len())
            .expect("never more than room");
        state.bytes.extend_from_slice(bytes);
    }
}
