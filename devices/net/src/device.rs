//! The device: its configuration fields, and which queue is whose.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use device::{Error, Result, Saved};
use limiter::RateLimiterConfig;
use memory::GuestRam;
use sandbox::Filter;
use serde_json::{Value, json};
use virtio::{Class, ConfigChange, Identity, QueueTask, Ring, VirtioDevice};

use crate::control::Control;
use crate::feature;
use crate::pair::Pair;
use crate::shared::{ANNOUNCE, HostEnd, Shared};
use crate::state::{NetState, VERSION};
use crate::times::histograms;
use crate::worker::Side;

/// Device type (VIRTIO 1.3, chapter 5).
const NETWORK: u16 = 1;
/// Network controller, Ethernet.
const CLASS: Class = Class { base: 2, sub: 0 };
/// Configuration fields: address, status, most pairs, MTU (VIRTIO 1.3, 5.1.4).
const CONFIG_LEN: u32 = 12;
/// Commands are rare: as many as Linux has under way, and some.
const CONTROL_QUEUE_SIZE: u16 = 64;
/// The kind in saved state.
pub(crate) const KIND: &str = "net";

/// Whose a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Of(usize, Side),
    Control,
    /// A driver set it up without the features that give it a meaning.
    Nobodys,
}

/// A network device without its transport.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    pairs: Vec<Pair>,
    control: QueueTask<Control>,
    /// By index, of queues that run: it depends on the features.
    roles: Vec<Option<Role>>,
    /// By index, rings of queues that are nobody's.
    idle: Vec<Option<Ring>>,
    features: u64,
    queue_size: u16,
    /// A copy of a device that worked elsewhere: neighbours are to learn of it.
    arrived: bool,
}

/// What a [`Network`] is made with.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) host: Arc<HostEnd>,
    pub(crate) ram: GuestRam,
    pub(crate) limits: Option<&'a RateLimiterConfig>,
    pub(crate) features: u64,
    pub(crate) queue_size: u16,
    /// The device's id, with which the names of its threads begin.
    pub(crate) id: &'a str,
    pub(crate) rules: &'a Filter,
}

impl Network {
    pub(crate) fn new(parts: Parts<'_>) -> io::Result<Self> {
        let Parts { id, rules, .. } = parts;
        let shared = Arc::new(Shared::new(parts.host, parts.ram, parts.limits)?);
        let pair = |index| {
            let name = format!("{id}_qp{index}");
            Pair::new(index, name, rules.clone(), Arc::clone(&shared))
        };
        let pairs: Vec<_> = (0..shared.bells.len()).map(pair).collect();
        let control = Control(Arc::clone(&shared));
        Ok(Self {
            control: QueueTask::new(format!("{id}_ctrl"), rules.clone(), control),
            roles: vec![None; 2 * pairs.len() + 1],
            idle: (0..=2 * pairs.len()).map(|_| None).collect(),
            pairs,
            features: parts.features,
            queue_size: parts.queue_size,
            shared,
            arrived: false,
        })
    }

    /// Queues of pairs come first; the control queue is the last of those that the driver knows of
    /// (VIRTIO 1.3, 5.1.2).
    fn role(&self, index: u16, features: u64) -> Role {
        let pairs = match features & feature::MQ {
            0 => 1,
            _ => self.pairs.len(),
        };
        let index = usize::from(index);
        let side = match index % 2 {
            0 => Side::Receive,
            _ => Side::Transmit,
        };
        if index < 2 * pairs {
            Role::Of(index / 2, side)
        } else if features & feature::CTRL_VQ != 0 && index == 2 * pairs {
            Role::Control
        } else {
            Role::Nobodys
        }
    }

    /// Before the first queue: tells the tap what the driver agreed to, or chose since.
    fn apply(&mut self, features: u64) -> Result<()> {
        let shared = &self.shared;
        shared.features.store(features, Ordering::Release);
        let offloads = match shared.chosen_offloads() {
            Some(chosen) => chosen & features,
            None => features & feature::GUEST_OFFLOADS,
        };
        let applied = shared
            .apply_offloads(offloads)
            .and_then(|()| shared.set_pairs(shared.active()));
        match applied {
            // The interface is gone. The worker finds out, and the guest has a device whose link is down.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {}
            Err(source) => {
                return Err(Error::Backend {
                    what: format!("cannot prepare tap {}", shared.host.tap.name()),
                    source: source.into(),
                });
            }
            Ok(()) => {}
        }
        if std::mem::take(&mut self.arrived) && features & feature::GUEST_ANNOUNCE != 0 {
            self.shared.note_announce(false);
            self.shared.change_status(ANNOUNCE, 0);
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.roles.iter().any(Option::is_some)
    }

    fn fields(&self) -> [u8; CONFIG_LEN as usize] {
        let mut fields = [0; CONFIG_LEN as usize];
        let shared = &self.shared;
        let mtu = shared.host.mtu.unwrap_or(0);
        fields[..6].copy_from_slice(&shared.host.mac.0);
        fields[6..8].copy_from_slice(&shared.status().to_le_bytes());
        fields[8..10].copy_from_slice(&shared.pairs().to_le_bytes());
        fields[10..].copy_from_slice(&mtu.to_le_bytes());
        fields
    }
}

impl VirtioDevice for Network {
    fn identity(&self) -> Identity {
        let mut queue_sizes = vec![self.queue_size; 2 * self.pairs.len()];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        Identity {
            device_type: NETWORK,
            class: CLASS,
            features: self.features,
            queue_sizes,
            config_len: CONFIG_LEN,
        }
    }

    fn attach(&mut self, change: ConfigChange) {
        // Called once.
        let _ = self.shared.change.set(change);
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let fields = self.fields();
        for (value, field) in out.iter_mut().zip(fields.iter().skip(offset)) {
            *value = *field;
        }
    }

    fn start(&mut self, index: u16, ring: Ring) -> Result<()> {
        let features = ring.features();
        let role = self.role(index, features);
        if !self.is_running() {
            self.apply(features)?;
        }
        match role {
            Role::Of(pair, side) => self.pairs[pair].start(side, ring)?,
            Role::Control => self.control.start(ring)?,
            Role::Nobodys => self.idle[usize::from(index)] = Some(ring),
        }
        self.roles[usize::from(index)] = Some(role);
        Ok(())
    }

    fn stop(&mut self, index: u16) -> Option<Ring> {
        match self.roles.get_mut(usize::from(index))?.take()? {
            Role::Of(pair, side) => self.pairs[pair].stop(side),
            Role::Control => self.control.stop(),
            Role::Nobodys => self.idle[usize::from(index)].take(),
        }
    }

    fn reset(&mut self) {
        // The tap follows when the next driver starts queues: this is a processor's thread.
        self.shared.note_pairs(1);
        self.shared.note_offloads(None);
        self.shared.note_announce(false);
        self.arrived = false;
    }

    fn save(&self) -> Result<Saved> {
        let state = NetState {
            pairs: self.shared.active(),
            offloads: self.shared.chosen_offloads(),
            announce: self.shared.status() & ANNOUNCE != 0,
        };
        Saved::new(KIND, VERSION, &state)
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let state: NetState = saved.read(KIND, VERSION)?;
        let bad = |why: String| Err(Error::BadState { kind: KIND, why });
        if state.pairs == 0 || state.pairs > self.shared.pairs() {
            return bad(format!(
                "{} pairs of queues are in use, the device has {}",
                state.pairs,
                self.shared.pairs()
            ));
        }
        if let Some(chosen) = state.offloads
            && chosen & !feature::GUEST_OFFLOADS != 0
        {
            return bad(format!("offloads {chosen:#x} do not exist"));
        }
        self.shared.note_pairs(state.pairs);
        self.shared.note_offloads(state.offloads);
        self.shared.note_announce(state.announce);
        self.arrived = true;
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters.list()
    }

    fn histograms(&self) -> Vec<device::Histogram> {
        histograms(&self.shared.times)
    }

    fn decided(&self) -> Option<Value> {
        Some(json!({ "mac": self.shared.host.mac }))
    }

    fn leave(&mut self) -> Option<Box<dyn Any + Send>> {
        let busy = self.pairs.iter().any(Pair::is_running);
        (!busy).then(|| Box::new(Arc::clone(&self.shared.host)) as Box<dyn Any + Send>)
    }
}
