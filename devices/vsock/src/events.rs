//! The event queue (VIRTIO 1.3, 5.10.6.7).

use std::io::Write;

use virtio::Ring;

/// Connections are gone and the guest's context id may be another. The only event there is.
const TRANSPORT_RESET: u32 = 0;

/// Tells the guest that its connections are gone. False if it has no buffer for that; its doorbell then rings when
/// it has.
pub(crate) fn transport_reset(ring: &mut Ring) -> bool {
    let chain = match ring.pop() {
        Some(chain) => Some(chain),
        // One may have come before the guest knew that it should ring.
        None if ring.listen() => ring.pop(),
        None => None,
    };
    let Some(mut chain) = chain else {
        // A queue that is dead hears no more.
        return ring.is_broken();
    };
    let event = TRANSPORT_RESET.to_le_bytes();
    let written = chain.writer().write_all(&event);
    ring.complete(chain, 4);
    if written.is_err() {
        ring.fail(&virtio::Error::Request(
            "an event buffer is too small for an event",
        ));
    }
    ring.notify();
    true
}
