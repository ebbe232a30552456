//! The device.

use std::any::Any;
use std::fmt;
use std::io;

use device::{Error, Kind, Result, Saved};
use reactor::Task;
use sandbox::Filter;
use virtio::{Class, Identity, Ring, VirtioDevice};

use crate::flush::{Flush, Flusher};
use crate::medium::Failure;
use crate::state::{PmemState, VERSION};
use crate::{Medium, OPTION, PersistentMemory, Place};

/// Device type (VIRTIO 1.3, chapter 5).
const PMEM: u16 = 27;
const QUEUE_SIZE: u16 = 256;
/// Configuration fields: `start`, `size` (VIRTIO 1.3, 5.19.4).
const CONFIG_LEN: u32 = 16;

/// The device.
pub struct Pmem {
    place: Place,
    medium: Medium,
    thread: String,
    rules: Filter,
    /// Takes the medium's contents to the disk, while no worker does.
    sync: Option<Flush>,
    task: Option<Task<Flusher>>,
}

impl Pmem {
    /// A device whose memory is in `place`, and what is behind it in `medium`. Its thread will have this name and
    /// these rules.
    #[must_use]
    pub fn new(place: Place, medium: Medium, thread: &str, rules: Filter) -> Self {
        let disk = medium.clone();
        Self {
            place,
            medium,
            thread: thread.to_owned(),
            rules,
            sync: Some(Box::new(move || disk.sync())),
            task: None,
        }
    }

    /// Flushes otherwise.
    #[cfg(test)]
    pub(crate) fn with_sync(mut self, sync: Flush) -> Self {
        self.sync = Some(sync);
        self
    }
}

impl Pmem {
    /// What the guest wrote is there for who restores the machine.
    fn check_kept(&self) -> Result<()> {
        let lost = |source: Failure| Error::Backend {
            what: format!("{OPTION} {}", self.medium.named()),
            source,
        };
        match self.medium.would_lose() {
            Ok(false) => Ok(()),
            Ok(true) => Err(lost(
                "the guest has written to it, and what it wrote is gone with this machine: only what is in a file \
                 with discard_writes=off can be saved"
                    .into(),
            )),
            Err(error) => Err(lost(
                format!(
                    "whether the guest has written to memory with discard_writes=on cannot be told: {error} (with \
                     Landlock it cannot); with discard_writes=off it is in its file"
                )
                .into(),
            )),
        }
    }
}

impl VirtioDevice for Pmem {
    fn identity(&self) -> Identity {
        Identity {
            device_type: PMEM,
            class: Class::OTHER,
            features: 0,
            queue_sizes: vec![QUEUE_SIZE],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let fields = [self.place.start(), self.place.size()].map(u64::to_le_bytes);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (value, field) in out.iter_mut().zip(fields.iter().flatten().skip(offset)) {
            *value = *field;
        }
    }

    fn start(&mut self, _index: u16, ring: Ring) -> Result<()> {
        let failed = |source| Error::Worker {
            name: self.thread.clone(),
            source,
        };
        let Some(sync) = self.sync.take() else {
            return Err(failed(io::Error::other("its worker was lost")));
        };
        let task = Task::spawn(&self.thread, self.rules.clone(), Flusher::new(ring, sync));
        self.task = Some(task.map_err(failed)?);
        Ok(())
    }

    fn stop(&mut self, _index: u16) -> Option<Ring> {
        match self.task.take()?.stop() {
            Ok(flusher) => {
                let (ring, sync) = flusher.into_parts();
                self.sync = Some(sync);
                Some(ring)
            }
            Err(error) => {
                telemetry::error!("{}: {}", self.thread, telemetry::chain(&error).join(": "));
                None
            }
        }
    }

    fn save(&self) -> Result<Saved> {
        self.check_kept()?;
        let state = PmemState {
            start: self.place.start(),
            size: self.place.size(),
        };
        Saved::new(PersistentMemory::NAMES.kind, VERSION, &state)
    }

    /// The guest knows where its memory is: it goes there.
    fn restore(&mut self, saved: Saved) -> Result<()> {
        let kind = PersistentMemory::NAMES.kind;
        let bad = |why| Error::BadState { kind, why };
        let PmemState { start, size } = saved.read(kind, VERSION)?;
        let now = self.place.size();
        if size != now {
            return Err(bad(format!("it had {size} bytes, and has {now} now")));
        }
        if !start.is_multiple_of(crate::ALIGN) {
            return Err(bad(format!("{start:#x} is not a multiple of 2 MiB")));
        }
        self.place
            .move_to(start)
            .map_err(|error| bad(telemetry::chain(&error).join(": ")))
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        Some(Box::new(self.medium.clone()))
    }
}

impl fmt::Debug for Pmem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pmem")
            .field("place", &self.place)
            .field("medium", &self.medium)
            .field("running", &self.task.is_some())
            .finish_non_exhaustive()
    }
}
