//! The device between its registers and its queues.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::{Error, Result, Saved};
use disk::{Disk, OpenOptions};
use limiter::Limiter;
use reactor::Task;
use sandbox::Filter;
use serde::Deserialize;
use serde_json::{Value, json};
use virtio::{Class, ConfigChange, Identity, Ring, VirtioDevice, feature};

use crate::Block;
use crate::counters::{Counters, histograms, sums};
use crate::fields::{CONFIG_LEN, Fields, WRITEBACK, features};
use crate::request::{ID_LEN, SECTOR};
use crate::state::{BlockState, VERSION};
use crate::worker::{Shared, Worker, WorkerParts};

/// Device type (VIRTIO 1.3, chapter 5).
const BLOCK: u16 = 2;
/// Mass storage of no special kind.
const MASS_STORAGE: Class = Class { base: 1, sub: 0 };

/// What a disk is made of.
pub struct Parts {
    /// Id of the device: threads are called `<id>_q<N>`.
    pub id: String,
    /// What the threads may ask of the host's kernel.
    pub rules: Filter,
    /// The image.
    pub disk: Arc<dyn Disk>,
    /// How it was opened, for the device that takes its place after a reset.
    pub options: OpenOptions,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// For each queue the host CPUs that its thread runs on; empty for any.
    pub queues: Vec<Vec<usize>>,
    /// Limits.
    pub limiter: Option<Limiter>,
    /// Serial number, filled up with zeros.
    pub serial: [u8; ID_LEN],
}

/// A disk without its transport.
pub struct BlockDevice {
    parts: Parts,
    shared: Arc<Shared>,
    tasks: Vec<Option<Task<Worker>>>,
    change: Option<ConfigChange>,
    /// The driver was told another size before this device was restored.
    is_news: bool,
}

/// What stays open over a reset of the guest.
pub(crate) struct Kept {
    pub(crate) options: OpenOptions,
    pub(crate) disk: Arc<dyn Disk>,
}

/// A change that [`VirtioDevice::update`] knows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// New size in bytes.
    size: u64,
}

impl BlockDevice {
    /// A disk that no driver has seen.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let queues = parts.queues.len();
        let shared = Shared {
            writeback: AtomicBool::new(true),
            counters: parts.queues.iter().map(|_| Counters::default()).collect(),
            id: parts.id.clone(),
            is_damage_told: AtomicBool::new(false),
        };
        Self {
            parts,
            shared: Arc::new(shared),
            tasks: (0..queues).map(|_| None).collect(),
            change: None,
            is_news: false,
        }
    }

    fn features(&self) -> u64 {
        let Parts {
            disk,
            options,
            queues,
            ..
        } = &self.parts;
        features(&**disk, options.sparse, queues.len())
    }

    fn fields(&self) -> Fields {
        let Parts {
            disk,
            options,
            queue_size,
            queues,
            ..
        } = &self.parts;
        Fields {
            capacity: disk.capacity(),
            topology: disk.topology(),
            writeback: self.shared.writeback.load(Ordering::Acquire),
            queues: u16::try_from(queues.len()).unwrap_or(u16::MAX),
            queue_size: *queue_size,
            sparse: options.sparse,
            features: self.features(),
        }
    }

    fn announce(&self) {
        if let Some(change) = &self.change {
            change.announce();
        }
    }

    fn resize(
        &self,
        size: u64,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.parts.disk.is_read_only() {
            return Err("the disk is read-only (--disk readonly)".into());
        }
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(
                format!("{size} bytes are not a whole number of {SECTOR}-byte sectors").into(),
            );
        }
        Ok(self.parts.disk.resize(size)?)
    }
}

impl VirtioDevice for BlockDevice {
    fn identity(&self) -> Identity {
        let transport = feature::INDIRECT_DESC | feature::EVENT_IDX | feature::RING_RESET;
        Identity {
            device_type: BLOCK,
            class: MASS_STORAGE,
            features: self.features() | transport,
            queue_sizes: vec![self.parts.queue_size; self.parts.queues.len()],
            config_len: CONFIG_LEN,
        }
    }

    fn attach(&mut self, change: ConfigChange) {
        self.change = Some(change);
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let image = self.fields().image();
        let fields = image.iter().skip(offset as usize);
        for (out, byte) in out.iter_mut().zip(fields) {
            *out = *byte;
        }
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        // All other fields are the device's.
        if let (WRITEBACK, [value]) = (offset, data) {
            self.shared.writeback.store(*value != 0, Ordering::Release);
        }
    }

    fn start(&mut self, index: u16, ring: Ring) -> Result<()> {
        let place = usize::from(index);
        let name = format!("{}_q{index}", self.parts.id);
        let failed = |source| Error::Worker {
            name: name.clone(),
            source,
        };
        let worker = Worker::new(WorkerParts {
            name: name.clone(),
            ring,
            disk: Arc::clone(&self.parts.disk),
            shared: Arc::clone(&self.shared),
            limiter: self.parts.limiter.clone(),
            serial: self.parts.serial,
            cpus: self.parts.queues.get(place).cloned().unwrap_or_default(),
        });
        let worker = worker.map_err(failed)?;
        let task = Task::spawn_loop(&name, self.parts.rules.clone(), worker).map_err(failed)?;
        if let Some(slot) = self.tasks.get_mut(place) {
            *slot = Some(task);
        }
        if std::mem::take(&mut self.is_news) {
            self.announce();
        }
        Ok(())
    }

    fn stop(&mut self, index: u16) -> Option<Ring> {
        let task = self.tasks.get_mut(usize::from(index))?.take()?;
        match task.stop() {
            Ok(worker) => Some(worker.into_ring()),
            Err(error) => {
                let why = telemetry::chain(&error).join(": ");
                telemetry::error!("{}: {why}", self.parts.id);
                None
            }
        }
    }

    fn reset(&mut self) {
        self.shared.writeback.store(true, Ordering::Release);
    }

    fn save(&self) -> Result<Saved> {
        let state = BlockState {
            writeback: self.shared.writeback.load(Ordering::Acquire),
            capacity: self.parts.disk.capacity(),
        };
        Saved::new(Block::KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: BlockState = saved.read(Block::KIND, VERSION)?;
        self.shared
            .writeback
            .store(state.writeback, Ordering::Release);
        self.is_news = state.capacity != self.parts.disk.capacity();
        Ok(())
    }

    /// `{"size": <bytes>}` gives the disk another size, a multiple of 512.
    fn update(&mut self, change: Value) -> Result<()> {
        let failed = |source| Error::Backend {
            what: format!("the size of {} cannot be changed", self.parts.id),
            source,
        };
        let Change { size } = Change::deserialize(change).map_err(|error| failed(error.into()))?;
        self.resize(size).map_err(failed)?;
        self.announce();
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        sums(self.shared.counters.iter())
    }

    fn histograms(&self) -> Vec<device::Histogram> {
        histograms(&self.shared.counters)
    }

    /// The engine, which depends on the host's kernel, and why the image is not written any more if that is so.
    fn decided(&self) -> Option<Value> {
        let mut decided = json!({ "engine": self.parts.disk.engine() });
        if let Some(damage) = self.parts.disk.damage() {
            decided["damage"] = damage.into();
        }
        Some(decided)
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(Kept {
            options: self.parts.options.clone(),
            disk: Arc::clone(&self.parts.disk),
        }))
    }
}

impl fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockDevice")
            .field("id", &self.parts.id)
            .field("options", &self.parts.options)
            .finish_non_exhaustive()
    }
}
