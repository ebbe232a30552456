//! The control queue (VIRTIO 1.3, 5.1.6.5).

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio::{Chain, Service};

use crate::feature::{CTRL_GUEST_OFFLOADS, GUEST_ANNOUNCE, GUEST_OFFLOADS, MQ};
use crate::shared::Shared;

/// Answers.
const OK: u8 = 0;
const ERR: u8 = 1;

/// Classes and commands.
const CLASS_ANNOUNCE: u8 = 3;
const ANNOUNCE_ACK: u8 = 0;
const CLASS_MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const CLASS_GUEST_OFFLOADS: u8 = 5;
const GUEST_OFFLOADS_SET: u8 = 0;

/// The longest command that is known, and one byte: what is longer is not known.
const LONGEST: usize = 2 + 8 + 1;

/// Carries out commands. Filters of addresses and of VLANs are not offered, and so refused.
#[derive(Debug)]
pub(crate) struct Control(pub(crate) Arc<Shared>);

impl Service for Control {
    fn serve(&mut self, chain: &mut Chain) -> u32 {
        if chain.writable_len() == 0 {
            telemetry::warn!("net: a control command has no room for its answer");
            return 0;
        }
        let mut command = [0; LONGEST];
        let mut length = 0;
        let mut reader = chain.reader();
        while let Ok(count @ 1..) = reader.read(&mut command[length..]) {
            length += count;
        }
        let answer = match self.execute(&command[..length]) {
            Some(()) => OK,
            None => ERR,
        };
        let mut writer = chain.writer();
        match writer.write_all(&[answer]) {
            Ok(()) => writer.written(),
            Err(error) => {
                telemetry::warn!("net: cannot answer a control command: {error}");
                0
            }
        }
    }
}

impl Control {
    /// Carries out one command; `None` if it is not possible.
    fn execute(&self, command: &[u8]) -> Option<()> {
        let features = self.0.features.load(Ordering::Acquire);
        let has = |feature: u64| (features & feature != 0).then_some(());
        match *command {
            [CLASS_ANNOUNCE, ANNOUNCE_ACK] => {
                has(GUEST_ANNOUNCE)?;
                // The driver knows: no word to it.
                self.0.note_announce(false);
                Some(())
            }
            [CLASS_MQ, MQ_VQ_PAIRS_SET, low, high] => {
                has(MQ)?;
                let pairs = u16::from_le_bytes([low, high]);
                if pairs == 0 || pairs > self.0.pairs() {
                    return None;
                }
                done("the number of queues", self.0.set_pairs(pairs))
            }
            [CLASS_GUEST_OFFLOADS, GUEST_OFFLOADS_SET, ref value @ ..] => {
                has(CTRL_GUEST_OFFLOADS)?;
                let chosen = u64::from_le_bytes(value.try_into().ok()?);
                if chosen & !(GUEST_OFFLOADS & features) != 0 {
                    return None;
                }
                done("the offloads", self.0.apply_offloads(chosen))?;
                self.0.note_offloads(Some(chosen));
                Some(())
            }
            _ => None,
        }
    }
}

fn done(what: &str, result: std::io::Result<()>) -> Option<()> {
    result
        .inspect_err(|error| telemetry::warn!("net: cannot change {what}: {error}"))
        .ok()
}
