//! Bytes as a list of things that a guest can do.

use std::path::PathBuf;
use std::sync::OnceLock;

use device::{AnyKind, Device};
use pci::Msix;
use serde_json::Value;
use virtio::testing::Sent;

use crate::{Bytes, Driver, Example, Rig, examples};

/// The part of memory that the attack writes to: buffers, and whatever is in them.
const ARENA: u64 = 0x80_0000;
const ARENA_SIZE: u64 = 0x1_0000;
/// The most things done in one attack.
const MOST_STEPS: u32 = 200;

/// The examples that attacks build devices from. Their files are made once for the whole process.
fn kinds() -> &'static [Example] {
    static KINDS: OnceLock<Vec<Example>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let folder: PathBuf = tempfile::tempdir().expect("a folder").keep();
        let mut list = examples(&folder);
        list.retain(|example| is_on_pci(&example.config));
        list
    })
}

/// Devices on PCI have this member; it is in every example's configuration.
fn is_on_pci(config: &Value) -> bool {
    config.get("pci_segment").is_some() || config.is_boolean()
}

/// How many examples there are to attack.
#[must_use]
pub fn count() -> usize {
    kinds().len()
}

/// The label of the example that `choice` selects.
#[must_use]
pub fn label(choice: u8) -> &'static str {
    &kinds()[usize::from(choice) % kinds().len()].label
}

/// Builds the device that the first byte chooses, lets a well-behaved driver begin, and then does what the other bytes
/// say: descriptors, buffers, doorbells, registers, configuration space, pauses, saved states, resets.
///
/// What is expected is that nothing panics and everything ends; states that were saved can be restored.
pub fn on_any_kind(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let example = &kinds()[usize::from(bytes.u8()) % kinds().len()];
    on_kind(example.kind, &example.config, bytes);
}

fn on_kind(kind: &dyn AnyKind, config: &Value, mut bytes: Bytes<'_>) {
    let rig = Rig::new();
    let Ok(mut device) = rig.build(kind, config) else {
        return;
    };
    device.start().expect("it can start");
    // It is the only device beside the host bridge. One that is no virtio device has only registers.
    if let Some(mut driver) = Driver::find(&rig, 1) {
        driver.begin(u64::MAX);
        rig.attend(&mut *device);
        let mut steps = 0;
        while !bytes.is_empty() && steps < MOST_STEPS {
            step(&rig, &mut *device, &mut driver, &mut bytes);
            steps += 1;
        }
    } else {
        registers(&rig, &mut bytes);
    }
    device.stop().expect("workers do not fail");
    let saved = device.save().expect("there is a form for every state");
    device.restore(saved).expect("its own state fits");
}

/// An address: mostly in the arena, sometimes anything.
fn address(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.u8() % 8 {
        0 => bytes.u64(),
        1 => Rig::RAM.wrapping_sub(u64::from(bytes.u8())),
        _ => ARENA + u64::from(bytes.u16()),
    }
}

fn length(bytes: &mut Bytes<'_>) -> u32 {
    match bytes.u8() % 8 {
        0 => bytes.u32(),
        1 => 1,
        2 => 512,
        3 => 4096,
        _ => bytes.u16().into(),
    }
}

fn step(rig: &Rig, device: &mut dyn Device, driver: &mut Driver<'_>, bytes: &mut Bytes<'_>) {
    match bytes.u8() % 16 {
        0..=2 => {
            let at = ARENA + u64::from(bytes.u16()) % (ARENA_SIZE - 64);
            let data = bytes.some(64);
            rig.ram().write(at, data).expect("it is RAM");
        }
        3..=5 => {
            let (queue, index) = (bytes.u8().into(), bytes.u8().into());
            let (at, len) = (address(bytes), length(bytes));
            driver.describe(
                queue,
                index,
                at,
                len,
                (bytes.u8() & 7).into(),
                bytes.u8().into(),
            );
        }
        6 | 7 => {
            let (queue, head) = (bytes.u8().into(), bytes.u8().into());
            driver.offer(queue, head);
            rig.attend(device);
        }
        8 => {
            let (offset, value) = (bytes.u32() % 0x8_0000, bytes.u64());
            driver.write(offset.into(), 1 << (bytes.u8() % 4), value);
            rig.attend(device);
        }
        9 => {
            let offset = bytes.u32() % 0x8_0000;
            let _ = driver.read(offset.into(), 1 << (bytes.u8() % 4));
        }
        // The device's own fields, which are few among the registers.
        10 => driver.write(
            0x4000 + u64::from(bytes.u8() % 128),
            1 << (bytes.u8() % 4),
            bytes.u64(),
        ),
        11 => {
            let offset = u64::from(bytes.u16() % 0x1000);
            driver.write_config(offset, bytes.some(8));
            rig.attend(device);
        }
        12 => driver.reset_queue(bytes.u8().into()),
        13 => {
            driver.begin(bytes.u64());
            rig.attend(device);
        }
        14 => {
            device.stop().expect("workers do not fail");
            if bytes.u8() & 1 == 1 {
                let saved = device.save().expect("there is a form for every state");
                device.restore(saved).expect("its own state fits");
            }
            device.start().expect("it starts again");
            rig.attend(device);
        }
        _ => std::thread::yield_now(),
    }
}

/// Accesses to configuration space and whatever it has put into the address spaces, of a device that is no virtio
/// device.
fn registers(rig: &Rig, bytes: &mut Bytes<'_>) {
    let Ok(segment) = rig.pci().segment(0) else {
        return;
    };
    let mut steps = 0;
    while !bytes.is_empty() && steps < MOST_STEPS {
        steps += 1;
        let at = match bytes.u8() % 4 {
            0 => segment.ecam() + u64::from(bytes.u16()),
            1 => bytes.u64(),
            _ => arch::layout::MMIO32_START + u64::from(bytes.u32() % (1 << 29)),
        };
        access(rig, at, bytes);
    }
}

fn access(rig: &Rig, at: u64, bytes: &mut Bytes<'_>) {
    let mut data = bytes.array::<8>();
    let choice = bytes.u8();
    let data = &mut data[..1 + usize::from(choice % 8)];
    if choice & 0x80 == 0 {
        rig.board().mmio().write(at, data);
    } else {
        rig.board().mmio().read(at, data);
    }
}

/// Configuration space of a machine with an entropy source in slot 1: through ECAM and through the ports, at any width
/// and place, with BARs moved wherever the bytes say.
pub fn on_config_space(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let rig = Rig::new();
    let example = kinds()
        .iter()
        .find(|example| example.kind.names().kind == "rng");
    let example = example.expect("the catalog has an entropy source");
    let mut device = rig
        .build(example.kind, &example.config)
        .expect("it can be built");
    device.start().expect("it can start");
    let ecam = rig.pci().segment(0).map_or(0, |segment| segment.ecam());
    let mut steps = 0;
    while !bytes.is_empty() && steps < MOST_STEPS {
        steps += 1;
        match bytes.u8() % 4 {
            0 => access(&rig, ecam + u64::from(bytes.u16()) % 0x1_0000, &mut bytes),
            1 => access(&rig, ecam + 0x8000 + u64::from(bytes.u8()), &mut bytes),
            2 => {
                let port = 0xcf8 + u64::from(bytes.u8() % 8);
                let mut data = bytes.array::<4>();
                let len = 1 + usize::from(bytes.u8() % 4);
                rig.board().ports().write(port, &data[..len]);
                rig.board().ports().read(port, &mut data[..len]);
            }
            _ => access(&rig, bytes.u64(), &mut bytes),
        }
        rig.attend(&mut *device);
    }
    device.stop().expect("workers do not fail");
    let saved = device.save().expect("there is a form for every state");
    device.restore(saved).expect("its own state fits");
}

/// An MSI-X table: accesses of any width at any place, vectors triggered, states saved and restored.
pub fn on_msix(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let vectors = u16::from(bytes.u8()) + 1;
    let sent = Sent::default();
    let msix = Msix::new(vectors, &sent).expect("vectors without a hypervisor");
    let mut steps = 0;
    while !bytes.is_empty() && steps < MOST_STEPS {
        steps += 1;
        let offset = u64::from(bytes.u16());
        let mut data = bytes.array::<8>();
        let len = 1 + usize::from(bytes.u8() % 8);
        match bytes.u8() % 5 {
            0 => msix.write_table(offset, &data[..len]),
            1 => msix.read_table(offset, &mut data[..len]),
            2 => msix.read_pending(offset, &mut data[..len]),
            3 => msix.trigger(bytes.u16()),
            _ => {
                let _ = sent.take();
            }
        }
    }
}

/// The registers of a transport that no driver has begun with: accesses of any width at any place of BAR 0.
pub fn on_transport(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let rig = Rig::new();
    let example = kinds()
        .iter()
        .find(|example| example.kind.names().kind == "rng");
    let example = example.expect("the catalog has an entropy source");
    let mut device = rig
        .build(example.kind, &example.config)
        .expect("it can be built");
    device.start().expect("it can start");
    let driver = Driver::find(&rig, 1).expect("it is in the first slot");
    let bar = driver.bar();
    let mut steps = 0;
    while !bytes.is_empty() && steps < MOST_STEPS {
        steps += 1;
        let offset = match bytes.u8() % 4 {
            0 => u64::from(bytes.u32() % 0x8_0000),
            1 => 0x2000 + u64::from(bytes.u8() % 8),
            _ => u64::from(bytes.u8() % 72),
        };
        access(&rig, bar + offset, &mut bytes);
        rig.attend(&mut *device);
    }
    device.stop().expect("workers do not fail");
    let saved = device.save().expect("there is a form for every state");
    device.restore(saved).expect("its own state fits");
}
