use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use device::Result;
use sandbox::Filter;

use super::*;
use crate::common::{field, status};
use crate::testing::{Bench, Driver, DriverQueue, Part, eventually};
use crate::{Chain, Class, QueueTask, Ring, Service};

mod hostile;
mod life;
mod transport;

/// Copies what it reads to what it writes, on a thread per queue.
struct Echo {
    queues: Vec<QueueTask<Copier>>,
    features: u64,
    config: [u8; 6],
    change: Option<ConfigChange>,
    resets: Arc<AtomicU32>,
    refuse_start: bool,
}

struct Copier;

impl Service for Copier {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        let mut bytes = Vec::new();
        chain.reader().read_to_end(&mut bytes).unwrap();
        let mut writer = chain.writer();
        // Ends early if there is less room.
        let _ = writer.write_all(&bytes);
        writer.written()
    }
}

impl Echo {
    fn new(features: u64) -> Self {
        let task = |index| QueueTask::new(format!("echo_q{index}"), Filter::none(), Copier);
        Self {
            queues: (0..2).map(task).collect(),
            features,
            config: *b"config",
            change: None,
            resets: Arc::default(),
            refuse_start: false,
        }
    }
}

impl VirtioDevice for Echo {
    fn identity(&self) -> Identity {
        Identity {
            device_type: 42,
            class: Class {
                base: 0x07,
                sub: 0x80,
            },
            features: self.features,
            queue_sizes: vec![64, 128],
            config_len: 6,
        }
    }

    fn attach(&mut self, change: ConfigChange) {
        self.change = Some(change);
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let start = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.config[start..start + out.len()]);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        self.config[start..start + data.len()].copy_from_slice(data);
    }

    fn start(&mut self, index: u16, ring: Ring) -> Result<()> {
        if self.refuse_start {
            return Err(device::Error::NotChangeable("a test"));
        }
        self.queues[usize::from(index)].start(ring)
    }

    fn stop(&mut self, index: u16) -> Option<Ring> {
        self.queues[usize::from(index)].stop()
    }

    fn reset(&mut self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }

    fn save(&self) -> Result<Saved> {
        Saved::new("echo", 1, &self.config)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        self.config = saved.read("echo", 1)?;
        Ok(())
    }
}

/// A started device that no driver has seen.
fn device_with(bench: &Bench, echo: Echo) -> OverPci<Echo> {
    let mut device = OverPci::new("echo", echo, bench.environment("echo0")).unwrap();
    device.start().unwrap();
    device
}

fn device(bench: &Bench) -> OverPci<Echo> {
    device_with(
        bench,
        Echo::new(feature::EVENT_IDX | feature::INDIRECT_DESC),
    )
}

/// A device and its driver at work.
fn at_work(bench: &Bench) -> (OverPci<Echo>, Driver<'_>, Vec<DriverQueue>) {
    let mut device = device(bench);
    let driver = Driver::find(bench, 1);
    let queues = driver.start(u64::MAX);
    bench.attend(&mut device);
    (device, driver, queues)
}

/// Sends `text` through a queue and waits for it to come back.
fn echo(bench: &Bench, driver: &Driver<'_>, queue: &mut DriverQueue, text: &[u8]) {
    let len = u32::try_from(text.len()).unwrap();
    queue.set_used_event(queue.used_index());
    let addresses = queue.add(&[Part::Read(text), Part::Write(len)]);
    drop(bench.sent.take());
    driver.kick(queue.index);
    bench.sent.wait(Driver::queue_message(queue.index));
    let used = queue.used();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].1, len);
    assert_eq!(queue.bytes(addresses[1], text.len()), text);
}
