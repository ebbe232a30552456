//! Flow control (VIRTIO 1.3, 5.10.6.3): neither side sends what the other has no room for. All counts are modulo
//! 2^32.

use crate::packet::Header;

/// Our room for data of one connection, in bytes: what a Unix socket does not take at once is kept here. As much as
/// Linux's sockets have.
pub(crate) const ROOM: u32 = 256 << 10;
/// The guest is told of room that became free when it is this much, unless it asks or a packet goes its way.
const WORTH_TELLING: u32 = ROOM / 4;

/// The accounts of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    /// Bytes that the guest sent.
    received: u32,
    /// Of these, bytes that left our room.
    forwarded: u32,
    /// What the guest was told last of `forwarded`.
    told: u32,
    /// Bytes that we sent.
    sent: u32,
    /// The guest's room.
    peer_room: u32,
    /// Bytes that left the guest's room.
    peer_forwarded: u32,
}

impl Credit {
    /// The guest tells its side with every packet.
    pub(crate) fn learn(&mut self, header: &Header) {
        self.peer_room = header.buf_alloc;
        self.peer_forwarded = header.fwd_cnt;
    }

    /// We tell our side with every packet.
    pub(crate) fn tell(&mut self, header: &mut Header) {
        header.buf_alloc = ROOM;
        header.fwd_cnt = self.forwarded;
        self.told = self.forwarded;
    }

    /// Bytes that the guest has room for. None if it claims to have forwarded more than it got.
    pub(crate) fn room(&self) -> u32 {
        let waiting = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_room.saturating_sub(waiting)
    }

    /// So many bytes were sent, within [`Credit::room`].
    pub(crate) fn sent(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// Whether the guest is allowed to send so many bytes.
    pub(crate) fn allows(&self, count: u32) -> bool {
        let waiting = self.received.wrapping_sub(self.forwarded);
        count <= ROOM.saturating_sub(waiting)
    }

    /// So many bytes came. False if the guest was not allowed to send them.
    #[must_use]
    pub(crate) fn received(&mut self, count: u32) -> bool {
        if !self.allows(count) {
            return false;
        }
        self.received = self.received.wrapping_add(count);
        true
    }

    /// So many of the bytes that came have left our room.
    pub(crate) fn forwarded(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// The guest should hear how much room there is.
    pub(crate) fn is_worth_telling(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= WORTH_TELLING
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_go_round() {
        let mut credit = Credit {
            received: u32::MAX - 5,
            forwarded: u32::MAX - 5,
            told: u32::MAX - 5,
            sent: u32::MAX - 1,
            peer_room: 100,
            peer_forwarded: u32::MAX - 10,
        };
        assert_eq!(credit.room(), 91);
        credit.sent(91);
        assert_eq!(credit.room(), 0);
        let header = Header {
            buf_alloc: 100,
            fwd_cnt: 80,
            ..Header::default()
        };
        credit.learn(&header);
        assert_eq!(credit.room(), 91);
        assert!(credit.received(ROOM) && !credit.received(1));
        assert!(!credit.is_worth_telling());
        credit.forwarded(WORTH_TELLING);
        assert!(credit.is_worth_telling());
        let mut header = Header::default();
        credit.tell(&mut header);
        assert_eq!(header.fwd_cnt, WORTH_TELLING.wrapping_sub(6));
        assert!(!credit.is_worth_telling());
        assert!(credit.received(WORTH_TELLING) && !credit.received(1));
    }

    #[test]
    fn a_guest_that_lies_gets_nothing() {
        let mut credit = Credit::default();
        let header = Header {
            buf_alloc: 1000,
            fwd_cnt: 1,
            ..Header::default()
        };
        credit.learn(&header);
        assert_eq!(credit.room(), 0);
        assert!(!credit.received(u32::MAX));
    }

    proptest! {
        #[test]
        fn what_waits_is_never_more_than_the_room(start: u32, steps in prop::collection::vec((any::<u32>(), 0..ROOM), 0..100)) {
            let mut credit = Credit { received: start, forwarded: start, told: start, ..Credit::default() };
            let mut waiting = 0u64;
            for (came, left) in steps {
                let came = came % (2 * ROOM);
                if credit.received(came) {
                    waiting += u64::from(came);
                }
                prop_assert!(waiting <= u64::from(ROOM));
                let left = u64::from(left).min(waiting);
                waiting -= left;
                credit.forwarded(u32::try_from(left).unwrap());
            }
        }
    }
}
