//! The device.

use std::any::Any;
use std::fmt;
use std::io;

use device::{Error, Kind, Result, Saved};
use keyvalue::ByteSize;
use memory::GuestRam;
use reactor::Task;
use sandbox::Filter;
use serde::Deserialize;
use serde_json::{Value, json};
use virtio::{Class, ConfigChange, Identity, Ring, VirtioDevice};

use crate::pages::Pages;
use crate::state::{BalloonState, VERSION};
use crate::{MemoryBalloon, PAGE_SHIFT, pages_of};

/// Device type (VIRTIO 1.3, chapter 5).
const MEMORY_BALLOON: u16 = 5;
/// Features (VIRTIO 1.3, 5.5.3).
const DEFLATE_ON_OOM: u64 = 1 << 2;
const PAGE_REPORTING: u64 = 1 << 5;
const QUEUE_SIZE: u16 = 128;
const REPORTING_QUEUE_SIZE: u16 = 32;
/// Configuration fields: `num_pages`, `actual` (VIRTIO 1.3, 5.5.4); those after belong to features not offered.
const CONFIG_LEN: u32 = 8;
const ACTUAL: usize = 4;

/// What a balloon can do besides being inflated and deflated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The driver may deflate it when the guest runs out of memory.
    pub deflate_on_oom: bool,
    /// The driver tells of free pages.
    pub free_page_reporting: bool,
}

/// What a balloon leaves to the one after a reset of the guest: the size that the user gave it last.
#[derive(Debug)]
pub(crate) struct Kept {
    /// In pages.
    pub(crate) target: u32,
}

/// What the user can change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    size: ByteSize,
}

/// The device.
pub struct Balloon {
    ram: GuestRam,
    features: Features,
    /// How large the balloon is to be, in pages.
    target: u32,
    /// How large it is, as the driver says, in pages.
    actual: u32,
    change: Option<ConfigChange>,
    thread: String,
    rules: Filter,
    /// The worker while it does not run.
    idle: Option<Pages>,
    task: Option<Task<Pages>>,
}

impl Balloon {
    /// A balloon in `ram` that is to have `target` pages of 4 KiB. Its thread will have this name and these rules.
    #[must_use]
    pub fn new(
        ram: GuestRam,
        target: u32,
        features: Features,
        thread: &str,
        rules: Filter,
    ) -> Self {
        Self {
            ram,
            features,
            target,
            actual: 0,
            change: None,
            thread: thread.to_owned(),
            rules,
            idle: None,
            task: None,
        }
    }

    /// How large the balloon is to be, in bytes.
    fn size(&self) -> ByteSize {
        ByteSize(u64::from(self.target) << PAGE_SHIFT)
    }

    /// The worker, which does not run any more. A new one if it was lost: then so are its queues.
    fn halt(&mut self) -> Pages {
        let running = self.task.take().and_then(|task| match task.stop() {
            Ok(pages) => Some(pages),
            Err(error) => {
                telemetry::error!("{}: {}", self.thread, telemetry::chain(&error).join(": "));
                None
            }
        });
        running
            .or_else(|| self.idle.take())
            .unwrap_or_else(|| Pages::new(self.ram.clone()))
    }

    fn worker_failed(&self, source: io::Error) -> Error {
        Error::Worker {
            name: self.thread.clone(),
            source,
        }
    }

    /// The configuration fields.
    fn fields(&self) -> [u8; 8] {
        let [n0, n1, n2, n3] = self.target.to_le_bytes();
        let [a0, a1, a2, a3] = self.actual.to_le_bytes();
        [n0, n1, n2, n3, a0, a1, a2, a3]
    }
}

impl VirtioDevice for Balloon {
    fn identity(&self) -> Identity {
        let mut features = 0;
        let mut queue_sizes = vec![QUEUE_SIZE; 2];
        if self.features.deflate_on_oom {
            features |= DEFLATE_ON_OOM;
        }
        if self.features.free_page_reporting {
            features |= PAGE_REPORTING;
            queue_sizes.push(REPORTING_QUEUE_SIZE);
        }
        Identity {
            device_type: MEMORY_BALLOON,
            class: Class::OTHER,
            features,
            queue_sizes,
            config_len: CONFIG_LEN,
        }
    }

    fn attach(&mut self, change: ConfigChange) {
        self.change = Some(change);
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (value, field) in out.iter_mut().zip(self.fields().iter().skip(offset)) {
            *value = *field;
        }
    }

    /// The driver says how large the balloon is. It cannot say how large it is to be.
    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut actual = self.actual.to_le_bytes();
        for (at, byte) in (offset..).zip(data) {
            if let Some(field) = at.checked_sub(ACTUAL).and_then(|at| actual.get_mut(at)) {
                *field = *byte;
            }
        }
        self.actual = u32::from_le_bytes(actual);
    }

    fn start(&mut self, index: u16, ring: Ring) -> Result<()> {
        let mut pages = self.halt();
        let Some(place) = pages.ring(index) else {
            self.idle = Some(pages);
            return Err(self.worker_failed(io::Error::other("a balloon has no such queue")));
        };
        *place = Some(ring);
        let task = Task::spawn(&self.thread, self.rules.clone(), pages);
        self.task = Some(task.map_err(|source| self.worker_failed(source))?);
        Ok(())
    }

    /// Stops all queues, and gives one back. They are always stopped together: a driver cannot reset one of them
    /// (`RING_RESET` is not offered).
    fn stop(&mut self, index: u16) -> Option<Ring> {
        let mut pages = self.halt();
        let ring = pages.ring(index).and_then(Option::take);
        self.idle = Some(pages);
        ring
    }

    /// The next driver has all pages.
    fn reset(&mut self) {
        self.actual = 0;
    }

    fn save(&self) -> Result<Saved> {
        let state = BalloonState {
            target: self.target,
            actual: self.actual,
        };
        Saved::new(MemoryBalloon::NAMES.kind, VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let kind = MemoryBalloon::NAMES.kind;
        let BalloonState { target, actual } = saved.read(kind, VERSION)?;
        let size = ByteSize(u64::from(target) << PAGE_SHIFT);
        pages_of(size, self.ram.size()).map_err(|problem| Error::BadState {
            kind,
            why: problem.text,
        })?;
        (self.target, self.actual) = (target, actual);
        Ok(())
    }

    /// Makes the balloon another size: `{"size": bytes}`. The driver hears of it, and follows as far as it can.
    fn update(&mut self, change: Value) -> Result<()> {
        let option = crate::OPTION;
        let Change { size } = serde_json::from_value(change)
            .map_err(|error| device::Problem::new(option, error.to_string()))?;
        let target = pages_of(size, self.ram.size())?;
        if target != self.target {
            self.target = target;
            if let Some(change) = &self.change {
                change.announce();
            }
        }
        Ok(())
    }

    /// What the driver says, but no more than there is.
    fn withheld(&self) -> u64 {
        (u64::from(self.actual) << PAGE_SHIFT).min(self.ram.size())
    }

    fn decided(&self) -> Option<Value> {
        Some(json!({ "size": self.size() }))
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(Kept {
            target: self.target,
        }))
    }
}

impl fmt::Debug for Balloon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balloon")
            .field("features", &self.features)
            .field("target", &self.target)
            .field("actual", &self.actual)
            .field("running", &self.task.is_some())
            .finish_non_exhaustive()
    }
}
