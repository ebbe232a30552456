//! A machine that comes from elsewhere: what is said of it, and where its memory is from.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use snapshot::Parts;
use snapshot::handover::MOST_LAYERS;

use crate::MemoryRestoreMode;

/// Where a machine's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum MemorySource {
    /// It was copied from a snapshot.
    Copy,
    /// It is private pages over a snapshot's file.
    Mapped,
    /// It comes from a snapshot's file page by page.
    OnDemand,
    /// It is private pages over the memory file that it shares with the machines that it was forked with.
    Forked,
}

impl From<MemoryRestoreMode> for MemorySource {
    fn from(mode: MemoryRestoreMode) -> Self {
        match mode {
            MemoryRestoreMode::Copy => Self::Copy,
            MemoryRestoreMode::Mapped => Self::Mapped,
            MemoryRestoreMode::OnDemand => Self::OnDemand,
        }
    }
}

/// What is said of a machine that another monitor hands over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiveFork {
    /// Let the guest go on at once.
    #[serde(default)]
    pub resume: bool,
}

/// A machine that another monitor hands over.
#[derive(Clone, Debug)]
pub struct Received {
    wish: ReceiveFork,
    parts: Arc<Parts>,
}

/// Open files are never the same.
impl PartialEq for Received {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parts, &other.parts)
    }
}

impl Received {
    /// One whose configuration, state and memory came as open files, in this order; where memory is in layers, then
    /// their index and these. `None` if there is another number of them.
    #[must_use]
    pub fn new(wish: ReceiveFork, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut files = descriptors.into_iter().map(File::from);
        let (config, state, memory) = (files.next()?, files.next()?, files.next()?);
        let index = files.next();
        let layers: Vec<File> = files.collect();
        if index.is_some() == layers.is_empty() || layers.len() > MOST_LAYERS {
            return None;
        }
        let parts = Parts {
            config,
            state,
            memory,
            layers: index.map(|index| (index, layers)),
        };
        Some(Self {
            wish,
            parts: Arc::new(parts),
        })
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn resume(&self) -> bool {
        self.wish.resume
    }
}
