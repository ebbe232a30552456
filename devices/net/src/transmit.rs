//! From the guest to the tap (VIRTIO 1.3, 5.1.6.2).

use std::time::{Duration, Instant};

use limiter::Limiter;
use tap::{Batch, HEADER, MOST_FRAMES, Outcome, Queue};
use virtio::{Chain, Ring};

use crate::shared::Tally;

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The driver has no frame. It rings when it has.
    Idle,
    /// There may be more frames.
    More,
    /// The tap takes no more.
    Blocked,
    /// The limit is reached for so long.
    Limited(Duration),
}

/// The sending side of a pair.
#[derive(Debug)]
pub(crate) struct Transmit {
    ring: Ring,
    /// Chains whose frames are in the batch, in their order.
    gathered: Vec<Chain>,
    /// So many frames that come next were taken from the limit already.
    paid: usize,
}

impl Transmit {
    pub(crate) fn new(ring: Ring) -> Self {
        Self {
            ring,
            gathered: Vec::with_capacity(MOST_FRAMES),
            paid: 0,
        }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn into_ring(self) -> Ring {
        self.ring
    }

    /// Sends frames by way of `batch`, up to a queue full, and tells the driver.
    pub(crate) fn turn(
        &mut self,
        batch: &mut Batch,
        queue: &Queue,
        limit: Option<&Limiter>,
        tally: &mut Tally,
    ) -> Turn {
        self.ring.silence();
        let turn = self.send_all(batch, queue, limit, tally);
        self.ring.notify();
        if turn == Turn::Idle && self.ring.listen() {
            return Turn::More;
        }
        turn
    }

    fn send_all(
        &mut self,
        batch: &mut Batch,
        queue: &Queue,
        limit: Option<&Limiter>,
        tally: &mut Tally,
    ) -> Turn {
        let mut left = usize::from(self.ring.size());
        while left > 0 {
            let turn = self.gather(batch, left, limit);
            left = left.saturating_sub(self.gathered.len());
            if !self.send(batch, queue, tally) {
                return Turn::Blocked;
            }
            if let Some(turn) = turn {
                return turn;
            }
        }
        Turn::More
    }

    /// Puts frames into the batch, up to so many. Gives why there are no more, if it is not for their number.
    fn gather(&mut self, batch: &mut Batch, most: usize, limit: Option<&Limiter>) -> Option<Turn> {
        while self.gathered.len() < most.min(MOST_FRAMES) {
            let Some(chain) = self.ring.pop() else {
                return Some(Turn::Idle);
            };
            let bytes = frame_length(&chain);
            if bytes > 0 {
                if self.paid > 0 {
                    self.paid -= 1;
                } else if let Some(Err(wait)) =
                    limit.map(|limit| limit.take(bytes, 1, Instant::now()))
                {
                    self.ring.put_back(chain);
                    return Some(Turn::Limited(wait));
                }
            }
            // A frame of no bytes is left empty, and so refused.
            if let Some(frame) = batch.next_frame()
                && bytes > 0
                && chain.add_readable(frame).is_err()
            {
                frame.clear();
            }
            self.gathered.push(chain);
        }
        None
    }

    /// Sends the batch. False if the tap is full: what it did not take comes again.
    fn send(&mut self, batch: &mut Batch, queue: &Queue, tally: &mut Tally) -> bool {
        batch.send(queue);
        let outcomes = batch.outcomes();
        let is_sent = |outcome: &Outcome| *outcome == Outcome::Sent;
        let decided = outcomes
            .iter()
            .rposition(is_sent)
            .map_or(0, |last| last + 1);
        let is_full = |outcome: &Outcome| *outcome == Outcome::Full;
        let first_full = outcomes.iter().skip(decided).position(is_full);
        let done = first_full.map_or(outcomes.len(), |position| decided + position);
        while self.gathered.len() > done
            && let Some(chain) = self.gathered.pop()
        {
            self.paid += usize::from(frame_length(&chain) > 0);
            self.ring.put_back(chain);
        }
        for (position, chain) in self.gathered.drain(..).enumerate() {
            let mut outcome = outcomes.get(position).copied();
            if outcome == Some(Outcome::Full) {
                // Later ones were sent: its turn is now or never.
                outcome = Some(batch.send_again(position, queue));
            }
            if outcome == Some(Outcome::Sent) {
                tally.frames += 1;
                tally.bytes += frame_length(&chain);
            } else {
                // A network loses frames.
                tally.dropped += 1;
            }
            self.ring.complete(chain, 0);
        }
        first_full.is_none()
    }
}

/// Bytes of a frame without the header; 0 if there is no frame.
fn frame_length(chain: &Chain) -> u64 {
    (chain.readable_len() as usize).saturating_sub(HEADER) as u64
}
