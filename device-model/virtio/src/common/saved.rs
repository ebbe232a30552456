//! To and from the state at rest. A state is no more trusted than a driver: it goes through the same checks.

use super::{ActiveQueue, Common, Phase, Place, Supplies, status};
use crate::line::PciLine;
use crate::state::{QueueState, TransportState};
use crate::{Error, QueueSetup, Result, feature};

impl Common {
    /// Its state. No ring is with the device.
    pub(crate) fn save(&self, line: &PciLine) -> TransportState {
        let queue = |index: u16| {
            let setup = self.setup(index).copied().unwrap_or_default();
            let (next_available, next_used) = match &self.phase {
                Phase::Active(queues) => match queues.get(usize::from(index)).map(|q| &q.place) {
                    Some(Place::Parked(ring)) => (ring.next_available(), ring.next_used()),
                    _ => (0, 0),
                },
                Phase::Setup(_) => (0, 0),
            };
            let QueueSetup {
                size,
                descriptors,
                available,
                used,
                enabled,
            } = setup;
            let vector = line.queue_vector(index);
            QueueState {
                size,
                descriptors,
                available,
                used,
                enabled,
                vector,
                next_available,
                next_used,
            }
        };
        TransportState {
            status: self.status,
            driver_features: self.driver_features,
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            queue_select: self.queue_select,
            config_vector: line.config_vector(),
            isr: line.isr(),
            generation: line.generation(),
            needs_reset: line.is_reset_needed(),
            queues: (0..self.queue_count()).map(queue).collect(),
        }
    }

    /// The same device in a saved state, with its rings parked.
    ///
    /// # Errors
    /// [`Error::State`] or the rule that the state breaks.
    pub(crate) fn restored(&self, state: &TransportState, supplies: &Supplies<'_>) -> Result<Self> {
        let count = self.max_sizes.len();
        if state.queues.len() != count {
            return Err(Error::State(format!(
                "it has {} queues instead of {count}",
                state.queues.len()
            )));
        }
        let mut common = Self::new(self.offered, self.max_sizes.clone());
        common.device_feature_select = state.device_feature_select;
        common.driver_feature_select = state.driver_feature_select;
        common.queue_select = state.queue_select;
        common.driver_features = state.driver_features;
        common.status = state.status & !status::NEEDS_RESET;
        if common.status & status::FEATURES_OK != 0 && !common.is_agreed() {
            let beyond = state.driver_features & !self.offered;
            return Err(Error::State(format!(
                "features {beyond:#x} are not offered here"
            )));
        }
        let setups: Vec<QueueSetup> = state.queues.iter().map(QueueState::setup).collect();
        if common.status & status::DRIVER_OK == 0 {
            common.phase = Phase::Setup(setups);
            return Ok(common);
        }
        let mut queues = Vec::with_capacity(count);
        for ((index, setup), saved) in (0u16..).zip(setups).zip(&state.queues) {
            let mut place = Place::Nowhere;
            if setup.enabled && !state.needs_reset {
                let position = (saved.next_available, saved.next_used);
                place = Place::Parked(common.ring(index, &setup, supplies, position)?);
            } else if !setup.enabled && common.driver_features & feature::RING_RESET != 0 {
                place = Place::Open;
            }
            queues.push(ActiveQueue { setup, place });
        }
        common.phase = Phase::Active(queues);
        Ok(common)
    }
}

impl QueueState {
    fn setup(&self) -> QueueSetup {
        let Self {
            size,
            descriptors,
            available,
            used,
            enabled,
            ..
        } = *self;
        QueueSetup {
            size,
            descriptors,
            available,
            used,
            enabled,
        }
    }
}

impl TransportState {
    /// Puts vectors and flags back.
    pub(crate) fn restore_line(&self, line: &PciLine) {
        line.set_config_vector(self.config_vector);
        for (index, queue) in (0u16..).zip(&self.queues) {
            line.set_queue_vector(index, queue.vector);
        }
        let live = self.status & status::DRIVER_OK != 0;
        line.restore(self.isr, self.generation, self.needs_reset, live);
    }
}
