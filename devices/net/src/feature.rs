//! Feature bits of a network device (VIRTIO 1.3, 5.1.3), as masks.

use tap::Offloads;
use virtio::feature::{EVENT_IDX, INDIRECT_DESC, RING_RESET};

use crate::NetConfig;

pub(crate) const CSUM: u64 = 1 << 0;
pub(crate) const GUEST_CSUM: u64 = 1 << 1;
pub(crate) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(crate) const MTU: u64 = 1 << 3;
pub(crate) const MAC: u64 = 1 << 5;
pub(crate) const GUEST_TSO4: u64 = 1 << 7;
pub(crate) const GUEST_TSO6: u64 = 1 << 8;
pub(crate) const GUEST_ECN: u64 = 1 << 9;
pub(crate) const GUEST_UFO: u64 = 1 << 10;
pub(crate) const HOST_TSO4: u64 = 1 << 11;
pub(crate) const HOST_TSO6: u64 = 1 << 12;
pub(crate) const HOST_ECN: u64 = 1 << 13;
pub(crate) const HOST_UFO: u64 = 1 << 14;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const STATUS: u64 = 1 << 16;
pub(crate) const CTRL_VQ: u64 = 1 << 17;
pub(crate) const GUEST_ANNOUNCE: u64 = 1 << 21;
pub(crate) const MQ: u64 = 1 << 22;

/// With one of these a received frame can be of 64 KiB.
pub(crate) const GUEST_SEGMENTS: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_UFO;
/// What the driver can turn on and off at run time: their bits are the same in the command (VIRTIO 1.3, 5.1.6.5.8).
pub(crate) const GUEST_OFFLOADS: u64 = GUEST_SEGMENTS | GUEST_ECN | GUEST_CSUM;

/// What is offered with this configuration; `mtu` if the MTU is known.
pub(crate) fn offered(config: &NetConfig, mtu: bool) -> u64 {
    let pick = |wanted, features| if wanted { features } else { 0 };
    EVENT_IDX
        | INDIRECT_DESC
        | RING_RESET
        | MAC
        | STATUS
        | GUEST_ANNOUNCE
        | MQ
        | CTRL_VQ
        | MRG_RXBUF
        | pick(mtu, MTU)
        | pick(config.offload_csum, CSUM | GUEST_CSUM | CTRL_GUEST_OFFLOADS)
        | pick(
            config.offload_tso,
            HOST_TSO4 | HOST_TSO6 | HOST_ECN | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN,
        )
        | pick(config.offload_ufo, HOST_UFO | GUEST_UFO)
}

/// The same for the tap.
pub(crate) fn offloads(features: u64) -> Offloads {
    Offloads {
        checksum: features & GUEST_CSUM != 0,
        tso4: features & GUEST_TSO4 != 0,
        tso6: features & GUEST_TSO6 != 0,
        ecn: features & GUEST_ECN != 0,
        ufo: features & GUEST_UFO != 0,
    }
}
